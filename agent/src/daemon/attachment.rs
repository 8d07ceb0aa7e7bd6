//! Which interfaces are attached, while they come and go.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    api::{InterfaceRow, ProgramRow},
    config,
    datapath::{DatapathError, Drift, Mode, Programs, XdpMode},
    netlink::{Interface, Inventory, Wanted, select},
};
use truename_common::layout::Link;

/// The programs, and the interfaces they should hang on.
pub struct Attachment {
    programs: Programs,
    /// What the programs knew of interfaces before this agent.
    before: BTreeMap<u32, Link>,
    wanted: Wanted,
    /// Where XDP shall forward.
    xdp: config::Xdp,
    /// Why it does not somewhere.
    xdp_problems: Vec<String>,
    /// Interfaces that are wanted and could not be attached, with the reason.
    failed: BTreeMap<u32, (String, String)>,
    /// Names that are wanted and that no interface has.
    missing: Vec<String>,
    /// Interfaces whose turn has not come.
    pending: usize,
    /// How many things that somebody else took away or replaced were brought back.
    pub repaired: Arc<AtomicU64>,
}

/// How long attaching may take at a time: other things want to be done, too.
const SLICE: Duration = Duration::from_millis(200);

impl Attachment {
    /// Attaches to all that is selected, or to nothing: if one fails, those that this call
    /// attached are detached again. Nothing is taken away; that is done by [`Self::finish`].
    pub fn start(
        programs: Programs,
        wanted: Wanted,
        xdp: config::Xdp,
        inventory: &Inventory,
    ) -> Result<Self, DatapathError> {
        let mut attachment = Self {
            before: programs.links()?,
            programs,
            wanted,
            xdp,
            xdp_problems: Vec::new(),
            failed: BTreeMap::new(),
            missing: Vec::new(),
            pending: 0,
            repaired: Arc::default(),
        };
        let selected = select(inventory, &attachment.wanted);
        let mut both = attachment.before.clone();
        both.extend(links(inventory, &selected));
        attachment.programs.set_links(both)?;
        for interface in selected.values() {
            let Err(error) = attachment.programs.attach(interface) else {
                continue;
            };
            if is_named(&attachment.wanted, interface) {
                attachment.undo();
                return Err(error);
            }
            // It was not asked for by name: the others are worth more than none.
            log::warn!("{error}");
            attachment
                .failed
                .insert(interface.index, (interface.name.clone(), error.to_string()));
        }
        Ok(attachment)
    }

    /// Leaves the interfaces that are not selected any more, and goes on in XDP: the last step of a start.
    pub fn finish(&mut self, inventory: &Inventory) -> Result<(), DatapathError> {
        self.programs.remove_others()?;
        let selected = select(inventory, &self.wanted);
        self.programs.set_links(links(inventory, &selected))?;
        self.follow_xdp(inventory);
        for (index, attached) in self.programs.attached() {
            let verb = if attached.adopted {
                "Took over"
            } else {
                "Attached to"
            };
            log::info!(
                "{verb} {} ({index}) with {}",
                attached.name,
                attached.program
            );
        }
        if self.programs.attached().is_empty() {
            log::warn!("No interface is selected: nothing is translated until one appears");
        }
        Ok(())
    }

    /// Attaches to those of other interfaces that are named, beyond those that are attached. Fails, as it was
    /// before, if one cannot be attached. The others are left to [`Self::follow`].
    pub fn prepare(&mut self, wanted: &Wanted, inventory: &Inventory) -> Result<(), DatapathError> {
        for interface in select(inventory, wanted).values() {
            let is_attached = self.programs.attached().contains_key(&interface.index);
            if is_attached || !is_named(wanted, interface) {
                continue;
            }
            match self.programs.attach(interface) {
                Ok(()) => log::info!("Attached to {} ({})", interface.name, interface.index),
                Err(error) => {
                    self.follow(inventory);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Wants other interfaces from now on: [`Self::follow`] brings it to them.
    pub fn select(&mut self, wanted: Wanted, xdp: config::Xdp) {
        self.wanted = wanted;
        self.xdp = xdp;
    }

    /// Brings back what somebody else took off, attaches to what appeared and forgets what vanished, as far as it gets
    /// in a short time: whether that is all.
    pub fn follow(&mut self, inventory: &Inventory) -> bool {
        let begin = Instant::now();
        self.repair(inventory);
        let selected = select(inventory, &self.wanted);
        self.failed.retain(|index, _| selected.contains_key(index));
        self.missing = self.wanted.missing(inventory);
        self.pending = 0;
        if let Err(error) = self.programs.set_links(links(inventory, &selected)) {
            log::warn!("{error}");
        }
        for (index, interface) in &selected {
            let name = &interface.name;
            let known = self
                .programs
                .attached()
                .get(index)
                .map(|known| known.name.clone());
            if known.as_ref() == Some(name) {
                continue;
            }
            if begin.elapsed() >= SLICE {
                self.pending += 1;
                continue;
            }
            match (self.programs.attach(interface), known) {
                (Ok(()), Some(before)) => log::info!("{before} ({index}) is now {name}"),
                (Ok(()), None) => {
                    self.failed.remove(index);
                    log::info!("Attached to {name} ({index})");
                }
                (Err(error), _) => {
                    let reason = (name.clone(), error.to_string());
                    if self.failed.insert(*index, reason.clone()).as_ref() != Some(&reason) {
                        log::warn!("{error}");
                    }
                }
            }
        }
        for index in self.programs.interfaces() {
            if selected.contains_key(&index) {
                continue;
            }
            // Without a name it could not be attached before it vanished; its pins are left.
            if let Some(attached) = self.programs.attached().get(&index) {
                let name = &attached.name;
                log::info!("Left {name} ({index}): it is gone or not selected any more");
            }
            if let Err(error) = self.programs.detach(index) {
                log::warn!("{error}");
            }
        }
        if self.pending == 0 {
            self.follow_xdp(inventory);
        }
        self.pending == 0
    }

    /// Looks for what somebody else took away or replaced, and brings it back; what is attached then is told by
    /// [`Self::follow`].
    fn repair(&mut self, inventory: &Inventory) {
        let drift = match self.programs.drift(inventory) {
            Ok(drift) => drift,
            Err(error) => {
                log::warn!("Cannot look whether programs are still attached: {error}");
                return;
            }
        };
        if drift.is_empty() {
            return;
        }
        for lost in &drift {
            log::warn!("Somebody else removed or replaced {lost}: it is brought back");
        }
        match self.programs.repair(&drift) {
            Ok(()) => {
                let count = drift.len() as u64;
                self.repaired.fetch_add(count, Ordering::Relaxed);
            }
            Err(error) => log::warn!("{error}"),
        }
    }

    /// What somebody else took away or replaced since it was looked last.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn drift(&self, inventory: &Inventory) -> Result<Vec<Drift>, DatapathError> {
        self.programs.drift(inventory)
    }

    /// Interfaces that are wanted and whose turn has not come.
    pub const fn pending(&self) -> usize {
        self.pending
    }

    /// Brings XDP to the interfaces where it is wanted. It is an aid: failing is told, no more.
    fn follow_xdp(&mut self, inventory: &Inventory) {
        let selected = select(inventory, &self.wanted);
        let before: Vec<_> = self.programs.in_xdp().collect();
        let interfaces = selected.values().copied();
        let problems = match self.programs.forward_in_xdp(self.xdp, interfaces) {
            Ok(problems) => problems,
            Err(error) => vec![error.to_string()],
        };
        for problem in &problems {
            if !self.xdp_problems.contains(problem) {
                // Many drivers have no XDP, and "auto" does not ask for it everywhere.
                let level = match self.xdp {
                    config::Xdp::Auto => log::Level::Debug,
                    _ => log::Level::Warn,
                };
                log::log!(level, "{problem}; tc forwards there instead");
            }
        }
        self.xdp_problems = problems;
        for (index, mode) in self.programs.in_xdp() {
            if !before.contains(&(index, mode)) {
                let name = selected.get(&index).map_or("?", |known| &known.name);
                log::info!("XDP forwards on {name} ({index}), {}", mode.name());
            }
        }
    }

    /// Whether a wanted interface could not be attached.
    pub fn is_incomplete(&self) -> bool {
        !self.failed.is_empty()
    }

    /// How the programs are attached.
    pub const fn mode(&self) -> Mode {
        self.programs.mode()
    }

    /// The wanted interfaces.
    pub fn rows(&self) -> Vec<InterfaceRow> {
        let xdp: BTreeMap<u32, XdpMode> = self.programs.in_xdp().collect();
        let attached = self
            .programs
            .attached()
            .iter()
            .map(|(index, attached)| InterfaceRow {
                xdp: xdp.get(index).map(|mode| mode.name().to_owned()),
                name: attached.name.clone(),
                index: *index,
                program: Some(attached.program.to_owned()),
                adopted: attached.adopted,
                error: None,
            });
        let failed = self
            .failed
            .iter()
            .map(|(index, (name, error))| InterfaceRow {
                xdp: None,
                name: name.clone(),
                index: *index,
                program: None,
                adopted: false,
                error: Some(error.clone()),
            });
        let mut rows: Vec<_> = attached.chain(failed).collect();
        rows.sort_by_key(|row| row.index);
        rows
    }

    /// The programs that are attached, as far as the kernel tells.
    pub fn programs(&self) -> Vec<ProgramRow> {
        let runs = self.programs.runs().unwrap_or_else(|error| {
            log::debug!("{error}");
            Vec::new()
        });
        let row = |(name, id, runs, run_time_ns): (&str, u32, u64, u64)| ProgramRow {
            name: name.to_owned(),
            id,
            runs,
            run_time_ns,
        };
        runs.into_iter().map(row).collect()
    }

    /// The interfaces that were selected by name and are not there.
    pub fn missing(&self) -> Vec<String> {
        self.missing.clone()
    }

    /// Detaches from what [`Self::start`] attached to.
    pub fn undo(&mut self) {
        let new: Vec<_> = self
            .programs
            .attached()
            .iter()
            .filter(|(_, attached)| !attached.adopted)
            .map(|(index, _)| *index)
            .collect();
        for index in new {
            if let Err(error) = self.programs.detach(index) {
                log::error!("Cannot undo the start: {error}");
            }
        }
        if let Err(error) = self.programs.set_links(self.before.clone()) {
            log::error!("Cannot undo the start: {error}");
        }
    }
}

/// What the kernel program has to know of interfaces, by number.
fn links(inventory: &Inventory, selected: &BTreeMap<u32, &Interface>) -> BTreeMap<u32, Link> {
    let link =
        |(index, interface): (&u32, &&Interface)| (*index, inventory.link(interface, selected));
    selected.iter().map(link).collect()
}

/// Whether an interface is asked for by its name.
fn is_named(wanted: &Wanted, interface: &Interface) -> bool {
    let has = |wanted: &String| interface.names().any(|name| name == wanted);
    wanted
        .interfaces
        .iter()
        .any(|wanted| matches!(&wanted.selector, config::Selector::Name(wanted) if has(wanted)))
}
