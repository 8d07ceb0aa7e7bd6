//! Which way a packet takes, and which table entry decides each step.
//!
//! A pure function of what the tables hold ([`Present`]). The choices are not described but made: by the
//! code that the kernel program runs ([`truename_common::nat`]), in its order.

mod step;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use truename_common::{
    layout::{
        Conntrack, ConntrackState, Counter, Endpoint, FiveTuple, Policy, Service, Socket, TCP,
        Target, UDP, conntrack_flags, port_flags, service_flags, target_flags,
    },
    nat::{self, Choice, TRIES},
};

use crate::{config::Config, plan::bytes, reconcile::Present};
pub use step::Step;
use step::{Steps, connection_text, ip, port_text, socket_text, tuple_text};

/// The source port that stands for any.
pub const EXAMPLE_PORT: u16 = 40_000;

/// The first packet of a conversation, or one of an existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The packet's source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// IP protocol: [`TCP`] or [`UDP`].
    pub protocol: u8,
}

/// What becomes of the packet's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// They stay.
    Unchanged,
    /// The packet is dropped; `reason` is a counter.
    Refused {
        /// The counter's label.
        reason: String,
    },
    /// It goes to a target.
    ToTarget {
        /// Whether the packet begins the connection.
        new: bool,
        /// The source that the target sees.
        from: SocketAddr,
        /// The target.
        to: SocketAddr,
    },
    /// It goes to a client, from the alias.
    ToClient {
        /// The alias.
        from: SocketAddr,
        /// The client.
        to: SocketAddr,
    },
}

/// The way of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// In their order.
    pub steps: Vec<Step>,
    /// What becomes of the addresses.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Explains the way of a packet. `now_ns` is `CLOCK_MONOTONIC`.
pub fn explain(
    present: &Present,
    config: &Config,
    now_ns: u64,
    question: &Question,
) -> Explanation {
    let mut walk = Walk {
        present,
        config,
        now_ns,
        packet: tuple(question),
        steps: Steps::default(),
    };
    let verdict = walk.addresses();
    walk.rpc(&verdict);
    Explanation {
        steps: walk.steps.into_vec(),
        verdict,
    }
}

/// The packet's five-tuple: `client` is its source.
fn tuple(question: &Question) -> FiveTuple {
    FiveTuple {
        client: bytes(question.from.ip()),
        endpoint: bytes(question.to.ip()),
        client_port: question.from.port(),
        endpoint_port: question.to.port(),
        protocol: question.protocol,
        pad: [0; 3],
    }
}

struct Walk<'a> {
    present: &'a Present,
    config: &'a Config,
    now_ns: u64,
    packet: FiveTuple,
    steps: Steps,
}

impl Walk<'_> {
    /// `truename-ebpf`'s `nat::translate`.
    fn addresses(&mut self) -> Verdict {
        let (from, to) = (
            self.port(self.packet.client_port),
            self.port(self.packet.endpoint_port),
        );
        if to & port_flags::SERVICE != 0
            && let Some(verdict) = self.service()
        {
            return verdict;
        }
        if from & port_flags::TARGET != 0
            && let Some(verdict) = self.reply()
        {
            return verdict;
        }
        if to & port_flags::TARGET != 0
            && let Some(verdict) = self.direct()
        {
            return verdict;
        }
        if from == 0 && to == 0 {
            self.steps
                .end("neither port is one of ours: the packet passes untouched");
        }
        Verdict::Unchanged
    }

    fn port(&mut self, port: u16) -> u8 {
        let flags = self.present.ports.get(&port).copied().unwrap_or(0);
        self.steps.add("PORTS", port.to_string(), port_text(flags));
        flags
    }

    fn service(&mut self) -> Option<Verdict> {
        let alias = self.packet.endpoint();
        let key = format!("{} {}", protocol(alias.protocol), socket_text(&alias));
        let Some(service) = self.present.held.services.get(&alias).copied() else {
            let near = self.near(&alias);
            self.steps.add("SERVICES", key, near);
            return None;
        };
        let name = self.service_name(&alias);
        self.steps.add("SERVICES", key, format!("service {name}"));
        if let Some((key, entry)) = self.find(&service, &self.packet.clone()) {
            self.steps.add(
                "CONNTRACK",
                tuple_text(&key),
                connection_text(&entry, self.now_ns),
            );
            return Some(self.goes_to_target(
                &key,
                entry.flags & conntrack_flags::LOCAL != 0,
                false,
            ));
        }
        Some(self.begin(&service))
    }

    /// Services that a mistyped address may have meant.
    fn near(&self, alias: &Socket) -> String {
        let services = &self.present.held.services;
        let same_address = |other: &&Socket| other.address == alias.address;
        let same_port = |other: &&Socket| other.port == alias.port;
        let near = services
            .keys()
            .find(|other| same_address(other) && same_port(other))
            .or_else(|| services.keys().find(same_port))
            .or_else(|| services.keys().find(same_address));
        match near {
            Some(near) => format!(
                "no service here; the nearest is {} at {} {}",
                self.service_name(near),
                protocol(near.protocol),
                socket_text(near)
            ),
            None => "no service here".to_owned(),
        }
    }

    /// The client's connection, by any choice and candidate.
    fn find(&mut self, service: &Service, original: &FiveTuple) -> Option<(FiveTuple, Conntrack)> {
        let hash = nat::hash(original);
        for choice in Choice::ALL {
            let held = &self.present.held;
            let chosen = nat::choose(held, service, choice, original, hash);
            let Some((number, target)) = chosen else {
                continue;
            };
            let found = (0..TRIES).find_map(|index| {
                let key = nat::key(original, &target, &held.settings, hash, index);
                let entry = held.connections.get(&key)?;
                (entry.original(key.protocol) == *original).then_some((key, *entry))
            });
            if found.is_some() {
                self.chosen(service, choice, number, &target, hash);
                return found;
            }
        }
        None
    }

    /// Tells of a choice.
    fn chosen(
        &mut self,
        service: &Service,
        choice: Choice,
        number: u32,
        target: &Target,
        hash: u64,
    ) {
        let position = |slots: truename_common::layout::Slots| match slots.count {
            0 | 1 => format!("{}", slots.first),
            count => format!(
                "{} (slot {} of {count}, by the hash {hash:016x})",
                slots.first + hash as u32 % count,
                hash as u32 % count
            ),
        };
        let (table, key) = match choice {
            Choice::Moved => ("MOVED", tuple_text(&self.packet)),
            Choice::Current => ("SLOTS", position(service.slots)),
            Choice::Previous => ("SLOTS", position(service.previous)),
        };
        let why = match choice {
            Choice::Moved => "the connection stays with its target",
            Choice::Current => "the service's choice",
            Choice::Previous => "the service's choice before its targets changed",
        };
        self.steps
            .add(table, key, format!("target {number}, {why}"));
        let place = if target.flags & target_flags::LOCAL != 0 {
            "on this host".to_owned()
        } else if target.flags & target_flags::SNAT != 0 {
            format!("elsewhere, reached from {}", ip(target.source))
        } else {
            "elsewhere, reached from the client's own address".to_owned()
        };
        let socket = Socket {
            address: target.address,
            port: target.port,
            protocol: self.packet.protocol,
            pad: 0,
        };
        self.steps.add(
            "TARGETS",
            number.to_string(),
            format!("{}, {place}", socket_text(&socket)),
        );
    }

    /// A packet to a service that has no connection yet.
    fn begin(&mut self, service: &Service) -> Verdict {
        self.steps.add(
            "CONNTRACK",
            tuple_text(&self.packet),
            if service.flags & service_flags::MOVED != 0 {
                "no connection of this client, moved ones included"
            } else {
                "no connection of this client"
            },
        );
        if self.packet.protocol == TCP {
            self.steps
                .end("a SYN begins one; any other segment passes untouched (nat_no_connection)");
        }
        let hash = nat::hash(&self.packet);
        let held = &self.present.held;
        let chosen = nat::choose(held, service, Choice::Current, &self.packet, hash);
        let Some((number, target)) = chosen else {
            return self.refuse(Counter::NatNoTarget, "the service has no target");
        };
        self.chosen(service, Choice::Current, number, &target, hash);
        self.allocate(&target, hash, 0)
    }

    /// The first candidate source port that is free.
    fn allocate(&mut self, target: &Target, hash: u64, first: u32) -> Verdict {
        let settings = &self.present.held.settings;
        let is_local = target.flags & target_flags::LOCAL != 0;
        for index in first..TRIES {
            let key = nat::key(&self.packet, target, settings, hash, index);
            match self.present.held.connections.get(&key) {
                Some(entry) if !nat::is_expired(entry, settings, self.now_ns) => {
                    let says = format!("taken: {}", connection_text(entry, self.now_ns));
                    self.steps.add("CONNTRACK", tuple_text(&key), says);
                }
                leftover => {
                    let says = match leftover {
                        Some(_) => "a leftover, replaced by the new connection",
                        None => "free: the new connection's key",
                    };
                    self.steps.add("CONNTRACK", tuple_text(&key), says);
                    if is_local && key.protocol == TCP {
                        self.steps.end(
                            "unless the host has a socket for it (TIME_WAIT counts): then the next candidate",
                        );
                    }
                    return self.goes_to_target(&key, is_local, true);
                }
            }
        }
        self.refuse(
            Counter::NatPortsExhausted,
            &format!("none of {TRIES} candidate source ports is free"),
        )
    }

    fn refuse(&mut self, counter: Counter, why: &str) -> Verdict {
        let reason = counter.label().to_owned();
        self.steps.end(format!("dropped: {why} ({reason})"));
        Verdict::Refused { reason }
    }

    fn goes_to_target(&mut self, key: &FiveTuple, is_local: bool, new: bool) -> Verdict {
        self.steps.end(if is_local {
            "this host's stack takes the packet"
        } else {
            "the kernel's routing table says where the packet leaves; one hop less"
        });
        Verdict::ToTarget {
            new,
            from: address(&key.client()),
            to: address(&key.endpoint()),
        }
    }

    fn reply(&mut self) -> Option<Verdict> {
        let key = turned(&self.packet);
        let Some(entry) = self.present.held.connections.get(&key).copied() else {
            self.steps.add(
                "CONNTRACK",
                tuple_text(&key),
                "no connection of which this is a reply",
            );
            return None;
        };
        self.steps.add(
            "CONNTRACK",
            tuple_text(&key),
            format!("a reply: {}", connection_text(&entry, self.now_ns)),
        );
        let original = entry.original(key.protocol);
        Some(Verdict::ToClient {
            from: address(&original.endpoint()),
            to: address(&original.client()),
        })
    }

    /// To a target, not by way of a service.
    fn direct(&mut self) -> Option<Verdict> {
        let packet = self.packet;
        let hash = nat::hash(&packet);
        let target = Target {
            address: packet.endpoint,
            port: packet.endpoint_port,
            flags: target_flags::LOCAL,
            ..Target::default()
        };
        let held = &self.present.held;
        let own = (1..TRIES).find_map(|index| {
            let key = nat::key(&packet, &target, &held.settings, hash, index);
            let entry = held.connections.get(&key)?;
            (entry.original(key.protocol) == packet).then_some((key, *entry))
        });
        if let Some((key, entry)) = own {
            let says = connection_text(&entry, self.now_ns);
            self.steps.add("CONNTRACK", tuple_text(&key), says);
            return Some(self.goes_to_target(&key, true, false));
        }
        let taken = held.connections.get(&packet)?;
        if packet.protocol != TCP || nat::is_expired(taken, &held.settings, self.now_ns) {
            return None;
        }
        let says = format!(
            "the source port is in use through an alias: {}",
            connection_text(taken, self.now_ns)
        );
        self.steps.add("CONNTRACK", tuple_text(&packet), says);
        Some(self.allocate(&target, hash, 1))
    }

    /// Whether the RPC translator takes the packet on.
    fn rpc(&mut self, verdict: &Verdict) {
        let seen = match verdict {
            Verdict::Refused { .. } => return,
            Verdict::ToTarget { from, to, .. } => FiveTuple {
                client: bytes(from.ip()),
                endpoint: bytes(to.ip()),
                client_port: from.port(),
                endpoint_port: to.port(),
                ..self.packet
            },
            Verdict::Unchanged | Verdict::ToClient { .. } => self.packet,
        };
        if seen.protocol != TCP {
            return;
        }
        for (socket, way) in [
            (seen.endpoint(), "towards it: recipients are translated"),
            (seen.client(), "from it: its canonical name is translated"),
        ] {
            let found = [socket, socket.any()]
                .into_iter()
                .find_map(|key| Some((key, *self.present.endpoints.get(&key)?)));
            if let Some((key, endpoint)) = found {
                let says = format!("{}, {way}{}", self.endpoint_name(&key), policy(&endpoint));
                self.steps.add("ENDPOINTS", socket_text(&key), says);
                return;
            }
        }
    }

    fn service_name(&self, alias: &Socket) -> String {
        let listens = |service: &&crate::config::Service| {
            service.protocol.number() == alias.protocol
                && service.listen.port == alias.port
                && service
                    .listen
                    .address
                    .is_none_or(|address| bytes(address) == alias.address)
        };
        let found = self.config.services.iter().find(listens);
        found.map_or_else(
            || "without a name".to_owned(),
            |service| service.name.clone(),
        )
    }

    fn endpoint_name(&self, socket: &Socket) -> String {
        let listens = |endpoint: &&crate::config::Endpoint| endpoint.listen.to_socket() == *socket;
        let found = self.config.endpoints.iter().find(listens);
        found.map_or_else(
            || "an endpoint without a name".to_owned(),
            |endpoint| format!("endpoint {}", endpoint.name),
        )
    }
}

fn policy(endpoint: &Endpoint) -> &'static str {
    if endpoint.policy == Policy::Listed as u8 {
        ", of listed aliases"
    } else {
        ""
    }
}

/// The tuple of the packets the other way.
fn turned(packet: &FiveTuple) -> FiveTuple {
    FiveTuple {
        client: packet.endpoint,
        endpoint: packet.client,
        client_port: packet.endpoint_port,
        endpoint_port: packet.client_port,
        ..*packet
    }
}

fn address(socket: &Socket) -> SocketAddr {
    SocketAddr::new(ip(socket.address), socket.port)
}

/// The name of an IP protocol.
pub fn protocol(number: u8) -> &'static str {
    match number {
        TCP => "tcp",
        UDP => "udp",
        _ => "ip",
    }
}

/// The word for a state.
pub fn state(entry: &Conntrack) -> &'static str {
    ConntrackState::from_number(entry.state).label()
}
