//! `explain` says what the kernel program does: both answer for the same packet over the same tables,
//! which come about by packets, by time, and by what the agent writes when targets change.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use truename::{
    api::Clock,
    datapath::OBJECT,
    explain::{Begins, Explanation, Outcome, Question, Source, Step, explain},
};
use truename_common::{
    layout::{
        Authority, Conntrack, Counter, Endpoint, FiveTuple, Names, Service, Settings, Slots,
        Socket, TCP, Target, UDP, conntrack_flags, map, service_flags,
    },
    nat,
};
use truename_tests::prog_run::{
    Datagram, Host, Kind, Link, Nat, Place, Verdict, flag, local, remote, routed, tuple,
};

/// Cases, each with its own services and some packets.
const CASES: u32 = 2500;

/// The kernel tables, as `explain` wants them.
struct Kernel<'a> {
    nat: &'a Nat,
    forwards: bool,
}

impl nat::Tables for Kernel<'_> {
    fn slot(&self, position: u32) -> Option<u32> {
        self.nat.slot(position)
    }

    fn moved(&self, original: &FiveTuple) -> Option<u32> {
        nat::Tables::moved(self.nat, original)
    }

    fn target(&self, number: u32) -> Option<Target> {
        self.nat.target(number)
    }
}

impl Source for Kernel<'_> {
    fn port_flags(&self, port: u16) -> u8 {
        self.nat.port(port)
    }
    fn service(&self, alias: &Socket) -> Option<Service> {
        self.nat.lookup(map::SERVICES, alias)
    }
    fn aliases(&self) -> Vec<Socket> {
        Vec::new()
    }
    fn connection(&self, key: &FiveTuple) -> Option<Conntrack> {
        self.nat.lookup(map::CONNTRACK, key)
    }
    fn tried(&self, hash: u64) -> u32 {
        self.nat.tried_of(hash)
    }
    fn settings(&self) -> Settings {
        self.nat.settings
    }
    fn endpoint(&self, _: &Socket) -> Option<Endpoint> {
        None
    }
    fn names(&self, _: &Socket) -> Option<Names> {
        None
    }
    fn listed(&self, _: u32) -> Vec<Authority> {
        Vec::new()
    }
    fn service_name(&self, _: &Socket) -> Option<String> {
        None
    }
    fn endpoint_name(&self, _: &Socket) -> Option<String> {
        None
    }
    fn forwards(&self, _: bool, own: bool) -> bool {
        own || self.forwards
    }
    fn now_ns(&self) -> u64 {
        Clock::read().monotonic_ns()
    }
}

/// Who there is, in one IP version. The pools are small, so that connections get in each other's way.
struct Pool {
    clients: Vec<IpAddr>,
    aliases: Vec<SocketAddr>,
    targets: Vec<SocketAddr>,
    /// Tables of targets: none, one, several, with weights; all that a service may have.
    slots: Vec<Slots>,
    /// Numbers of targets.
    numbers: Vec<u32>,
}

/// The first two addresses of clients are of others; the host has the rest.
const CLIENTS: [[&str; 4]; 2] = [
    ["10.1.0.2", "10.1.0.3", "10.1.0.1", "10.0.0.1"],
    ["fd01::2", "fd01::3", "fd01::1", "fd00::1"],
];
const PORTS: [u16; 5] = [40_000, 40_001, 50_000, 50_001, 50_002];
const ALIASES: [[&str; 4]; 2] = [
    ["10.9.0.9:80", "10.9.0.9:8080", "10.0.0.1:80", "10.2.0.2:82"],
    [
        "[fd09::9]:80",
        "[fd09::9]:8080",
        "[fd00::1]:80",
        "[fd02::2]:82",
    ],
];
const TARGETS: [[&str; 4]; 2] = [
    [
        "10.0.0.1:8080",
        "10.0.0.1:8081",
        "10.2.0.2:8080",
        "10.2.0.3:8080",
    ],
    [
        "[fd00::1]:8080",
        "[fd00::1]:8081",
        "[fd02::2]:8080",
        "[fd02::3]:8080",
    ],
];
/// The host's own addresses, and one by which targets know it.
const OWN: [&str; 6] = [
    "10.0.0.1", "10.1.0.1", "10.2.0.1", "fd00::1", "fd01::1", "fd02::1",
];

impl Pool {
    fn new(nat: &mut Nat, v6: bool) -> Self {
        let of_version = usize::from(v6);
        let sockets = |texts: [&str; 4]| texts.map(|text| text.parse::<SocketAddr>().unwrap());
        let targets = sockets(TARGETS[of_version]);
        let source: IpAddr = if v6 { "fd02::1" } else { "10.2.0.1" }.parse().unwrap();
        let [here, also_here, there, also_there] = targets;
        // A target of this host that does not see the client either.
        let masked = Target {
            flags: local(here).flags | remote(here, source).flags,
            ..remote(here, source)
        };
        let numbers: Vec<u32> = [
            local(here),
            local(also_here),
            masked,
            remote(there, source),
            remote(also_there, source),
            routed(there),
        ]
        .into_iter()
        .map(|target| nat.add_target(target))
        .collect();
        let mut slots = vec![Slots::default()];
        slots.extend(numbers.iter().map(|number| nat.slots(vec![*number])));
        for weights in [[1, 1, 0, 1, 0, 0], [0, 0, 1, 3, 1, 0], [2, 1, 0, 1, 1, 1]] {
            let weighted = numbers.iter().copied().zip(weights).collect();
            slots.push(nat.weighted_slots(weighted));
        }
        Self {
            clients: CLIENTS[of_version].map(|text| text.parse().unwrap()).into(),
            aliases: sockets(ALIASES[of_version]).into(),
            targets: targets.into(),
            slots,
            numbers,
        }
    }
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A packet of a client to an alias or to a target.
    Asks {
        client: Index,
        port: Index,
        to: Index,
        directly: bool,
        flags: u8,
        by_loopback: bool,
    },
    /// A packet of a connection's client, or of its target.
    Goes {
        connection: Index,
        back: bool,
        flags: u8,
    },
    /// A connection gets into another state, and was silent for some seconds.
    Ages {
        connection: Index,
        state: u8,
        seconds: u64,
        client_first: bool,
    },
    /// A service gets other targets; the ones before may be kept as such.
    Changes {
        alias: Index,
        slots: Index,
        keeps: bool,
    },
    /// A connection is listed as one that stays, with a target that may not be its own.
    Stays { connection: Index, target: Index },
}

fn event() -> impl Strategy<Value = Event> {
    let flags = prop::sample::select(vec![
        flag::SYN,
        flag::SYN,
        flag::SYN,
        flag::ACK,
        flag::SYN | flag::ACK,
        flag::FIN | flag::ACK,
        flag::RST,
    ]);
    let later = prop::sample::select(vec![
        flag::ACK,
        flag::ACK,
        flag::FIN | flag::ACK,
        flag::RST,
        flag::SYN | flag::ACK,
        flag::SYN,
    ]);
    let index = any::<Index>;
    // None is near a timeout, so that no second that passes meanwhile makes a difference.
    let seconds = prop::sample::select(vec![0, 3, 15, 45, 90, 300, 9000]);
    prop_oneof![
        6 => (index(), index(), index(), prop::bool::weighted(0.3), flags, any::<bool>())
            .prop_map(|(client, port, to, directly, flags, by_loopback)| Event::Asks {
                client, port, to, directly, flags, by_loopback,
            }),
        4 => (index(), any::<bool>(), later)
            .prop_map(|(connection, back, flags)| Event::Goes { connection, back, flags }),
        3 => (index(), 0..8u8, seconds, any::<bool>())
            .prop_map(|(connection, state, seconds, client_first)| Event::Ages {
                connection, state, seconds, client_first,
            }),
        2 => (index(), index(), any::<bool>())
            .prop_map(|(alias, slots, keeps)| Event::Changes { alias, slots, keeps }),
        1 => (index(), index())
            .prop_map(|(connection, target)| Event::Stays { connection, target }),
    ]
}

/// Services (where each alias leads, and whether connections to former targets are reset), how many ports may be given away, and what happens then.
#[derive(Clone, Debug)]
struct Case {
    v6: bool,
    udp: bool,
    services: Vec<(Index, bool)>,
    ports: u16,
    events: Vec<Event>,
}

fn case() -> impl Strategy<Value = Case> {
    (
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec((any::<Index>(), prop::bool::weighted(0.3)), 4),
        prop::sample::select(vec![1, 2, 3, 40, 1000]),
        prop::collection::vec(event(), 1..24),
    )
        .prop_map(|(v6, udp, services, ports, events)| Case {
            v6,
            udp,
            services,
            ports,
            events,
        })
}

/// What may become of a packet: the label of its counter if it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Goes(Vec<u8>),
    Refused(String),
}

struct Bench<'h> {
    host: &'h Host,
    forwards: bool,
    nat: Nat,
    pools: [Pool; 2],
    /// How often each outcome was compared.
    seen: BTreeMap<&'static str, u32>,
}

impl<'h> Bench<'h> {
    fn new(host: &'h Host, forwards: bool) -> Self {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let pools = [false, true].map(|v6| Pool::new(&mut nat, v6));
        Self {
            host,
            forwards,
            nat,
            pools,
            seen: BTreeMap::new(),
        }
    }

    fn run(&mut self, case: &Case) -> Result<(), TestCaseError> {
        self.nat.clear();
        let settings = Settings {
            last_port: self.nat.settings.first_port + case.ports - 1,
            ..self.nat.settings
        };
        self.nat.set(settings);
        let pool = &self.pools[usize::from(case.v6)];
        let protocol = if case.udp { UDP } else { TCP };
        let mut services = Vec::new();
        for (number, (alias, (slots, resets))) in
            pool.aliases.iter().zip(&case.services).enumerate()
        {
            let service = Service {
                id: number as u32 + 1,
                flags: u32::from(*resets) * service_flags::RESET,
                slots: *slots.get(&pool.slots),
                ..Service::default()
            };
            self.nat.publish(*alias, protocol, service);
            services.push(service);
        }
        for event in &case.events {
            self.happens(case, event, protocol, &mut services)?;
        }
        Ok(())
    }

    fn happens(
        &mut self,
        case: &Case,
        event: &Event,
        protocol: u8,
        services: &mut [Service],
    ) -> Result<(), TestCaseError> {
        let pool = &self.pools[usize::from(case.v6)];
        let connections = self.nat.connections();
        let pick = |index: &Index| {
            let some = !connections.is_empty();
            some.then(|| *index.get(&connections))
        };
        match event {
            Event::Asks {
                client,
                port,
                to,
                directly,
                flags,
                by_loopback,
            } => {
                let from = SocketAddr::new(*client.get(&pool.clients), *port.get(&PORTS));
                let sockets = if *directly {
                    &pool.targets
                } else {
                    &pool.aliases
                };
                let to = *to.get(sockets);
                self.compare(from, to, protocol, *flags, *by_loopback)
            }
            Event::Goes {
                connection,
                back,
                flags,
            } => {
                let Some((key, entry)) = pick(connection) else {
                    return Ok(());
                };
                let (from, to) = if *back {
                    let from = socket(key.endpoint, key.endpoint_port);
                    (from, socket(key.client, key.client_port))
                } else {
                    let from = socket(entry.client, entry.client_port);
                    (from, socket(entry.alias, entry.alias_port))
                };
                self.compare(from, to, protocol, *flags, false)
            }
            Event::Ages {
                connection,
                state,
                seconds,
                client_first,
            } => {
                if let Some((key, mut entry)) = pick(connection) {
                    entry.state = if case.udp { 6 + state % 2 } else { state % 6 };
                    entry.flags &= !conntrack_flags::CLIENT_FIRST;
                    entry.flags |= u8::from(*client_first) * conntrack_flags::CLIENT_FIRST;
                    let age = seconds * 1_000_000_000;
                    entry.seen_ns = Clock::read().monotonic_ns().saturating_sub(age);
                    self.nat.connect(key, entry);
                }
                Ok(())
            }
            Event::Changes {
                alias,
                slots,
                keeps,
            } => {
                let number = alias.index(services.len());
                let service = &mut services[number];
                service.previous = if *keeps {
                    service.slots
                } else {
                    Slots::default()
                };
                service.slots = *slots.get(&pool.slots);
                self.nat.publish(pool.aliases[number], protocol, *service);
                Ok(())
            }
            Event::Stays { connection, target } => {
                let Some((_, entry)) = pick(connection) else {
                    return Ok(());
                };
                let is_its = |service: &&mut Service| service.id == entry.service;
                if let Some(service) = services.iter_mut().find(is_its) {
                    service.flags |= service_flags::MOVED;
                    let alias = pool.aliases[service.id as usize - 1];
                    self.nat.publish(alias, protocol, *service);
                    let number = *target.get(&pool.numbers);
                    self.nat.moves(entry.original(protocol), number);
                }
                Ok(())
            }
        }
    }

    /// Asks `explain` about a packet, then sends it.
    fn compare(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        protocol: u8,
        flags: u8,
        by_loopback: bool,
    ) -> Result<(), TestCaseError> {
        let packet = if protocol == UDP {
            Datagram::udp(from, to)
        } else {
            Datagram::tcp(from, to, flags)
        };
        let place = self.place(from.ip(), by_loopback);
        let explanation = self.explain(from, to, protocol);
        let begun = self.count(Counter::NatNew);
        let (what, expected) = self.expected(&explanation, &packet);
        let refusal = match &expected {
            Fate::Refused(label) => Some(counter(label)),
            Fate::Goes(_) => None,
        };
        let refused = refusal.map(|counter| self.count(counter));
        let counted = |bench: &Self| {
            let counter = refusal.filter(|counter| Some(bench.count(*counter)) != refused);
            counter.map(|counter| counter.label().to_owned())
        };
        let fate = match self.nat.run(place, &packet.bytes()) {
            // Dropped, or answered with an ICMP error.
            _ if counted(self).is_some() => Fate::Refused(counted(self).unwrap_or_default()),
            Verdict::Next(bytes) | Verdict::Redirect(bytes) => Fate::Goes(bytes[14..].to_vec()),
            Verdict::Drop => Fate::Refused("another".to_owned()),
        };
        prop_assert_eq!(&fate, &expected, "{:#?}\n{:?}", explanation, packet);
        // A new connection may turn out to lead nowhere.
        if matches!(fate, Fate::Goes(_)) {
            let begins = u64::from(["begins", "picked up"].contains(&what));
            let begun = self.count(Counter::NatNew) - begun;
            prop_assert_eq!(begun, begins, "{:#?}\n{:?}", explanation, packet);
        }
        *self.seen.entry(what).or_default() += 1;
        Ok(())
    }

    fn explain(&self, from: SocketAddr, to: SocketAddr, protocol: u8) -> Explanation {
        let question = Question {
            protocol: if protocol == UDP { "udp" } else { "tcp" }.to_owned(),
            from: from.ip(),
            from_port: Some(from.port()),
            to,
        };
        let kernel = Kernel {
            nat: &self.nat,
            forwards: self.forwards,
        };
        explain(&kernel, &question, is_own)
    }

    /// What the explanation, which is about the packet that would begin a connection if there were
    /// none, means for this one.
    fn expected(&self, explanation: &Explanation, packet: &Datagram) -> (&'static str, Fate) {
        let steps = &explanation.steps;
        let (is_first, is_rst) = match packet.kind {
            Kind::Tcp { flags, .. } => (flags == flag::SYN, flags & flag::RST != 0),
            _ => (true, false),
        };
        let known = steps.iter().find_map(|step| match step {
            Step::Connection { client, target, .. } => Some((*client, *target)),
            _ => None,
        });
        let asks_for_new = steps
            .iter()
            .any(|step| matches!(step, Step::NoConnection { .. }));
        // Where the service resets connections to former targets.
        let is_picked_up = known.is_none()
            && !is_rst
            && steps.iter().any(|step| {
                let begins = Begins::AnyButRst;
                *step == Step::NoConnection { begins }
            });
        let can_begin = is_first || is_picked_up;
        let unchanged = Fate::Goes(packet.ip_bytes());
        let goes = |from, to, is_forwarded: bool| {
            let hops = packet.hop_limit - u8::from(is_forwarded && !is_own(packet.source.ip()));
            Fate::Goes(packet.between(from, to).with_hops(hops).ip_bytes())
        };
        // The stack counts the hops of what it routes itself.
        let answered = tuple(packet.destination, packet.source, protocol(packet));
        let by_stack = self
            .nat
            .lookup(map::CONNTRACK, &answered)
            .is_some_and(|entry: Conntrack| conntrack_flags::is_routed_by_stack(entry.flags));
        let is_forwarded = !by_stack
            && steps
                .iter()
                .any(|step| matches!(step, Step::Forwarded { enabled: true, .. }));
        let is_of_new = |counter: &str| {
            let all = [Counter::NatNoTarget, Counter::NatPortsExhausted];
            asks_for_new || all.iter().any(|of_new| of_new.label() == counter)
        };
        match &explanation.outcome {
            Outcome::Unchanged => ("unchanged", unchanged),
            Outcome::Translated { from, to, begins } if can_begin || !begins && !asks_for_new => {
                let what = match begins {
                    true if is_first => "begins",
                    true => "picked up",
                    false => "known",
                };
                (what, goes(*from, *to, is_forwarded))
            }
            Outcome::Refused { counter } if can_begin || !is_of_new(counter) => {
                ("refused", Fate::Refused(counter.clone()))
            }
            // Only the first packet of a connection leaves one that is over behind.
            _ => match known {
                Some((client, target))
                    if is_own(target.ip()) || is_own(packet.source.ip()) || self.forwards =>
                {
                    ("left", goes(client, target, !is_own(target.ip())))
                }
                Some(_) => {
                    let label = Counter::NatForwardingOff.label();
                    ("refused", Fate::Refused(label.to_owned()))
                }
                None => ("begins nothing", unchanged),
            },
        }
    }

    fn place(&self, from: IpAddr, by_loopback: bool) -> Place {
        if is_own(from) {
            return Place::leaving(if by_loopback { 1 } else { self.host.client });
        }
        let is_target = TARGETS.iter().flatten().any(|target| {
            let target: SocketAddr = target.parse().unwrap();
            target.ip() == from
        });
        Place::arriving(if is_target {
            self.host.target
        } else {
            self.host.client
        })
    }

    fn count(&self, counter: Counter) -> u64 {
        self.nat.program.count(counter).unwrap()
    }
}

fn protocol(packet: &Datagram) -> u8 {
    match packet.kind {
        Kind::Tcp { .. } => TCP,
        _ => UDP,
    }
}

fn counter(label: &str) -> Counter {
    let found = Counter::ALL
        .iter()
        .copied()
        .find(|counter| counter.label() == label);
    found.unwrap_or_else(|| panic!("no counter {label}"))
}

fn is_own(address: IpAddr) -> bool {
    OWN.iter().any(|own| own.parse() == Ok(address))
}

fn socket(address: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port)
}

fn agree(cases: u32, forwards: bool) -> BTreeMap<&'static str, u32> {
    let host = Host::new(1500);
    if !forwards {
        host.sysctl("net/ipv4/ip_forward", "0");
        host.sysctl("net/ipv6/conf/all/forwarding", "0");
        // As the agent does, for the host's own packets.
        host.sysctl("net/ipv4/conf/lo/forwarding", "1");
        host.sysctl("net/ipv6/conf/lo/forwarding", "1");
    }
    host.run(|| {
        let bench = RefCell::new(Bench::new(&host, forwards));
        let mut runner = TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(cases)
        });
        let outcome = runner.run(&case(), |case| bench.borrow_mut().run(&case));
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
        bench.into_inner().seen
    })
}

#[test]
fn explain_says_what_the_kernel_does() {
    let seen = agree(CASES, true);
    for (what, least) in [
        ("begins", 500),
        ("picked up", 100),
        ("known", 500),
        ("refused", 100),
        ("unchanged", 500),
        ("begins nothing", 500),
        ("left", 2),
    ] {
        let is_covered = seen.get(what).is_some_and(|count| *count >= least);
        assert!(is_covered, "{what}: {seen:?}");
    }
}

#[test]
fn explain_says_what_a_host_does_that_does_not_forward() {
    let seen = agree(CASES / 10, false);
    assert!(seen.contains_key("refused"), "{seen:?}");
}
