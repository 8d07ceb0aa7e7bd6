//! The table of connections: states, bytes, choices, limits, memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::{prelude::*, test_runner::TestRunner};
use truename::datapath::OBJECT;
use truename_common::{
    layout::{
        Conntrack, ConntrackState as State, Counter, EventKind, FiveTuple, Service, Settings,
        Slots, TCP, Target, UDP, conntrack_flags, map, service_flags, settings_flags,
    },
    nat::{self, Choice, Tables as _},
};
use truename_tests::prog_run::{
    CASES, Datagram, Kind, Link, Nat, OUTSIDE, Sockets, Verdict, flag, local, remote, routed, tuple,
};

/// A service with one target of this host, for TCP and UDP.
fn service(v6: bool) -> (Nat, Sockets) {
    let mut nat = Nat::new(OBJECT, Link::Ethernet);
    let sockets = Sockets::of(v6);
    for protocol in [TCP, UDP] {
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
    }
    (nat, sockets)
}

/// Who sends which flags, and the state after that.
type Step = (bool, u8, State);

const FROM_CLIENT: bool = true;
const FROM_TARGET: bool = false;

/// Sends the segments of a life, and looks at the connection after each.
#[track_caller]
fn assert_life(nat: &Nat, sockets: &Sockets, life: &[Step]) {
    let Sockets {
        client,
        alias,
        local,
        ..
    } = *sockets;
    for (index, (from_client, flags, state)) in life.iter().enumerate() {
        if *from_client {
            let packet = Datagram::tcp(client, alias, *flags);
            nat.becomes(OUTSIDE, &packet, &packet.between(client, local));
        } else {
            let packet = Datagram::tcp(alias, client, *flags);
            nat.becomes(OUTSIDE, &packet.between(local, client), &packet);
        }
        let entry = nat.connection(client, local, TCP);
        assert_eq!(State::from_number(entry.state), *state, "step {index}");
    }
}

const SYN: u8 = flag::SYN;
const ACK: u8 = flag::ACK;
const FIN: u8 = flag::FIN | flag::ACK;
const RST: u8 = flag::RST;

const HANDSHAKE: [Step; 3] = [
    (FROM_CLIENT, SYN, State::SynSent),
    (FROM_TARGET, SYN | ACK, State::SynReceived),
    (FROM_CLIENT, ACK, State::Established),
];

/// Sends the segments after a handshake.
#[track_caller]
fn assert_end(life: &[Step]) {
    for v6 in [false, true] {
        let (nat, sockets) = service(v6);
        assert_life(&nat, &sockets, &[&HANDSHAKE[..], life].concat());
        // One connection, whatever happens to it.
        assert_eq!(nat.connections().len(), 1);
        nat.assert_count(Counter::NatNew, 1);
    }
}

#[test]
fn the_client_closes_first() {
    assert_end(&[
        (FROM_TARGET, ACK, State::Established),
        (FROM_CLIENT, FIN, State::HalfClosed),
        (FROM_TARGET, ACK, State::HalfClosed),
        (FROM_TARGET, FIN, State::TimeWait),
        (FROM_CLIENT, ACK, State::TimeWait),
        // The last acknowledgement was lost.
        (FROM_TARGET, FIN, State::TimeWait),
        (FROM_CLIENT, ACK, State::TimeWait),
    ]);
}

#[test]
fn the_target_closes_first() {
    assert_end(&[
        (FROM_TARGET, FIN, State::HalfClosed),
        (FROM_CLIENT, ACK, State::HalfClosed),
        (FROM_CLIENT, FIN, State::TimeWait),
        (FROM_TARGET, ACK, State::TimeWait),
    ]);
}

#[test]
fn both_close_at_once() {
    assert_end(&[
        (FROM_CLIENT, FIN, State::HalfClosed),
        (FROM_TARGET, FIN, State::TimeWait),
        (FROM_CLIENT, ACK, State::TimeWait),
        (FROM_TARGET, ACK, State::TimeWait),
    ]);
}

#[test]
fn a_reset_closes() {
    for side in [FROM_CLIENT, FROM_TARGET] {
        assert_end(&[(side, RST, State::Closed), (!side, ACK, State::Closed)]);
    }
    // A refused connection.
    let (nat, sockets) = service(false);
    assert_life(
        &nat,
        &sockets,
        &[HANDSHAKE[0], (FROM_TARGET, RST | ACK, State::Closed)],
    );
}

#[test]
fn a_reset_with_another_number_changes_nothing() {
    const CLIENT: u32 = u32::MAX - 20;
    const TARGET: u32 = 7000;
    for v6 in [false, true] {
        for from_client in [FROM_CLIENT, FROM_TARGET] {
            let (nat, sockets) = service(v6);
            let Sockets { client, local, .. } = sockets;
            let send = |(from_client, flags, seq, ack, payload): (bool, u8, u32, u32, &[u8])| {
                let kind = Kind::Tcp { seq, ack, flags };
                let from = Datagram::tcp(client, sockets.alias, flags);
                let packet = Datagram { kind, ..from }.with_payload(payload);
                if from_client {
                    nat.becomes(OUTSIDE, &packet, &packet.between(client, local));
                } else {
                    let packet = packet.between(sockets.alias, client);
                    nat.becomes(OUTSIDE, &packet.between(local, client), &packet);
                }
                State::from_number(nat.connection(client, local, TCP).state)
            };
            let ends = [CLIENT.wrapping_add(31), TARGET + 6];
            for segment in [
                (FROM_CLIENT, SYN, CLIENT, 0, &b""[..]),
                (FROM_TARGET, SYN | ACK, TARGET, CLIENT.wrapping_add(1), b""),
                (
                    FROM_CLIENT,
                    ACK,
                    CLIENT.wrapping_add(1),
                    TARGET + 1,
                    &[1; 30],
                ),
                (FROM_TARGET, ACK, TARGET + 1, ends[0], &[2; 5]),
                (FROM_CLIENT, ACK, ends[0], ends[1], b""),
            ] {
                send(segment);
            }
            let seen_ns = nat.connection(client, local, TCP).seen_ns;
            let right = ends[usize::from(!from_client)];
            // They pass: their receiver decides.
            for seq in [
                0,
                right ^ 1,
                right.wrapping_sub(1),
                right.wrapping_add(1 << 20),
            ] {
                let state = send((from_client, RST, seq, 0, b""));
                assert_eq!(state, State::Established, "{seq:#x}");
            }
            assert_eq!(nat.connection(client, local, TCP).seen_ns, seen_ns);
            assert_eq!(send((from_client, RST, right, 0, b"")), State::Closed);
        }
    }
}

#[test]
fn a_syn_begins_the_next_connection_of_the_same_sockets() {
    for end in [
        &[(FROM_TARGET, RST, State::Closed)][..],
        &[
            (FROM_CLIENT, FIN, State::HalfClosed),
            (FROM_TARGET, FIN, State::TimeWait),
        ],
    ] {
        assert_end(&[end, &HANDSHAKE, end, &HANDSHAKE].concat());
    }
}

#[test]
fn what_comes_twice_changes_nothing() {
    assert_end(&[
        (FROM_CLIENT, SYN, State::Established),
        (FROM_TARGET, SYN | ACK, State::Established),
        (FROM_CLIENT, ACK, State::Established),
        (FROM_CLIENT, FIN, State::HalfClosed),
        (FROM_CLIENT, FIN, State::HalfClosed),
        (FROM_CLIENT, SYN, State::HalfClosed),
    ]);
}

#[test]
fn fins_are_noted_by_side() {
    let (nat, sockets) = service(false);
    assert_life(&nat, &sockets, &HANDSHAKE);
    let fins = || {
        let both = conntrack_flags::FIN_CLIENT | conntrack_flags::FIN_TARGET;
        let entry = nat.connection(sockets.client, sockets.local, TCP);
        assert_ne!(entry.flags & conntrack_flags::LOCAL, 0);
        entry.flags & both
    };
    assert_eq!(fins(), 0);
    assert_life(&nat, &sockets, &[(FROM_TARGET, FIN, State::HalfClosed)]);
    assert_eq!(fins(), conntrack_flags::FIN_TARGET);
    assert_life(&nat, &sockets, &[(FROM_CLIENT, FIN, State::TimeWait)]);
    let both = conntrack_flags::FIN_CLIENT | conntrack_flags::FIN_TARGET;
    assert_eq!(fins(), both);
    assert_life(&nat, &sockets, &[(FROM_CLIENT, SYN, State::SynSent)]);
    assert_eq!(fins(), 0);
}

#[test]
fn udp_is_unreplied_until_the_target_answers() {
    for v6 in [false, true] {
        let (nat, sockets) = service(v6);
        let [first, second, reply, _] = sockets.talk(UDP);
        let state = || {
            let entry = nat.connection(sockets.client, sockets.local, UDP);
            State::from_number(entry.state)
        };
        for packet in [&first, &second] {
            nat.run(OUTSIDE, &packet.bytes());
            assert_eq!(state(), State::Unreplied);
        }
        nat.run(
            OUTSIDE,
            &reply.between(sockets.local, sockets.client).bytes(),
        );
        assert_eq!(state(), State::Replied);
        nat.run(OUTSIDE, &second.bytes());
        assert_eq!(state(), State::Replied);
    }
}

#[test]
fn bytes_and_times_are_noted() {
    for (v6, protocol) in CASES {
        let (nat, sockets) = service(v6);
        let [first, second, reply, last] = sockets.talk(protocol);
        let (mut sent, mut received, mut seen) = (0, 0, 0);
        for (packet, from_client) in [
            (first, true),
            (reply, false),
            (second, true),
            (last.with_payload(&[1; 999]), false),
        ] {
            let len = packet.ip_bytes().len() as u64;
            let mut bytes = if from_client {
                sent += len;
                packet.bytes()
            } else {
                received += len;
                packet.between(sockets.local, sockets.client).bytes()
            };
            // What pads a short frame is no part of the packet.
            bytes.extend([0; 20]);
            assert!(matches!(nat.run(OUTSIDE, &bytes), Verdict::Next(_)));
            let entry = nat.connection(sockets.client, sockets.local, protocol);
            assert_eq!((entry.sent, entry.received), (sent, received));
            assert!(entry.seen_ns >= seen);
            seen = entry.seen_ns;
            assert!(u64::from(entry.created_s) <= seen / 1_000_000_000);
        }
    }
}

#[test]
fn connections_that_timed_out_make_room_in_a_full_table() {
    const ENTRIES: u32 = 1000;
    for v6 in [false, true] {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::limited(OBJECT, &[(map::CONNTRACK, ENTRIES)]);
        nat.service(sockets.alias, TCP, &[local(sockets.local)]);
        for port in 0..ENTRIES as u16 {
            let key = tuple(sockets.from_port(port).client, sockets.local, TCP);
            // One of a thousand timed out since the machine was started.
            let entry = if port == 500 {
                held(State::SynReceived, true)
            } else {
                held(State::Established, false)
            };
            nat.connect(key, entry);
        }
        let first = |port| sockets.from_port(port).first(TCP);
        let to = |port, socket| first(port).between(sockets.from_port(port).client, socket);
        nat.becomes(OUTSIDE, &first(2000), &to(2000, sockets.local));
        nat.assert_count(Counter::NatCollected, 1);
        nat.drops(OUTSIDE, &first(2001));
        nat.assert_count(Counter::NatTableFull, 1);
        assert_eq!(nat.connections().len(), ENTRIES as usize);
    }
}

#[test]
fn what_is_over_makes_room_if_it_may() {
    const ENTRIES: u32 = 8;
    let sockets = Sockets::of(false);
    for (states, collected) in [
        ([State::Established, State::SynSent], 4),
        ([State::SynSent, State::TimeWait], 4),
        ([State::Closed, State::TimeWait], 8),
        ([State::Established, State::Replied], 0),
    ] {
        let mut nat = Nat::limited(OBJECT, &[(map::CONNTRACK, ENTRIES)]);
        nat.service(sockets.alias, TCP, &[local(sockets.local)]);
        for port in 0..ENTRIES as u16 {
            let key = tuple(sockets.from_port(port).client, sockets.local, TCP);
            nat.connect(key, held(states[usize::from(port % 2)], false));
        }
        let first = sockets.from_port(2000).first(TCP);
        nat.drops(OUTSIDE, &first);
        nat.assert_count(Counter::NatCollected, 0);
        std::thread::sleep(NO_ROOM);
        let flags = settings_flags::EVICT;
        nat.set(Settings {
            flags,
            ..nat.settings
        });
        nat.run(OUTSIDE, &first.bytes());
        nat.assert_count(Counter::NatCollected, collected);
    }
}

#[test]
fn what_never_became_a_connection_makes_room_whatever_is_set() {
    const ENTRIES: u32 = 8;
    let sockets = Sockets::of(false);
    // What was begun when the machine was started and may last for ever makes room, what lives does not.
    for flags in [0, settings_flags::EVICT] {
        for (state, protocol, collected) in [
            (State::SynSent, TCP, 8),
            (State::SynReceived, TCP, 8),
            (State::Unreplied, UDP, 8),
            (State::Replied, UDP, 8),
            (State::Established, TCP, 0),
            (State::HalfClosed, TCP, 0),
        ] {
            let mut nat = Nat::limited(OBJECT, &[(map::CONNTRACK, ENTRIES)]);
            nat.set(Settings {
                flags,
                timeouts: [u32::MAX; State::COUNT],
                ..nat.settings
            });
            nat.service(sockets.alias, TCP, &[local(sockets.local)]);
            for port in 0..ENTRIES as u16 {
                let key = tuple(sockets.from_port(port).client, sockets.local, protocol);
                nat.connect(key, held(state, true));
            }
            nat.run(OUTSIDE, &sockets.from_port(2000).first(TCP).bytes());
            nat.assert_count(Counter::NatCollected, collected);
            nat.assert_count(Counter::NatTableFull, u64::from(collected == 0));
        }
    }
}

/// How long no room is looked for after none was found.
const NO_ROOM: std::time::Duration = std::time::Duration::from_millis(120);

/// A connection whose last packet came when the machine was started, or now.
fn held(state: State, timed_out: bool) -> Conntrack {
    let seen_ns = if timed_out { 0 } else { u64::MAX >> 1 };
    Conntrack {
        seen_ns,
        state: state as u8,
        ..Conntrack::default()
    }
}

#[test]
fn a_full_table_refuses_and_makes_nothing_by_halves() {
    const ENTRIES: u32 = 4;
    for (v6, protocol) in CASES {
        let mut nat = Nat::limited(OBJECT, &[(map::CONNTRACK, ENTRIES)]);
        let sockets = Sockets::of(v6);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        let clients = |count: u32| (0..count).map(|index| 1000 + index as u16);
        let passes = |port: u16| {
            let sockets = sockets.from_port(port);
            let [first, _, reply, _] = sockets.talk(protocol);
            let Sockets { client, local, .. } = sockets;
            nat.becomes(OUTSIDE, &first, &first.between(client, local));
            nat.becomes(OUTSIDE, &reply.between(local, client), &reply);
        };
        clients(ENTRIES).for_each(passes);
        nat.assert_count(Counter::NatTableFull, 0);
        let before = nat.connections().len();
        assert_eq!(before, ENTRIES as usize);
        assert!(nat.program.events().unwrap().is_empty());
        let late = sockets.from_port(2000);
        for refused in 1..3 {
            nat.drops(OUTSIDE, &late.first(protocol));
            nat.assert_count(Counter::NatTableFull, refused);
        }
        nat.assert_count(Counter::NatNew, ENTRIES.into());
        assert_eq!(nat.connections().len(), before);
        let events = nat.program.events().unwrap();
        assert_eq!(events.len(), 2);
        for event in events {
            assert_eq!(event.kind, EventKind::Refused);
            assert_eq!(event.detail, Counter::NatTableFull as u32);
            assert_eq!(event.flow, tuple(late.client, late.alias, protocol));
        }
        // Those that are there go on, in both directions.
        clients(ENTRIES).for_each(passes);
    }
}

#[test]
fn an_entry_costs_no_more_memory_than_it_may() {
    let memory = |entries| {
        let nat = Nat::limited(OBJECT, &[(map::CONNTRACK, entries)]);
        nat.memory(map::CONNTRACK).unwrap()
    };
    let (few, many) = (1 << 14, 1 << 17);
    let (small, large) = (memory(few), memory(many));
    let entry = (large - small) / u64::from(many - few);
    println!("{small} B for {few}, {large} B for {many}: {entry} B for one");
    assert!(entry <= 192, "{entry}");
    // Beside them there is nothing that counts.
    assert!(large - u64::from(many) * entry < 16 << 10);
}

/// The service at the alias, with other slots.
fn republish(nat: &mut Nat, sockets: &Sockets, service: Service) {
    nat.publish(sockets.alias, UDP, service);
}

#[test]
fn a_connection_stays_with_its_target_when_the_slots_change() {
    for v6 in [false, true] {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(v6);
        let mut other = sockets;
        other.local.set_port(8081);
        let service = nat.service(sockets.alias, UDP, &[local(sockets.local)]);
        let goes_to = |nat: &Nat, port: u16, target: &Sockets| {
            let [first, _, reply, _] = target.from_port(port).talk(UDP);
            let (client, local) = (first.source, target.local);
            nat.becomes(OUTSIDE, &first, &first.between(client, local));
            nat.becomes(OUTSIDE, &reply.between(local, client), &reply);
        };
        goes_to(&nat, 1, &sockets);
        // First the old slots are kept beside the new ones …
        let number = nat.add_target(local(other.local));
        let slots = nat.slots(vec![number]);
        let mut changed = Service {
            slots,
            previous: service.slots,
            ..service
        };
        republish(&mut nat, &sockets, changed);
        goes_to(&nat, 1, &sockets);
        goes_to(&nat, 2, &other);
        // … then the connections that stay are listed, and the old slots are forgotten.
        nat.moves(tuple(sockets.from_port(1).client, sockets.alias, UDP), 0);
        changed.previous = Slots::default();
        republish(&mut nat, &sockets, changed);
        // Without the flag the list is not looked at.
        goes_to(&nat, 3, &other);
        changed.flags = service_flags::MOVED;
        republish(&mut nat, &sockets, changed);
        goes_to(&nat, 1, &sockets);
        goes_to(&nat, 2, &other);
        goes_to(&nat, 4, &other);
        assert_eq!(nat.connections().len(), 4);
        nat.assert_count(Counter::NatNew, 4);
        nat.assert_count(Counter::NatRemapped, 0);
    }
}

#[test]
fn new_connections_do_not_go_where_they_went_before() {
    let mut nat = Nat::new(OBJECT, Link::Ethernet);
    let sockets = Sockets::of(false);
    let service = nat.service(sockets.alias, UDP, &[local(sockets.local)]);
    let none = Service {
        slots: Slots::default(),
        previous: service.slots,
        ..service
    };
    republish(&mut nat, &sockets, none);
    nat.refuses(OUTSIDE, &sockets.first(UDP));
    nat.assert_count(Counter::NatNoTarget, 1);
}

/// A client and which of the targets' kinds there are.
fn clients() -> impl Strategy<Value = (bool, bool, u128, u16)> {
    (any::<bool>(), any::<bool>(), any::<u128>(), 1..=u16::MAX)
}

#[test]
fn the_kernel_chooses_as_user_space_does() {
    let mut nat = Nat::new(OBJECT, Link::Ethernet);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let targets = prop::collection::vec((0..3u8, any::<u16>()), 1..9);
    let mut alias_port = 100;
    let cell = std::cell::RefCell::new((&mut nat, &mut alias_port));
    let inputs = (targets, prop::collection::vec(clients(), 40));
    let run = runner.run(&inputs, |(targets, clients)| {
        let (nat, alias_port) = &mut *cell.borrow_mut();
        **alias_port += 1;
        let mut services = Vec::new();
        for v6 in [false, true] {
            let mut sockets = Sockets::of(v6);
            sockets.alias.set_port(**alias_port);
            let targets: Vec<_> = targets
                .iter()
                .enumerate()
                .map(|(index, (kind, port))| target(&sockets, *kind, index as u16, *port))
                .collect();
            for protocol in [TCP, UDP] {
                let service = nat.service(sockets.alias, protocol, &targets);
                services.push((v6, protocol, sockets, service));
            }
        }
        for (v6, is_udp, address, port) in clients {
            let protocol = if is_udp { UDP } else { TCP };
            let wanted =
                |found: &&(bool, u8, Sockets, Service)| (found.0, found.1) == (v6, protocol);
            let (_, _, sockets, service) = services.iter().find(wanted).unwrap();
            let client = SocketAddr::new(client_address(v6, address), port);
            assert_chosen(nat, &sockets.from(client), service, protocol);
        }
        Ok(())
    });
    run.unwrap();
}

fn target(sockets: &Sockets, kind: u8, index: u16, port: u16) -> Target {
    let mut socket = if kind == 0 {
        sockets.local
    } else {
        sockets.remote
    };
    socket.set_port(port.max(1).wrapping_add(index).max(1));
    match kind {
        0 => local(socket),
        1 => routed(socket),
        _ => remote(socket, sockets.source.ip()),
    }
}

fn client_address(v6: bool, bits: u128) -> IpAddr {
    if v6 {
        Ipv6Addr::from(bits | 1 << 125).into()
    } else {
        // 11.0.0.0/8: nobody's here.
        Ipv4Addr::from(bits as u32 >> 8 | 11 << 24).into()
    }
}

/// The connection that the packet begins is where user space would look for it.
fn assert_chosen(nat: &Nat, sockets: &Sockets, service: &Service, protocol: u8) {
    let original = tuple(sockets.client, sockets.alias, protocol);
    let before: Vec<FiveTuple> = keys(nat);
    let hash = nat::hash(&original);
    let (_, target) = nat::choose(nat, service, Choice::Current, &original, hash).unwrap();
    let mut candidates = (0..nat::MAX_PORT_TRIES)
        .map(|index| nat::key(&original, &target, &nat.settings, hash, index));
    let expected = candidates.find(|key| !before.contains(key)).unwrap();
    nat.run(OUTSIDE, &sockets.first(protocol).bytes());
    let new: Vec<FiveTuple> = keys(nat)
        .into_iter()
        .filter(|key| !before.contains(key))
        .collect();
    assert_eq!(new, [expected], "{original:?} {target:?}");
}

fn keys(nat: &Nat) -> Vec<FiveTuple> {
    nat.connections().into_iter().map(|(key, _)| key).collect()
}

#[test]
fn targets_share_the_connections() {
    let mut nat = Nat::new(OBJECT, Link::Ethernet);
    let sockets = Sockets::of(false);
    let targets: Vec<_> = (0..4)
        .map(|index| local(SocketAddr::new(sockets.local.ip(), 8080 + index)))
        .collect();
    nat.service(sockets.alias, UDP, &targets);
    for port in 1000..1400 {
        nat.run(OUTSIDE, &sockets.from_port(port).first(UDP).bytes());
    }
    for target in targets {
        let share = keys(&nat)
            .iter()
            .filter(|key| key.endpoint_port == target.port)
            .count();
        assert!((60..=140).contains(&share), "{share} of 400");
    }
    assert!(nat.slot(0).is_some());
}
