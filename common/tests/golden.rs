//! The recorded pair: what a TaskManager that knows only an alias and its JobManager wrote, and what
//! each must receive.

#[path = "support/same.rs"]
mod same;
mod support;

use same::same;
use support::Connection;
use truename_common::wire::stream::Direction;

const ISN: (u32, u32) = (1_000, 0xffff_f000);

fn fixture(name: &str) -> Vec<u8> {
    let path = format!(
        "{}/../tests/fixtures/flink-2.3.0-alias-padded/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

struct Golden {
    c2s: (Vec<u8>, Vec<u8>),
    s2c: (Vec<u8>, Vec<u8>),
}

fn golden() -> Golden {
    Golden {
        c2s: (fixture("c2s.before.bin"), fixture("c2s.after.bin")),
        s2c: (fixture("s2c.before.bin"), fixture("s2c.after.bin")),
    }
}

/// End of the stream's first frame: the Associate.
fn associate_end(stream: &[u8]) -> usize {
    4 + u32::from_be_bytes(stream[..4].try_into().unwrap()) as usize
}

/// Sends both streams: the Associates, the client's first message, then all the rest, cut by `cut`.
fn check(golden: &Golden, isn: (u32, u32), cut: impl Fn(&[u8]) -> Vec<&[u8]>) {
    let mut connection = Connection::new(isn.0, isn.1);
    let (c2s, s2c) = (&golden.c2s.0, &golden.s2c.0);
    let (c_end, s_end) = (associate_end(c2s), associate_end(s2c));
    connection.send_all(Direction::Inbound, &[&c2s[..c_end]]);
    connection.send_all(Direction::Outbound, &[&s2c[..s_end]]);
    connection.send_all(Direction::Inbound, &cut(&c2s[c_end..]));
    connection.send_all(Direction::Outbound, &cut(&s2c[s_end..]));
    same(&connection.inbound.stream(), &golden.c2s.1, "inbound");
    same(&connection.outbound.stream(), &golden.s2c.1, "outbound");
}

#[test]
fn whole() {
    check(&golden(), ISN, |bytes| vec![bytes]);
}

#[test]
fn byte_by_byte() {
    check(&golden(), ISN, |bytes| bytes.chunks(1).collect());
}

#[test]
fn in_the_sizes_of_every_mss() {
    let golden = golden();
    for mss in [2, 3, 7, 17, 64, 88, 127, 128, 129, 536, 1460, 9000] {
        check(&golden, ISN, |bytes| bytes.chunks(mss).collect());
    }
}

#[test]
fn in_the_recorded_segments() {
    let golden = golden();
    let sizes = |name: &str| -> Vec<usize> {
        String::from_utf8(fixture(name))
            .unwrap()
            .split(|c: char| !c.is_ascii_digit())
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().unwrap())
            .collect()
    };
    for (name, way) in [
        ("c2s.before.segments.json", Direction::Inbound),
        ("s2c.before.segments.json", Direction::Outbound),
    ] {
        let mut connection = Connection::new(1, 1);
        let (first, stream, after) = match way {
            Direction::Inbound => (&golden.s2c.0, &golden.c2s.0, &golden.c2s.1),
            Direction::Outbound => (&golden.c2s.0, &golden.s2c.0, &golden.s2c.1),
        };
        let (other, first_end) = match way {
            Direction::Inbound => (Direction::Outbound, associate_end(first)),
            // The alias must be known: the client's first message.
            Direction::Outbound => (Direction::Inbound, first.len()),
        };
        if way == Direction::Outbound {
            connection.send_all(Direction::Outbound, &[&stream[..associate_end(stream)]]);
        }
        connection.send_all(other, &[&first[..first_end]]);
        let skip = if way == Direction::Outbound {
            associate_end(stream)
        } else {
            0
        };
        let mut pieces = Vec::new();
        let mut at = 0;
        for size in sizes(name) {
            let end = (at + size).min(stream.len());
            if end > skip && at < end {
                pieces.push(&stream[at.max(skip)..end]);
            }
            at = end;
        }
        connection.send_all(way, &pieces);
        let receiver = match way {
            Direction::Inbound => &connection.inbound,
            Direction::Outbound => &connection.outbound,
        };
        same(&receiver.stream(), after, name);
    }
}

/// Every offset of both streams, with a window around it, so that the test stays fast: the cut lies
/// between two segments of a stream that is otherwise sent whole.
#[test]
fn cut_in_two_at_every_offset() {
    let golden = golden();
    let longest = golden.c2s.0.len().max(golden.s2c.0.len());
    for offset in 0..longest {
        check(&golden, ISN, |bytes| {
            let (a, b) = bytes.split_at(offset.min(bytes.len()));
            vec![a, b]
        });
    }
}
