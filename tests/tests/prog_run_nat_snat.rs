//! What the address translator makes of single packets that it sends on to other hosts: routes, hop
//! limits, MTUs, and the errors that it answers with.

use truename::datapath::OBJECT;
use truename_common::layout::{Counter, TCP, UDP, conntrack_flags};
use truename_tests::prog_run::{
    CASES, Datagram, Host, IcmpError, Link, Nat, Place, Shape, Sockets, Verdict, check_sums, flag,
    local, remote, routed,
};

/// The smallest MTU of IPv6.
const MTU: u32 = 1280;

/// A program on devices of this kind with a service for every case, whose target is remote.
fn services(link: Link) -> Nat {
    let mut nat = Nat::new(OBJECT, link);
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        let target = remote(sockets.remote, sockets.source.ip());
        nat.service(sockets.alias, protocol, &[target]);
    }
    nat
}

/// The packets of a talk with a client whose port is in the range, so that it is kept: as they come,
/// and as they have to leave.
fn talk(sockets: &Sockets, protocol: u8) -> (Sockets, [(Datagram, Datagram); 4]) {
    let sockets = sockets.from_port(sockets.source.port());
    let Sockets { remote, source, .. } = sockets;
    let [first, second, reply, last] = sockets.talk(protocol);
    let to = |packet: Datagram| (packet.clone(), packet.between(source, remote));
    let back = |packet: Datagram| (packet.between(remote, source), packet);
    (sockets, [to(first), to(second), back(reply), back(last)])
}

#[test]
fn packets_to_and_from_another_host_are_sent_on_with_one_hop_less() {
    let host = Host::new(1500);
    for neighbours in [false, true] {
        if neighbours {
            // Else they are resolved when the packet is sent.
            host.know_neighbours("02:00:00:00:00:09");
        }
        host.run(|| {
            let nat = services(Link::Ethernet);
            let (clients, targets) = (Place::arriving(host.client), Place::arriving(host.target));
            for (v6, protocol) in CASES {
                let (sockets, [first, second, reply, last]) = talk(&Sockets::of(v6), protocol);
                for (place, (sent, expected), hops) in [
                    (clients, &first, 64),
                    (targets, &reply, 64),
                    (clients, &second, 2),
                    (targets, &last, 255),
                ] {
                    let (sent, expected) = (sent.with_hops(hops), expected.with_hops(hops - 1));
                    nat.forwards(place, &sent, &expected);
                }
                let entry = nat.connection(sockets.source, sockets.remote, protocol);
                let replaced = conntrack_flags::SNAT | conntrack_flags::MASKED;
                assert_eq!((entry.tries, entry.flags), (0, replaced));
            }
            nat.assert_count(Counter::NatSent, 8);
            nat.assert_count(Counter::NatReceived, 8);
        });
    }
}

#[test]
fn a_port_outside_the_range_is_replaced() {
    let host = Host::new(1500);
    host.run(|| {
        let nat = services(Link::Ethernet);
        for (v6, protocol) in CASES {
            let sockets = Sockets::of(v6);
            let [first, _, reply, _] = sockets.talk(protocol);
            let place = Place::arriving(host.client);
            let Verdict::Redirect(out) = nat.run(place, &first.bytes()) else {
                panic!("not sent on");
            };
            let keys = nat.connections();
            let key = keys
                .iter()
                .find(|(key, _)| key.protocol == protocol && (key.client[..4] == [0; 4]) != v6);
            let port = key.unwrap().0.client_port;
            assert!((50_000..=50_999).contains(&port));
            let mut source = sockets.source;
            source.set_port(port);
            let expected = first.between(source, sockets.remote).with_hops(63);
            assert_eq!(out, expected.bytes());
            let place = Place::arriving(host.target);
            let sent = reply.between(sockets.remote, source);
            nat.forwards(place, &sent, &reply.with_hops(63));
        }
    });
}

#[test]
fn a_target_may_see_the_client() {
    let host = Host::new(1500);
    host.run(|| {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        for (v6, protocol) in CASES {
            let sockets = Sockets::of(v6);
            nat.service(sockets.alias, protocol, &[routed(sockets.remote)]);
            let Sockets { client, remote, .. } = sockets;
            let [first, _, reply, _] = sockets.talk(protocol);
            let expected = first.between(client, remote).with_hops(63);
            nat.forwards(Place::arriving(host.client), &first, &expected);
            let sent = reply.between(remote, client);
            nat.forwards(Place::arriving(host.target), &sent, &reply.with_hops(63));
            assert_eq!(nat.connection(client, remote, protocol).flags, 0);
        }
    });
}

#[test]
fn a_device_without_a_link_header_gets_one() {
    let host = Host::new(1500);
    host.run(|| {
        let nat = services(Link::Raw);
        let link = Link::Raw;
        let raw = Shape {
            link,
            ..Shape::default()
        };
        for (v6, protocol) in CASES {
            let (_, [first, ..]) = talk(&Sockets::of(v6), protocol);
            let (sent, expected) = (first.0.shaped(raw), first.1.with_hops(63));
            let mut header = vec![0; 12];
            header.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
            let expected = [header, expected.ip_bytes()].concat();
            let verdict = nat.run(Place::arriving(host.client), &sent.bytes());
            assert_eq!(verdict, Verdict::Redirect(expected));
        }
    });
}

#[test]
fn the_hosts_own_packets_keep_their_hops() {
    let host = Host::new(1500);
    host.run(|| {
        let nat = services(Link::Ethernet);
        for (v6, protocol) in CASES {
            let (_, [first, second, ..]) = talk(&Sockets::of(v6), protocol);
            let place = Place::leaving(host.client);
            nat.forwards(place, &first.0, &first.1);
            nat.forwards(place, &second.0.with_hops(1), &second.1.with_hops(1));
        }
        nat.assert_count(Counter::NatHopLimit, 0);
    });
}

#[test]
fn the_hosts_own_packets_to_itself_turn_round() {
    let host = Host::new(1500);
    host.run(|| {
        for link in [Link::Ethernet, Link::Raw] {
            let mut nat = Nat::new(OBJECT, link);
            for (v6, protocol) in CASES {
                let sockets = Sockets::of(v6);
                nat.service(sockets.alias, protocol, &[local(sockets.local)]);
                let first = sockets.first(protocol);
                let expected = first.between(sockets.client, sockets.local);
                let mut bytes = expected.bytes();
                // What the stack expects on the loopback interface.
                bytes[..6].fill(0);
                let shape = Shape {
                    link,
                    ..Shape::default()
                };
                if link == Link::Raw {
                    bytes[..12].fill(0);
                }
                let place = Place::leaving(host.client);
                let verdict = nat.run(place, &first.shaped(shape).bytes());
                assert_eq!(verdict, Verdict::Redirect(bytes));
                let entry = nat.connection(sockets.client, sockets.local, protocol);
                assert_eq!(entry.flags, conntrack_flags::LOCAL);
            }
        }
    });
}

#[test]
fn a_reply_to_a_client_on_this_host_stays_here() {
    let host = Host::new(1500);
    host.run(|| {
        let nat = services(Link::Ethernet);
        for (v6, protocol) in CASES {
            // The client is the host itself, by an address of its own.
            let mut own = Sockets::of(v6);
            own.client.set_ip(own.local.ip());
            let (_, [first, _, reply, _]) = talk(&own, protocol);
            nat.forwards(Place::leaving(host.client), &first.0, &first.1);
            // It came in, and goes up to the stack: no hop is counted.
            nat.becomes(Place::arriving(host.target), &reply.0, &reply.1);
        }
        // One that reached the alias by loopback is answered by loopback.
        for (v6, protocol) in CASES {
            let mut own = Sockets::of(v6);
            own.client.set_ip(own.local.ip());
            own.source.set_port(50_001);
            let (_, [first, _, reply, _]) = talk(&own, protocol);
            nat.forwards(Place::leaving(1), &first.0, &first.1);
            let mut expected = reply.1.bytes();
            expected[..6].fill(0);
            let verdict = nat.run(Place::arriving(host.target), &reply.0.bytes());
            assert_eq!(verdict, Verdict::Redirect(expected));
        }
    });
}

/// The error about a packet that the client gets: what a router would send, but from the alias.
fn error(sent: &Datagram, kind: (u8, u8), rest: u32) -> IcmpError {
    let mut quoted = sent.ip_bytes();
    quoted.truncate((quoted.len() & !3).min(128));
    IcmpError {
        shape: Shape::default(),
        source: sent.destination.ip(),
        destination: sent.source.ip(),
        hop_limit: 64,
        kind,
        rest,
        quoted,
    }
}

/// The error as bytes, as it is sent back: the link addresses turned round, and precedence
/// "internetwork control" without "do not fragment".
fn sent_back(error: &IcmpError) -> Vec<u8> {
    let mut bytes = error.bytes();
    let (to, from) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    if error.source.is_ipv4() {
        bytes[15] = 0xc0;
        bytes[20..22].fill(0);
        let header = etherparse::Ipv4HeaderSlice::from_slice(&bytes[14..]).unwrap();
        let sum = header.to_header().calc_header_checksum();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    check_sums(Link::Ethernet, &bytes).unwrap();
    bytes
}

/// The packet is answered with an error; the program sends at most one in a millisecond.
#[track_caller]
fn assert_answered(nat: &Nat, place: Place, sent: &Datagram, error: &IcmpError) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        match nat.run(place, &sent.bytes()) {
            Verdict::Redirect(out) => {
                assert_eq!(out, sent_back(error), "{error:?}");
                return;
            }
            verdict => assert_eq!(verdict, Verdict::Drop),
        }
        assert!(std::time::Instant::now() < deadline, "never answered");
    }
}

#[test]
fn a_packet_whose_hops_are_used_up_is_answered() {
    let host = Host::new(1500);
    host.run(|| {
        let nat = services(Link::Ethernet);
        for (v6, protocol) in CASES {
            let (_, [first, _, reply, _]) = talk(&Sockets::of(v6), protocol);
            let kind = if v6 { (3, 0) } else { (11, 0) };
            let clients = Place::arriving(host.client);
            for hops in [1, 0] {
                let sent = first.0.with_hops(hops);
                assert_answered(&nat, clients, &sent, &error(&sent, kind, 0));
                // A longer packet is quoted in part.
                let sent = sent.with_payload(&[7; 301]);
                assert_answered(&nat, clients, &sent, &error(&sent, kind, 0));
            }
            nat.forwards(clients, &first.0, &first.1.with_hops(63));
            let sent = reply.0.with_hops(1);
            let targets = Place::arriving(host.target);
            assert_answered(&nat, targets, &sent, &error(&sent, kind, 0));
        }
        assert_eq!(nat.program.count(Counter::NatSent).unwrap(), 4);
    });
}

#[test]
fn not_every_packet_is_answered() {
    let host = Host::new(1500);
    host.run(|| {
        let nat = services(Link::Ethernet);
        let (_, [first, ..]) = talk(&Sockets::of(false), UDP);
        let sent = first.0.with_hops(1).bytes();
        let all = 2000;
        let answered = (0..all)
            .filter(|_| nat.run(Place::arriving(host.client), &sent) != Verdict::Drop)
            .count();
        assert!(0 < answered && answered < all, "{answered}");
        nat.assert_count(Counter::NatHopLimit, all as u64);
        nat.assert_count(Counter::NatErrorUnsent, (all - answered) as u64);
    });
}

#[test]
fn a_packet_that_is_larger_than_the_route_takes_is_answered() {
    let host = Host::new(MTU);
    host.run(|| {
        let nat = services(Link::Ethernet);
        for (v6, protocol) in CASES {
            let (_, [first, second, reply, _]) = talk(&Sockets::of(v6), protocol);
            let clients = Place::arriving(host.client);
            let targets = Place::arriving(host.target);
            nat.forwards(clients, &first.0, &first.1.with_hops(63));
            let kind = if v6 { (2, 0) } else { (3, 4) };
            for (place, (sent, expected)) in [(clients, second), (targets, reply)] {
                let headers = sent.ip_bytes().len() - sent.payload.len();
                let sized = |packet: &Datagram, len: usize| {
                    let packet = packet.with_payload(&vec![0x5a; len - headers]);
                    assert_eq!(packet.ip_bytes().len(), len);
                    packet
                };
                let mtu = MTU as usize;
                let fits = sized(&expected, mtu).with_hops(63);
                nat.forwards(place, &sized(&sent, mtu), &fits);
                for len in [mtu + 1, mtu + 4, 1500] {
                    let sent = sized(&sent, len);
                    assert_answered(&nat, place, &sent, &error(&sent, kind, MTU));
                }
            }
        }
        nat.assert_count(Counter::NatHopLimit, 0);
    });
}

#[test]
fn a_route_may_have_an_mtu_of_its_own() {
    let host = Host::new(1500);
    host.ip("route add 10.4.0.0/24 via 10.2.0.2 dev target mtu lock 600");
    host.run(|| {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(false).from_port(50_000);
        let behind = "10.4.0.2:8080".parse().unwrap();
        nat.service(sockets.alias, UDP, &[remote(behind, sockets.source.ip())]);
        let place = Place::arriving(host.client);
        let sent = sockets.first(UDP).with_payload(&[0; 600 - 28]);
        nat.forwards(
            place,
            &sent,
            &sent.between(sockets.source, behind).with_hops(63),
        );
        let sent = sockets.first(UDP).with_payload(&[0; 601 - 28]);
        assert_answered(&nat, place, &sent, &error(&sent, (3, 4), 600));
    });
}

#[test]
fn of_a_super_packet_the_segments_count() {
    let host = Host::new(MTU);
    host.run(|| {
        let nat = services(Link::Ethernet);
        for (v6, protocol) in CASES {
            let (_, [first, second, reply, _]) = talk(&Sockets::of(v6), protocol);
            nat.forwards(
                Place::arriving(host.client),
                &first.0,
                &first.1.with_hops(63),
            );
            let kind = if v6 { (2, 0) } else { (3, 4) };
            for (place, (sent, expected)) in [
                (Place::arriving(host.client), second),
                (Place::arriving(host.target), reply),
            ] {
                let headers = sent.ip_bytes().len() - sent.payload.len();
                let payload = [0xa5; 3000];
                let (sent, expected) =
                    (sent.with_payload(&payload), expected.with_payload(&payload));
                let fits = MTU - headers as u32;
                let segment = |segment| Place { segment, ..place };
                nat.forwards(segment(fits), &sent, &expected.with_hops(63));
                nat.forwards(segment(fits / 2), &sent, &expected.with_hops(63));
                let answer = error(&sent, kind, MTU);
                assert_answered(&nat, segment(fits + 1), &sent, &answer);
            }
        }
    });
}

#[test]
fn no_error_is_sent_where_the_device_has_no_link_header() {
    let host = Host::new(1500);
    host.run(|| {
        let nat = services(Link::Raw);
        let link = Link::Raw;
        let raw = Shape {
            link,
            ..Shape::default()
        };
        let (_, [first, ..]) = talk(&Sockets::of(false), UDP);
        let sent = first.0.shaped(raw).with_hops(1);
        nat.drops(Place::arriving(host.client), &sent);
        nat.assert_count(Counter::NatErrorUnsent, 1);
    });
}

#[test]
fn an_error_about_an_own_packet_goes_to_loopback() {
    let host = Host::new(MTU);
    host.run(|| {
        let nat = services(Link::Ethernet);
        for (v6, kind) in [(false, (3, 4)), (true, (2, 0))] {
            let (_, [first, ..]) = talk(&Sockets::of(v6), UDP);
            let sent = first.0.with_payload(&[0; 1400]);
            let mut expected = sent_back(&error(&sent, kind, MTU));
            expected[..12].fill(0);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
            loop {
                let verdict = nat.run(Place::leaving(host.client), &sent.bytes());
                if verdict == Verdict::Redirect(expected.clone()) {
                    break;
                }
                assert_eq!(verdict, Verdict::Drop);
                assert!(std::time::Instant::now() < deadline, "never answered");
            }
        }
    });
}

#[test]
fn a_host_that_does_not_forward_drops_and_counts() {
    let host = Host::new(1500);
    host.sysctl("net/ipv4/conf/client/forwarding", "0");
    host.sysctl("net/ipv6/conf/client/forwarding", "0");
    host.run(|| {
        let nat = services(Link::Ethernet);
        for (v6, protocol) in CASES {
            let (_, [first, ..]) = talk(&Sockets::of(v6), protocol);
            nat.drops(Place::arriving(host.client), &first.0);
        }
        nat.assert_count(Counter::NatForwardingOff, 4);
        nat.assert_count(Counter::NatSent, 0);
    });
}

#[test]
fn a_target_without_a_route_is_said_and_counted() {
    let host = Host::new(1500);
    host.ip("route add unreachable 10.5.0.0/24");
    host.ip("route add blackhole 10.6.0.0/24");
    host.ip("route add prohibit 10.7.0.0/24");
    host.ip("-6 route add unreachable fd05::/64");
    host.ip("-6 route add blackhole fd06::/64");
    host.run(|| {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        // Types and codes of RFC 792 and RFC 4443, as Linux chooses them.
        let places = [
            ("10.4.0.2:80", Some([3, 0])),
            ("10.5.0.2:80", Some([3, 1])),
            ("10.6.0.2:80", None),
            ("10.7.0.2:80", Some([3, 13])),
            ("[fd04::2]:80", Some([1, 0])),
            ("[fd05::2]:80", Some([1, 0])),
            ("[fd06::2]:80", None),
        ];
        for (index, (target, error)) in places.into_iter().enumerate() {
            let target: std::net::SocketAddr = target.parse().unwrap();
            let mut sockets = Sockets::of(target.is_ipv6());
            sockets.alias.set_port(90 + index as u16);
            let target = remote(target, sockets.source.ip());
            nat.service(sockets.alias, TCP, &[target]);
            let first = sockets.first(TCP);
            let verdict = nat.run(Place::arriving(host.client), &first.bytes());
            let icmp = if first.source.is_ipv6() { 54 } else { 34 };
            let said = match &verdict {
                Verdict::Redirect(bytes) => Some([bytes[icmp], bytes[icmp + 1]]),
                _ => None,
            };
            assert_eq!(said, error, "{target:?}: {verdict:?}");
            nat.assert_count(Counter::NatNoRoute, index as u64 + 1);
        }
        nat.assert_count(Counter::NatSent, 0);
    });
}

#[test]
fn a_reset_is_sent_on_as_any_packet() {
    let host = Host::new(1500);
    host.run(|| {
        let nat = services(Link::Ethernet);
        let (sockets, [first, ..]) = talk(&Sockets::of(false), TCP);
        nat.forwards(
            Place::arriving(host.client),
            &first.0,
            &first.1.with_hops(63),
        );
        let reset = Datagram::tcp(sockets.alias, sockets.client, flag::RST | flag::ACK);
        let reset = reset.with_payload(b"");
        let sent = reset.between(sockets.remote, sockets.source);
        nat.forwards(Place::arriving(host.target), &sent, &reset.with_hops(63));
    });
}

/// A martian, which the stack drops when it sees it.
#[test]
fn a_packet_from_outside_has_no_address_of_this_host() {
    let host = Host::new(1500);
    host.run(|| {
        let mut nat = services(Link::Ethernet);
        for protocol in [TCP, UDP] {
            let sockets = Sockets::of(false);
            nat.owns(sockets.local.ip());
            let mut from = sockets.local;
            from.set_port(50_123);
            let first = sockets.from(from).first(protocol);
            nat.passes(Place::arriving(host.client), &first);
            // This host itself may.
            let Verdict::Redirect(_) = nat.run(Place::leaving(host.client), &first.bytes()) else {
                panic!("not sent on");
            };
        }
        nat.assert_count(Counter::NatStrangers, 2);
    });
}
