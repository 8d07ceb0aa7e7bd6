//! What XDP forwards, and what it leaves to tc as it came.

use std::net::SocketAddr;

use proptest::{prelude::*, test_runner::TestRunner};
use truename::datapath::OBJECT;
use truename_common::layout::{
    Conntrack, ConntrackState, Counter, Service, Slots, TCP, UDP, conntrack_flags, service_flags,
};
use truename_tests::prog_run::{
    CASES, Datagram, Host, IcmpError, Kind, Link, Nat, Place, Shape, Sockets, THIS_HOST, Verdict,
    check_sums, flag, local, remote, shapes, tuple,
};

/// Link addresses of the neighbours and of the host's two interfaces.
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 9];
const CLIENT_SIDE: [u8; 6] = THIS_HOST;
const TARGET_SIDE: [u8; 6] = THIS_HOST;

/// A host that knows its neighbours.
fn host() -> Host {
    let host = Host::new(1500);
    host.know_neighbours("02:00:00:00:00:09");
    host
}

/// A client whose port stays as it is.
fn sockets(v6: bool) -> Sockets {
    let sockets = Sockets::of(v6);
    sockets.from_port(sockets.source.port())
}

/// A program with a service for every case, whose target is remote.
fn services(host: &Host) -> Nat {
    let mut nat = Nat::new(OBJECT, Link::Ethernet).with_xdp(&[host.client, host.target]);
    for (v6, protocol) in CASES {
        let sockets = sockets(v6);
        let target = remote(sockets.remote, sockets.source.ip());
        nat.service(sockets.alias, protocol, &[target]);
    }
    nat
}

/// As above, with a connection to each, made in tc.
fn connected(host: &Host) -> Nat {
    let nat = services(host);
    for (v6, protocol) in CASES {
        begin(&nat, host, &sockets(v6), protocol);
    }
    nat
}

/// The first packet of a connection, in tc.
fn begin(nat: &Nat, host: &Host, sockets: &Sockets, protocol: u8) {
    let first = sockets.first(protocol);
    let expected = first.between(sockets.source, sockets.remote).with_hops(63);
    nat.forwards(Place::arriving(host.client), &first, &expected);
}

/// A later packet of the client, and a reply of the target: as they come, and as they leave.
fn packets(v6: bool, protocol: u8) -> [(Datagram, Datagram); 2] {
    let sockets = sockets(v6);
    let Sockets { source, remote, .. } = sockets;
    let [_, second, reply, _] = sockets.talk(protocol);
    [
        (second.clone(), second.between(source, remote)),
        (reply.between(remote, source), reply),
    ]
}

fn entry(nat: &Nat, v6: bool, protocol: u8) -> Conntrack {
    let Sockets { source, remote, .. } = sockets(v6);
    nat.connection(source, remote, protocol)
}

fn ip_len(packet: &Datagram) -> u64 {
    packet.bytes().len() as u64 - 14
}

#[test]
fn a_connection_made_in_tc_is_forwarded_in_both_directions() {
    let host = host();
    host.run(|| {
        let nat = services(&host);
        for (v6, protocol) in CASES {
            let first = sockets(v6).first(protocol);
            nat.xdp_leaves(host.client, &first.bytes());
            begin(&nat, &host, &sockets(v6), protocol);
            let [(ask, asked), (reply, replied)] = packets(v6, protocol);
            for hops in [2, 64, 255] {
                let (from, to) = (ask.with_hops(hops), asked.with_hops(hops - 1));
                nat.xdp_forwards(host.client, &from, &to, (NEIGHBOUR, TARGET_SIDE));
                let (from, to) = (reply.with_hops(hops), replied.with_hops(hops - 1));
                nat.xdp_forwards(host.target, &from, &to, (NEIGHBOUR, CLIENT_SIDE));
            }
            let entry = entry(&nat, v6, protocol);
            assert_eq!(entry.sent, ip_len(&first) + 3 * ip_len(&ask));
            assert_eq!(entry.received, 3 * ip_len(&reply));
        }
        nat.assert_count(Counter::XdpForwarded, 24);
        nat.assert_count(Counter::NatNew, 4);
        nat.assert_count(Counter::NatSent, 4 + 12);
        nat.assert_count(Counter::NatReceived, 12);
    });
}

#[test]
fn states_follow_what_xdp_sees() {
    let host = host();
    host.run(|| {
        let nat = connected(&host);
        for v6 in [false, true] {
            let Sockets {
                client,
                alias,
                source,
                remote,
                ..
            } = sockets(v6);
            let state = |protocol| ConntrackState::from_number(entry(&nat, v6, protocol).state);
            assert_eq!(state(TCP), ConntrackState::SynSent);
            for (from_client, flags, expected) in [
                (false, flag::SYN | flag::ACK, ConntrackState::SynReceived),
                (true, flag::ACK, ConntrackState::Established),
                (true, flag::FIN | flag::ACK, ConntrackState::HalfClosed),
                (false, flag::FIN | flag::ACK, ConntrackState::TimeWait),
                (false, flag::RST, ConntrackState::Closed),
            ] {
                let (packet, device) = if from_client {
                    (Datagram::tcp(client, alias, flags), host.client)
                } else {
                    (Datagram::tcp(remote, source, flags), host.target)
                };
                let verdict = nat.run_xdp_twice(device, &packet.bytes());
                assert!(matches!(verdict, Verdict::Redirect(_)), "{expected:?}");
                assert_eq!(state(TCP), expected);
            }
            let fins = conntrack_flags::FIN_CLIENT | conntrack_flags::CLIENT_FIRST;
            assert_eq!(entry(&nat, v6, TCP).flags & fins, fins);
            assert_eq!(state(UDP), ConntrackState::Unreplied);
            let [_, (reply, replied)] = packets(v6, UDP);
            let replied = replied.with_hops(63);
            nat.xdp_forwards(host.target, &reply, &replied, (NEIGHBOUR, CLIENT_SIDE));
            assert_eq!(state(UDP), ConntrackState::Replied);
        }
    });
}

#[test]
fn udp_checksums_of_zero() {
    let host = host();
    host.run(|| {
        let nat = connected(&host);
        let unsummed = |packet: &Datagram| Datagram {
            kind: Kind::UdpUnsummed,
            ..packet.clone()
        };
        let [(ask, asked), (reply, replied)] = packets(false, UDP);
        for (device, from, to, link) in [
            (host.client, &ask, &asked, (NEIGHBOUR, TARGET_SIDE)),
            (host.target, &reply, &replied, (NEIGHBOUR, CLIENT_SIDE)),
        ] {
            nat.xdp_forwards(device, &unsummed(from), &unsummed(to).with_hops(63), link);
        }
        // With this payload the sum over the rest becomes 0, which is written as all ones.
        for v6 in [false, true] {
            let [(ask, asked), _] = packets(v6, UDP);
            let checksum_at = if v6 { 60 } else { 40 };
            let sum = |packet: &Datagram| packet.bytes()[checksum_at..checksum_at + 2].to_vec();
            let payload = sum(&asked.with_payload(&[0, 0]));
            let (ask, asked) = (ask.with_payload(&payload), asked.with_payload(&payload));
            assert_eq!(sum(&asked), [0xff, 0xff]);
            let asked = asked.with_hops(63);
            nat.xdp_forwards(host.client, &ask, &asked, (NEIGHBOUR, TARGET_SIDE));
        }
    });
}

#[test]
fn headers_of_every_shape_are_forwarded() {
    let host = host();
    host.run(|| {
        let nat = connected(&host);
        for (shape, v6) in shapes() {
            for protocol in [TCP, UDP] {
                let [(ask, asked), (reply, replied)] = packets(v6, protocol);
                for (device, from, to, link) in [
                    (host.client, ask, asked, (NEIGHBOUR, TARGET_SIDE)),
                    (host.target, reply, replied, (NEIGHBOUR, CLIENT_SIDE)),
                ] {
                    let (from, to) = (from.shaped(shape), to.shaped(shape).with_hops(63));
                    match shape.link {
                        Link::Ethernet => nat.xdp_forwards(device, &from, &to, link),
                        _ => nat.xdp_leaves(device, &from.bytes()),
                    }
                }
            }
        }
    });
}

/// The first of several fragments.
fn fragment(packet: &Datagram) -> Vec<u8> {
    let mut bytes = packet.bytes();
    if packet.source.is_ipv4() {
        bytes[20] = 0x20;
        let header = etherparse::Ipv4HeaderSlice::from_slice(&bytes[14..]).unwrap();
        let sum = header.to_header().calc_header_checksum();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        let protocol = std::mem::replace(&mut bytes[20], 44);
        let len = u16::from_be_bytes([bytes[18], bytes[19]]) + 8;
        bytes[18..20].copy_from_slice(&len.to_be_bytes());
        bytes.splice(54..54, [protocol, 0, 0, 1, 0, 0, 0, 7]);
    }
    bytes
}

/// An error of a router about a packet.
fn error(about: &Datagram) -> Vec<u8> {
    let v6 = about.source.is_ipv6();
    IcmpError {
        shape: Shape::default(),
        source: sockets(v6).router.ip(),
        destination: about.source.ip(),
        hop_limit: 64,
        kind: if v6 { (1, 0) } else { (3, 1) },
        rest: 0,
        quoted: about.ip_bytes(),
    }
    .bytes()
}

#[test]
fn a_connection_on_its_way_is_picked_up_in_tc() {
    let host = host();
    host.run(|| {
        let mut nat = Nat::new(OBJECT, Link::Ethernet).with_xdp(&[host.client, host.target]);
        for v6 in [false, true] {
            let sockets = sockets(v6);
            let target = remote(sockets.remote, sockets.source.ip());
            let service = nat.service(sockets.alias, TCP, &[target]);
            let flags = service_flags::RESET;
            nat.publish(sockets.alias, TCP, Service { flags, ..service });
            let [(ask, asked), _] = packets(v6, TCP);
            let asked = asked.with_hops(63);
            nat.xdp_leaves(host.client, &ask.bytes());
            nat.forwards(Place::arriving(host.client), &ask, &asked);
            nat.xdp_forwards(host.client, &ask, &asked, (NEIGHBOUR, TARGET_SIDE));
            let reset = Datagram::tcp(sockets.alias, sockets.client, flag::RST);
            let from = reset.between(sockets.remote, sockets.source);
            let to = reset.with_hops(63);
            nat.xdp_forwards(host.target, &from, &to, (NEIGHBOUR, CLIENT_SIDE));
            let state = ConntrackState::from_number(entry(&nat, v6, TCP).state);
            assert_eq!(state, ConntrackState::Closed);
        }
    });
}

#[test]
fn what_xdp_cannot_do_goes_up_unchanged() {
    let host = host();
    host.run(|| {
        let nat = connected(&host);
        let before = nat.connections();
        for (v6, protocol) in CASES {
            let sockets = sockets(v6);
            let other = sockets.from_port(sockets.client.port() + 1);
            let [(ask, asked), (reply, replied)] = packets(v6, protocol);
            let elsewhere =
                reply.between(sockets.remote, SocketAddr::new(sockets.source.ip(), 49_999));
            let tagged = Shape {
                link: Link::Vlan,
                ..Shape::default()
            };
            for (device, packet) in [
                // New connections, and no connections at all.
                (host.client, other.first(protocol).bytes()),
                (host.client, other.talk(protocol)[1].bytes()),
                (host.target, elsewhere.bytes()),
                (
                    host.client,
                    ask.between(sockets.client, sockets.remote).bytes(),
                ),
                // Errors, from either side.
                (host.target, error(&asked)),
                (host.client, error(&replied)),
                (host.client, fragment(&ask)),
                (host.target, fragment(&reply)),
                (host.client, ask.shaped(tagged).bytes()),
                (host.target, reply.shaped(tagged).bytes()),
                // At the end of their way, or past it.
                (host.client, ask.with_hops(1).bytes()),
                (host.target, reply.with_hops(0).bytes()),
                (host.client, ask.with_payload(&[7; 1500]).bytes()),
                (host.target, reply.with_payload(&[7; 1500]).bytes()),
            ] {
                nat.xdp_leaves(device, &packet);
            }
        }
        nat.assert_count(Counter::XdpForwarded, 0);
        assert_eq!(nat.connections(), before);
    });
}

#[test]
fn local_targets_and_endpoints_are_left_to_tc() {
    let host = host();
    host.run(|| {
        let mut nat = Nat::new(OBJECT, Link::Ethernet).with_xdp(&[host.client, host.target]);
        for (v6, protocol) in CASES {
            let sockets = Sockets::of(v6);
            nat.service(sockets.alias, protocol, &[local(sockets.local)]);
            let [first, second, reply, _] = sockets.talk(protocol);
            let Sockets { client, local, .. } = sockets;
            nat.becomes(
                Place::arriving(host.client),
                &first,
                &first.between(client, local),
            );
            nat.xdp_leaves(host.client, &second.bytes());
            nat.xdp_leaves(host.target, &reply.between(local, client).bytes());
        }
        let mut nat = connected(&host);
        let endpoint = sockets(false).remote;
        nat.program.endpoint(endpoint, None, None).unwrap();
        for (v6, protocol) in CASES {
            let [(ask, asked), (reply, replied)] = packets(v6, protocol);
            if protocol == TCP {
                nat.xdp_leaves(host.client, &ask.bytes());
                nat.xdp_leaves(host.target, &reply.bytes());
            } else {
                let (asked, replied) = (asked.with_hops(63), replied.with_hops(63));
                nat.xdp_forwards(host.client, &ask, &asked, (NEIGHBOUR, TARGET_SIDE));
                nat.xdp_forwards(host.target, &reply, &replied, (NEIGHBOUR, CLIENT_SIDE));
            }
        }
    });
}

#[test]
fn without_a_neighbour_or_a_device_that_takes_frames_tc_forwards() {
    for knows_neighbours in [false, true] {
        let host = Host::new(1500);
        if knows_neighbours {
            host.know_neighbours("02:00:00:00:00:09");
        }
        host.run(|| {
            let mut nat = Nat::new(OBJECT, Link::Ethernet);
            let devices = [host.client, host.target];
            nat = nat.with_xdp(if knows_neighbours { &[] } else { &devices });
            for (v6, protocol) in CASES {
                let sockets = sockets(v6);
                let target = remote(sockets.remote, sockets.source.ip());
                nat.service(sockets.alias, protocol, &[target]);
                begin(&nat, &host, &sockets, protocol);
                let before = nat.connections();
                let [(ask, asked), (reply, replied)] = packets(v6, protocol);
                nat.xdp_leaves(host.client, &ask.bytes());
                nat.xdp_leaves(host.target, &reply.bytes());
                assert_eq!(
                    nat.connections(),
                    before,
                    "accounted before it was forwarded"
                );
                nat.forwards(Place::arriving(host.client), &ask, &asked.with_hops(63));
                nat.forwards(Place::arriving(host.target), &reply, &replied.with_hops(63));
            }
            nat.assert_count(Counter::XdpForwarded, 0);
        });
    }
}

#[test]
fn a_connection_that_begins_again_is_for_tc() {
    let host = host();
    host.run(|| {
        let mut nat = connected(&host);
        for v6 in [false, true] {
            let sockets = sockets(v6);
            let Sockets { source, remote, .. } = sockets;
            // The service gives its connections to nobody any more, and this one is over.
            let mut entry = entry(&nat, v6, TCP);
            entry.state = ConntrackState::Closed as u8;
            nat.connect(tuple(source, remote, TCP), entry);
            let previous = Slots {
                first: if v6 { 2 } else { 0 },
                count: 1,
            };
            let service = Service {
                id: entry.service,
                previous,
                ..Service::default()
            };
            nat.publish(sockets.alias, TCP, service);
            nat.xdp_leaves(host.client, &sockets.first(TCP).bytes());
            nat.refuses(Place::arriving(host.client), &sockets.first(TCP));
        }
        nat.assert_count(Counter::NatNoTarget, 2);
    });
}

#[test]
fn truncated_frames_are_left_as_they_are() {
    let host = host();
    host.run(|| {
        let nat = connected(&host);
        let before = nat.connections();
        for (shape, v6) in shapes() {
            for protocol in [TCP, UDP] {
                let [(ask, _), (reply, _)] = packets(v6, protocol);
                for (device, packet) in [(host.client, ask), (host.target, reply)] {
                    let packet = packet.shaped(shape).bytes();
                    for len in 14..packet.len() {
                        nat.xdp_leaves(device, &packet[..len]);
                    }
                }
            }
        }
        assert_eq!(nat.connections(), before);
    });
}

#[test]
fn garbage_is_left_as_it_is() {
    let host = host();
    host.run(|| {
        let nat = connected(&host);
        let ethertypes = prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100, 0x88a8, 0x0806]);
        let rest = prop::collection::vec(any::<u8>(), 0..200);
        let mut runner = TestRunner::new(ProptestConfig::with_cases(4096));
        let garbage = (ethertypes, any::<u8>(), rest);
        let outcome = runner.run(&garbage, |(ethertype, first, rest)| {
            let mut frame = vec![2; 12];
            frame.extend(ethertype.to_be_bytes());
            frame.push(first);
            frame.extend(rest);
            prop_assert_eq!(nat.run_xdp(host.client, &frame), Verdict::Next(frame));
            Ok(())
        });
        outcome.unwrap();
    });
}

/// Some bytes of a packet of a connection become others. What XDP sends on is what tc would send on.
#[test]
fn damaged_packets_are_forwarded_as_in_tc_or_not_at_all() {
    let host = host();
    let damage = prop::collection::vec((14usize..90, any::<u8>()), 0..4);
    let case = (any::<bool>(), any::<bool>(), any::<bool>(), damage);
    host.run(|| {
        let nat = connected(&host);
        let mut runner = TestRunner::new(ProptestConfig::with_cases(4096));
        let outcome = runner.run(&case, |(v6, udp, is_reply, damage)| {
            let protocol = if udp { UDP } else { TCP };
            let [(ask, _), (reply, _)] = packets(v6, protocol);
            let (device, packet) = if is_reply {
                (host.target, reply)
            } else {
                (host.client, ask)
            };
            let mut packet = packet.bytes();
            for (at, value) in damage {
                if let Some(byte) = packet.get_mut(at) {
                    *byte = value;
                }
            }
            match nat.run_xdp(device, &packet) {
                Verdict::Next(out) => prop_assert_eq!(out, packet),
                Verdict::Redirect(out) => {
                    let Verdict::Redirect(expected) = nat.run(Place::arriving(device), &packet)
                    else {
                        return Err(TestCaseError::fail("tc does not forward it"));
                    };
                    prop_assert_eq!(&out[14..], &expected[14..]);
                    let was_right = check_sums(Link::Ethernet, &packet).is_ok();
                    prop_assert_eq!(was_right, check_sums(Link::Ethernet, &out).is_ok());
                }
                Verdict::Drop => return Err(TestCaseError::fail("dropped")),
            }
            Ok(())
        });
        outcome.unwrap();
        assert!(nat.program.count(Counter::XdpForwarded).unwrap() > 1000);
    });
}
