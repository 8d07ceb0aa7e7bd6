//! What the plan is made from beside the configuration: facts of the host, of the cluster and of the
//! kernel tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use truename_common::{
    layout::{
        Conntrack, FiveTuple, Service, Settings, Slots, Socket, Target, conntrack_marks, ip,
        target_flags,
    },
    nat,
};

use super::{Roles, policy::IpsecPolicies, roles};
use crate::{
    config::{self, Config, OnChange},
    name::Authority,
};

/// The canonical name of an endpoint at an address and a port.
pub type CanonicalNames = BTreeMap<(IpAddr, u16), Authority>;

/// What only the host and the cluster can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The host's own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Number of the loopback interface.
    pub loopback: u32,
    /// What the topology knows of the roles that targets have.
    pub roles: Arc<Roles>,
    /// The canonical names that are confirmed at addresses.
    pub names: Arc<CanonicalNames>,
    /// By address of a target, the address that this host's packets to it come from. None: no route.
    pub sources: BTreeMap<IpAddr, IpAddr>,
    /// The host's IPsec policies.
    pub policies: IpsecPolicies,
    /// The targets that take no new connections because somebody asked for that, by service.
    pub drained: BTreeSet<(String, SocketAddr)>,
}

/// What connections need of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Whether there is a connection.
    pub any: bool,
    /// The highest number of a service that has one.
    pub service: Option<u32>,
    /// Addresses and ports of the targets that have one.
    pub targets: BTreeSet<([u8; 16], u16)>,
    /// Whether one depends on the present range of source ports, where another range is wanted.
    pub is_placed: bool,
    /// The aliases that have connections in `MOVED`.
    pub aliases_moved: BTreeSet<Socket>,
    /// The targets that those connections stay with.
    pub targets_moved: BTreeSet<u32>,
}

/// What the kernel tables hold of services and their connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `SERVICES`.
    pub services: BTreeMap<Socket, Service>,
    /// The parts of `SLOTS` that services refer to.
    pub slots: BTreeMap<Slots, Vec<u32>>,
    /// `TARGETS`: those that are in use.
    pub targets: BTreeMap<u32, Target>,
    /// `SETTINGS`.
    pub settings: Settings,
    /// What connections need. Only a plan goes by it.
    pub connected: Connected,
    /// `MOVED`. Only what settles a change goes by it, and by the next.
    pub moved: BTreeMap<FiveTuple, u32>,
    /// `CONNTRACK`, of some services.
    pub connections: BTreeMap<FiveTuple, Conntrack>,
}

impl Facts {
    /// The sockets of the targets that are on other hosts.
    pub fn elsewhere(&self, config: &Config) -> impl Iterator<Item = SocketAddr> {
        roles::sockets(config, &self.roles).filter(|socket| !self.is_local(socket.ip()))
    }

    /// Whether a target takes no new connections although it is configured. One whose connections would be reset is not
    /// drained.
    pub fn is_drained(&self, service: &config::Service, target: SocketAddr) -> bool {
        let mut drained = self.drained.iter();
        service.on_change == OnChange::Drain
            && drained.any(|(name, socket)| *name == service.name && *socket == target)
    }

    /// Whether an address is this host's.
    pub fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// Whether an alias is an address of this host.
    pub fn has_alias(&self, alias: &Socket) -> bool {
        let address = ip(alias.address);
        self.is_local(address)
    }
}

impl Held {
    /// The targets with a socket, and their numbers.
    pub(super) fn by_socket(&self) -> BySocket {
        let mut by_socket = BySocket::new();
        for (number, target) in &self.targets {
            let targets = by_socket.entry((target.address, target.port)).or_default();
            targets.push((*number, *target));
        }
        by_socket
    }

    /// The entries of `MOVED` without which connections of these aliases would not be found once
    /// their services forget what they chose before.
    pub fn moves(&self, aliases: &BTreeSet<Socket>) -> BTreeMap<FiveTuple, u32> {
        let by_socket = self.by_socket();
        let needed = |(key, entry): (&FiveTuple, &Conntrack)| {
            let alias = entry.alias(key.protocol);
            let service = aliases
                .contains(&alias)
                .then(|| self.services.get(&alias))??;
            let number = number(&by_socket, &self.settings, key, entry)?;
            let original = entry.original(key.protocol);
            let hash = nat::hash(&original);
            let now = nat::choose(self, service, nat::Choice::Current, &original, hash);
            let stays = now.is_some_and(|(now, _)| now == number)
                || self.moved.get(&original) == Some(&number);
            (!stays).then_some((original, number))
        };
        self.connections.iter().filter_map(needed).collect()
    }
}

impl nat::Tables for Held {
    fn slot(&self, position: u32) -> Option<u32> {
        let from = Slots {
            first: position,
            count: u32::MAX,
        };
        let (range, slots) = self.slots.range(..=from).next_back()?;
        let index = position.checked_sub(range.first)?;
        slots.get(usize::try_from(index).ok()?).copied()
    }

    fn moved(&self, original: &FiveTuple) -> Option<u32> {
        self.moved.get(original).copied()
    }

    fn target(&self, number: u32) -> Option<Target> {
        self.targets.get(&number).copied()
    }
}

/// Targets and their numbers, by address and port.
pub(super) type BySocket = BTreeMap<([u8; 16], u16), Vec<(u32, Target)>>;

/// The number of the target that a connection goes to.
pub(super) fn number(
    by_socket: &BySocket,
    settings: &Settings,
    key: &FiveTuple,
    entry: &Conntrack,
) -> Option<u32> {
    let candidates = by_socket.get(&(key.endpoint, key.endpoint_port))?;
    let original = entry.original(key.protocol);
    let hash = nat::hash(&original);
    let found = candidates.iter().find(|(_, target)| {
        let target = seen_by(entry, target);
        nat::key(&original, &target, settings, hash, entry.tries.into()) == *key
    });
    found.map(|(number, _)| *number)
}

/// A target as the kernel program took it for a connection.
fn seen_by(entry: &Conntrack, target: &Target) -> Target {
    let mut target = *target;
    if entry.marks & conntrack_marks::BY_STACK != 0 {
        target.flags &= !target_flags::SNAT;
    }
    target
}

/// The hash that a target has for ever, whatever its number is.
pub(super) fn identity(target: &Target) -> u64 {
    nat::hash(&FiveTuple {
        endpoint: target.address,
        endpoint_port: target.port,
        ..FiveTuple::default()
    })
}

/// A value by which targets can be sorted and compared.
pub(super) type TargetKey = ([u8; 16], u16, [u8; 16], u16);

pub(super) const fn target_key(target: &Target) -> TargetKey {
    (target.address, target.port, target.source, target.flags)
}

/// Whether two targets differ in nothing but the source address that their packets get.
pub(super) fn same_but_source(a: &Target, b: &Target) -> bool {
    let has_source = |target: &Target| target.flags & target_flags::SNAT != 0;
    a.address == b.address && a.port == b.port && a.flags == b.flags && has_source(a)
}
