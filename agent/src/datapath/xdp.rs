//! Attaching the XDP program, which forwards the packets of services between other hosts.
//!
//! An aid to tc, never a must: what cannot be attached is told, and tc does the work. Links are pinned as
//! `<bpffs>/v<VERSION>/xdp/<ifindex>-<mode>`.

use std::{collections::BTreeMap, path::PathBuf};

use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::{
    Pins,
    bpffs::{list, make_directory, remove_file},
    error::{Cause, DatapathError},
    sys,
};
use crate::{
    config,
    netlink::{Framing, Interface},
};

/// The word in messages for where the program hangs.
pub(super) const SIDE: &str = "xdp";

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// By the driver.
    Native,
    /// By the stack, after a socket buffer was made.
    Generic,
}

impl Mode {
    /// The word in pins, messages and `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flags(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// The modes to try on an interface, in their order.
///
/// `auto` leaves out veths and never falls back: a veth takes no frames from another device's driver unless
/// its peer is set up for it, and generic XDP is dearer than tc (docs/decisions/0008-xdp.md). It leaves out cards with
/// VLANs, too: a card may strip tags, and XDP sees none of those.
pub fn modes(wanted: config::Xdp, interface: &Interface) -> &'static [Mode] {
    if interface.framing != Framing::Ethernet || interface.loopback {
        return &[];
    }
    match wanted {
        config::Xdp::Off => &[],
        config::Xdp::Auto if interface.veth || interface.carries_vlans => &[],
        config::Xdp::Auto => &[Mode::Native],
        config::Xdp::Native => &[Mode::Native, Mode::Generic],
        config::Xdp::Generic => &[Mode::Generic],
    }
}

/// The interfaces that frames may be sent to from XDP. Generic XDP sends to any device; a driver sends only
/// to one whose driver takes frames, which one with the program attached natively does, unless it is a veth.
pub fn devices(attached: &BTreeMap<u32, (Mode, bool)>) -> Vec<u32> {
    let all_generic = attached.values().all(|(mode, _)| *mode == Mode::Generic);
    let takes_frames = |(mode, veth): &(Mode, bool)| all_generic || *mode == Mode::Native && !veth;
    attached
        .iter()
        .filter(|(_, device)| takes_frames(device))
        .map(|(index, _)| *index)
        .collect()
}

/// Attaches to an interface in the first of `modes` that works, or takes the pinned link of the first mode over.
///
/// # Errors
/// When no mode works: why the last one did not.
pub(super) fn attach(
    pins: &Pins,
    program: &mut Xdp,
    interface: &Interface,
    modes: &[Mode],
) -> Result<Option<Mode>, DatapathError> {
    let failed = |source: Cause| DatapathError::Attach {
        interface: interface.name.clone(),
        direction: SIDE,
        source,
    };
    let mut last = None;
    for pinned in pinned(pins)? {
        if pinned.ifindex != interface.index {
            continue;
        }
        let found = sys::link_info(&pinned.path);
        let found = found.map_err(DatapathError::pins("read", &pinned.path))?;
        let is_live = found.is_some_and(|link| link.ifindex == interface.index);
        if is_live && modes.first() == Some(&pinned.mode) {
            replace_program(program, &pinned).map_err(failed)?;
            return Ok(Some(pinned.mode));
        }
        remove(&pinned)?;
    }
    for mode in modes {
        match attach_new(pins, program, interface, *mode) {
            Ok(()) => return Ok(Some(*mode)),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(failed(error)),
        None => Ok(None),
    }
}

/// Takes the program off all interfaces but these.
///
/// # Errors
/// When a pin cannot be removed.
pub(super) fn detach_others(
    pins: &Pins,
    keep: &BTreeMap<u32, (Mode, bool)>,
) -> Result<(), DatapathError> {
    for pinned in pinned(pins)? {
        if !keep.contains_key(&pinned.ifindex) {
            remove(&pinned)?;
        }
    }
    Ok(())
}

/// Takes the program off at once, so that it can be attached in another mode.
fn remove(pinned: &Pinned) -> Result<(), DatapathError> {
    // Fails for a link whose interface is gone, which needs no detaching.
    let _ = sys::detach_link(&pinned.path);
    remove_file(&pinned.path)
}

/// A pinned link.
struct Pinned {
    path: PathBuf,
    ifindex: u32,
    mode: Mode,
}

/// Where the link of an interface is pinned.
pub(super) fn pin(pins: &Pins, ifindex: u32, mode: Mode) -> PathBuf {
    pins.xdp().join(format!("{ifindex}-{}", mode.name()))
}

fn pinned(pins: &Pins) -> Result<Vec<Pinned>, DatapathError> {
    let read = |path: PathBuf| {
        let (ifindex, mode) = parse(path.file_name()?.to_str()?)?;
        Some(Pinned {
            path,
            ifindex,
            mode,
        })
    };
    Ok(list(&pins.xdp())?.into_iter().filter_map(read).collect())
}

/// Splits `<ifindex>-<mode>`.
pub(super) fn parse(name: &str) -> Option<(u32, Mode)> {
    let (ifindex, mode) = name.split_once('-')?;
    let modes = [Mode::Native, Mode::Generic];
    let mode = modes.into_iter().find(|known| known.name() == mode)?;
    Some((ifindex.parse().ok()?, mode))
}

fn attach_new(
    pins: &Pins,
    program: &mut Xdp,
    interface: &Interface,
    mode: Mode,
) -> Result<(), Cause> {
    make_directory(&pins.xdp())?;
    let id = program.attach_to_if_index(interface.index, mode.flags())?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    link.pin(pin(pins, interface.index, mode))?;
    Ok(())
}

/// Puts the program into a pinned link in place of the one that is there.
fn replace_program(program: &mut Xdp, pinned: &Pinned) -> Result<(), Cause> {
    let link = PinnedLink::from_pin(&pinned.path)?;
    let id = program.attach_to_link(XdpLink::try_from(FdLink::from(link))?)?;
    // Closes the descriptor; the pin keeps the link.
    drop(program.take_link(id)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(veth: bool, loopback: bool) -> Interface {
        Interface {
            index: 3,
            name: "x".to_owned(),
            framing: Framing::Ethernet,
            loopback,
            veth,
            peer: None,
            peer_namespace: veth.then_some(1),
            address: None,
            controller: None,
            vrf: false,
            vlan: false,
            carries_vlans: false,
            other_names: Vec::new(),
            addresses: std::collections::BTreeSet::new(),
            strict: false,
        }
    }

    #[test]
    fn chooses_modes() {
        let nic = interface(false, false);
        assert_eq!(modes(config::Xdp::Auto, &nic), [Mode::Native]);
        assert_eq!(
            modes(config::Xdp::Native, &nic),
            [Mode::Native, Mode::Generic]
        );
        assert_eq!(modes(config::Xdp::Generic, &nic), [Mode::Generic]);
        assert_eq!(modes(config::Xdp::Off, &nic), []);
        assert_eq!(modes(config::Xdp::Auto, &interface(true, false)), []);
        let with_vlans = Interface {
            carries_vlans: true,
            ..interface(false, false)
        };
        assert_eq!(modes(config::Xdp::Auto, &with_vlans), []);
        assert_eq!(modes(config::Xdp::Generic, &with_vlans), [Mode::Generic]);
        assert_eq!(modes(config::Xdp::Generic, &interface(false, true)), []);
    }

    #[test]
    fn sends_only_where_frames_are_taken() {
        let (native, generic) = (Mode::Native, Mode::Generic);
        let devices = |attached: &[(u32, (Mode, bool))]| {
            devices(&attached.iter().copied().collect::<BTreeMap<_, _>>())
        };
        assert_eq!(
            devices(&[(2, (generic, true)), (3, (generic, false))]),
            [2, 3]
        );
        assert_eq!(
            devices(&[
                (2, (native, true)),
                (3, (native, false)),
                (4, (generic, false))
            ]),
            [3]
        );
    }
}
