//! The way of a packet through the tables.

use std::net::{IpAddr, SocketAddr};

use truename_common::{
    layout::{
        Conntrack, ConntrackState, Counter, FiveTuple, Policy, Service, Socket, TCP, Target, UDP,
        bytes, conntrack_flags, conntrack_marks, ip, port_flags, service_flags, settings_flags,
        target_flags,
    },
    nat::{self, Choice},
};

use super::{Begins, EXAMPLE_PORT, Explanation, Outcome, Question, Source, Step};

/// Follows a packet. `is_own` tells the host's own addresses.
pub fn explain<S: Source>(
    source: &S,
    question: &Question,
    is_own: impl Fn(IpAddr) -> bool,
) -> Explanation {
    let from_port = question.from_port.unwrap_or(EXAMPLE_PORT);
    let from = SocketAddr::new(question.from.to_canonical(), from_port);
    let to = SocketAddr::new(question.to.ip().to_canonical(), question.to.port());
    let original = FiveTuple {
        client: bytes(from.ip()),
        endpoint: bytes(to.ip()),
        client_port: from.port(),
        endpoint_port: to.port(),
        protocol: if question.protocol == "udp" { UDP } else { TCP },
        pad: [0; 3],
    };
    let mut walk = Walk {
        source,
        original,
        hash: nat::hash(&original),
        is_from_here: is_own(from.ip()),
        given_up: None,
        steps: Vec::new(),
    };
    let outcome = walk.run(&is_own);
    Explanation {
        protocol: question.protocol.clone(),
        from,
        example_port: question.from_port.is_none(),
        to,
        steps: walk.steps,
        outcome,
        notes: Vec::new(),
    }
}

/// Who sends a packet to another host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forwarder {
    /// The kernel program, from interface to interface.
    Program,
    /// The host's stack, which has done so when the program sees the packet.
    Stack,
    /// The host's stack, with netfilter, when the program has seen the packet.
    Netfilter,
}

struct Walk<'a, S> {
    source: &'a S,
    /// What the sender sees.
    original: FiveTuple,
    hash: u64,
    is_from_here: bool,
    /// The connection that a new one takes the place of.
    given_up: Option<FiveTuple>,
    steps: Vec<Step>,
}

impl<S: Source> Walk<'_, S> {
    fn run(&mut self, is_own: &impl Fn(IpAddr) -> bool) -> Outcome {
        let destination = self.look(self.original.endpoint_port, true);
        if destination & port_flags::SERVICE != 0
            && let Some(service) = self.source.service(&self.original.endpoint())
        {
            return self.through(&service);
        }
        self.no_service();
        let source = self.look(self.original.client_port, false);
        if source & port_flags::TARGET != 0
            && let Some(outcome) = self.reply(is_own)
        {
            return outcome;
        }
        if destination & port_flags::TARGET != 0
            && let Some(outcome) = self.directly()
        {
            return outcome;
        }
        self.endpoint(self.original.endpoint());
        Outcome::Unchanged
    }

    /// One byte of `PORTS`.
    fn look(&mut self, port: u16, destination: bool) -> u8 {
        let flags = self.source.port_flags(port);
        let names = [
            (port_flags::ENDPOINT, "endpoint"),
            (port_flags::SERVICE, "service"),
            (port_flags::TARGET, "target"),
            (port_flags::CAPTURE, "capture"),
        ];
        let set = names.iter().filter(|(flag, _)| flags & flag != 0);
        self.steps.push(Step::Port {
            port,
            destination,
            flags: set.map(|(_, name)| (*name).to_owned()).collect(),
        });
        flags
    }

    /// A packet of a client to an alias.
    fn through(&mut self, service: &Service) -> Outcome {
        let alias = self.original.endpoint();
        self.steps.push(Step::Service {
            alias: address(alias.address, alias.port),
            name: self.source.service_name(&alias),
            id: service.id,
            slots: (service.slots.first, service.slots.count),
            changing: service.previous.count != 0,
            moved: service.flags & service_flags::MOVED != 0,
        });
        for choice in Choice::ALL {
            let Some((number, target)) = self.choose(service, choice) else {
                continue;
            };
            if let Some((key, entry)) = self.find(&target) {
                self.chosen(service, choice, number, &target);
                self.known(&key, &entry);
                if nat::is_left(entry.state, choice) {
                    self.given_up = Some(key);
                    break;
                }
                return self.sent(&key, &target, false);
            }
        }
        let begins = match self.original.protocol {
            UDP => Begins::Any,
            _ if nat::takes_any(service) => Begins::AnyButRst,
            _ => Begins::First,
        };
        let current = self.choose(service, Choice::Current);
        if let Some((number, target)) = &current {
            self.chosen(service, Choice::Current, *number, target);
        }
        self.steps.push(Step::NoConnection { begins });
        let Some((_, target)) = current else {
            return refused(Counter::NatNoTarget);
        };
        match self.allocate(&target, 0) {
            Some((key, begins)) => self.sent(&key, &target, begins),
            None => refused(Counter::NatPortsExhausted),
        }
    }

    fn choose(&self, service: &Service, choice: Choice) -> Option<(u32, Target)> {
        nat::choose(self.source, service, choice, &self.original, self.hash)
    }

    fn chosen(&mut self, service: &Service, choice: Choice, number: u32, target: &Target) {
        let range = match choice {
            Choice::Moved => None,
            Choice::Current => Some(service.slots),
            Choice::Previous => Some(service.previous),
        };
        let is_snat = target.flags & target_flags::SNAT != 0 && !self.is_by_stack(target);
        self.steps.push(Step::Choice {
            choice: match choice {
                Choice::Moved => "moved",
                Choice::Current => "current",
                Choice::Previous => "previous",
            }
            .to_owned(),
            hash: self.hash,
            slot: range.map(|range| range.first + (self.hash as u32) % range.count.max(1)),
            number,
            target: address(target.address, target.port),
            local: target.flags & target_flags::LOCAL != 0,
            source: is_snat.then(|| ip(target.source).to_string()),
        });
    }

    /// The connection of the packet, if it goes to `target`: by the candidates that connections with
    /// its hash were given.
    fn find(&self, target: &Target) -> Option<(FiveTuple, Conntrack)> {
        let tried = self.source.tried(self.hash) | 1;
        (0..nat::MAX_PORT_TRIES)
            .filter(|index| tried & (1 << index) != 0)
            .find_map(|index| {
                let key = self.key(target, index);
                let entry = self.source.connection(&key)?;
                let is_its = entry.original(key.protocol) == self.original;
                is_its.then_some((key, entry))
            })
    }

    fn key(&self, target: &Target, index: u32) -> FiveTuple {
        let settings = self.source.settings();
        let mut target = *target;
        if self.is_by_stack(&target) {
            target.flags &= !target_flags::SNAT;
        }
        nat::key(&self.original, &target, &settings, self.hash, index)
    }

    /// Whether the host's stack forwards the packet, with netfilter.
    fn is_by_stack(&self, target: &Target) -> bool {
        let is_honoured = self.source.settings().flags & settings_flags::HONOUR != 0;
        is_honoured && !self.is_from_here && target.flags & target_flags::LOCAL == 0
    }

    fn known(&mut self, key: &FiveTuple, entry: &Conntrack) {
        let silent = self.source.now_ns().saturating_sub(entry.seen_ns);
        self.steps.push(Step::Connection {
            client: address(key.client, key.client_port),
            target: address(key.endpoint, key.endpoint_port),
            state: ConntrackState::from_number(entry.state).label().to_owned(),
            candidate: entry.tries,
            idle_s: silent / 1_000_000_000,
        });
    }

    fn is_over(&self, entry: &Conntrack) -> bool {
        nat::is_replaceable(entry, &self.source.settings(), self.source.now_ns())
    }

    /// The first candidate that no other connection has, from `first` on, and whether it is a new one's.
    fn allocate(&mut self, target: &Target, first: u32) -> Option<(FiveTuple, bool)> {
        // Once more, and harder, if none is free.
        let rounds = [false, true].into_iter();
        for (is_pressed, index) in rounds.flat_map(|is_pressed| {
            (first..nat::MAX_PORT_TRIES).map(move |index| (is_pressed, index))
        }) {
            let key = self.key(target, index);
            let taken = self.source.connection(&key);
            let is_given_up = self.given_up == Some(key);
            if let Some(entry) = taken.filter(|_| !is_given_up)
                && entry.original(key.protocol) == self.original
            {
                self.known(&key, &entry);
                return Some((key, false));
            }
            let leftover = taken.is_some_and(|entry| {
                let gives_way = is_pressed && nat::gives_way(&entry, self.source.now_ns());
                is_given_up || gives_way || self.is_over(&entry)
            });
            if is_pressed && !leftover {
                continue;
            }
            let is_free = taken.is_none() || leftover;
            self.steps.push(Step::Candidate {
                index,
                client: address(key.client, key.client_port),
                taken_by: taken.map(|entry| {
                    (
                        address(entry.client, entry.client_port),
                        address(entry.alias, entry.alias_port),
                    )
                }),
                leftover,
            });
            if is_free {
                return Some((key, true));
            }
        }
        None
    }

    /// The packet with the addresses that the target sees.
    fn sent(&mut self, key: &FiveTuple, target: &Target, begins: bool) -> Outcome {
        if target.flags & target_flags::LOCAL != 0 {
            let turned = self.is_from_here;
            self.steps.push(Step::Local { turned });
        } else if self.is_by_stack(target) {
            self.forward(ip(key.endpoint), Forwarder::Netfilter);
        } else if !self.forward(ip(key.endpoint), Forwarder::Program) {
            return refused(Counter::NatForwardingOff);
        }
        self.readdressed(key, begins)
    }

    fn readdressed(&mut self, key: &FiveTuple, begins: bool) -> Outcome {
        self.endpoint(key.endpoint());
        Outcome::Translated {
            from: address(key.client, key.client_port),
            to: address(key.endpoint, key.endpoint_port),
            begins,
        }
    }

    /// Whether a packet to another host goes on. What the host's stack has routed already needs no forwarding.
    fn forward(&mut self, to: IpAddr, by: Forwarder) -> bool {
        let own = self.is_from_here;
        let enabled = by == Forwarder::Stack || self.source.forwards(to.is_ipv4(), own);
        self.steps.push(Step::Forwarded {
            enabled,
            netfilter: by == Forwarder::Netfilter,
        });
        enabled
    }

    /// A packet of a target, which may be an answer.
    fn reply(&mut self, is_own: &impl Fn(IpAddr) -> bool) -> Option<Outcome> {
        let packet = self.original;
        let key = FiveTuple {
            client: packet.endpoint,
            endpoint: packet.client,
            client_port: packet.endpoint_port,
            endpoint_port: packet.client_port,
            ..packet
        };
        let entry = self.source.connection(&key)?;
        self.known(&key, &entry);
        let client = ip(entry.client);
        let by = if entry.marks & conntrack_marks::BY_STACK != 0 {
            Forwarder::Netfilter
        } else if conntrack_flags::is_routed_by_stack(entry.flags) {
            Forwarder::Stack
        } else {
            Forwarder::Program
        };
        if is_own(client) {
            let turned = self.is_from_here;
            self.steps.push(Step::Local { turned });
        } else if !self.forward(client, by) && by == Forwarder::Program {
            return Some(refused(Counter::NatForwardingOff));
        }
        Some(Outcome::Translated {
            from: address(entry.alias, entry.alias_port),
            to: address(entry.client, entry.client_port),
            begins: false,
        })
    }

    /// A packet to a target itself: it is left alone unless a connection through an alias has its
    /// source port there.
    fn directly(&mut self) -> Option<Outcome> {
        let target = Target {
            address: self.original.endpoint,
            port: self.original.endpoint_port,
            ..Target::default()
        };
        let kept = self.key(&target, 0);
        if self.source.tried(self.hash) & nat::TRIED_DIRECT != 0
            && let Some((key, entry)) = self.find(&target)
            && key != kept
        {
            self.known(&key, &entry);
            return Some(self.readdressed(&key, false));
        }
        let taken = self.source.connection(&kept)?;
        if self.is_over(&taken) {
            return None;
        }
        // Without a free port it goes on as it came.
        let (key, begins) = self.allocate(&target, 1)?;
        Some(self.readdressed(&key, begins))
    }

    fn no_service(&mut self) {
        let at = self.original.endpoint();
        let aliases = self.source.aliases();
        // The port on another address, the address on another port, another protocol.
        let near = |alias: &&Socket| {
            let differences = [
                alias.address != at.address,
                alias.port != at.port,
                alias.protocol != at.protocol,
            ];
            differences.into_iter().filter(|differs| *differs).count() == 1
        };
        let rank = |alias: &&Socket| (alias.protocol == at.protocol, alias.port != at.port);
        let nearest = aliases
            .iter()
            .filter(near)
            .min_by_key(|alias| (rank(alias), **alias));
        let nearest = nearest.map(|alias| {
            let what = if alias.protocol != at.protocol {
                "another protocol"
            } else if alias.port != at.port {
                "another port"
            } else {
                "another address"
            };
            let protocol = if alias.protocol == TCP { "tcp" } else { "udp" };
            let name = self
                .source
                .service_name(alias)
                .unwrap_or_else(|| "-".to_owned());
            let alias = address(alias.address, alias.port);
            format!("{protocol} {alias} of the service {name}, {what}")
        });
        self.steps.push(Step::NoService { nearest });
    }

    /// What the RPC translator does there.
    fn endpoint(&mut self, at: Socket) {
        let is_rpc =
            at.protocol == TCP && self.source.port_flags(at.port) & port_flags::ENDPOINT != 0;
        if !is_rpc {
            return;
        }
        let found = [at, at.any()]
            .into_iter()
            .find_map(|at| Some((at, self.source.endpoint(&at)?)));
        let Some((listen, endpoint)) = found else {
            return;
        };
        let names = [at, listen]
            .iter()
            .find_map(|at| self.source.names(at))
            .filter(|names| !names.canonical.is_empty());
        let listed = (endpoint.policy == Policy::Listed as u8).then(|| {
            let listed = self.source.listed(endpoint.id);
            listed.iter().map(ToString::to_string).collect()
        });
        self.steps.push(Step::Endpoint {
            name: self.source.endpoint_name(&listen),
            listen: if listen == listen.any() {
                format!("*:{}", listen.port)
            } else {
                address(listen.address, listen.port).to_string()
            },
            canonical: names.map(|names| names.canonical.to_string()),
            aliases: listed,
        });
    }
}

fn refused(counter: Counter) -> Outcome {
    Outcome::Refused {
        counter: counter.label().to_owned(),
    }
}

fn address(address: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}
