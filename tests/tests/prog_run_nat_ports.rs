//! Source ports: kept, replaced when they are taken, refused when none is left.

use std::net::{SocketAddr, TcpListener};

use truename::datapath::OBJECT;
use truename_common::{
    layout::{Conntrack, ConntrackState, Counter, EventKind, TCP, UDP, conntrack_flags},
    nat::{MAX_PORT_TRIES, TRIED_DIRECT, hash, source_port},
};
use truename_tests::prog_run::{
    CASES, Datagram, Host, Link, Nat, OUTSIDE, Place, Sockets, Verdict, flag, local, remote, tuple,
};

/// Translates the first packet of a client, and answers the source port that it got.
#[track_caller]
fn port_of(nat: &Nat, sockets: &Sockets, protocol: u8) -> u16 {
    let first = sockets.first(protocol);
    let Verdict::Next(out) = nat.run(OUTSIDE, &first.bytes()) else {
        panic!("it does not go on");
    };
    let at = if sockets.client.is_ipv4() { 34 } else { 54 };
    let port = u16::from_be_bytes([out[at], out[at + 1]]);
    let expected = first.between(with_port(sockets.client, port), sockets.local);
    assert_eq!(out, expected.bytes());
    port
}

fn with_port(socket: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(socket.ip(), port)
}

/// The candidate with this index for the client's connection to the alias.
fn candidate(nat: &Nat, sockets: &Sockets, protocol: u8, index: u32) -> u16 {
    let hash = hash(&tuple(sockets.client, sockets.alias, protocol));
    let (first, last) = (nat.settings.first_port, nat.settings.last_port);
    source_port(index, hash, sockets.client.port(), first, last)
}

/// The packets of a client in both directions are translated with this source port.
#[track_caller]
fn assert_talk(nat: &Nat, sockets: &Sockets, protocol: u8, port: u16) {
    let client = with_port(sockets.client, port);
    let [first, second, reply, last] = sockets.talk(protocol);
    for packet in [first, second] {
        nat.becomes(OUTSIDE, &packet, &packet.between(client, sockets.local));
    }
    for packet in [reply, last] {
        nat.becomes(OUTSIDE, &packet.between(sockets.local, client), &packet);
    }
}

/// A service of this host under two aliases.
fn aliases(v6: bool, protocol: u8) -> (Nat, Sockets, Sockets) {
    let mut nat = Nat::new(OBJECT, Link::Ethernet);
    let one = Sockets::of(v6);
    let mut two = one;
    two.alias.set_port(81);
    for sockets in [one, two] {
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
    }
    (nat, one, two)
}

#[test]
fn a_client_that_uses_two_aliases_with_one_port_is_kept_apart() {
    for (v6, protocol) in CASES {
        let (nat, one, two) = aliases(v6, protocol);
        assert_eq!(port_of(&nat, &one, protocol), one.client.port());
        let port = port_of(&nat, &two, protocol);
        assert_eq!(port, candidate(&nat, &two, protocol, 1));
        assert_talk(&nat, &one, protocol, one.client.port());
        assert_talk(&nat, &two, protocol, port);
        assert_eq!(nat.connections().len(), 2);
        let entry = nat.connection(with_port(two.client, port), two.local, protocol);
        assert_eq!(entry.tries, 1);
        assert_eq!(
            entry.flags & !conntrack_flags::LOOPBACK,
            conntrack_flags::LOCAL | conntrack_flags::SNAT
        );
        nat.assert_count(Counter::NatNew, 2);
        nat.assert_count(Counter::NatRemapped, 1);
        assert_eq!(nat.tries()[..3], [1, 1, 0]);
    }
}

#[test]
fn candidates_are_tried_in_their_order() {
    for (v6, protocol) in CASES {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(v6);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        // Others have the first ones.
        for index in 0..5 {
            let port = candidate(&nat, &sockets, protocol, index);
            occupy(
                &mut nat,
                with_port(sockets.client, port),
                sockets.local,
                protocol,
            );
        }
        let port = port_of(&nat, &sockets, protocol);
        assert_eq!(port, candidate(&nat, &sockets, protocol, 5));
        assert_talk(&nat, &sockets, protocol, port);
        assert_eq!(nat.tries()[5], 1);
        assert_eq!(nat.connections().len(), 6);
    }
}

/// Another connection has this place.
fn occupy(nat: &mut Nat, client: SocketAddr, target: SocketAddr, protocol: u8) {
    let key = tuple(client, target, protocol);
    let entry = Conntrack {
        client: key.client,
        client_port: key.client_port,
        seen_ns: u64::MAX >> 1,
        state: ConntrackState::Established as u8,
        flags: conntrack_flags::LOCAL,
        ..Conntrack::default()
    };
    nat.connect(key, entry);
}

#[test]
fn a_range_is_used_up_and_then_refuses() {
    const PORTS: u16 = 7;
    let host = Host::new(1500);
    host.run(|| {
        for (v6, protocol) in CASES {
            let mut nat = Nat::new(OBJECT, Link::Ethernet);
            let mut settings = nat.settings;
            (settings.first_port, settings.last_port) = (50_000, 50_000 + PORTS - 1);
            nat.set(settings);
            let sockets = Sockets::of(v6);
            let target = remote(sockets.remote, sockets.source.ip());
            nat.service(sockets.alias, protocol, &[target]);
            let place = Place::arriving(host.client);
            let first = |client: u16| sockets.from_port(client).first(protocol).bytes();
            for client in 0..PORTS {
                let verdict = nat.run(place, &first(1000 + client));
                assert!(matches!(verdict, Verdict::Redirect(_)), "{client}");
            }
            // All are taken, each once.
            let ports: Vec<_> = nat
                .connections()
                .iter()
                .map(|(key, _)| key.client_port)
                .collect();
            let all: Vec<_> = (50_000..50_000 + PORTS).collect();
            assert_eq!(ports, all);
            nat.assert_count(Counter::NatPortsExhausted, 0);
            assert!(nat.program.events().unwrap().is_empty());
            let refused = sockets.from_port(1000 + PORTS);
            assert_eq!(nat.run(place, &first(1000 + PORTS)), Verdict::Drop);
            nat.assert_count(Counter::NatPortsExhausted, 1);
            nat.assert_count(Counter::NatNew, PORTS.into());
            assert_eq!(nat.connections().len(), usize::from(PORTS));
            let [event] = &nat.program.events().unwrap()[..] else {
                panic!("one event");
            };
            assert_eq!(event.kind, EventKind::Refused);
            assert_eq!(event.detail, Counter::NatPortsExhausted as u32);
            assert_eq!(event.flow, tuple(refused.client, refused.alias, protocol));
            let tries = nat.tries();
            assert_eq!(tries[MAX_PORT_TRIES as usize], 1);
            assert_eq!(tries.iter().sum::<u64>(), u64::from(PORTS) + 1);
            assert_eq!(tries[usize::from(PORTS)..MAX_PORT_TRIES as usize], [0; 25]);
            // The others go on.
            for client in 0..PORTS {
                let verdict = nat.run(place, &first(1000 + client));
                assert!(matches!(verdict, Verdict::Redirect(_)), "{client}");
            }
        }
    });
}

#[test]
fn who_is_not_answered_gives_its_port_up_to_who_finds_none() {
    const PORTS: u16 = 7;
    let host = Host::new(1500);
    host.run(|| {
        for (v6, protocol) in CASES {
            let mut nat = Nat::new(OBJECT, Link::Ethernet);
            let mut settings = nat.settings;
            (settings.first_port, settings.last_port) = (50_000, 50_000 + PORTS - 1);
            nat.set(settings);
            let sockets = Sockets::of(v6);
            let target = remote(sockets.remote, sockets.source.ip());
            nat.service(sockets.alias, protocol, &[target]);
            let place = Place::arriving(host.client);
            let send = |nat: &Nat, client: u16| {
                let first = sockets.from_port(client).first(protocol);
                matches!(nat.run(place, &first.bytes()), Verdict::Redirect(_))
            };
            for client in 0..PORTS {
                assert!(send(&nat, 1000 + client));
            }
            assert!(!send(&nat, 2000), "an answer may still come");
            // One was answered, and talks for long; nothing was heard of the others for a while.
            let all = nat.connections();
            for (number, (key, entry)) in all.into_iter().enumerate() {
                let state = match (number, protocol) {
                    (3, TCP) => ConntrackState::Established as u8,
                    (3, _) => ConntrackState::Replied as u8,
                    _ => entry.state,
                };
                let seen_ns = entry.seen_ns.saturating_sub(5_000_000_000);
                nat.connect(
                    key,
                    Conntrack {
                        state,
                        seen_ns,
                        created_s: entry.created_s.saturating_sub(20),
                        ..entry
                    },
                );
            }
            for client in 1..PORTS {
                assert!(send(&nat, 3000 + client), "{client}");
            }
            assert!(!send(&nat, 4000), "the one that was answered stays");
            let old = |entry: &Conntrack| entry.client_port < 2000;
            let left: Vec<_> = nat.connections();
            let left = left.iter().filter(|(_, entry)| old(entry)).count();
            assert_eq!(left, 1);
        }
    });
}

#[test]
fn two_clients_with_one_port_do_not_share_a_source() {
    let host = Host::new(1500);
    host.run(|| {
        for (v6, protocol) in CASES {
            let mut nat = Nat::new(OBJECT, Link::Ethernet);
            let one = Sockets::of(v6).from_port(50_000);
            let target = remote(one.remote, one.source.ip());
            nat.service(one.alias, protocol, &[target]);
            let other: SocketAddr = if v6 {
                "[fd01::3]:50000"
            } else {
                "10.1.0.3:50000"
            }
            .parse()
            .unwrap();
            let two = one.from(other);
            let place = Place::arriving(host.client);
            for (sockets, index) in [(one, 0), (two, 1)] {
                let port = candidate(&nat, &sockets, protocol, index);
                let source = with_port(sockets.source, port);
                let [first, _, reply, _] = sockets.talk(protocol);
                let expected = first.between(source, sockets.remote).with_hops(63);
                nat.forwards(place, &first, &expected);
                let sent = reply.between(sockets.remote, source);
                nat.forwards(Place::arriving(host.target), &sent, &reply.with_hops(63));
            }
        }
    });
}

#[test]
fn what_has_expired_is_replaced() {
    for (v6, protocol) in CASES {
        let (mut nat, one, two) = aliases(v6, protocol);
        assert_eq!(port_of(&nat, &one, protocol), one.client.port());
        let key = tuple(one.client, one.local, protocol);
        let entry = nat.connection(one.client, one.local, protocol);
        // Since the machine started nothing was heard of it, and it may be silent for no time.
        let mut settings = nat.settings;
        settings.timeouts[usize::from(entry.state)] = 0;
        nat.set(settings);
        nat.connect(
            key,
            Conntrack {
                seen_ns: 1,
                ..entry
            },
        );
        assert_eq!(port_of(&nat, &two, protocol), two.client.port());
        let [(found, entry)] = nat.connections()[..] else {
            panic!("one connection");
        };
        assert_eq!((found, entry.alias_port), (key, 81));
        nat.assert_count(Counter::NatRemapped, 0);
    }
}

#[test]
fn a_socket_of_the_host_has_its_port() {
    let host = Host::new(1500);
    host.run(|| {
        for v6 in [false, true] {
            let (nat, sockets, _) = aliases(v6, TCP);
            let listener = TcpListener::bind(sockets.local).unwrap();
            // The client is the host itself: it has the addresses. Its ports are always the same: of others the first
            // candidate of one may be what another has.
            let connect = |port| host.connect(with_port(sockets.local, port), sockets.local);
            let stream = connect(40_000);
            let (accepted, client) = listener.accept().unwrap();
            let own = sockets.from(client);
            // Established.
            let port = port_of(&nat, &own, TCP);
            assert_eq!(port, candidate(&nat, &own, TCP, 1));
            assert_talk(&nat, &own, TCP, port);
            nat.assert_count(Counter::NatRemapped, 1);
            // A listener is no connection: another port is kept.
            let other = own.from_port(client.port() ^ 1);
            assert_eq!(port_of(&nat, &other, TCP), client.port() ^ 1);
            // In TIME_WAIT, on the side that closed first.
            let stream_two = connect(40_002);
            let (accepted_two, client_two) = listener.accept().unwrap();
            drop(accepted_two);
            let mut rest = Vec::new();
            std::io::Read::read_to_end(&mut &stream_two, &mut rest).unwrap();
            drop(stream_two);
            wait_for_time_wait(sockets.local, client_two);
            let waiting = own.from(client_two);
            let port = port_of(&nat, &waiting, TCP);
            assert_eq!(port, candidate(&nat, &waiting, TCP, 1));
            nat.assert_count(Counter::NatRemapped, 2);
            drop((stream, accepted));
        }
    });
}

/// Waits until the socket at `local` that was connected to `peer` is in TIME_WAIT.
fn wait_for_time_wait(local: SocketAddr, peer: SocketAddr) {
    const TIME_WAIT: &str = "06";
    let table = if local.is_ipv4() { "tcp" } else { "tcp6" };
    let ports = [local, peer].map(|socket| format!(":{:04X}", socket.port()));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        let found = text.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1].ends_with(&ports[0])
                && fields[2].ends_with(&ports[1])
                && fields[3] == TIME_WAIT
        });
        if found {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
        std::thread::yield_now();
    }
}

#[test]
fn a_udp_socket_of_the_host_changes_nothing() {
    let host = Host::new(1500);
    host.run(|| {
        let (nat, sockets, _) = aliases(false, UDP);
        let socket = std::net::UdpSocket::bind(sockets.local).unwrap();
        socket.connect("10.0.0.1:9").unwrap();
        let own = sockets.from("10.0.0.1:9".parse().unwrap());
        assert_eq!(port_of(&nat, &own, UDP), 9);
    });
}

/// A SYN that goes to the target itself.
fn direct(sockets: &Sockets, flags: u8) -> Datagram {
    Datagram::tcp(sockets.client, sockets.local, flags).with_payload(b"")
}

#[test]
fn a_direct_connection_gives_way_to_one_through_an_alias() {
    for v6 in [false, true] {
        let (nat, sockets, _) = aliases(v6, TCP);
        assert_eq!(port_of(&nat, &sockets, TCP), sockets.client.port());
        // The same client, with the same port, addresses the target itself.
        let syn = direct(&sockets, flag::SYN);
        let hash = hash(&tuple(sockets.client, sockets.local, TCP));
        let (first, last) = (nat.settings.first_port, nat.settings.last_port);
        let port = source_port(1, hash, sockets.client.port(), first, last);
        let moved = with_port(sockets.client, port);
        nat.becomes(OUTSIDE, &syn, &syn.between(moved, sockets.local));
        let entry = nat.connection(moved, sockets.local, TCP);
        assert_ne!(entry.flags & conntrack_flags::DIRECT, 0);
        assert_eq!(
            entry.original(TCP),
            tuple(sockets.client, sockets.local, TCP)
        );
        let tried = nat.tried(&tuple(sockets.client, sockets.local, TCP));
        assert_eq!(tried, 1 << 1 | TRIED_DIRECT);
        // All of its packets, both ways.
        for flags in [flag::SYN, flag::ACK, flag::ACK | flag::FIN] {
            let packet = direct(&sockets, flags);
            nat.becomes(OUTSIDE, &packet, &packet.between(moved, sockets.local));
        }
        for flags in [flag::SYN | flag::ACK, flag::ACK, flag::RST] {
            let reply = direct(&sockets, flags).between(sockets.local, sockets.client);
            nat.becomes(OUTSIDE, &reply.between(sockets.local, moved), &reply);
        }
        // The other one is as it was.
        assert_talk(&nat, &sockets, TCP, sockets.client.port());
        assert_eq!(nat.connections().len(), 2);
        // A direct connection that meets no other is not ours.
        let other = sockets.from_port(40_001);
        for flags in [flag::SYN, flag::ACK] {
            nat.passes(OUTSIDE, &direct(&other, flags));
        }
        assert_eq!(nat.connections().len(), 2);
    }
}

#[test]
fn a_direct_connection_takes_the_place_of_one_that_has_expired() {
    for v6 in [false, true] {
        let (mut nat, sockets, _) = aliases(v6, TCP);
        assert_eq!(port_of(&nat, &sockets, TCP), sockets.client.port());
        let key = tuple(sockets.client, sockets.local, TCP);
        let entry = nat.connection(sockets.client, sockets.local, TCP);
        let mut settings = nat.settings;
        settings.timeouts = [0; 8];
        nat.set(settings);
        nat.connect(
            key,
            Conntrack {
                seen_ns: 1,
                ..entry
            },
        );
        nat.passes(OUTSIDE, &direct(&sockets, flag::SYN));
        assert!(nat.connections().is_empty());
        // Its answers come from the target, as they are.
        let answer = direct(&sockets, flag::SYN | flag::ACK);
        nat.passes(OUTSIDE, &answer.between(sockets.local, sockets.client));
    }
}

#[test]
fn what_was_tried_is_remembered() {
    let (nat, one, two) = aliases(false, UDP);
    port_of(&nat, &one, UDP);
    let port = port_of(&nat, &two, UDP);
    // The first candidate is always looked at, and has no bit; that is for direct connections, whose packets alone look
    // for others.
    assert_eq!(nat.tried(&tuple(one.client, one.alias, UDP)), 0);
    assert_eq!(nat.tried(&tuple(two.client, two.alias, UDP)), 1 << 1);
    assert_talk(&nat, &two, UDP, port);
}
