//! What the address translator makes of single packets to targets of its own host.

use truename::datapath::OBJECT;
use truename_common::layout::{
    ConntrackState, Counter, EventKind, Service, Slots, TCP, UDP, conntrack_flags,
};
use truename_tests::prog_run::{
    CASES, Datagram, Kind, Link, Nat, OUTSIDE, Place, Program, Shape, Sockets, Verdict, flag,
    local, remote, shapes, tuple,
};

/// All packets of a talk are translated between alias and target.
fn assert_talk(nat: &Nat, sockets: &Sockets, protocol: u8, shape: Shape, place: Place) {
    let Sockets { client, local, .. } = *sockets;
    let [first, second, reply, last] = sockets.talk(protocol).map(|packet| packet.shaped(shape));
    nat.becomes(place, &first, &first.between(client, local));
    nat.becomes(place, &reply.between(local, client), &reply);
    nat.becomes(place, &second, &second.between(client, local));
    nat.becomes(place, &last.between(local, client), &last);
}

#[test]
fn address_and_port_are_replaced_and_put_back() {
    for (v6, protocol) in CASES {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(v6);
        let service = nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        assert_talk(&nat, &sockets, protocol, Shape::default(), OUTSIDE);
        nat.assert_count(Counter::NatSent, 2);
        nat.assert_count(Counter::NatReceived, 2);
        nat.assert_count(Counter::NatNew, 1);
        nat.assert_count(Counter::NatRemapped, 0);
        let [(key, entry)] = nat.connections()[..] else {
            panic!("one connection");
        };
        assert_eq!(key, tuple(sockets.client, sockets.local, protocol));
        let original = tuple(sockets.client, sockets.alias, protocol);
        assert_eq!(entry.original(protocol), original);
        assert_eq!(entry.service, service.id);
        assert_eq!((entry.tries, entry.flags), (0, conntrack_flags::LOCAL));
        let state = if protocol == TCP {
            ConntrackState::Established
        } else {
            ConntrackState::Replied
        };
        assert_eq!(ConntrackState::from_number(entry.state), state);
        // Bytes of the IP packets.
        let bytes = |packets: &[Datagram]| -> u64 {
            let len = |packet: &Datagram| packet.ip_bytes().len() as u64;
            packets.iter().map(len).sum()
        };
        let packets = sockets.talk(protocol);
        assert_eq!(entry.sent, bytes(&packets[..2]));
        assert_eq!(entry.received, bytes(&packets[2..]));
    }
}

#[test]
fn only_the_port_or_only_the_address_is_replaced() {
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        let mut port = sockets;
        port.local.set_ip(sockets.alias.ip());
        let mut address = sockets;
        address.local.set_port(sockets.alias.port());
        // Client and target at one address, too.
        let mut hairpin = sockets;
        hairpin.local.set_ip(sockets.client.ip());
        for sockets in [port, address, hairpin] {
            let mut nat = Nat::new(OBJECT, Link::Ethernet);
            nat.service(sockets.alias, protocol, &[local(sockets.local)]);
            assert_talk(&nat, &sockets, protocol, Shape::default(), OUTSIDE);
        }
    }
}

#[test]
fn headers_of_every_kind_are_translated() {
    for raw in [false, true] {
        let link = if raw { Link::Raw } else { Link::Ethernet };
        let mut nat = Nat::new(OBJECT, link);
        for (v6, protocol) in CASES {
            let sockets = Sockets::of(v6);
            nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        }
        for (index, (shape, v6)) in shapes().into_iter().enumerate() {
            for protocol in [TCP, UDP] {
                let link = if raw { link } else { shape.link };
                let shape = Shape { link, ..shape };
                println!("{shape:?}, IPv6: {v6}, protocol {protocol}");
                let mut sockets = Sockets::of(v6);
                sockets.client.set_port(40_000 + index as u16);
                assert_talk(&nat, &sockets, protocol, shape, OUTSIDE);
            }
        }
        nat.assert_count(Counter::Unparsed, 0);
    }
}

#[test]
fn the_sum_of_the_device_stays_right() {
    if !Program::can_sum() {
        return;
    }
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        let Sockets { client, local, .. } = sockets;
        let [first, second, reply, last] = sockets.talk(protocol);
        for (sent, expected) in [
            (first.clone(), first.between(client, local)),
            (reply.between(local, client), reply),
            (second.clone(), second.between(client, local)),
            (last.between(local, client), last),
        ] {
            let verdict = nat.program.run_summed(OUTSIDE, &sent.bytes());
            assert_eq!(verdict.unwrap(), Verdict::Next(expected.bytes()));
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    let sockets = Sockets::of(false);
    let mut nat = Nat::new(OBJECT, Link::Ethernet);
    nat.service(sockets.alias, UDP, &[local(sockets.local)]);
    let Sockets { client, local, .. } = sockets;
    let [ask, _, reply, _] = sockets.talk(UDP).map(|packet| Datagram {
        kind: Kind::UdpUnsummed,
        ..packet
    });
    nat.becomes(OUTSIDE, &ask, &ask.between(client, local));
    nat.becomes(OUTSIDE, &reply.between(local, client), &reply);
}

#[test]
fn a_udp_checksum_that_becomes_zero_is_written_as_its_complement() {
    for v6 in [false, true] {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        nat.service(sockets.alias, UDP, &[local(sockets.local)]);
        let Sockets { client, local, .. } = sockets;
        let checksum = |packet: &Datagram| {
            let bytes = packet.bytes();
            let at = bytes.len() - packet.payload.len() - 2;
            u16::from_be_bytes([bytes[at], bytes[at + 1]])
        };
        // Of all payloads of two bytes, one makes the sum of this packet zero.
        let zeroed = |packet: &Datagram| {
            let sum = checksum(&packet.with_payload(&[0, 0]));
            let zeroed = packet.with_payload(&sum.to_be_bytes());
            assert_eq!(checksum(&zeroed), 0xffff);
            zeroed
        };
        let [ask, _, reply, _] = sockets.talk(UDP);
        let translated = zeroed(&ask.between(client, local));
        nat.becomes(
            OUTSIDE,
            &translated.between(client, sockets.alias),
            &translated,
        );
        let translated = zeroed(&reply);
        nat.becomes(OUTSIDE, &translated.between(local, client), &translated);
        // And from there.
        let from = zeroed(&ask);
        nat.becomes(OUTSIDE, &from, &from.between(client, local));
    }
}

#[test]
fn the_next_hook_leaves_a_translated_packet_alone() {
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        // Translated again, it would be to another target.
        let mut behind = sockets.local;
        behind.set_port(9090);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        nat.service(sockets.local, protocol, &[local(behind)]);
        let twice = Place {
            passes: 2,
            ..OUTSIDE
        };
        assert_talk(&nat, &sockets, protocol, Shape::default(), twice);
        nat.assert_count(Counter::Packets, 8);
        nat.assert_count(Counter::NatSent, 2);
        nat.assert_count(Counter::NatReceived, 2);
        assert_eq!(nat.connections().len(), 1);
    }
}

#[test]
fn without_a_tag_nothing_is_translated() {
    let sockets = Sockets::of(false);
    let mut nat = Nat::new(OBJECT, Link::Ethernet);
    nat.service(sockets.alias, UDP, &[local(sockets.local)]);
    let mut settings = nat.settings;
    settings.tag = 0;
    nat.set(settings);
    nat.passes(OUTSIDE, &Datagram::udp(sockets.client, sockets.alias));
    assert!(nat.connections().is_empty());
}

#[test]
fn what_is_not_of_a_service_passes() {
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        let [first, ..] = sockets.talk(protocol);
        let Sockets {
            client,
            alias,
            local,
            router,
            ..
        } = sockets;
        let mut port = alias;
        port.set_port(alias.port() + 1);
        let mut address = alias;
        address.set_ip(router.ip());
        // Another protocol, port, address; directly to the target; from it, and from the alias.
        let [other, ..] = sockets.talk(TCP + UDP - protocol);
        for packet in [
            other,
            first.between(client, port),
            first.between(client, address),
            first.between(client, local),
            first.between(local, client),
            first.between(alias, client),
        ] {
            nat.passes(OUTSIDE, &packet);
        }
        assert!(nat.connections().is_empty());
        for counter in [
            Counter::NatSent,
            Counter::NatReceived,
            Counter::NatNoConnection,
        ] {
            nat.assert_count(counter, 0);
        }
    }
}

#[test]
fn only_a_syn_begins_a_connection() {
    for v6 in [false, true] {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        nat.service(sockets.alias, TCP, &[local(sockets.local)]);
        let others = [
            0,
            flag::ACK,
            flag::FIN,
            flag::RST,
            flag::RST | flag::ACK,
            flag::SYN | flag::ACK,
            flag::SYN | flag::RST,
            flag::SYN | flag::FIN,
        ];
        for flags in others {
            nat.passes(
                OUTSIDE,
                &Datagram::tcp(sockets.client, sockets.alias, flags),
            );
        }
        nat.assert_count(Counter::NatNoConnection, others.len() as u64);
        assert!(nat.connections().is_empty());
        assert!(nat.program.events().unwrap().is_empty());
    }
}

#[test]
fn a_service_without_a_target_refuses() {
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        nat.service(sockets.alias, protocol, &[]);
        let [first, ..] = sockets.talk(protocol);
        nat.refuses(OUTSIDE, &first);
        // A slot that names an unused target.
        let slots = nat.slots(vec![99]);
        let service = Service {
            id: 2,
            slots,
            ..Service::default()
        };
        nat.publish(sockets.alias, protocol, service);
        nat.refuses(OUTSIDE, &first);
        // One that names none.
        let slots = Slots {
            first: u32::MAX,
            count: 1,
        };
        nat.publish(sockets.alias, protocol, Service { slots, ..service });
        nat.refuses(OUTSIDE, &first);
        nat.assert_count(Counter::NatNoTarget, 3);
        let events = nat.program.events().unwrap();
        assert_eq!(events.len(), 3);
        for event in events {
            assert_eq!(event.kind, EventKind::Refused);
            assert_eq!(event.detail, Counter::NatNoTarget as u32);
            let original = tuple(sockets.client, sockets.alias, protocol);
            assert_eq!(event.flow, original);
        }
        assert!(nat.connections().is_empty());
    }
}

#[test]
fn several_aliases_of_a_target_are_kept_apart() {
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let mut second = sockets;
        second.alias.set_port(81);
        for sockets in [sockets, second] {
            nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        }
        let shape = Shape::default();
        // Another port of the client for each: the answers carry the alias that was used.
        assert_talk(&nat, &sockets, protocol, shape, OUTSIDE);
        second.client.set_port(40_001);
        assert_talk(&nat, &second, protocol, shape, OUTSIDE);
        assert_talk(&nat, &sockets, protocol, shape, OUTSIDE);
        assert_eq!(nat.connections().len(), 2);
        nat.assert_count(Counter::NatRemapped, 0);
    }
}

#[test]
fn fragments_go_where_their_first_one_goes() {
    const PARTS: [(u16, bool); 3] = [(0, true), (64, true), (128, false)];
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        let [first, second, reply, _] = sockets.talk(protocol);
        let Sockets { client, local, .. } = sockets;
        let passes = |packet: &Datagram, id, (offset, more)| {
            let bytes = fragment(packet, id, offset, more);
            assert_eq!(nat.run(OUTSIDE, &bytes), Verdict::Next(bytes));
        };
        let mut parts = 0;
        for (id, (packet, expected)) in (1..).zip([
            (&first, &first.between(client, local)),
            (&reply.between(local, client), &reply),
            (&second, &second.between(client, local)),
        ]) {
            for part in &PARTS[1..] {
                passes(packet, id, *part);
            }
            for (offset, more) in PARTS {
                let whole = fragment(expected, id, offset, more);
                let mut bytes = fragment(packet, id, offset, more);
                let Verdict::Next(out) = nat.run(OUTSIDE, &bytes) else {
                    panic!("it does not go on");
                };
                if offset > 0 {
                    // What looks like ports there is none.
                    let header = if v6 { 62 } else { 34 };
                    bytes[..header].copy_from_slice(&whole[..header]);
                    assert_eq!(out, bytes);
                } else {
                    assert_eq!(out, whole);
                }
                parts += 1;
                nat.assert_count(Counter::NatFragment, parts);
            }
        }
        assert_eq!(nat.connections().len(), 1);
        nat.assert_count(Counter::NatSent, 6);
        nat.assert_count(Counter::NatReceived, 3);
        // Those of other packets, and of others.
        passes(&first, 9, PARTS[1]);
        for part in PARTS {
            passes(&first.between(client, sockets.remote), 1, part);
        }
        nat.assert_count(Counter::NatFragment, parts);
    }
}

/// The packet as a fragment from this byte on.
fn fragment(packet: &Datagram, id: u8, offset: u16, more: bool) -> Vec<u8> {
    let mut bytes = packet.bytes();
    if packet.source.is_ipv4() {
        bytes[18..20].copy_from_slice(&[0, id]);
        let field = (offset / 8) | (u16::from(more) << 13);
        bytes[20..22].copy_from_slice(&field.to_be_bytes());
        let sum = etherparse::Ipv4HeaderSlice::from_slice(&bytes[14..]).unwrap();
        let sum = sum.to_header().calc_header_checksum();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        return bytes;
    }
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    let header = [bytes[20], 0, high, low, 0, 0, 0, id];
    bytes[20] = 44;
    let len = u16::from_be_bytes([bytes[18], bytes[19]]) + 8;
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    bytes.splice(54..54, header);
    bytes
}

#[test]
fn a_packet_with_a_vlan_tag_goes_to_no_other_host() {
    for (v6, protocol) in CASES {
        for link in [Link::Vlan, Link::QinQ] {
            let sockets = Sockets::of(v6);
            let mut nat = Nat::new(OBJECT, link);
            let target = remote(sockets.remote, sockets.source.ip());
            nat.service(sockets.alias, protocol, &[target]);
            let shape = Shape {
                link,
                ..Shape::default()
            };
            let [first, ..] = sockets.talk(protocol);
            nat.passes(OUTSIDE, &first.shaped(shape));
            assert!(nat.connections().is_empty());
            nat.assert_count(Counter::NatSent, 0);
        }
    }
}

#[test]
fn a_reply_with_a_vlan_tag_is_left_to_the_vlan() {
    for (v6, protocol) in CASES {
        let mut nat = Nat::new(OBJECT, Link::Vlan);
        let sockets = Sockets::of(v6);
        let target = remote(sockets.remote, sockets.source.ip());
        nat.service(sockets.alias, protocol, &[target]);
        // Begun on the VLAN's interface, where packets have no tag; there is no way on from here.
        let sockets = sockets.from_port(sockets.source.port());
        let [first, _, reply, _] = sockets.talk(protocol);
        nat.run(OUTSIDE, &first.bytes());
        let before = nat.connection(sockets.source, sockets.remote, protocol);
        let link = Link::Vlan;
        let shape = Shape {
            link,
            ..Shape::default()
        };
        let reply = reply.between(sockets.remote, sockets.source);
        nat.passes(OUTSIDE, &reply.shaped(shape));
        let after = nat.connection(sockets.source, sockets.remote, protocol);
        assert_eq!(before, after);
    }
}

#[test]
fn the_hosts_own_packets_by_loopback_are_translated() {
    for (v6, protocol) in CASES {
        let sockets = Sockets::of(v6);
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        let Sockets { client, local, .. } = sockets;
        let [first, second, reply, last] = sockets.talk(protocol);
        for (sent, expected) in [
            (first.clone(), first.between(client, local)),
            (reply.between(local, client), reply),
            (second.clone(), second.between(client, local)),
            (last.between(local, client), last),
        ] {
            // They come in again, so that netfilter sees them as they are now.
            let mut bytes = expected.bytes();
            bytes[..6].fill(0);
            let verdict = nat.run(Place::default(), &sent.bytes());
            assert_eq!(verdict, Verdict::Redirect(bytes));
        }
        let entry = nat.connection(sockets.client, sockets.local, protocol);
        assert_ne!(entry.flags & conntrack_flags::LOOPBACK, 0);
    }
}
