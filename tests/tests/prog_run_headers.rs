//! What the kernel program makes of single packets: link, network and transport headers, checksums.

use truename::datapath::OBJECT;
use truename_common::layout::Counter;
use truename_tests::prog_run::{
    Form, Link, Program, Scene, Setup, Shape, Side, Talk, Verdict, flag, shapes,
};

const EQUAL: &str = "flink-host";
const SHORT: &str = "jm";

fn scene(alias: &str, shape: Shape, v6: bool) -> Scene {
    let setup = Setup {
        alias,
        shape,
        v6,
        ..Setup::default()
    };
    Scene::new(OBJECT, &setup)
}

/// A request and a reply are translated.
fn assert_translated(scene: &Scene, talk: &mut Talk<'_>) {
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
    let out = talk.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, scene.translated_reply());
}

/// Whether the device has computed the sum of packets: as far as the kernel lets it be said.
fn sums() -> Vec<bool> {
    [false, true]
        .into_iter()
        .filter(|summed| !summed || Program::can_sum())
        .collect()
}

/// The packet goes on as it is.
fn assert_untouched(scene: &Scene, packet: &[u8], what: &str) {
    let verdict = scene.program.run(packet).unwrap();
    assert_eq!(verdict, Verdict::Next(packet.to_vec()), "{what}");
}

#[test]
fn headers_of_every_kind_are_understood() {
    for (shape, v6) in shapes() {
        let scene = scene(SHORT, shape, v6);
        println!("{shape:?}, IPv6: {v6}");
        let mut talk = scene.associated();
        assert_translated(&scene, &mut talk);
        scene.assert_count(Counter::Unparsed, 0);
    }
}

#[test]
fn devices_without_a_link_header_have_a_program_of_their_own() {
    for (shape, v6) in shapes() {
        let link = Link::Raw;
        let shape = Shape { link, ..shape };
        let scene = scene(SHORT, shape, v6);
        println!("{shape:?}, IPv6: {v6}");
        let mut talk = scene.associated();
        assert_translated(&scene, &mut talk);
        scene.assert_count(Counter::Unparsed, 0);
    }
}

#[test]
fn checksums_are_right_at_odd_and_even_offsets() {
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        for v6 in [false, true] {
            let scene = scene(alias, Shape::default(), v6);
            // With the sum of the device, the kernel itself checks afterwards that it is still right.
            for summed in sums() {
                for shift in 0..8 {
                    let mut talk = scene.associated();
                    talk.summed = summed;
                    // In front stands a frame that is left alone, of odd or even length.
                    let shifted = |frame: Vec<u8>| [scene.request_to("x", shift), frame].concat();
                    let sent = shifted(scene.request(Form::Alias, 20));
                    let expected = shifted(scene.request(form, 20));
                    assert_eq!(talk.says(Side::Client, &sent), expected);
                    let sent = shifted(scene.reply());
                    let expected = shifted(scene.translated_reply());
                    assert_eq!(talk.says(Side::Endpoint, &sent), expected);
                }
            }
        }
    }
}

#[test]
fn edits_of_one_segment_at_every_offset_keep_the_checksum() {
    let scene = scene(EQUAL, Shape::default(), false);
    let request = scene.request(Form::Alias, 20);
    let expected = scene.request(Form::Padded, 20);
    let mut talk = scene.associated();
    talk.says(Side::Client, &request);
    let at = talk.next[0] - request.len();
    // Retransmissions from every byte on: the first or the last byte of an edit may be alone.
    for summed in sums() {
        talk.summed = summed;
        for from in 0..request.len() {
            let out = talk.passes(Side::Client, at + from, &request[from..]);
            assert_eq!(out, expected[from..]);
            let out = talk.passes(Side::Client, at, &request[..=from]);
            assert_eq!(out, expected[..=from]);
        }
    }
}

#[test]
fn padding_behind_a_short_packet_is_no_payload() {
    let scene = scene(SHORT, Shape::default(), false);
    let mut talk = scene.associated();
    for padding in [vec![0xff; 2], vec![0; 6], scene.request(Form::Alias, 20)] {
        let mut packet = talk.packet(Side::Client, talk.next[0], flag::ACK, &[0; 4]);
        packet.extend(&padding);
        assert_eq!(talk.run(&packet).unwrap().payload, [0; 4]);
        talk.next[0] += 4;
        let mut packet = talk.packet(Side::Client, talk.next[0], flag::ACK, &[]);
        packet.extend(&padding);
        assert!(talk.run(&packet).unwrap().payload.is_empty());
        let mut packet = talk.packet(Side::Endpoint, talk.next[1], flag::ACK, &[0; 4]);
        packet.extend(&padding);
        assert_eq!(talk.run(&packet).unwrap().payload, [0; 4]);
        talk.next[1] += 4;
    }
    assert_translated(&scene, &mut talk);
}

#[test]
fn ipv4_fragments_pass_and_are_counted() {
    let scene = scene(SHORT, Shape::default(), false);
    let talk = scene.associated();
    let whole = talk.packet(
        Side::Client,
        talk.next[0],
        flag::ACK,
        &scene.request(Form::Alias, 20),
    );
    let mut first = whole.clone();
    first[20] |= 0x20;
    assert_untouched(&scene, &first, "first");
    scene.assert_count(Counter::Fragment, 1);
    // Later ones have no ports: they cannot be told from those of others.
    let mut later = first.clone();
    later[21] = 3;
    assert_untouched(&scene, &later, "later");
    scene.assert_count(Counter::RewrittenInbound, 0);
    let mut may_not = whole;
    may_not[20] |= 0x40;
    let Verdict::Next(out) = scene.program.run(&may_not).unwrap() else {
        panic!("dropped");
    };
    assert_eq!(out[out.len() - 20..], may_not[may_not.len() - 20..]);
    scene.assert_count(Counter::RewrittenInbound, 1);
}

#[test]
fn ipv6_fragments_pass_and_are_counted() {
    let scene = scene(SHORT, Shape::default(), true);
    let talk = scene.associated();
    let request = scene.request(Form::Alias, 20);
    let whole = talk.packet(Side::Client, talk.next[0], flag::ACK, &request);
    let fragment = |offset: u8, more: u8| {
        let mut packet = whole.clone();
        let header = [packet[20], 0, 0, offset << 3 | more, 0, 0, 0, 1];
        packet[20] = 44;
        let len = u16::from_be_bytes([packet[18], packet[19]]) + 8;
        packet[18..20].copy_from_slice(&len.to_be_bytes());
        packet.splice(54..54, header);
        packet
    };
    assert_untouched(&scene, &fragment(0, 1), "first");
    scene.assert_count(Counter::Fragment, 1);
    assert_untouched(&scene, &fragment(1, 1), "middle");
    assert_untouched(&scene, &fragment(1, 0), "last");
    scene.assert_count(Counter::RewrittenInbound, 0);
    // The only fragment of a packet (RFC 6946) is whole.
    let out = talk.run(&fragment(0, 0)).unwrap().payload;
    assert_eq!(out, scene.request(Form::Local, 20));
}

#[test]
fn truncated_packets_pass_unchanged() {
    let raw = Shape {
        link: Link::Raw,
        ..Shape::default()
    };
    for (shape, v6) in shapes().into_iter().chain([(raw, false), (raw, true)]) {
        let scene = scene(SHORT, shape, v6);
        println!("{shape:?}, IPv6: {v6}");
        let mut talk = scene.associated();
        let flow = scene.program.flow(talk.client, talk.endpoint).unwrap();
        for (side, payload) in [
            (Side::Client, scene.request(Form::Alias, 20)),
            (Side::Endpoint, scene.reply()),
        ] {
            let packet = talk.packet(side, talk.next[side as usize], flag::ACK, &payload);
            // The kernel makes no packet that is shorter than an Ethernet header, nor one that ends in
            // the IP header right behind it.
            let shortest = match (shape.link, v6) {
                (Link::Ethernet, false) => 34,
                (Link::Ethernet, true) => 54,
                _ => 14,
            };
            for len in shortest..packet.len() {
                assert_untouched(&scene, &packet[..len], &format!("{side:?} {len}"));
            }
        }
        let after = scene.program.flow(talk.client, talk.endpoint).unwrap();
        let frames = |flow: Option<truename_common::layout::RpcFlow>| {
            let flow = flow.unwrap();
            (
                flow.inbound.frames,
                flow.outbound.frames,
                flow.inbound.cursor(),
            )
        };
        assert_eq!(frames(flow), frames(after));
        assert_translated(&scene, &mut talk);
    }
}

#[test]
fn packets_of_nothing_pass() {
    for link in [Link::Ethernet, Link::Raw] {
        let scene = scene(
            SHORT,
            Shape {
                link,
                ..Shape::default()
            },
            false,
        );
        for len in [14, 15, 20, 33, 34, 54, 60, 200, 1500] {
            for byte in [0, 0x45, 0x60, 0x06, 0x81, 0xff] {
                let packet = vec![byte; len];
                assert_untouched(&scene, &packet, &format!("{len} times {byte}"));
            }
        }
    }
}

#[test]
fn wrong_lengths_in_an_ipv4_header_pass_unchanged() {
    let scene = scene(SHORT, Shape::default(), false);
    let mut talk = scene.associated();
    let request = scene.request(Form::Alias, 20);
    let packet = talk.packet(Side::Client, talk.next[0], flag::ACK, &request);
    let total = u16::from_be_bytes([packet[16], packet[17]]);
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = packet.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    for len in 0..5 {
        assert_untouched(
            &scene,
            &with(14, &[0x40 | len]),
            &format!("header of {len} words"),
        );
    }
    scene.assert_count(Counter::Unparsed, 5);
    for version in [0, 3, 5, 6, 15] {
        let packet = with(14, &[version << 4 | 5]);
        assert_untouched(&scene, &packet, &format!("version {version}"));
    }
    for len in [1, 19, 20, 39, total + 1, total + 1000, u16::MAX] {
        let packet = with(16, &len.to_be_bytes());
        assert_untouched(&scene, &packet, &format!("{len} bytes in all"));
    }
    for len in 0..5 {
        let packet = with(14 + 20 + 12, &[len << 4]);
        assert_untouched(&scene, &packet, &format!("TCP header of {len} words"));
    }
    // A TCP header that is longer than the packet.
    let short = talk.packet(Side::Client, talk.next[0], flag::ACK, &[0; 4]);
    for len in 7..16 {
        let mut packet = short.clone();
        packet[14 + 20 + 12] = len << 4;
        assert_untouched(&scene, &packet, &format!("TCP header of {len} words"));
    }
    for protocol in [0, 1, 4, 17, 41, 47, 58, 132, 255] {
        assert_untouched(
            &scene,
            &with(23, &[protocol]),
            &format!("protocol {protocol}"),
        );
    }
    scene.assert_count(Counter::RewrittenInbound, 0);
    assert_translated(&scene, &mut talk);
}

#[test]
fn wrong_lengths_in_an_ipv6_header_pass_unchanged() {
    let shape = Shape {
        hop_by_hop: Some(6),
        ..Shape::default()
    };
    let scene = scene(SHORT, shape, true);
    let mut talk = scene.associated();
    let request = scene.request(Form::Alias, 20);
    let packet = talk.packet(Side::Client, talk.next[0], flag::ACK, &request);
    let len = u16::from_be_bytes([packet[18], packet[19]]);
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = packet.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    for wrong in [1, 7, 8, 27, len + 1, len + 1000, u16::MAX] {
        let packet = with(18, &wrong.to_be_bytes());
        assert_untouched(&scene, &packet, &format!("{wrong} bytes of content"));
    }
    for wrong in [2, 20, 100, 255] {
        let packet = with(55, &[wrong]);
        assert_untouched(&scene, &packet, &format!("extension of {wrong} words"));
    }
    for next in [0, 17, 43, 44, 50, 51, 58, 59, 60, 135, 255] {
        let packet = with(54, &[next]);
        assert_untouched(&scene, &packet, &format!("next header {next}"));
    }
    scene.assert_count(Counter::RewrittenInbound, 0);
    assert_translated(&scene, &mut talk);
}

#[test]
fn more_extensions_than_are_followed_pass_unchanged() {
    let scene = scene(SHORT, Shape::default(), true);
    let mut talk = scene.associated();
    let request = scene.request(Form::Alias, 20);
    let whole = talk.packet(Side::Client, talk.next[0], flag::ACK, &request);
    let extended = |count: usize| {
        let mut packet = whole.clone();
        let mut headers = Vec::new();
        for index in 0..count {
            let next = if index + 1 == count { 6 } else { 60 };
            headers.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        packet[20] = 60;
        let len = u16::from_be_bytes([packet[18], packet[19]]) + headers.len() as u16;
        packet[18..20].copy_from_slice(&len.to_be_bytes());
        packet.splice(54..54, headers);
        packet
    };
    for count in 5..12 {
        assert_untouched(&scene, &extended(count), &format!("{count}"));
    }
    scene.assert_count(Counter::RewrittenInbound, 0);
    for count in 1..5 {
        let out = talk.run(&extended(count)).unwrap().payload;
        assert_eq!(out, scene.request(Form::Local, 20), "{count}");
    }
    scene.assert_count(Counter::RewrittenInbound, 1);
    talk.next[0] += request.len();
    assert_translated(&scene, &mut talk);
}

#[test]
fn a_third_vlan_tag_is_not_ours() {
    let shape = Shape {
        link: Link::QinQ,
        ..Shape::default()
    };
    let scene = scene(SHORT, shape, false);
    let talk = scene.associated();
    let request = scene.request(Form::Alias, 20);
    let mut packet = talk.packet(Side::Client, talk.next[0], flag::ACK, &request);
    packet.splice(12..12, [0x81, 0, 0, 9]);
    assert_untouched(&scene, &packet, "three tags");
}
