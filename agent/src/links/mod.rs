//! Network interfaces: what there is, what of it is selected, and when it changes.
//!
//! [`Inventory`] and [`select`] are pure. [`Requests`] asks the kernel and changes filters, [`Changes`] hears of changes; each has a
//! socket of its own.

mod changes;
mod filter;
mod netlink;
mod request;
mod select;

use std::collections::{BTreeMap, BTreeSet};

pub use changes::Changes;
pub use filter::{Filter, Side, Slot};
pub use request::{NetlinkError, Requests};
pub use select::{check_named, select};
use truename_common::layout::{Link, link_flags};

/// What the kernel program finds at the start of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Framing {
    /// An Ethernet header; also `lo`, whose header is 14 zero bytes or the like.
    Ethernet,
    /// The IP header: tun, WireGuard, ipip and the like.
    Raw,
    /// Something else; the number is the `ARPHRD_*` of the device.
    Unsupported(u16),
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The start of its packets.
    pub framing: Framing,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// Whether it is a veth.
    pub veth: bool,
    /// The number of the interface it hangs on: for a veth, its peer, in the peer's namespace.
    pub peer: Option<u32>,
    /// Whether that peer is in another network namespace.
    pub peer_elsewhere: bool,
    /// Its link address, if it has one as Ethernet does.
    pub address: Option<[u8; 6]>,
    /// The number of the bridge or bond that it is a port of.
    pub controller: Option<u32>,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By number.
    pub interfaces: BTreeMap<u32, Interface>,
    /// The numbers of those that a default route leaves through.
    pub default_route: BTreeSet<u32>,
}

impl Inventory {
    /// The names of all.
    pub fn names(&self) -> BTreeSet<String> {
        let all = self.interfaces.values();
        all.map(|interface| interface.name.clone()).collect()
    }

    /// The link addresses of frames that an interface receives for this host.
    pub fn link(&self, interface: &Interface) -> Link {
        let controller = interface
            .controller
            .and_then(|index| self.interfaces.get(&index));
        let is_container = controller.is_some() && interface.veth && interface.peer_elsewhere;
        Link {
            address: interface.address.unwrap_or_default(),
            controller: controller
                .and_then(|controller| controller.address)
                .unwrap_or_default(),
            flags: if is_container {
                link_flags::CONTAINER
            } else {
                0
            },
        }
    }

    /// Adds an interface.
    pub fn insert(&mut self, interface: Interface) {
        self.interfaces.insert(interface.index, interface);
    }
}
