//! Attaching the programs to interfaces, or taking over what is attached; looking whether somebody else changed it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    programs::{
        SchedClassifier,
        links::{FdLink, PinnedLink as AyaPinnedLink},
        tc::SchedClassifierLink,
    },
    util::KernelVersion,
};
use truename_common::layout::{Link, map};

use super::{
    CHAIN, Direction, Object, PROGRAM_ETHER, PROGRAM_RAW, PROGRAM_XDP, PinnedLink, Pins, XdpMode,
    bpffs::remove_file,
    clsact,
    drift::Drift,
    error::{Cause, DatapathError},
    sys,
    tables::{has_xdp_devices, links_of, set_links, set_xdp_devices},
    xdp,
};
use crate::{
    config,
    netlink::{Framing, Interface, Inventory, Requests},
};

/// How programs hang on interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// tcx links, pinned.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// The loaded programs and where they hang.
#[derive(Debug)]
pub struct Programs {
    pins: Pins,
    object: Object,
    mode: Mode,
    attached: BTreeMap<u32, Attached>,
    /// The pinned tcx links.
    links: BTreeMap<(u32, Direction), PathBuf>,
    /// Those of older versions.
    older: BTreeMap<(u32, Direction), PathBuf>,
    /// Mode of the XDP program, and whether the interface is a veth.
    xdp: BTreeMap<u32, (XdpMode, bool)>,
    /// What the tables of interfaces hold; nothing if that is not certain.
    devices: Option<Vec<u32>>,
    addresses: Option<BTreeMap<u32, Link>>,
}

/// An interface with our programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub name: String,
    /// The program.
    pub program: &'static str,
    /// Whether the links were there before this agent, so that there was no gap.
    pub adopted: bool,
}

impl Mode {
    /// The best that the running kernel has.
    pub fn detect() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }

    /// The word in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

impl Programs {
    /// Loads the programs of an object. They are not attached yet.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn load(mut object: Object, pins: &Pins, mode: Mode) -> Result<Self, DatapathError> {
        object.load(pins)?;
        let by_place = |links: Vec<PinnedLink>| {
            let places = links.into_iter();
            places
                .map(|link| ((link.ifindex, link.direction), link.path))
                .collect()
        };
        Ok(Self {
            pins: pins.clone(),
            object,
            mode,
            attached: BTreeMap::new(),
            links: by_place(pins.links()?),
            older: by_place(pins.older_links()?),
            xdp: BTreeMap::new(),
            devices: None,
            addresses: None,
        })
    }

    /// How they are attached.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Where they are attached, by interface number.
    pub const fn attached(&self) -> &BTreeMap<u32, Attached> {
        &self.attached
    }

    /// Attaches to both sides of an interface, or takes over the links that are there: their
    /// program is replaced in one step. Leaves nothing new behind if it fails.
    ///
    /// The interface is meant by its number: its name may be another's by now.
    ///
    /// # Errors
    /// When the kernel refuses, or the packets of the device cannot be read.
    pub fn attach(&mut self, interface: &Interface) -> Result<(), DatapathError> {
        if let Some(known) = self.attached.get_mut(&interface.index) {
            known.name.clone_from(&interface.name);
            return self.rename_links(interface);
        }
        let name = program_for(interface)?;
        let adopted = match self.mode {
            Mode::Tcx => self.attach_tcx(name, interface)?,
            Mode::Clsact => self.attach_clsact(name, interface)?,
        };
        self.attached.insert(
            interface.index,
            Attached {
                name: interface.name.clone(),
                program: name,
                adopted,
            },
        );
        Ok(())
    }

    /// Interfaces that are attached, or of which pins are left.
    pub fn interfaces(&self) -> BTreeSet<u32> {
        let of_links = self.links.keys().map(|(ifindex, _)| *ifindex);
        self.attached.keys().copied().chain(of_links).collect()
    }

    /// What somebody else took away or replaced, on the interfaces that there are. Changes nothing.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn drift(&self, inventory: &Inventory) -> Result<Vec<Drift>, DatapathError> {
        let mut drift = self.missing(inventory)?;
        if drift.iter().any(|lost| lost.ifindex().is_some()) {
            // The programs of an interface end with it, which may have been since the inventory was taken.
            let now = Requests::open()?.inventory()?.interfaces;
            drift.retain(|lost| lost.ifindex().is_none_or(|index| now.contains_key(&index)));
        }
        Ok(drift)
    }

    /// The same, and what ended with its interface.
    fn missing(&self, inventory: &Inventory) -> Result<Vec<Drift>, DatapathError> {
        let mut drift = self.object.lost_pins();
        drift.extend(self.changed_tables(&drift)?);
        let mut requests = match self.mode {
            Mode::Tcx => None,
            Mode::Clsact => Some(Requests::open()?),
        };
        for (index, attached) in &self.attached {
            if !inventory.interfaces.contains_key(index) {
                continue;
            }
            let wanted = Some(self.object.id(attached.program)?);
            for direction in Direction::BOTH {
                let present = match (&mut requests, self.links.get(&(*index, direction))) {
                    (Some(requests), _) => clsact::program(requests, *index, direction)?,
                    (None, Some(path)) => program_of(path, *index)?,
                    (None, None) => None,
                };
                if present != wanted {
                    drift.push(Drift::Program {
                        ifindex: *index,
                        interface: attached.name.clone(),
                        side: direction.name(),
                    });
                }
            }
        }
        for (index, (mode, _)) in &self.xdp {
            let Some(interface) = inventory.interfaces.get(index) else {
                continue;
            };
            let present = program_of(&xdp::pin(&self.pins, *index, *mode), *index)?;
            if present != self.object.xdp_id() {
                drift.push(Drift::Program {
                    ifindex: *index,
                    interface: interface.name.clone(),
                    side: xdp::SIDE,
                });
            }
        }
        Ok(drift)
    }

    /// The tables of interfaces and programs that are not as they were written. Those whose pins are lost are left out: when
    /// they are back, it is looked again.
    fn changed_tables(&self, lost: &[Drift]) -> Result<Vec<Drift>, DatapathError> {
        let mut changed = Vec::new();
        if !self.object.has_chain()? {
            changed.push(Drift::Table(CHAIN));
        }
        let is_pinned = |name| !lost.contains(&Drift::Pin(self.pins.map(name)));
        if let Some(devices) = &self.devices
            && is_pinned(map::XDP_DEVICES)
            && !has_xdp_devices(&self.pins, devices)?
        {
            changed.push(Drift::Table(map::XDP_DEVICES));
        }
        if let Some(addresses) = &self.addresses
            && is_pinned(map::LINKS)
            && links_of(&self.pins)? != *addresses
        {
            changed.push(Drift::Table(map::LINKS));
        }
        Ok(changed)
    }

    /// Brings back what drifted. Interfaces are attached again by the next [`Self::attach`] or
    /// [`Self::forward_in_xdp`].
    ///
    /// # Errors
    /// When a pin cannot be made, or a table not be written.
    pub fn repair(&mut self, drift: &[Drift]) -> Result<(), DatapathError> {
        if !drift.is_empty() {
            self.pins.make_directories()?;
            self.object.pin_again()?;
        }
        for lost in drift {
            match lost {
                Drift::Program { ifindex, side, .. } if *side == xdp::SIDE => {
                    self.xdp.remove(ifindex);
                }
                Drift::Program { ifindex, .. } => {
                    self.attached.remove(ifindex);
                }
                Drift::Table(CHAIN) => self.object.fill_chain()?,
                Drift::Table(_) => {
                    if let Some(devices) = &self.devices {
                        set_xdp_devices(&self.pins, devices)?;
                    }
                    if let Some(addresses) = &self.addresses {
                        set_links(&self.pins, addresses)?;
                    }
                }
                Drift::Steering { .. } | Drift::Pin(_) => {}
            }
        }
        Ok(())
    }

    /// Has XDP forward on these interfaces, and on no others. What cannot be attached is left to tc: the
    /// reasons, a sentence each.
    ///
    /// # Errors
    /// When the kernel refuses the program, or a table cannot be written.
    pub fn forward_in_xdp<'a>(
        &mut self,
        wanted: config::Xdp,
        interfaces: impl Iterator<Item = &'a Interface>,
    ) -> Result<Vec<String>, DatapathError> {
        let mut problems = Vec::new();
        let mut attached = BTreeMap::new();
        for interface in interfaces {
            let modes = xdp::modes(wanted, interface);
            if modes.is_empty() {
                continue;
            }
            let chosen = self.xdp.get(&interface.index).map(|(mode, _)| *mode);
            if let Some(mode) = chosen.filter(|mode| modes.contains(mode)) {
                attached.insert(interface.index, (mode, interface.veth));
                continue;
            }
            match xdp::attach(&self.pins, self.object.xdp()?, interface, modes) {
                Ok(Some(mode)) => drop(attached.insert(interface.index, (mode, interface.veth))),
                Ok(None) => {}
                Err(error) => problems.push(error.to_string()),
            }
        }
        // A frame must not be sent to a device that takes none, nor one that is gone.
        let devices = xdp::devices(&attached);
        self.devices = None;
        set_xdp_devices(&self.pins, &devices)?;
        self.devices = Some(devices);
        xdp::detach_others(&self.pins, &attached)?;
        self.xdp = attached;
        Ok(problems)
    }

    /// What the programs were told of interfaces.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn links(&self) -> Result<BTreeMap<u32, Link>, DatapathError> {
        links_of(&self.pins)
    }

    /// Tells the programs which frames these interfaces receive for this host.
    ///
    /// # Errors
    /// When the table cannot be read or written.
    pub fn set_links(&mut self, links: BTreeMap<u32, Link>) -> Result<(), DatapathError> {
        self.addresses = None;
        set_links(&self.pins, &links)?;
        self.addresses = Some(links);
        Ok(())
    }

    /// How often each of the programs that are attached ran, and for how long: its name, its number, runs and nanoseconds.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn runs(&self) -> Result<Vec<(&'static str, u32, u64, u64)>, DatapathError> {
        let attached = self.attached.values().map(|attached| attached.program);
        let mut names: BTreeSet<_> = attached.collect();
        if !self.xdp.is_empty() {
            names.insert(PROGRAM_XDP);
        }
        let names = names.into_iter();
        names.map(|name| self.object.runs(name)).collect()
    }

    /// Where XDP forwards, and how.
    pub fn in_xdp(&self) -> impl Iterator<Item = (u32, XdpMode)> {
        self.xdp.iter().map(|(index, (mode, _))| (*index, *mode))
    }

    /// Takes the programs off an interface, or forgets one that is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        let known = self.attached.remove(&ifindex);
        for direction in Direction::BOTH {
            if let Some(path) = self.links.remove(&(ifindex, direction)) {
                remove_file(&path)?;
            }
        }
        if let (Mode::Clsact, Some(known)) = (self.mode, known) {
            let mut requests = Requests::open()?;
            clsact::remove(&mut requests, (ifindex, &known.name), &BTreeSet::new())?;
            clsact::unmark(&self.pins, ifindex);
        }
        Ok(())
    }

    /// Removes the links of interfaces that are gone or no longer wanted, and what only the programs
    /// of earlier agents used. To be called when everything wanted is attached.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_others(&mut self) -> Result<(), DatapathError> {
        let others = self
            .links
            .extract_if(.., |(ifindex, _), _| !self.attached.contains_key(ifindex));
        for (_, path) in others {
            log::info!("Removing the link {}", path.display());
            remove_file(&path)?;
        }
        self.object.remove_old_chains(&self.pins)
    }

    /// Gives the links of an interface its new name.
    fn rename_links(&mut self, interface: &Interface) -> Result<(), DatapathError> {
        for direction in Direction::BOTH {
            let path = self.pins.link(&interface.name, interface.index, direction);
            if let Some(known) = self.links.get_mut(&(interface.index, direction))
                && *known != path
            {
                fs::rename(&*known, &path).map_err(DatapathError::pins("rename", known))?;
                *known = path;
            }
        }
        Ok(())
    }

    /// Whether both links were there already.
    fn attach_tcx(
        &mut self,
        program: &'static str,
        interface: &Interface,
    ) -> Result<bool, DatapathError> {
        let mut made = Vec::new();
        for direction in Direction::BOTH {
            match self.attach_tcx_side(program, interface, direction) {
                Ok(true) => {}
                Ok(false) => made.push(direction),
                Err(error) => {
                    for direction in made {
                        if let Some(path) = self.links.remove(&(interface.index, direction)) {
                            remove_file(&path)?;
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(made.is_empty())
    }

    /// Whether the link was there already.
    fn attach_tcx_side(
        &mut self,
        program: &'static str,
        interface: &Interface,
        direction: Direction,
    ) -> Result<bool, DatapathError> {
        let failed = |source: Cause| DatapathError::Attach {
            interface: interface.name.clone(),
            direction: direction.name(),
            source,
        };
        let key = (interface.index, direction);
        if let Some(old) = self.links.get(&key) {
            let present = sys::link_info(old).map_err(DatapathError::pins("read", old))?;
            if present.is_some_and(|link| link.ifindex == interface.index) {
                replace_program(self.object.program(program)?, old).map_err(failed)?;
                self.rename_links(interface)?;
                return Ok(true);
            }
            // That of an interface that is gone and whose number was given out again, or one that somebody
            // else detached.
            remove_file(old)?;
            self.links.remove(&key);
        }
        let path = self.pins.link(&interface.name, interface.index, direction);
        // In front of an older version, which would hide from this one what peers call an endpoint: replies would
        // keep the canonical name from when it is gone until the client's next message.
        let older = match self.older.get(&key) {
            Some(older) => {
                let found = sys::link_info(older).map_err(DatapathError::pins("read", older))?;
                found
                    .filter(|link| link.ifindex == interface.index)
                    .map(|_| older.as_path())
            }
            None => None,
        };
        let program = self.object.program(program)?;
        let program = program.fd().map_err(|error| failed(error.into()))?;
        sys::attach_tcx(program.as_fd(), interface.index, direction, &path, older)
            .map_err(|error| failed(error.into()))?;
        self.links.insert(key, path);
        Ok(false)
    }

    /// Whether both filters were there already.
    fn attach_clsact(
        &mut self,
        name: &'static str,
        interface: &Interface,
    ) -> Result<bool, DatapathError> {
        let mut requests = Requests::open()?;
        clsact::ensure_qdisc(&self.pins, &mut requests, interface)?;
        let program = self.object.program(name)?;
        let program = program.fd().map_err(DatapathError::program(name))?;
        let mut all_replaced = true;
        for direction in Direction::BOTH {
            let attached =
                clsact::attach(&mut requests, name, program.as_fd(), interface, direction);
            match attached {
                Ok(replaced) => all_replaced &= replaced,
                Err(error) => {
                    let interface = (interface.index, interface.name.as_str());
                    clsact::remove(&mut requests, interface, &BTreeSet::new())?;
                    return Err(error);
                }
            }
        }
        Ok(all_replaced)
    }
}

/// The number of the program of a pinned link, if that hangs on an interface.
fn program_of(link: &Path, ifindex: u32) -> Result<Option<u32>, DatapathError> {
    let found = sys::link_info(link).map_err(DatapathError::pins("read", link))?;
    Ok(found
        .filter(|link| link.ifindex == ifindex)
        .map(|link| link.program))
}

/// The program for the packets of an interface.
fn program_for(interface: &Interface) -> Result<&'static str, DatapathError> {
    match interface.framing {
        Framing::Ethernet => Ok(PROGRAM_ETHER),
        Framing::Raw => Ok(PROGRAM_RAW),
        Framing::Unsupported(arphrd) => Err(DatapathError::Framing {
            interface: interface.name.clone(),
            arphrd,
        }),
    }
}

/// Puts the program into a pinned link in place of the one that is there.
fn replace_program(program: &mut SchedClassifier, link: &Path) -> Result<(), Cause> {
    let pinned = AyaPinnedLink::from_pin(link)?;
    let link = SchedClassifierLink::try_from(FdLink::from(pinned))?;
    let id = program.attach_to_link(link)?;
    // Closes the descriptor; the pin keeps the link.
    drop(program.take_link(id)?);
    Ok(())
}
