//! Any cut, order and repetition of segments: the receivers get what the oracle says.

mod support;

use proptest::prelude::*;
use support::{Connection, oracle};
use truename_common::{
    layout::Text,
    wire::stream::{self, Verdict, Way},
};

const SYSTEM: &str = "flink";
const CANONICAL: &str = "jobmanager:6123";
const ALIAS: &str = "jm:7000";

fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let mut len = content.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(content);
    out
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = (message.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(message);
    out
}

/// A message to `recipient` with `body` and, behind it, `sender`.
fn envelope(recipient: &str, body: &[u8], sender: Option<&str>) -> Vec<u8> {
    let mut out = field(0x0a, &field(0x0a, recipient.as_bytes()));
    // The serializer's number follows the bytes, so a name at their end is not at the frame's.
    out.extend(field(0x12, &[field(0x0a, body), vec![0x10, 20]].concat()));
    if let Some(sender) = sender {
        out.extend(field(0x22, &field(0x0a, sender.as_bytes())));
    }
    framed(&field(0x0a, &field(0x12, &out)))
}

fn path(authority: &str, rest: &str) -> String {
    format!("pekko.tcp://{SYSTEM}@{authority}/{rest}")
}

/// What may stand in a body: names that must change outbound, names that must not, and noise.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(path(CANONICAL, "user/rpc/jobmanager_2").into_bytes()),
        Just(b"://flink@jobmanager:61234/".to_vec()),
        Just(b"://flink@jobmanager:6123".to_vec()),
        Just(b"://flink@jobmanager2:6123/".to_vec()),
        Just(b"://flink@jobmanager://flink@jobmanager:6123/".to_vec()),
        Just(b"jobmanager_2 jobmanager.rpc.address".to_vec()),
        prop::collection::vec(any::<u8>(), 0..60),
        prop::collection::vec(Just(b':'), 0..20),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn frames(
    recipients: &'static [&'static str],
    sender: &'static str,
) -> impl Strategy<Value = Vec<u8>> {
    let frame = (prop::sample::select(recipients), body(), any::<bool>()).prop_map(
        move |(recipient, body, sent)| {
            let sender = path(sender, "temp/$a");
            envelope(
                &path(recipient, "user/x"),
                &body,
                sent.then_some(sender.as_str()),
            )
        },
    );
    let empty = Just(vec![0, 0, 0, 0]);
    prop::collection::vec(prop_oneof![9 => frame, 1 => empty], 1..30)
        .prop_map(|frames| frames.concat())
}

/// Delivers a stream in random cuts, in random order within a window, some segments more than once;
/// what does not arrive comes again, cut anew.
///
/// False if the connection was reset.
fn deliver(
    connection: &mut Connection,
    way: Way,
    stream: &[u8],
    sizes: &[usize],
    mut dice: u64,
) -> bool {
    let start = match way {
        Way::Inbound => connection.inbound.start,
        Way::Outbound => connection.outbound.start,
    };
    let mut roll = |n: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 33) as usize % n
    };
    for round in 0..2000 {
        let receiver = match way {
            Way::Inbound => &connection.inbound,
            Way::Outbound => &connection.outbound,
        };
        let done = receiver.contiguous();
        if done == stream.len() {
            return true;
        }
        stream::acknowledge(
            connection.direction(way),
            start.wrapping_add(done as u32),
            0,
        );
        let mut segments = Vec::new();
        let mut at = done;
        // A window that holds a name: a sender that may not even send that is the guess's matter.
        while at < stream.len() && (segments.len() < 12 || at - done < 64) {
            let size = sizes[roll(sizes.len())].max(1).min(stream.len() - at);
            segments.push((at, at + size));
            at += size;
        }
        // Some rounds come in order, as a sender's after a timeout.
        for index in 0..segments.len() {
            if round % 3 != 0 && roll(3) == 0 {
                let other = roll(segments.len());
                segments.swap(index, other);
            }
        }
        for (from, to) in segments {
            if round % 3 == 1 && roll(5) == 0 {
                continue;
            }
            for _ in 0..=usize::from(roll(7) == 0) {
                let seq = start.wrapping_add(from as u32);
                let verdict = connection.send(way, seq, &stream[from..to]);
                if verdict == Verdict::Reset {
                    return false;
                }
            }
        }
    }
    panic!("stalled");
}

fn named(client_isn: u32, endpoint_isn: u32) -> Connection {
    let mut connection = Connection::new(client_isn, endpoint_isn);
    connection.flow.names.canonical = Text::new(CANONICAL.as_bytes()).unwrap();
    connection.flow.names.system = Text::new(SYSTEM.as_bytes()).unwrap();
    connection.flow.outbound.flags = stream::flag::SYNCED;
    connection.flow.outbound.ranges[0].walker.frame_begins();
    connection
}

/// Recipients with the alias must have become the canonical name, in one of the two forms.
fn check_inbound(before: &[u8], after: &[u8]) {
    assert_eq!(before.len(), after.len());
    for ((at, frame), (_, translated)) in oracle::frames(before).iter().zip(oracle::frames(after)) {
        let Some((authority, len)) = oracle::recipient(frame) else {
            assert!(*frame == translated, "frame at {at} changed");
            continue;
        };
        let path = authority - "pekko.tcp://flink@".len();
        let end = authority + len;
        assert!(frame[..path] == translated[..path] && frame[end..] == translated[end..]);
        let (was, is) = (&frame[path..end], &translated[path..end]);
        let local = |is: &[u8]| {
            is.starts_with(b"pekko://flink/") && is[13..].iter().all(|byte| *byte == b'/')
        };
        if frame[authority..end] == *CANONICAL.as_bytes() {
            assert!(was == is || local(is), "{}", is.escape_ascii());
        } else {
            assert!(local(is), "at {at}: {}", is.escape_ascii());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn inbound(
        stream in frames(&[ALIAS, CANONICAL], "taskmanager:6122"),
        sizes in prop::collection::vec(1usize..200, 1..20),
        isn in prop_oneof![Just(u32::MAX - 700), any::<u32>()],
        dice in any::<u64>(),
    ) {
        let mut connection = named(isn, 1);
        if deliver(&mut connection, Way::Inbound, &stream, &sizes, dice) {
            check_inbound(&stream, &connection.inbound.stream());
        }
    }

    #[test]
    fn outbound(
        stream in frames(&["taskmanager:6122", "jobmanager:6122"], CANONICAL),
        sizes in prop::collection::vec(1usize..200, 1..20),
        isn in prop_oneof![Just(u32::MAX - 700), any::<u32>()],
        dice in any::<u64>(),
    ) {
        let mut connection = named(1, isn);
        connection.send(Way::Inbound, 1, &envelope(&path(ALIAS, ""), b"", None));
        if deliver(&mut connection, Way::Outbound, &stream, &sizes, dice) {
            let expected = oracle::outbound(&stream, SYSTEM, CANONICAL, ALIAS);
            let got = connection.outbound.stream();
            prop_assert!(got == expected, "{}\n{}", got.escape_ascii(), expected.escape_ascii());
        }
    }

    /// Whatever comes, nothing is corrupted that is no remoting.
    #[test]
    fn noise(
        segments in prop::collection::vec((0u32..5000, prop::collection::vec(any::<u8>(), 1..300)), 1..60),
        adopted in any::<bool>(),
    ) {
        let mut connection = named(0, 0);
        if adopted {
            connection.flow.inbound.flags = 0;
            connection.flow.outbound.flags = 0;
        }
        for (seq, bytes) in &segments {
            for way in [Way::Inbound, Way::Outbound] {
                let mut copy = bytes.clone();
                let mut packet = support::Memory::new(&mut copy, &mut connection.pages, &connection.admitted);
                let _ = stream::process(
                    &mut packet, &mut connection.flow, &mut connection.work, way, *seq, bytes.len() as u32,
                );
                prop_assert_eq!(&copy, bytes);
            }
        }
    }
}

#[test]
fn a_name_whose_end_does_not_come_passes() {
    let mut connection = named(1, 1);
    connection.send(Way::Inbound, 1, &envelope(&path(ALIAS, ""), b"", None));
    let stream = framed(path(CANONICAL, "user").as_bytes());
    let cut = stream.len() - 10;
    let verdicts: Vec<_> = [0, 200, 600, 1400, 3000]
        .map(|milliseconds: u64| {
            connection.work.now_ns = milliseconds * 1_000_000;
            connection.send(Way::Outbound, 1, &stream[..cut])
        })
        .into();
    assert_eq!(verdicts[3..], [Verdict::Pass; 2]);
    assert_eq!(
        connection.send(Way::Outbound, 1 + cut as u32, &stream[cut..]),
        Verdict::Pass
    );
    assert_eq!(
        connection.outbound.stream(),
        framed(b"pekko.tcp://flink@jm:000000007000/user")
    );
}

#[test]
fn a_wrong_guess_resets_the_connection() {
    let mut connection = named(1, 1);
    connection.send(Way::Inbound, 1, &envelope(&path(ALIAS, ""), b"", None));
    let stream = framed(path("jobmanager:61234", "user").as_bytes());
    let cut = stream.len() - 7;
    for milliseconds in [0, 200, 600, 1400, 3000] {
        connection.work.now_ns = milliseconds * 1_000_000;
        connection.send(Way::Outbound, 1, &stream[..cut]);
    }
    assert_eq!(
        connection.send(Way::Outbound, 1 + cut as u32, &stream[cut..]),
        Verdict::Reset
    );
}

/// A frame may end inside what looks like the name; the next one may be long in coming.
#[test]
fn no_name_goes_beyond_its_frame() {
    let mut connection = named(1, 1);
    connection.send(Way::Inbound, 1, &envelope(&path(ALIAS, ""), b"", None));
    let frame = framed(b"arriving at [pekko.tcp://flink@jobmanager:6123");
    assert_eq!(connection.send(Way::Outbound, 1, &frame), Verdict::Pass);
    assert_eq!(connection.outbound.stream(), frame);
}

#[test]
fn only_listed_aliases_are_translated() {
    for (admitted, changed) in [
        ((|alias| alias == b"jm:7000") as fn(&[u8]) -> bool, true),
        (|_| false, false),
    ] {
        let mut connection = named(1, 1);
        connection.admitted = admitted;
        connection.flow.policy = 1;
        let frame = envelope(&path(ALIAS, "user"), b"", None);
        // Cut in the name: held until it is known.
        let cut = 30;
        connection.send_all(Way::Inbound, &[&frame[..cut], &frame[cut..]]);
        assert_eq!(connection.inbound.stream() != frame, changed);
    }
}

#[test]
fn a_hole_that_was_acknowledged_is_given_up() {
    let mut connection = named(1, 1);
    let frame = envelope(&path(ALIAS, "user"), b"", None);
    let next = 1 + frame.len() as u32;
    stream::acknowledge(&mut connection.flow.inbound, next, 0);
    assert_eq!(connection.send(Way::Inbound, next, &frame), Verdict::Pass);
    assert_eq!(connection.flow.inbound.cursor(), next + frame.len() as u32);
}
