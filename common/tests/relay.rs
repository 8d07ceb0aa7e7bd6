//! The relay's recoder on recorded streams: what a TaskManager that knows only an alias and its JobManager wrote,
//! and what a relay must make of it.

use truename_common::{
    layout::Authority,
    wire::relay::{Counts, Direction, Limits, Names, Recoder},
};

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
    let path = format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
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

fn same(got: &[u8], expected: &[u8], what: &str) {
    if let Some(at) = got.iter().zip(expected).position(|(a, b)| a != b) {
        let around = |bytes: &[u8]| {
            bytes[at.saturating_sub(60)..(at + 60).min(bytes.len())]
                .escape_ascii()
                .to_string()
        };
        panic!(
            "{what} differs at {at}:\n{}\n{}",
            around(got),
            around(expected)
        );
    }
    assert_eq!(got.len(), expected.len(), "{what}: length");
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
