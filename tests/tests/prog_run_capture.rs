//! What the kernel program makes of DNS questions of containers: it answers plain ones for names of the cluster, and passes
//! everything else as it is.

use std::net::SocketAddr;

use truename::datapath::OBJECT;
use truename_common::layout::{
    A_RECORD, AAAA_RECORD, ADDRESSES_TOLD, CapturedRecords, Counter, NAME_MAX, NAMES_TTL,
};
use truename_tests::{
    prog_run::{Datagram, Kind, Link, Nat, OUTSIDE, Place, Shape, Verdict},
    random::Random,
};

/// A name in wire form.
const HOST: &[u8] = b"\x09jm-node-1\x07cluster\0";
const A: u16 = 1;
const AAAA: u16 = 28;
const ANY: u16 = 255;
const OPT: [u8; 11] = [0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0];
/// What the answer says of EDNS.
const OWN_OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

fn long_label() -> Vec<u8> {
    [&[63][..], &[b'l'; 63], &[0]].concat()
}

fn long_name() -> Vec<u8> {
    let label = |len: u8| [&[len][..], &vec![b'n'; len.into()]].concat();
    [label(63), label(63), label(63), label(61), vec![0]].concat()
}

/// The names that are captured, with the numbers of their addresses of IPv4 and IPv6.
fn names() -> [(Vec<u8>, [usize; 2]); 3] {
    [
        (HOST.to_vec(), [1, 0]),
        (long_label(), [0, 2]),
        (long_name(), [ADDRESSES_TOLD, ADDRESSES_TOLD]),
    ]
}

/// The record with this number of a name, written by hand.
fn record(kind: u16, number: usize) -> Vec<u8> {
    let len: u8 = if kind == A { 4 } else { 16 };
    let [high, low] = kind.to_be_bytes();
    let mut record = vec![0xc0, 12, high, low, 0, 1];
    record.extend(NAMES_TTL.to_be_bytes());
    record.extend([0, len]);
    record.extend(vec![10 + number as u8; len.into()]);
    record
}

fn records(kind: u16, count: usize) -> Vec<u8> {
    (0..count).flat_map(|it| record(kind, it)).collect()
}

/// The program, with [`names`], and containers behind loopback.
fn program() -> Nat {
    let mut nat = Nat::new(OBJECT, Link::Ethernet);
    for (name, counts) in names() {
        let mut key = [0; NAME_MAX + 1];
        key[..name.len()].copy_from_slice(&name);
        let mut value = CapturedRecords {
            counts: counts.map(|count| count as u32),
            a: [0; A_RECORD * ADDRESSES_TOLD],
            aaaa: [0; AAAA_RECORD * ADDRESSES_TOLD],
        };
        let (a, aaaa) = (records(A, counts[0]), records(AAAA, counts[1]));
        value.a[..a.len()].copy_from_slice(&a);
        value.aaaa[..aaaa.len()].copy_from_slice(&aaaa);
        nat.program.captures(key, value).unwrap();
    }
    nat.program.captures_until(u64::MAX).unwrap();
    nat.program.containers_behind(1, true).unwrap();
    nat
}

fn question(flags: [u8; 2], name: &[u8], kind: u16, options: &[u8]) -> Vec<u8> {
    let [high, low] = kind.to_be_bytes();
    let additional = u8::from(!options.is_empty());
    let header = [7, 9, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, additional];
    [&header[..], name, &[high, low, 0, 1], options].concat()
}

/// What has to be answered, if anything: written from RFC 1035, without a look at the kernel program.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let [_, _, first, second, counts @ ..] = question.get(..12)? else {
        return None;
    };
    let has_edns = match counts {
        [0, 1, 0, 0, 0, 0, 0, edns @ (0 | 1)] => *edns == 1,
        _ => return None,
    };
    if first & !1 != 0 || second & 0xcf != 0 {
        return None;
    }
    let mut rest = &question[12..];
    let mut len = 1;
    while let [label @ 1..=63, behind @ ..] = rest {
        rest = behind.get(usize::from(*label)..)?;
        len += 1 + usize::from(*label);
    }
    let [0, a, b, 0, 1, edns @ ..] = rest else {
        return None;
    };
    match (has_edns, edns) {
        (false, []) => {}
        (true, [0, 0, 41, _, _, _, 0, _, _, c, d, options @ ..]) => {
            if options.len() != usize::from(u16::from_be_bytes([*c, *d])) {
                return None;
            }
        }
        _ => return None,
    }
    let name = question[12..12 + len].to_ascii_lowercase();
    let (_, [four, six]) = names().into_iter().find(|(known, _)| *known == name)?;
    let records = match u16::from_be_bytes([*a, *b]) {
        A | ANY => records(A, four),
        AAAA => records(AAAA, six),
        _ => Vec::new(),
    };
    let number = match u16::from_be_bytes([*a, *b]) {
        A | ANY => four,
        AAAA => six,
        _ => 0,
    };
    let mut told = question[..12 + len + 4].to_vec();
    told[2] = 0x84 | first & 1;
    told[3] = 0x80 | second & 0x10;
    told[7] = number as u8;
    told.extend(records);
    if number == 0 {
        told[9] = 1;
        let [.., ttl] = NAMES_TTL.to_be_bytes();
        let time = [0, 0, 0, ttl];
        told.extend(b"\xc0\x0c\0\x06\0\x01");
        told.extend(time);
        // The server, the mailbox, the serial number and four times.
        told.extend(b"\0\x17\xc0\x0c\0\0\0\0\x01");
        told.extend([time; 4].as_flattened());
    }
    if has_edns {
        told.extend(OWN_OPT);
    }
    Some(told)
}

fn sockets(v6: bool) -> (SocketAddr, SocketAddr) {
    let (client, server) = match v6 {
        false => ("10.1.0.2:40000", "10.9.9.9:53"),
        true => ("[fd01::2]:40000", "[fd09::9]:53"),
    };
    (client.parse().unwrap(), server.parse().unwrap())
}

fn asked(v6: bool, message: &[u8]) -> Datagram {
    let (client, server) = sockets(v6);
    Datagram::udp(client, server).with_payload(message)
}

/// The packet of the answer, which goes back to where the question came from.
fn turned(asked: &Datagram, message: &[u8]) -> Vec<u8> {
    let back = asked.between(asked.destination, asked.source);
    let mut bytes = back.with_payload(message).bytes();
    let (to, from) = bytes.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    bytes
}

fn run(nat: &Nat, packet: &[u8]) -> Verdict {
    nat.program.run_at(OUTSIDE, packet).unwrap()
}

/// The program answers just what is to be answered, and passes the rest.
fn check(nat: &Nat, asked: &Datagram) -> bool {
    let (packet, answer) = (asked.bytes(), answer(&asked.payload));
    let wanted = match &answer {
        Some(answer) => Verdict::Redirect(turned(asked, answer)),
        None => Verdict::Next(packet.clone()),
    };
    assert_eq!(run(nat, &packet), wanted, "{asked:?}");
    answer.is_some()
}

fn assert_untouched(nat: &Nat, packet: &[u8], what: &str) {
    assert_eq!(run(nat, packet), Verdict::Next(packet.to_vec()), "{what}");
}

#[test]
fn plain_questions_are_answered() {
    let nat = program();
    let mut count = 0;
    // Two options, and padding.
    let cookie = [&OPT[..9], b"\0\x10\0\x0a\0\x08COOKIE..\0\x0c\0\0"].concat();
    for v6 in [false, true] {
        for (name, _) in names() {
            for kind in [A, AAAA, ANY, 16, 0, 65535] {
                for options in [&[][..], &OPT, &cookie] {
                    for flags in [[0, 0], [1, 0], [1, 0x20], [0, 0x10]] {
                        for name in [name.clone(), name.to_ascii_uppercase()] {
                            let mut asked = asked(v6, &question(flags, &name, kind, options));
                            assert!(check(&nat, &asked), "{asked:?}");
                            count += 1;
                            if !v6 {
                                asked.kind = Kind::UdpUnsummed;
                                assert!(check(&nat, &asked), "{asked:?}");
                                count += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    let counted = |counter| nat.program.count(counter).unwrap();
    assert_eq!(counted(Counter::NamesCaptured), count);
    assert_eq!(counted(Counter::NamesPassed), 0);
    // Any mixture of letters (0x20), which the answer repeats.
    let mut random = Random::new(20);
    for _ in 0..200 {
        let mut name = HOST.to_vec();
        for byte in &mut name {
            if random.below(2) == 0 {
                *byte = byte.to_ascii_uppercase();
            }
        }
        assert!(check(
            &nat,
            &asked(false, &question([1, 0], &name, A, &OPT))
        ));
    }
    // What fills a frame up is not the message's.
    let short = asked(false, &question([1, 0], HOST, A, &[]));
    let padded = [&short.bytes()[..], &[0xff; 9]].concat();
    let wanted = turned(&short, &answer(&short.payload).unwrap());
    assert_eq!(run(&nat, &padded), Verdict::Redirect(wanted));
}

#[test]
fn what_is_no_plain_question_passes() {
    let nat = program();
    let plain = question([1, 0], HOST, A, &[]);
    let with = |at: usize, value: u8| {
        let mut message = plain.clone();
        message[at] = value;
        message
    };
    let named = |name: &[u8]| question([1, 0], name, A, &[]);
    let label = |len: u8| [&[len][..], &vec![b'l'; len.into()], &[0]].concat();
    let [.., low] = long_name().len().to_be_bytes();
    assert_eq!(low, 255);
    let longer = [&[1, b'a'][..], &long_name()].concat();
    let endless = [&[63][..], &[b'a'; 63]].concat().repeat(7);
    // A name of 255 bytes whose end is its 256th.
    let mut open = long_name();
    open[254] = 1;
    open.extend(b"a\0");
    let edns = question([1, 0], HOST, A, &OPT);
    let changed = |at: usize, value: u8| {
        let mut message = edns.clone();
        let at = message.len() - OPT.len() + at;
        message[at] = value;
        message
    };
    let messages = [
        // An answer, other opcodes, cut, with a code, with a bit that is for nothing.
        with(2, 0x81),
        with(2, 0x11),
        with(2, 0x29),
        with(2, 0x03),
        with(2, 0x05),
        with(3, 0x80),
        with(3, 0x40),
        with(3, 0x01),
        // Other numbers of questions and records.
        with(4, 1),
        with(5, 0),
        with(5, 2),
        with(7, 1),
        with(9, 1),
        with(11, 1),
        [&with(5, 2)[..], &plain[12..]].concat(),
        // Another class.
        with(plain.len() - 1, 3),
        with(plain.len() - 1, 255),
        // Other names.
        named(b"\0"),
        named(b"\x09jm-node-2\x07cluster\0"),
        named(b"\x09jm-node-1\0"),
        named(b"\x01a\x09jm-node-1\x07cluster\0"),
        named(&label(62)),
        named(&label(64)),
        named(&label(0x80)),
        named(&longer),
        named(&open),
        [&plain[..12], &endless].concat(),
        // Pointers: to itself, forwards, behind a label.
        [&plain[..12], b"\xc0\x0c\0\x01\0\x01"].concat(),
        [
            &plain[..12],
            b"\xc0\x12\0\x01\0\x01\x09jm-node-1\x07cluster\0",
        ]
        .concat(),
        [&plain[..12], b"\x09jm-node-1\xc0\x0c\0\x01\0\x01"].concat(),
        // EDNS of another version, of another name and type, too long, too short, twice.
        changed(6, 1),
        changed(0, 1),
        changed(2, 42),
        changed(10, 1),
        [&edns[..], b"x"].concat(),
        edns[..edns.len() - 1].to_vec(),
        [&with(11, 2)[..], &OPT, &OPT].concat(),
        [&plain[..], b"x"].concat(),
        [&plain[..], &[0; 600]].concat(),
    ];
    for message in &messages {
        for v6 in [false, true] {
            assert!(!check(&nat, &asked(v6, message)), "{message:?}");
        }
    }
    // As much of it as one likes.
    for len in 0..plain.len() {
        assert!(!check(&nat, &asked(false, &plain[..len])));
    }
    let counted = |counter| nat.program.count(counter).unwrap();
    assert_eq!(counted(Counter::NamesCaptured), 0);
    let passed = (2 * messages.len() + plain.len()) as u64;
    assert_eq!(counted(Counter::NamesPassed), passed);
}

#[test]
fn packets_that_cannot_be_turned_round_pass() {
    let nat = program();
    let plain = question([1, 0], HOST, A, &[]);
    for v6 in [false, true] {
        let asked = asked(v6, &plain);
        assert!(check(&nat, &asked));
        let mut shapes = vec![
            Shape {
                link: Link::Vlan,
                ..Shape::default()
            },
            Shape {
                link: Link::QinQ,
                ..Shape::default()
            },
        ];
        match v6 {
            false => shapes.push(Shape {
                ipv4_options: 4,
                ..Shape::default()
            }),
            true => shapes.extend([
                Shape {
                    hop_by_hop: Some(6),
                    ..Shape::default()
                },
                Shape {
                    destination: Some(14),
                    ..Shape::default()
                },
            ]),
        }
        for shape in shapes {
            assert_untouched(&nat, &asked.shaped(shape).bytes(), &format!("{shape:?}"));
        }
        // To everybody: by the link's address, or by that of the network.
        for to in [
            [0xff; 6],
            [0x01, 0, 0x5e, 0, 0, 1],
            [0x33, 0x33, 0, 0, 0, 1],
        ] {
            let mut packet = asked.bytes();
            packet[..6].copy_from_slice(&to);
            assert_untouched(&nat, &packet, "a frame to several");
        }
        let groups = match v6 {
            false => ["255.255.255.255:53", "224.0.0.251:53", "239.1.2.3:53"],
            true => ["[ff02::fb]:53", "[ff05::1]:53", "[ff02::1:3]:53"],
        };
        for group in groups {
            let group = asked.between(asked.source, group.parse().unwrap());
            assert_untouched(&nat, &group.bytes(), "a packet to several");
        }
        // mDNS and LLMNR have ports of their own.
        for port in [5353, 5355, 54] {
            let to = SocketAddr::new(asked.destination.ip(), port);
            let other = asked.between(asked.source, to);
            assert_untouched(&nat, &other.bytes(), "another port");
        }
        let tcp = Datagram::tcp(asked.source, asked.destination, 0).with_payload(&plain);
        assert_untouched(&nat, &tcp.bytes(), "TCP");
        // Lengths that contradict one another.
        let packet = asked.bytes();
        let udp = packet.len() - plain.len() - 8;
        for len in [
            0_u16,
            7,
            8,
            20,
            plain.len() as u16 + 7,
            plain.len() as u16 + 9,
            65535,
        ] {
            let mut packet = packet.clone();
            packet[udp + 4..udp + 6].copy_from_slice(&len.to_be_bytes());
            assert_untouched(&nat, &packet, &format!("a UDP length of {len}"));
        }
        // Less than the headers say.
        for len in udp..packet.len() {
            assert_untouched(&nat, &packet[..len], &format!("{len} bytes"));
        }
    }
    // Fragments: the first one, and another one.
    for bits in [[0x20, 0], [0x20, 3], [0, 3]] {
        let mut packet = asked(false, &plain).bytes();
        packet[20..22].copy_from_slice(&bits);
        assert_untouched(&nat, &packet, "a fragment");
    }
    let whole = asked(true, &plain).ip_bytes();
    for offset in [[0, 1], [0, 9], [0, 8]] {
        // A header of eight bytes is put in.
        let len = (whole.len() - 40 + 8) as u16;
        let mut packet = [&asked(true, &plain).bytes()[..14], &whole[..40]].concat();
        packet[18..20].copy_from_slice(&len.to_be_bytes());
        packet[20] = 44;
        packet.extend([17, 0, offset[0], offset[1], 0, 0, 0, 7]);
        packet.extend(&whole[40..]);
        assert_untouched(&nat, &packet, "a fragment");
    }
    // A super-packet is several questions.
    let packet = asked(false, &plain).bytes();
    let several = Place {
        segment: 20,
        ..OUTSIDE
    };
    let verdict = nat.program.run_at(several, &packet).unwrap();
    assert_eq!(verdict, Verdict::Next(packet));
}

#[test]
fn only_containers_are_answered_and_only_while_an_agent_runs() {
    let mut nat = program();
    let asked = asked(false, &question([1, 0], HOST, A, &[]));
    let packet = asked.bytes();
    // This host's own, and what another interface received.
    for place in [
        Place::leaving(1),
        Place {
            came_by: 2,
            ..OUTSIDE
        },
    ] {
        let verdict = nat.program.run_at(place, &packet).unwrap();
        assert_eq!(verdict, Verdict::Next(packet.clone()), "{place:?}");
    }
    nat.program.containers_behind(1, false).unwrap();
    assert_untouched(&nat, &packet, "no container");
    nat.program.containers_behind(1, true).unwrap();
    assert_eq!(nat.program.count(Counter::NamesPassed).unwrap(), 0);
    nat.program.captures_until(1).unwrap();
    assert_untouched(&nat, &packet, "no agent");
    assert_eq!(nat.program.count(Counter::NamesAway).unwrap(), 1);
    nat.program.captures_until(u64::MAX).unwrap();
    assert!(check(&nat, &asked));
}

#[test]
fn whatever_comes_is_answered_rightly_or_passes() {
    let nat = program();
    let mut random = Random::new(14);
    let mut answered = 0;
    for round in 0..20_000 {
        let (name, _) = &names()[random.below(3)];
        let kind = [A, AAAA, ANY, 16][random.below(4)];
        let options = [&[][..], &OPT][random.below(2)];
        let mut message = question([1, 0], name, kind, options);
        // Bytes of the header and around the ends of the labels matter most.
        for _ in 0..random.below(3) {
            let near = [12, message.len()][random.below(2)];
            let at = random.below(near);
            message[at] = [0, 1, 12, 41, 63, 64, 0xc0, 0xff][random.below(8)];
        }
        match random.below(8) {
            0 => message.truncate(random.below(message.len() + 1)),
            1 => message.resize(message.len() + random.below(40), 0),
            _ => {}
        }
        answered += usize::from(check(&nat, &asked(round % 2 == 0, &message)));
    }
    assert!((2_000..18_000).contains(&answered), "{answered}");
}
