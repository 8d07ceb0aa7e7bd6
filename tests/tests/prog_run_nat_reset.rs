//! Services that reset connections to former targets: what has no connection begins one, whatever it is.

use std::net::{SocketAddr, TcpListener, TcpStream};

use truename::datapath::OBJECT;
use truename_common::layout::{
    ConntrackState as State, Counter, Service, TCP, UDP, conntrack_flags, map, service_flags,
};
use truename_tests::prog_run::{
    CASES, Datagram, Host, Link, Nat, OUTSIDE, Place, Sockets, Verdict, flag, local, remote, tuple,
};

const SYN: u8 = flag::SYN;
const ACK: u8 = flag::ACK;
const FIN: u8 = flag::FIN | flag::ACK;
const RST: u8 = flag::RST;

/// Makes a service reset connections to former targets.
fn resets(nat: &mut Nat, sockets: &Sockets, protocol: u8, service: Service) -> Service {
    let flags = service.flags | service_flags::RESET;
    let service = Service { flags, ..service };
    nat.publish(sockets.alias, protocol, service);
    service
}

/// A TCP service with a target of this host, which does so.
fn service(v6: bool) -> (Nat, Sockets) {
    let mut nat = Nat::new(OBJECT, Link::Ethernet);
    let sockets = Sockets::of(v6);
    let service = nat.service(sockets.alias, TCP, &[local(sockets.local)]);
    resets(&mut nat, &sockets, TCP, service);
    (nat, sockets)
}

/// A segment of the client reaches the target; the state after it.
#[track_caller]
fn sent(nat: &Nat, sockets: &Sockets, flags: u8) -> State {
    let Sockets {
        client,
        alias,
        local,
        ..
    } = *sockets;
    let packet = Datagram::tcp(client, alias, flags);
    nat.becomes(OUTSIDE, &packet, &packet.between(client, local));
    State::from_number(nat.connection(client, local, TCP).state)
}

/// A segment of the target reaches the client, as the alias'; the state after it.
#[track_caller]
fn answered(nat: &Nat, sockets: &Sockets, flags: u8) -> State {
    let Sockets {
        client,
        alias,
        local,
        ..
    } = *sockets;
    let packet = Datagram::tcp(alias, client, flags);
    nat.becomes(OUTSIDE, &packet.between(local, client), &packet);
    State::from_number(nat.connection(client, local, TCP).state)
}

#[test]
fn all_but_a_rst_begin_a_connection() {
    for v6 in [false, true] {
        let (nat, sockets) = service(v6);
        let all = [0, ACK, FIN, flag::FIN, SYN, SYN | ACK, SYN | flag::FIN];
        for (port, flags) in (1000..).zip(all) {
            let sockets = sockets.from_port(port);
            assert_eq!(sent(&nat, &sockets, flags), State::SynSent, "{flags:#x}");
        }
        assert_eq!(nat.connections().len(), all.len());
        nat.assert_count(Counter::NatNew, all.len() as u64);
        nat.assert_count(Counter::NatNoConnection, 0);
        let others = [RST, RST | ACK, SYN | RST];
        for flags in others {
            let packet = Datagram::tcp(sockets.client, sockets.alias, flags);
            nat.passes(OUTSIDE, &packet);
        }
        nat.assert_count(Counter::NatNoConnection, others.len() as u64);
        assert_eq!(nat.connections().len(), all.len());
    }
}

#[test]
fn nothing_to_an_alias_that_no_interface_has_goes_on_unchanged() {
    for v6 in [false, true] {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(v6);
        let service = nat.service(sockets.alias, TCP, &[local(sockets.local)]);
        let flags = service_flags::UNASSIGNED;
        nat.publish(sockets.alias, TCP, Service { flags, ..service });
        for (port, flags) in (1000..).zip([ACK, FIN, SYN | ACK, SYN]) {
            let sockets = sockets.from_port(port);
            assert_eq!(sent(&nat, &sockets, flags), State::SynSent, "{flags:#x}");
        }
        nat.assert_count(Counter::NatNew, 4);
        for flags in [RST, RST | ACK, SYN | RST] {
            let packet = Datagram::tcp(sockets.client, sockets.alias, flags);
            nat.drops(OUTSIDE, &packet);
        }
        nat.assert_count(Counter::NatNoConnection, 3);
    }
}

#[test]
fn loopback_addresses_are_not_for_other_hosts() {
    for v6 in [false, true] {
        let host = Host::new(1500);
        host.run(|| {
            let outside = Place::arriving(host.client);
            let mut nat = Nat::new(OBJECT, Link::Ethernet);
            let mut sockets = Sockets::of(v6);
            let loopback = if v6 { "::1" } else { "127.0.0.1" }.parse().unwrap();
            // To one.
            sockets.alias.set_ip(loopback);
            let service = nat.service(sockets.alias, TCP, &[local(sockets.local)]);
            let flags = service_flags::LOOPBACK;
            nat.publish(sockets.alias, TCP, Service { flags, ..service });
            nat.passes(outside, &sockets.first(TCP));
            nat.assert_count(Counter::NatStrangers, 1);
            sent(&nat, &sockets, SYN);
            nat.passes(outside, &Datagram::tcp(sockets.client, sockets.alias, ACK));
            // From one.
            let mut sockets = Sockets::of(v6);
            nat.service(sockets.alias, TCP, &[local(sockets.local)]);
            sockets.client.set_ip(loopback);
            nat.passes(outside, &sockets.first(TCP));
            nat.assert_count(Counter::NatStrangers, 3);
            assert_eq!(nat.connections().len(), 1);
        });
    }
}

#[test]
fn a_program_that_uses_the_port_of_an_alias_gets_its_answers() {
    for v6 in [false, true] {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(v6);
        nat.service(sockets.alias, UDP, &[local(sockets.local)]);
        let [answer, _, question, _] = sockets.talk(UDP);
        // Somebody else's datagram from this socket, which passes this host, is no question of it.
        nat.passes(OUTSIDE, &question);
        let other = sockets.from_port(1).first(UDP);
        nat.becomes(OUTSIDE, &other, &other.between(other.source, sockets.local));
        nat.passes(Place::default(), &question);
        nat.passes(OUTSIDE, &answer);
        assert_eq!(nat.connections().len(), 1);
        let other = sockets.from_port(2).first(UDP);
        nat.becomes(OUTSIDE, &other, &other.between(other.source, sockets.local));
    }
}

#[test]
fn frames_for_another_host_pass() {
    for v6 in [false, true] {
        let host = Host::new(1500);
        host.run(|| {
            let outside = Place::arriving(host.client);
            let mut nat = Nat::new(OBJECT, Link::Ethernet);
            let sockets = Sockets::of(v6);
            nat.service(sockets.alias, TCP, &[local(sockets.local)]);
            let first = sockets.first(TCP);
            for link in [[2, 0, 0, 0, 0, 9], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
                let mut bytes = first.bytes();
                bytes[..6].copy_from_slice(&link);
                assert_eq!(nat.run(outside, &bytes), Verdict::Next(bytes.clone()));
            }
            nat.assert_count(Counter::NatStrangers, 3);
            assert!(nat.connections().is_empty());
            nat.becomes(
                outside,
                &first,
                &first.between(sockets.client, sockets.local),
            );
        });
    }
}

#[test]
fn the_target_resets_what_it_does_not_know() {
    for v6 in [false, true] {
        for first in [ACK, FIN] {
            let (nat, sockets) = service(v6);
            assert_eq!(sent(&nat, &sockets, first), State::SynSent);
            assert_eq!(answered(&nat, &sockets, RST), State::Closed);
            // What was on the way meanwhile.
            assert_eq!(sent(&nat, &sockets, ACK), State::Closed);
            assert_eq!(answered(&nat, &sockets, RST), State::Closed);
            // The client connects again, from the same port.
            assert_eq!(sent(&nat, &sockets, SYN), State::SynSent);
            assert_eq!(answered(&nat, &sockets, SYN | ACK), State::SynReceived);
            assert_eq!(sent(&nat, &sockets, ACK), State::Established);
            nat.assert_count(Counter::NatNew, 1);
        }
    }
}

#[test]
fn what_the_target_knows_goes_on() {
    for v6 in [false, true] {
        let (nat, sockets) = service(v6);
        assert_eq!(sent(&nat, &sockets, ACK), State::SynSent);
        assert_eq!(sent(&nat, &sockets, ACK), State::SynSent);
        assert_eq!(answered(&nat, &sockets, ACK), State::Established);
        assert_eq!(sent(&nat, &sockets, FIN), State::HalfClosed);
        assert_eq!(answered(&nat, &sockets, FIN), State::TimeWait);
        // One that is about to end.
        let sockets = sockets.from_port(1000);
        assert_eq!(sent(&nat, &sockets, FIN), State::SynSent);
        assert_eq!(answered(&nat, &sockets, ACK), State::HalfClosed);
        assert_eq!(answered(&nat, &sockets, FIN), State::TimeWait);
        let flags = nat.connection(sockets.client, sockets.local, TCP).flags;
        assert_ne!(flags & conntrack_flags::CLIENT_FIRST, 0);
    }
}

#[test]
fn a_connection_is_picked_up_where_it_was() {
    let host = Host::new(1500);
    host.run(|| {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        for v6 in [false, true] {
            let sockets = Sockets::of(v6);
            let sockets = sockets.from_port(sockets.source.port());
            let Sockets {
                source,
                remote: target,
                ..
            } = sockets;
            let targets = [remote(target, source.ip())];
            let service = nat.service(sockets.alias, TCP, &targets);
            resets(&mut nat, &sockets, TCP, service);
            let [first, second, ..] = sockets.talk(TCP);
            for packet in [first, second.clone(), second] {
                let expected = packet.between(source, target).with_hops(63);
                nat.forwards(Place::arriving(host.client), &packet, &expected);
                nat.forget(&tuple(source, target, TCP));
            }
        }
        nat.assert_count(Counter::NatNew, 6);
    });
}

#[test]
fn a_socket_that_expects_other_bytes_is_another_connections() {
    let host = Host::new(1500);
    host.run(|| {
        for v6 in [false, true] {
            let (nat, sockets) = service(v6);
            let listener = TcpListener::bind(sockets.local).unwrap();
            // Directly to the target, from this host.
            let stream = TcpStream::connect(sockets.local).unwrap();
            let (accepted, client) = listener.accept().unwrap();
            let packet = Datagram::tcp(client, sockets.alias, ACK);
            let verdict = nat.run(OUTSIDE, &packet.bytes());
            let [(key, _)] = nat.connections()[..] else {
                panic!("{:?}", nat.connections());
            };
            assert_ne!(key.client_port, client.port());
            let source = SocketAddr::new(client.ip(), key.client_port);
            let expected = packet.between(source, sockets.local).bytes();
            assert_eq!(verdict, Verdict::Next(expected));
            nat.assert_count(Counter::NatRemapped, 1);
            drop((stream, accepted));
        }
    });
}

#[test]
fn a_forgotten_connection_goes_to_the_present_target() {
    for (v6, protocol) in CASES {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(v6);
        let Sockets { client, .. } = sockets;
        let [former, present] = [8080, 8081].map(|port| {
            let mut target = sockets.local;
            target.set_port(port);
            target
        });
        let before = nat.service(sockets.alias, protocol, &[local(former)]);
        let before = resets(&mut nat, &sockets, protocol, before);
        let [first, second, ..] = sockets.talk(protocol);
        nat.becomes(OUTSIDE, &first, &first.between(client, former));
        // As the agent does: both choices, the connection goes, the present choice alone.
        let number = nat.add_target(local(present));
        let between = Service {
            slots: nat.slots(vec![number]),
            previous: before.slots,
            ..before
        };
        nat.publish(sockets.alias, protocol, between);
        nat.becomes(OUTSIDE, &second, &second.between(client, former));
        nat.forget(&tuple(client, former, protocol));
        nat.becomes(OUTSIDE, &second, &second.between(client, present));
        let after = Service {
            previous: Service::default().previous,
            ..between
        };
        nat.publish(sockets.alias, protocol, after);
        nat.becomes(OUTSIDE, &second, &second.between(client, present));
        nat.assert_count(Counter::NatNew, 2);
        assert_eq!(nat.connections().len(), 1);
    }
}

#[test]
fn the_end_of_a_connection_stays_with_its_target() {
    let (mut nat, sockets) = service(false);
    let Sockets {
        client,
        alias,
        local: former,
        ..
    } = sockets;
    sent(&nat, &sockets, SYN);
    answered(&nat, &sockets, FIN);
    assert_eq!(sent(&nat, &sockets, FIN), State::TimeWait);
    let mut present = former;
    present.set_port(former.port() + 1);
    let number = nat.add_target(local(present));
    let service: Service = nat
        .lookup(map::SERVICES, &tuple(client, alias, TCP).endpoint())
        .unwrap();
    let service = Service {
        slots: nat.slots(vec![number]),
        previous: service.slots,
        ..service
    };
    nat.publish(alias, TCP, service);
    assert_eq!(sent(&nat, &sockets, ACK), State::TimeWait);
    let again = Datagram::tcp(client, alias, SYN);
    nat.becomes(OUTSIDE, &again, &again.between(client, present));
}

#[test]
fn a_service_without_a_target_refuses_what_goes_on() {
    for protocol in [TCP, UDP] {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(false);
        let service = nat.service(sockets.alias, protocol, &[]);
        resets(&mut nat, &sockets, protocol, service);
        let [_, second, ..] = sockets.talk(protocol);
        nat.refuses(OUTSIDE, &second);
        nat.assert_count(Counter::NatNoTarget, 1);
    }
}
