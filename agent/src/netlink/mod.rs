//! Network interfaces: what there is, what of it is selected, and when it changes.
//!
//! [`Inventory`] and [`select`] are pure. [`Requests`] asks the kernel and changes filters, [`Changes`] hears of changes; each has a
//! socket of its own.

mod changes;
mod filter;
mod inventory;
mod ipsec;
mod request;
mod select;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

pub use changes::{Changed, Changes};
pub use filter::{Filter, Side, Slot};
pub use request::{NetlinkError, Requests};
pub use select::{Wanted, check_named, select};
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
    /// Other names that it has.
    pub other_names: Vec<String>,
    /// This host's addresses there.
    pub addresses: BTreeSet<IpAddr>,
    /// The start of its packets.
    pub framing: Framing,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// Whether it is a veth.
    pub veth: bool,
    /// The number of the interface it hangs on: for a veth, its peer, in the peer's namespace.
    pub peer: Option<u32>,
    /// The number of the network namespace that its peer is in, if that is another one.
    pub peer_namespace: Option<i32>,
    /// Its link address, if it has one as Ethernet does.
    pub address: Option<[u8; 6]>,
    /// The number of the bridge, bond or VRF that it is a port of.
    pub controller: Option<u32>,
    /// Whether it is a VRF.
    pub vrf: bool,
    /// Whether it is a VLAN on the interface that it hangs on.
    pub vlan: bool,
    /// Whether VLANs of this network namespace hang on it.
    pub carries_vlans: bool,
    /// Whether its `rp_filter`, or that of all interfaces, is 1.
    pub strict: bool,
}

/// Whether an address says nothing about who else is on the link.
fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By number.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Its routes.
    pub routes: Routes,
}

/// An alias that neighbours look for, and that nobody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// The alias.
    pub address: IpAddr,
    /// The interface to these neighbours.
    pub interface: String,
}

impl Unanswered {
    /// The command that makes this host answer. For IPv4 an address of any interface does. For IPv6 the interface that gets
    /// the question must have it. With this command the host's own connections do not use the address as their source.
    pub fn remedy(&self) -> String {
        let Self { address, interface } = self;
        match address {
            IpAddr::V4(_) => format!("ip address add {address}/32 dev lo"),
            IpAddr::V6(_) => {
                format!("ip address add {address}/128 dev {interface} nodad preferred_lft 0")
            }
        }
    }
}

/// What is known of a host's routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// The numbers of the interfaces that a default route leaves through.
    pub default: BTreeSet<u32>,
    /// Whether a route of IPv4 leaves through several at once.
    pub multipath: bool,
}

impl Inventory {
    /// Marks the interfaces that carry VLANs.
    fn mark_carriers(&mut self) {
        let vlans = self.interfaces.values();
        let carriers: Vec<u32> = vlans
            .filter(|interface| interface.vlan && interface.peer_namespace.is_none())
            .filter_map(|interface| interface.peer)
            .collect();
        for carrier in carriers {
            if let Some(interface) = self.interfaces.get_mut(&carrier) {
                interface.carries_vlans = true;
            }
        }
    }

    /// The names of all.
    pub fn names(&self) -> BTreeSet<String> {
        let all = self.interfaces.values();
        all.map(|interface| interface.name.clone()).collect()
    }

    /// What the kernel program has to know of an interface, while it is attached to these.
    pub fn link(&self, interface: &Interface, attached: &BTreeMap<u32, &Interface>) -> Link {
        let controller = self.controller(interface);
        let is_container =
            controller.is_some() && interface.veth && interface.peer_namespace.is_some();
        let is_attached = |interface: &&Interface| attached.contains_key(&interface.index);
        let mut flags = 0;
        let mut set = |is, flag| flags |= if is { flag } else { 0 };
        set(is_container, link_flags::CONTAINER);
        // A link with an address has neighbours, which may be anybody.
        let is_own_link =
            interface.controller.is_none() && interface.addresses.iter().all(is_link_local);
        let leads_elsewhere = interface.veth && interface.peer_namespace.is_some();
        set(
            is_container || is_own_link && leads_elsewhere,
            link_flags::BEHIND,
        );
        let is_port = controller.is_some_and(|controller| is_attached(&controller));
        set(is_port, link_flags::PORT);
        let ports = self.interfaces.values().filter(|port| {
            self.controller(port)
                .is_some_and(|controller| controller.index == interface.index)
        });
        let ports: Vec<_> = ports.collect();
        let is_controller = !ports.is_empty() && ports.iter().all(is_attached);
        set(is_controller, link_flags::CONTROLLER);
        let is_in_vrf = interface.controller.is_some() && controller.is_none();
        set(is_in_vrf, link_flags::VRF);
        set(interface.strict, link_flags::STRICT);
        set(!self.routes.multipath, link_flags::ONE_WAY);
        Link {
            address: interface.address.unwrap_or_default(),
            controller: controller
                .and_then(|controller| controller.address)
                .unwrap_or_default(),
            flags,
        }
    }

    /// The bridge or bond that an interface is a port of. (A VRF, which has ports too, passes no frames.)
    fn controller(&self, interface: &Interface) -> Option<&Interface> {
        let controller = self.interfaces.get(&interface.controller?)?;
        (!controller.vrf).then_some(controller)
    }

    /// Whether an interface is a bridge or bond with ports.
    fn has_ports(&self, interface: &Interface) -> bool {
        let mut all = self.interfaces.values();
        all.any(|port| {
            self.controller(port)
                .is_some_and(|controller| controller.index == interface.index)
        })
    }

    /// Adds an interface.
    pub fn insert(&mut self, interface: Interface) {
        self.interfaces.insert(interface.index, interface);
    }
}
