//! Attaching the programs to interfaces, or taking over what is attached.

use std::{collections::BTreeMap, fs};

use aya::{
    programs::{
        LinkOrder, SchedClassifier,
        links::{FdLink, PinnedLink as AyaPinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
    util::KernelVersion,
};
use truename_common::layout::Link;

use super::{
    Direction, Object, PROGRAM_ETHER, PROGRAM_RAW, Pins, clsact,
    error::{Cause, DatapathError},
    pins::{PinnedLink, remove_file},
    sys,
    tables::{set_links, set_xdp_devices},
    xdp::{self, Mode as XdpMode},
};
use crate::{
    config,
    links::{Framing, Interface},
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
    /// Mode of the XDP program, and whether the interface is a veth.
    xdp: BTreeMap<u32, (XdpMode, bool)>,
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
        Ok(Self {
            pins: pins.clone(),
            object,
            mode,
            attached: BTreeMap::new(),
            xdp: BTreeMap::new(),
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
    /// # Errors
    /// When the kernel refuses, or the packets of the device cannot be read.
    pub fn attach(&mut self, interface: &Interface) -> Result<(), DatapathError> {
        if let Some(known) = self.attached.get_mut(&interface.index) {
            known.name.clone_from(&interface.name);
            return rename_links(&self.pins, interface);
        }
        let name = match interface.framing {
            Framing::Ethernet => PROGRAM_ETHER,
            Framing::Raw => PROGRAM_RAW,
            Framing::Unsupported(arphrd) => {
                return Err(DatapathError::Framing {
                    interface: interface.name.clone(),
                    arphrd,
                });
            }
        };
        let program = self.object.program(name)?;
        let adopted = match self.mode {
            Mode::Tcx => attach_tcx(&self.pins, program, interface)?,
            Mode::Clsact => attach_clsact(&self.pins, program, interface)?,
        };
        let name_of = interface.name.clone();
        self.attached.insert(
            interface.index,
            Attached {
                name: name_of,
                program: name,
                adopted,
            },
        );
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
            match xdp::attach(&self.pins, self.object.xdp()?, interface, modes, chosen) {
                Ok(Some(mode)) => drop(attached.insert(interface.index, (mode, interface.veth))),
                Ok(None) => {}
                Err(error) => problems.push(error.to_string()),
            }
        }
        // A frame must not be sent to a device that takes none, nor one that is gone.
        set_xdp_devices(&self.pins, &xdp::devices(&attached))?;
        xdp::detach_others(&self.pins, &attached)?;
        self.xdp = attached;
        Ok(problems)
    }

    /// Tells the programs which frames these interfaces receive for this host.
    ///
    /// # Errors
    /// When the table cannot be read or written.
    pub fn set_links(&self, links: &BTreeMap<u32, Link>) -> Result<(), DatapathError> {
        set_links(&self.pins, links)
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
        for link in self.pins.links()? {
            if link.ifindex == ifindex {
                remove_file(&link.path)?;
            }
        }
        if let (Mode::Clsact, Some(known)) = (self.mode, known) {
            remove_filters(&known.name)?;
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
        for PinnedLink { path, ifindex, .. } in self.pins.links()? {
            if !self.attached.contains_key(&ifindex) {
                log::info!("Removing the link {}", path.display());
                remove_file(&path)?;
            }
        }
        self.object.remove_old_chains(&self.pins)
    }
}

/// Gives the links of an interface its new name.
fn rename_links(pins: &Pins, interface: &Interface) -> Result<(), DatapathError> {
    for link in pins
        .links()?
        .into_iter()
        .filter(|link| link.ifindex == interface.index)
    {
        let path = pins.link(&interface.name, interface.index, link.direction);
        if link.path != path {
            fs::rename(&link.path, &path).map_err(DatapathError::pins("rename", &link.path))?;
        }
    }
    Ok(())
}

/// Whether both links were there already.
fn attach_tcx(
    pins: &Pins,
    program: &mut SchedClassifier,
    interface: &Interface,
) -> Result<bool, DatapathError> {
    let mut made = Vec::new();
    let mut all_adopted = true;
    for direction in Direction::BOTH {
        match attach_tcx_side(pins, program, interface, direction) {
            Ok(None) => {}
            Ok(Some(path)) => {
                made.push(path);
                all_adopted = false;
            }
            Err(error) => {
                made.iter().try_for_each(|path| remove_file(path))?;
                return Err(error);
            }
        }
    }
    Ok(all_adopted)
}

/// The pin, if the link is new.
fn attach_tcx_side(
    pins: &Pins,
    program: &mut SchedClassifier,
    interface: &Interface,
    direction: Direction,
) -> Result<Option<std::path::PathBuf>, DatapathError> {
    let failed = |source: Cause| DatapathError::Attach {
        interface: interface.name.clone(),
        direction: direction.name(),
        source,
    };
    let path = pins.link(&interface.name, interface.index, direction);
    let is_ours =
        |link: &PinnedLink| link.ifindex == interface.index && link.direction == direction;
    for old in pins.links()?.into_iter().filter(is_ours) {
        if sys::link_ifindex(&old.path).is_ok_and(|ifindex| ifindex == interface.index) {
            replace_program(program, &old).map_err(failed)?;
            rename_links(pins, interface)?;
            return Ok(None);
        }
        // The link of an interface that is gone and whose number was given out again.
        remove_file(&old.path)?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program
        .attach_with_options(&interface.name, direction.attach_type(), options)
        .map_err(|error| failed(error.into()))?;
    let link = program
        .take_link(id)
        .map_err(|error| failed(error.into()))?;
    let link = FdLink::try_from(link).map_err(|error| failed(error.into()))?;
    link.pin(&path).map_err(|source| DatapathError::Pin {
        path: path.clone(),
        source,
    })?;
    Ok(Some(path))
}

/// Puts the program into a pinned link in place of the one that is there.
fn replace_program(program: &mut SchedClassifier, link: &PinnedLink) -> Result<(), Cause> {
    let pinned = AyaPinnedLink::from_pin(&link.path)?;
    let link = SchedClassifierLink::try_from(FdLink::from(pinned))?;
    let id = program.attach_to_link(link)?;
    // Closes the descriptor; the pin keeps the link.
    drop(program.take_link(id)?);
    Ok(())
}

/// Whether both filters were there already.
fn attach_clsact(
    pins: &Pins,
    program: &mut SchedClassifier,
    interface: &Interface,
) -> Result<bool, DatapathError> {
    clsact::ensure_qdisc(pins, interface)?;
    let mut all_replaced = true;
    for direction in Direction::BOTH {
        match clsact::attach(program, interface, direction) {
            Ok(replaced) => all_replaced &= replaced,
            Err(source) => {
                remove_filters(&interface.name)?;
                return Err(DatapathError::Attach {
                    interface: interface.name.clone(),
                    direction: direction.name(),
                    source: Box::new(source),
                });
            }
        }
    }
    Ok(all_replaced)
}

/// Removes our filters from both sides of an interface; how many there were.
pub(super) fn remove_filters(interface: &str) -> Result<usize, DatapathError> {
    let mut removed = 0;
    for direction in Direction::BOTH {
        removed +=
            clsact::remove(interface, direction).map_err(|source| DatapathError::Attach {
                interface: interface.to_owned(),
                direction: direction.name(),
                source: Box::new(source),
            })?;
    }
    Ok(removed)
}
