//! Packets that are no good: nothing is read or written where it may not be, nothing but what is
//! translated changes, no length does, and what was wrong stays as wrong as it was.

use proptest::{prelude::*, test_runner::TestRunner};
use truename::datapath::OBJECT;
use truename_common::layout::{Counter, TCP, UDP};
use truename_tests::prog_run::{
    CASES, Datagram, Host, IcmpError, Link, Nat, OUTSIDE, Place, Shape, Sockets, Verdict, local,
    remote, shapes,
};

/// A program with a service of this host for every case, and a connection to each.
fn services(link: Link) -> Nat {
    let mut nat = Nat::new(OBJECT, link);
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        let link = Shape {
            link,
            ..Shape::default()
        };
        let first = sockets.first(protocol).shaped(link);
        assert!(matches!(nat.run(OUTSIDE, &first.bytes()), Verdict::Next(_)));
    }
    nat
}

/// One of every kind of packet that is translated: of the client, of the target, and errors about
/// them.
fn packets(v6: bool, protocol: u8, shape: Shape) -> Vec<Vec<u8>> {
    let sockets = Sockets::of(v6);
    let Sockets {
        client,
        alias,
        local,
        ..
    } = sockets;
    let [first, second, reply, _] = sockets.talk(protocol);
    let error = |from: &Datagram, about: Datagram| {
        let (kind, rest) = if v6 { ((2, 0), 1400) } else { ((3, 4), 1400) };
        IcmpError {
            shape,
            source: from.source.ip(),
            destination: from.destination.ip(),
            hop_limit: 64,
            kind,
            rest,
            quoted: about.ip_bytes(),
        }
        .bytes()
    };
    let back = reply.between(local, client);
    vec![
        first.shaped(shape).bytes(),
        second.shaped(shape).bytes(),
        back.shaped(shape).bytes(),
        error(&back, second.between(client, local)),
        error(&second, reply.between(alias, client)),
    ]
}

/// What counts translated packets.
fn translated(nat: &Nat) -> u64 {
    [Counter::NatSent, Counter::NatReceived, Counter::NatIcmp]
        .into_iter()
        .map(|counter| nat.program.count(counter).unwrap())
        .sum()
}

#[test]
fn truncated_packets_pass_as_they_are() {
    for raw in [false, true] {
        let link = if raw { Link::Raw } else { Link::Ethernet };
        let nat = services(link);
        let before = translated(&nat);
        let connections = nat.connections();
        for (shape, v6) in shapes() {
            let link = if raw { link } else { shape.link };
            let shape = Shape { link, ..shape };
            for protocol in [TCP, UDP] {
                for packet in packets(v6, protocol, shape) {
                    // The kernel makes no packet that is shorter than an Ethernet header, nor one
                    // that ends in the IP header right behind it.
                    let shortest = match (shape.link, v6) {
                        (Link::Ethernet, false) => 34,
                        (Link::Ethernet, true) => 54,
                        _ => 14,
                    };
                    for len in shortest..packet.len() {
                        let cut = &packet[..len];
                        let verdict = nat.run(OUTSIDE, cut);
                        assert_eq!(verdict, Verdict::Next(cut.to_vec()), "{shape:?} {len}");
                    }
                    assert_ne!(nat.run(OUTSIDE, &packet), Verdict::Next(packet));
                }
            }
        }
        let all = shapes().len() as u64 * 2 * 5;
        assert_eq!(translated(&nat) - before, all);
        assert_eq!(nat.connections().len(), connections.len());
    }
}

/// The packet passes, and nothing of it changes.
#[track_caller]
fn assert_untouched(nat: &Nat, packet: Vec<u8>) {
    assert_eq!(nat.run(OUTSIDE, &packet), Verdict::Next(packet));
}

#[test]
fn wrong_lengths_of_ipv4_pass_as_they_are() {
    let nat = services(Link::Ethernet);
    let before = translated(&nat);
    for protocol in [TCP, UDP] {
        for packet in packets(false, protocol, Shape::default()) {
            let with = |at: usize, bytes: &[u8]| {
                let mut packet = packet.clone();
                packet[at..at + bytes.len()].copy_from_slice(bytes);
                packet
            };
            let total = (packet.len() - 14) as u16;
            // 0 is the length of a packet that is too long for the field.
            for len in [1, 19, 20, 27, total + 1, total + 1000, u16::MAX] {
                assert_untouched(&nat, with(16, &len.to_be_bytes()));
            }
            for words in 0..5 {
                assert_untouched(&nat, with(14, &[0x40 | words]));
            }
            for version in [0, 3, 5, 6, 15] {
                assert_untouched(&nat, with(14, &[version << 4 | 5]));
            }
            for protocol in [0, 2, 4, 41, 47, 58, 132, 255] {
                assert_untouched(&nat, with(23, &[protocol]));
            }
        }
    }
    // A TCP header that is too short, or longer than the packet.
    let [first, _, reply, ..] = &packets(false, TCP, Shape::default())[..] else {
        unreachable!()
    };
    for packet in [first, reply] {
        for words in (0..5).chain(6..16) {
            let mut packet = packet.clone();
            packet[46] = words << 4;
            assert_untouched(&nat, packet);
        }
    }
    assert_eq!(translated(&nat), before);
}

#[test]
fn wrong_lengths_of_ipv6_pass_as_they_are() {
    let nat = services(Link::Ethernet);
    let before = translated(&nat);
    for protocol in [TCP, UDP] {
        for packet in packets(true, protocol, Shape::default()) {
            let with = |at: usize, bytes: &[u8]| {
                let mut packet = packet.clone();
                packet[at..at + bytes.len()].copy_from_slice(bytes);
                packet
            };
            let content = (packet.len() - 54) as u16;
            for len in [1, 7, content + 1, content + 1000, u16::MAX] {
                assert_untouched(&nat, with(18, &len.to_be_bytes()));
            }
            for version in [0, 4, 5, 7, 15] {
                assert_untouched(&nat, with(14, &[version << 4]));
            }
            for next in [1, 2, 4, 41, 47, 50, 59, 132, 255] {
                assert_untouched(&nat, with(20, &[next]));
            }
        }
    }
    assert_eq!(translated(&nat), before);
}

#[test]
fn wrong_headers_in_what_an_error_quotes_pass_as_they_are() {
    let nat = services(Link::Ethernet);
    let before = translated(&nat);
    for v6 in [false, true] {
        let quoted = if v6 { 14 + 40 + 8 } else { 14 + 20 + 8 };
        for packet in packets(v6, UDP, Shape::default()).drain(3..) {
            let with = |at: usize, byte: u8| {
                let mut packet = packet.clone();
                packet[quoted + at] = byte;
                packet
            };
            for version in [0u8, 3, 5, 9, 15] {
                assert_untouched(&nat, with(0, version << 4 | 5));
            }
            let protocol = if v6 { 6 } else { 9 };
            for other in [0, 1, 43, 44, 58, 60, 132, 255] {
                assert_untouched(&nat, with(protocol, other));
            }
            if v6 {
                continue;
            }
            for words in (0..5).chain(12..16) {
                assert_untouched(&nat, with(0, 0x40 | words));
            }
            // A later fragment has no ports.
            for (at, byte) in [(6, 0x01), (6, 0x1f), (7, 0x01), (7, 0xff)] {
                assert_untouched(&nat, with(at, byte));
            }
        }
    }
    assert_eq!(translated(&nat), before);
}

/// How far a ones-complement checksum is from the right one; the two zeros are one.
fn distance(right: u16, is: u16) -> u16 {
    let difference = u32::from(is) + u32::from(!right);
    let folded = (difference & 0xffff) + (difference >> 16);
    if folded == 0xffff { 0 } else { folded as u16 }
}

#[test]
fn a_wrong_checksum_stays_as_wrong() {
    let nat = services(Link::Ethernet);
    for (v6, protocol) in CASES {
        let ip = if v6 { 40 } else { 20 };
        let transport = 14 + ip + if protocol == TCP { 16 } else { 6 };
        let icmp = 14 + ip + 2;
        let inner = 14 + ip + 8;
        let inner_transport = inner + transport - 14;
        for (index, packet) in packets(v6, protocol, Shape::default()).iter().enumerate() {
            let mut fields = if index < 3 {
                vec![transport]
            } else {
                vec![icmp, inner_transport]
            };
            if !v6 {
                fields.push(14 + 10);
                if index >= 3 {
                    fields.push(inner + 10);
                }
            }
            let Verdict::Next(expected) = nat.run(OUTSIDE, packet) else {
                panic!("it does not go on");
            };
            let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            for at in fields {
                for wrong in [1, 0x0100, 0x8000, 0x1234, 0xfffe] {
                    let mut sent = packet.clone();
                    let value = word(packet, at).wrapping_add(wrong);
                    if value == 0 {
                        // None of UDP's.
                        continue;
                    }
                    sent[at..at + 2].copy_from_slice(&value.to_be_bytes());
                    let Verdict::Next(out) = nat.run(OUTSIDE, &sent) else {
                        panic!("it does not go on");
                    };
                    assert_eq!(
                        distance(word(&expected, at), word(&out, at)),
                        distance(word(packet, at), value),
                        "{index} {at} {value:#06x}"
                    );
                    // All else is as it is when nothing is wrong.
                    let without = |bytes: &[u8]| {
                        let mut bytes = bytes.to_vec();
                        bytes[at..at + 2].fill(0);
                        bytes
                    };
                    assert_eq!(without(&out), without(&expected));
                }
            }
        }
    }
}

#[test]
fn packets_of_nothing_pass() {
    for link in [Link::Ethernet, Link::Raw] {
        let nat = services(link);
        let before = translated(&nat);
        for len in [14, 15, 20, 33, 34, 54, 60, 200, 1500] {
            for byte in [0, 0x45, 0x60, 0x06, 0x81, 0xff] {
                assert_untouched(&nat, vec![byte; len]);
            }
        }
        assert_eq!(translated(&nat), before);
    }
}

/// A packet that is nearly one of those that are translated.
fn nearly() -> impl Strategy<Value = (Vec<u8>, Link)> {
    let kinds = (0..shapes().len(), any::<bool>(), any::<bool>(), 0..5usize);
    let changes = prop::collection::vec((0..110usize, any::<u8>()), 0..4);
    let cut = prop_oneof![3 => Just(0usize), 1 => 0..80usize];
    (kinds, changes, cut).prop_map(|((shape, is_udp, raw, kind), changes, cut)| {
        let (shape, v6) = shapes()[shape];
        let link = if raw { Link::Raw } else { shape.link };
        let protocol = if is_udp { UDP } else { TCP };
        let shape = Shape { link, ..shape };
        let mut packet = packets(v6, protocol, shape).swap_remove(kind);
        packet.truncate(packet.len().saturating_sub(cut).max(14));
        for (at, byte) in changes {
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        (packet, if raw { Link::Raw } else { Link::Ethernet })
    })
}

/// Bytes that a translation may change: addresses, ports, hop limit and checksums.
const CHANGED: usize = 60;

fn garbage(nats: &[(Link, Nat); 2], place: Place, cases: u32) {
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&nearly(), |(packet, link)| {
        let (_, nat) = nats.iter().find(|(found, _)| *found == link).unwrap();
        let before = translated(nat);
        // A packet that ends in the IP header right behind an Ethernet header is not made.
        let Ok(verdict) = nat.program.run_at(place, &packet) else {
            prop_assert!(packet.len() < 14 + 40);
            return Ok(());
        };
        let is_translated = translated(nat) != before;
        let ethernet = if link == Link::Raw { 0 } else { 12 };
        match verdict {
            Verdict::Next(out) if !is_translated => prop_assert_eq!(out, packet),
            Verdict::Next(out) => {
                prop_assert_eq!(out.len(), packet.len());
                prop_assert_eq!(&out[..ethernet], &packet[..ethernet]);
                let changed = out.iter().zip(&packet).filter(|(a, b)| a != b).count();
                prop_assert!(changed <= CHANGED, "{} bytes changed", changed);
            }
            Verdict::Redirect(out) if is_translated => {
                let header = if link == Link::Raw { 14 } else { 0 };
                prop_assert_eq!(out.len(), packet.len() + header);
                let changed = out[header..].iter().zip(&packet).filter(|(a, b)| a != b);
                prop_assert!(changed.count() <= CHANGED);
            }
            Verdict::Redirect(out) => {
                // An answer: headers and at most as much of the packet.
                prop_assert!(place != OUTSIDE);
                prop_assert!(out.len() <= 14 + 48 + 128);
            }
            Verdict::Drop => prop_assert!(!is_translated),
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn garbage_to_targets_of_this_host_does_no_harm() {
    let nats = [Link::Ethernet, Link::Raw].map(|link| (link, services(link)));
    garbage(&nats, OUTSIDE, 20_000);
    for (_, nat) in nats {
        // There were some of each.
        assert!(translated(&nat) > 100);
        assert!(nat.program.count(Counter::Unparsed).unwrap() > 100);
        nat.assert_count(Counter::NatStore, 0);
    }
}

#[test]
fn garbage_to_other_hosts_does_no_harm() {
    let host = Host::new(1500);
    host.run(|| {
        let nats = [Link::Ethernet, Link::Raw].map(|link| {
            let mut nat = Nat::new(OBJECT, link);
            for (v6, protocol) in CASES {
                let sockets = Sockets::of(v6);
                let target = remote(sockets.remote, sockets.source.ip());
                nat.service(sockets.alias, protocol, &[target]);
            }
            (link, nat)
        });
        garbage(&nats, Place::arriving(host.client), 20_000);
        for (_, nat) in nats {
            assert!(translated(&nat) > 100);
            nat.assert_count(Counter::NatStore, 0);
        }
    });
}
