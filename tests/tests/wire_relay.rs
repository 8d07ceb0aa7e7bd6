//! The relay's recoder on recorded streams: what a TaskManager that knows only an alias and its JobManager wrote,
//! and what a relay must make of it.

#[path = "../../common/tests/support/same.rs"]
mod same;

use same::same;
use truename_common::{
    layout::Authority,
    wire::relay::{Counts, Direction, Limits, Names, Recoder},
};
use truename_tests::wire::{Envelope, associate, control, frame};

const CANONICAL: &str = "jobmanager:6123";
/// The recordings, and the alias in each.
const RELAYED: [(&str, &str); 4] = [
    (
        "flink-1.13.6-akka-2.5.21-longer",
        "jobmgr.alias.example.internal:7123",
    ),
    (
        "flink-1.20.5-pekko-1.1.2-longer",
        "jobmgr.alias.example.internal:7123",
    ),
    (
        "flink-2.3.0-pekko-1.4.0-longer",
        "jobmgr.alias.example.internal:7123",
    ),
    ("flink-2.3.0-pekko-1.4.0-shorter", "jm:6123"),
];
const DIRECT: [&str; 4] = [
    "flink-1.13.6-akka-2.5.21",
    "flink-1.17.2-akka-2.6.20",
    "flink-1.20.5-pekko-1.1.2",
    "flink-2.3.0-pekko-1.4.0",
];

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn authority(text: &str) -> Authority {
    Authority::new(text.as_bytes()).unwrap()
}

fn names(canonical: &str, alias: Option<&str>) -> Names {
    Names {
        canonical: authority(canonical),
        alias: alias.map(authority),
    }
}

/// End of the stream's first frame: the Associate.
fn associate_end(stream: &[u8]) -> usize {
    4 + u32::from_be_bytes(stream[..4].try_into().unwrap()) as usize
}

/// Pushes the pieces, and ends the stream.
fn recode<'a>(recoder: &mut Recoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut output = Vec::new();
    for piece in pieces {
        recoder.push(piece, &mut output);
    }
    recoder.finish(&mut output);
    assert_eq!(recoder.buffered(), 0);
    output
}

/// Both directions of a connection whose alias is learned from the first recipient.
fn relay(c2s: &[u8], s2c: &[u8], canonical: &str, cut: usize) -> [(Vec<u8>, Counts); 2] {
    let mut inbound = Recoder::new(
        Direction::Inbound,
        names(canonical, None),
        Limits::default(),
    );
    let mut outbound = Recoder::new(
        Direction::Outbound,
        names(canonical, None),
        Limits::default(),
    );
    let (mut to_endpoint, mut to_peer) = (Vec::new(), Vec::new());
    // As on the wire: the handshakes, the requests, the answers.
    let (associate, answers) = s2c.split_at(associate_end(s2c));
    outbound.push(associate, &mut to_peer);
    for piece in c2s.chunks(cut) {
        inbound.push(piece, &mut to_endpoint);
    }
    if let Some(alias) = inbound.alias() {
        outbound.set_alias(*alias);
    }
    for piece in answers.chunks(cut) {
        outbound.push(piece, &mut to_peer);
    }
    inbound.finish(&mut to_endpoint);
    outbound.finish(&mut to_peer);
    [
        (to_endpoint, inbound.counts()),
        (to_peer, outbound.counts()),
    ]
}

#[test]
fn what_a_relay_must_make_of_recorded_streams() {
    for (name, _) in RELAYED {
        let [c2s, s2c] = ["c2s", "s2c"].map(|side| fixture(&format!("aliased/{name}.{side}.bin")));
        let after = ["c2s", "s2c"].map(|side| fixture(&format!("relayed/{name}.{side}.bin")));
        for cut in [usize::MAX, 1, 2, 3, 7, 64, 1460, 16_384] {
            let relayed = relay(&c2s, &s2c, CANONICAL, cut);
            for ((got, counts), (expected, side)) in
                relayed.iter().zip(after.iter().zip(["c2s", "s2c"]))
            {
                same(got, expected, &format!("{name} {side} cut {cut}"));
                assert_eq!(counts.uncertain, 0, "{name} {side}");
                assert!(counts.rewritten > 10, "{name} {side}: {counts:?}");
            }
        }
    }
}

#[test]
fn an_alias_that_is_given_is_in_the_associate_as_well() {
    for (name, alias) in RELAYED {
        let s2c = fixture(&format!("aliased/{name}.s2c.bin"));
        let after = fixture(&format!("relayed/{name}.s2c.bin"));
        let mut recoder = Recoder::new(
            Direction::Outbound,
            names(CANONICAL, Some(alias)),
            Limits::default(),
        );
        let got = recode(&mut recoder, [&s2c[..]]);
        let (associate, rest) = got.split_at(associate_end(&got));
        same(rest, &after[associate_end(&after)..], name);
        let (host, port) = alias.split_once(':').unwrap();
        let port: u16 = port.parse().unwrap();
        let mut address = vec![0x0a, 5];
        address.extend(b"flink");
        address.extend([0x12, host.len() as u8]);
        address.extend(host.as_bytes());
        address.extend([0x18, port as u8 | 0x80, (port >> 7) as u8, 0x22, 3]);
        address.extend(b"tcp");
        // Frame, instruction, command, handshake, origin.
        assert_eq!(associate[12..][..address.len()], address, "{name}");
    }
}

#[test]
fn nothing_changes_where_the_canonical_name_is_used() {
    for name in DIRECT {
        let [c2s, s2c] = ["c2s", "s2c"].map(|side| fixture(&format!("direct/{name}.{side}.bin")));
        for cut in [usize::MAX, 1, 1460] {
            let [to_endpoint, to_peer] = relay(&c2s, &s2c, CANONICAL, cut);
            same(&to_endpoint.0, &c2s, name);
            same(&to_peer.0, &s2c, name);
            assert_eq!(to_endpoint.1.rewritten + to_peer.1.rewritten, 0);
        }
    }
}

#[test]
fn a_translation_back_undoes_a_translation() {
    for name in DIRECT {
        let s2c = fixture(&format!("direct/{name}.s2c.bin"));
        for alias in ["jm:1", "a.name.that.is.much.longer.example.org:65535"] {
            let [there, back] = [(CANONICAL, alias), (alias, CANONICAL)].map(|(from, to)| {
                Recoder::new(
                    Direction::Outbound,
                    names(from, Some(to)),
                    Limits::default(),
                )
            });
            let (mut there, mut back) = (there, back);
            let translated = recode(&mut there, [&s2c[..]]);
            let path = format!("@{CANONICAL}/user/rpc/jobmanager");
            let occurs = |bytes: &[u8]| bytes.windows(path.len()).any(|w| w == path.as_bytes());
            assert!(occurs(&s2c) && !occurs(&translated), "{name}");
            assert_eq!(there.counts().uncertain, 0, "{name}");
            same(&recode(&mut back, [&translated[..]]), &s2c, name);
            assert_eq!(back.counts().uncertain, 0, "{name}");
        }
    }
}

/// Remote watch, references as messages, acknowledgements.
#[test]
fn references_in_the_messages_of_remoting_are_translated() {
    const SERVER: &str = "srvhost:2552";
    const OTHER: &str = "server.example.org:12552";
    for (side, direction) in [("c2s", Direction::Inbound), ("s2c", Direction::Outbound)] {
        let stream = fixture(&format!("watch/pekko-1.4.0.{side}.bin"));
        let recoder = |from, to| {
            let names = match direction {
                Direction::Inbound => names(to, Some(from)),
                Direction::Outbound => names(from, Some(to)),
            };
            Recoder::new(direction, names, Limits::default())
        };
        let mut there = recoder(SERVER, OTHER);
        let translated = recode(&mut there, [&stream[..]]);
        let count = |bytes: &[u8], text: &str| {
            bytes
                .windows(text.len())
                .filter(|w| *w == text.as_bytes())
                .count()
        };
        let before = count(&stream, &format!("@{SERVER}/"));
        assert!(before > 10);
        assert_eq!(count(&translated, &format!("@{SERVER}/")), 0);
        assert_eq!(count(&translated, &format!("@{OTHER}/")), before);
        assert_eq!(there.counts().uncertain, 0);
        let mut back = recoder(OTHER, SERVER);
        same(&recode(&mut back, [&translated[..]]), &stream, side);
    }
}

const ALIAS: &str = "flink-jobmanager.prod.svc.cluster.example.org:7123";
const PEER: &str = "pekko.tcp://flink@taskmanager:6122/temp/a";

fn outbound() -> Recoder {
    Recoder::new(
        Direction::Outbound,
        names(CANONICAL, Some(ALIAS)),
        Limits::default(),
    )
}

fn inbound() -> Recoder {
    Recoder::new(
        Direction::Inbound,
        names(CANONICAL, None),
        Limits::default(),
    )
}

fn path(authority: &str) -> String {
    format!("pekko.tcp://flink@{authority}/user/rpc/jobmanager_2")
}

/// A message of the endpoint's with this body.
fn answer(serializer: u32, body: &[u8]) -> Vec<u8> {
    Envelope {
        recipient: PEER.to_owned(),
        body: body.to_vec(),
        serializer,
        ..Envelope::default()
    }
    .frame()
}

/// A message to the endpoint with this body.
fn request(authority: &str, serializer: u32, body: &[u8]) -> Vec<u8> {
    Envelope {
        recipient: path(authority),
        sender: Some(PEER.to_owned()),
        body: body.to_vec(),
        serializer,
        ..Envelope::default()
    }
    .frame()
}

/// What Java has written: the name of each object graph, it with the canonical name, it with the alias.
fn java() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let file = fixture("java/streams.bin");
    let mut rest = &file[..];
    let mut take = |prefix: usize| {
        let (len, behind) = rest.split_at(prefix);
        let len = len
            .iter()
            .fold(0, |len, byte| len << 8 | usize::from(*byte));
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        (bytes.to_vec(), rest.is_empty())
    };
    let mut streams = Vec::new();
    loop {
        let (name, _) = take(2);
        let (before, _) = take(4);
        let (after, is_last) = take(4);
        streams.push((String::from_utf8(name).unwrap(), before, after));
        if is_last {
            return streams;
        }
    }
}

#[test]
fn streams_of_java_become_what_java_writes_with_the_other_name() {
    for (name, before, after) in java() {
        let mut recoder = outbound();
        let got = recode(&mut recoder, [&answer(1, &before)[..]]);
        same(&got, &answer(1, &after), &name);
        // The arrays have a byte array with the name that is no stream.
        let is_uncertain = name.starts_with("not understood") || name.starts_with("arrays");
        assert_eq!(
            recoder.counts().uncertain,
            u64::from(is_uncertain),
            "{name}"
        );
        // And back.
        let mut back = Recoder::new(
            Direction::Outbound,
            names(ALIAS, Some(CANONICAL)),
            Limits::default(),
        );
        same(&recode(&mut back, [&got[..]]), &answer(1, &before), &name);
    }
}

#[test]
fn towards_the_endpoint_only_references_change_in_streams_of_java() {
    for (name, with_canonical, with_alias) in java() {
        let expected = if name == "references to actors" {
            &with_canonical
        } else {
            &with_alias
        };
        // Short enough to be kept whole.
        if with_alias.len() > 16_000 || name.starts_with("not understood") {
            continue;
        }
        let mut recoder = inbound();
        let got = recode(&mut recoder, [&request(ALIAS, 1, &with_alias)[..]]);
        same(&got, &request(CANONICAL, 1, expected), &name);
        assert_eq!(recoder.alias(), Some(&authority(ALIAS)));
    }
}

#[test]
fn what_only_looks_like_the_name_stays() {
    let texts = [
        "pekko.tcp://flink@jobmanager:61234/user/a",
        "pekko.tcp://flink@jobmanager:612/user/a",
        "pekko.tcp://flink@xjobmanager:6123/user/a",
        "pekko.tcp://flink@jobmanager/user/a",
        "pekko.tcp://flink@jobmanager_2:6123/user/a",
        "pekko.tcp://flink@JobManager:6123/user/a",
        "pekko.tcp://fl/nk@jobmanager:6123/user/a",
        "pekko.tcp://flink@taskmanager:6122/temp/@jobmanager:6123/",
        "pekko://flink/user/pekko.tcp://flink@jobmanager:6123/",
        "jobmanager.rpc.address=jobmanager:6123",
        "see pekko.tcp://flink@jobmanager:6123/user/a",
    ];
    for text in texts {
        let stream = Envelope {
            recipient: PEER.to_owned(),
            sender: Some(text.to_owned()),
            body: text.as_bytes().to_vec(),
            serializer: 20,
            ..Envelope::default()
        }
        .frame();
        let mut recoder = outbound();
        same(&recode(&mut recoder, [&stream[..]]), &stream, text);
        assert_eq!(recoder.counts().rewritten, 0, "{text}");
    }
    // The peer's data, whatever it says of the endpoint.
    let alias = path(ALIAS);
    for serializer in [1, 2, 4, 17, 20, 99] {
        let mut recoder = inbound();
        let stream = request(ALIAS, serializer, alias.as_bytes());
        let expected = request(CANONICAL, serializer, alias.as_bytes());
        same(&recode(&mut recoder, [&stream[..]]), &expected, "inbound");
    }
}

#[test]
fn a_name_in_an_unknown_message_stays_and_is_counted() {
    let named = |serializer| Envelope {
        recipient: PEER.to_owned(),
        sender: Some(path(CANONICAL)),
        body: format!("x{}", path(CANONICAL)).into_bytes(),
        serializer,
        ..Envelope::default()
    };
    let mut recoder = outbound();
    let got = recode(&mut recoder, [&named(99).frame()[..]]);
    let expected = Envelope {
        sender: Some(path(ALIAS)),
        ..named(99)
    };
    // What is around the message is certain.
    same(&got, &expected.frame(), "unknown");
    let counts = recoder.counts();
    assert_eq!(
        (counts.uncertain, counts.rewritten, counts.names),
        (1, 1, 1)
    );
}

#[test]
fn a_long_string_stays() {
    let text = |tail: usize| [path(CANONICAL).into_bytes(), vec![b'x'; tail]].concat();
    let own = path(CANONICAL).len();
    let long = [
        &[0xac, 0xed, 0, 5, 0x7c, 0, 0, 0, 0, 0, 1, 0, 0][..],
        &text(65_536 - own),
    ]
    .concat();
    // It would not fit its two bytes.
    let full = [
        &[0xac, 0xed, 0, 5, 0x74, 0xff, 0xff][..],
        &text(65_535 - own),
    ]
    .concat();
    for body in [long, full] {
        let mut recoder = outbound();
        let stream = answer(1, &body);
        same(&recode(&mut recoder, [&stream[..]]), &stream, "long");
        assert_eq!(recoder.counts().uncertain, 1);
    }
}

#[test]
fn an_alias_is_learned_from_the_first_recipient_that_is_not_canonical() {
    let mut recoder = inbound();
    let mut output = Vec::new();
    let client = truename_tests::wire::Authority::new("taskmanager", 6122);
    recoder.push(&associate("flink", &client, 5), &mut output);
    recoder.push(&request(CANONICAL, 20, b"a"), &mut output);
    recoder.push(&request("j@m:6123", 20, b"a"), &mut output);
    recoder.push(&request("jm", 20, b"a"), &mut output);
    assert_eq!(recoder.alias(), None);
    recoder.push(&request(ALIAS, 20, b"a"), &mut output);
    assert_eq!(recoder.alias(), Some(&authority(ALIAS)));
    recoder.push(&request("jm:6123", 20, b"b"), &mut output);
    assert_eq!(recoder.alias(), Some(&authority(ALIAS)));
    let expected = [
        associate("flink", &client, 5),
        request(CANONICAL, 20, b"a"),
        request("j@m:6123", 20, b"a"),
        request("jm", 20, b"a"),
        request(CANONICAL, 20, b"a"),
        request(CANONICAL, 20, b"b"),
    ]
    .concat();
    same(&output, &expected, "learning");
    assert_eq!(
        (recoder.counts().rewritten, recoder.counts().foreign),
        (2, 2)
    );
}

#[test]
fn another_canonical_name_counts_within_a_stream_that_is_cut_anywhere() {
    let stream = [request(ALIAS, 20, b"a"), request(ALIAS, 20, b"b")].concat();
    let first = stream.len() / 2;
    let expected = |old: &str| [request(old, 20, b"a"), request(CANONICAL, 20, b"b")].concat();
    for cut in 0..stream.len() {
        let old = names("10.0.0.1:6123", None);
        let mut recoder = Recoder::new(Direction::Inbound, old, Limits::default());
        let mut output = Vec::new();
        recoder.push(&stream[..cut], &mut output);
        recoder.set_canonical(authority(CANONICAL));
        recoder.push(&stream[cut..], &mut output);
        let old = if cut < first {
            CANONICAL
        } else {
            "10.0.0.1:6123"
        };
        same(&output, &expected(old), &format!("cut at {cut}"));
    }
    // Towards the client: the name that is replaced is another one, the alias stays.
    let old = names("10.0.0.1:6123", Some(ALIAS));
    let mut recoder = Recoder::new(Direction::Outbound, old, Limits::default());
    recoder.set_canonical(authority(CANONICAL));
    let (_, said, wanted) = java().swap_remove(0);
    let output = recode(&mut recoder, [&answer(1, &said)[..]]);
    same(&output, &answer(1, &wanted), "an answer");
}

#[test]
fn a_name_that_is_not_admitted_stays() {
    let stream = [
        request("other:6123", 20, b"a"),
        request("jm:6123", 20, b"a"),
    ]
    .concat();
    let expected = [
        request("other:6123", 20, b"a"),
        request(CANONICAL, 20, b"a"),
    ]
    .concat();
    let mut listed = inbound();
    listed.admit(Some(vec![authority("jm:6123"), authority(ALIAS)]));
    let given = Recoder::new(
        Direction::Inbound,
        names(CANONICAL, Some("jm:6123")),
        Limits::default(),
    );
    for mut recoder in [listed, given] {
        same(&recode(&mut recoder, [&stream[..]]), &expected, "admitted");
        assert_eq!(recoder.counts().foreign, 1);
        assert_eq!(recoder.alias(), Some(&authority("jm:6123")));
    }
}

#[test]
fn what_the_endpoint_sends_before_the_alias_is_known_is_not_kept_back() {
    let mut recoder = Recoder::new(
        Direction::Outbound,
        names(CANONICAL, None),
        Limits::default(),
    );
    let stream = answer(20, &[b'x'; 1000]);
    let mut output = Vec::new();
    recoder.push(&stream[..500], &mut output);
    assert_eq!((output.len(), recoder.buffered()), (500, 0));
    recoder.set_alias(authority(ALIAS));
    recoder.push(&stream[500..], &mut output);
    same(&output, &stream, "without alias");
    output.clear();
    recoder.push(&answer(20, path(CANONICAL).as_bytes()), &mut output);
    same(&output, &answer(20, path(ALIAS).as_bytes()), "with alias");
}

#[test]
fn a_stream_that_is_not_the_protocol_passes_from_its_first_byte() {
    for stream in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/1.1\r\n",
        b"\x11",
        b"\x00\x00\x00\x05GET /",
        b"\x00\x00\x00\x05\x0a\xffabc",
        b"\x00\x00\x00\x05\x12\x03\x0a\x01\x00",
    ] {
        for mut recoder in [inbound(), outbound()] {
            let mut output = Vec::new();
            for byte in stream {
                recoder.push(&[*byte], &mut output);
            }
            same(&output, stream, "no protocol");
            assert!(recoder.is_opaque());
            recoder.push(&request(ALIAS, 20, b"a"), &mut output);
            assert!(output.ends_with(&request(ALIAS, 20, b"a")));
            let counts = recoder.counts();
            assert_eq!((counts.opaque, counts.frames), (output.len() as u64, 0));
        }
    }
}

#[test]
fn frames_that_are_malformed_pass_and_what_follows_is_translated() {
    let good = request(ALIAS, 20, b"a");
    let translated = request(CANONICAL, 20, b"a");
    let mut cases = vec![
        // Unusual beginnings.
        frame(&[0x0a]),
        frame(&[0x08, 1]),
        frame(&[0x0a, 0]),
        frame(&[
            0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00,
        ]),
        frame(&[0xff; 20]),
        frame(&[0x0a, 3, 0x12, 5, 0]),
        frame(&[0x0a, 2, 0x12, 0x80]),
        // A group in the envelope, and a varint of eleven bytes.
        frame(&[0x0a, 4, 0x12, 2, 0x0b, 0x0c]),
        frame(&[
            0x0a, 14, 0x12, 12, 0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0,
        ]),
    ];
    // Each length of a good frame, made one too long and one too short.
    for at in [5, 7, 9, 11] {
        for by in [1, 255] {
            let mut bytes = good.clone();
            bytes[at] = bytes[at].wrapping_add(by);
            cases.push(bytes);
        }
    }
    for case in cases {
        let stream = [&good[..], &case, &good].concat();
        let expected = [&translated[..], &case, &translated].concat();
        for cut in [1, usize::MAX] {
            let mut recoder = inbound();
            same(
                &recode(&mut recoder, stream.chunks(cut)),
                &expected,
                &format!("{case:x?}"),
            );
            let counts = recoder.counts();
            assert_eq!((counts.frames, counts.uncertain), (3, 1), "{case:x?}");
        }
    }
}

#[test]
fn empty_frames_and_control_messages_pass() {
    let stream = [
        frame(&[]),
        frame(&[]),
        control(3),
        request(ALIAS, 20, b""),
        frame(&[]),
        control(4),
        frame(&[]),
    ];
    let mut expected = stream.clone();
    expected[3] = request(CANONICAL, 20, b"");
    for cut in [1, 3, usize::MAX] {
        let mut recoder = inbound();
        let got = recode(&mut recoder, stream.concat().chunks(cut));
        same(&got, &expected.concat(), "empty");
        assert_eq!(recoder.counts().frames, 7);
    }
}

#[test]
fn a_long_frame_to_the_endpoint_is_not_kept_back() {
    let body = vec![b'x'; 10 << 20];
    let body = &body[..10_485_000];
    let (stream, expected) = (request(ALIAS, 4, body), request(CANONICAL, 4, body));
    let mut recoder = inbound();
    let mut output = Vec::new();
    let mut most = 0;
    for piece in stream.chunks(1000) {
        recoder.push(piece, &mut output);
        most = most.max(recoder.buffered());
    }
    same(&output, &expected, "long");
    assert!(most <= 1000, "{most}");
}

#[test]
fn a_long_frame_from_the_endpoint_is_kept_back_within_the_limit() {
    let envelope = |authority: &str| {
        Envelope {
            recipient: PEER.to_owned(),
            sender: Some(path(authority)),
            body: vec![b'x'; 10_485_000],
            serializer: 4,
            ..Envelope::default()
        }
        .frame()
    };
    let (stream, expected) = (envelope(CANONICAL), envelope(ALIAS));
    let mut recoder = outbound();
    let mut output = Vec::new();
    for piece in stream.chunks(60_000) {
        recoder.push(piece, &mut output);
        assert!(recoder.buffered() <= stream.len());
    }
    same(&output, &expected, "long");
    assert_eq!(recoder.buffered(), 0);
}

#[test]
fn a_frame_that_would_grow_beyond_the_limit_passes() {
    let stream = [answer(20, b"a"), answer(20, path(CANONICAL).as_bytes())].concat();
    let grown = answer(20, path(ALIAS).as_bytes());
    let frame = grown.len() as u32 - 4;
    for (frame, is_translated, too_long) in
        [(frame, true, 0), (frame - 1, false, 1), (40, false, 2)]
    {
        let limits = Limits {
            frame,
            ..Limits::default()
        };
        let names = names(CANONICAL, Some(ALIAS));
        let mut recoder = Recoder::new(Direction::Outbound, names, limits);
        let got = recode(&mut recoder, [&stream[..]]);
        let expected = [answer(20, b"a"), grown.clone()].concat();
        same(
            &got,
            if is_translated { &expected } else { &stream },
            "limit",
        );
        assert_eq!(recoder.counts().too_long, too_long);
    }
}

#[test]
fn what_was_kept_back_passes_at_the_end() {
    let stream = answer(20, path(CANONICAL).as_bytes());
    for end in 0..stream.len() {
        let mut recoder = outbound();
        let got = recode(&mut recoder, stream[..end].chunks(5));
        same(&got, &stream[..end], "cut off");
    }
}
