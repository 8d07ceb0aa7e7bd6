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

    /// Adds an interface.
    pub fn insert(&mut self, interface: Interface) {
        self.interfaces.insert(interface.index, interface);
    }
}
