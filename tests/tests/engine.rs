//! Scripts over a line that loses, doubles and reorders segments, through the stream engine in user space: no byte is
//! wrong, and no connection is reset.

#[path = "../../common/tests/support/mod.rs"]
mod support;

use std::{cmp::Reverse, collections::BTreeMap, collections::BinaryHeap};

use support::Connection;
use truename_common::{
    layout::{Counter, Text},
    wire::stream::{self, Direction, Verdict},
};
use truename_tests::{
    random::Random,
    wire::{Checker, Half, Names, Spec},
};

/// What the line does with segments.
#[derive(Clone, Copy, Debug)]
struct Line {
    loss: f64,
    duplication: f64,
    reorder: f64,
}

/// Scripts for each line and segment size.
const SEEDS: u64 = 20;
/// Ticks that a segment needs, that one out of order needs more, and after which a sender repeats what it sent.
const DELAY: u64 = 10;
const LATE: u64 = 15;
const PROBE: u64 = 40;
const TIMEOUT: u64 = 200;

/// A segment that was sent and not acknowledged.
struct Sent {
    end: usize,
    at: u64,
    is_sacked: bool,
}

/// One side that sends: a TCP with selective acknowledgements, RACK and tail loss probes.
struct Sender<'s> {
    way: Direction,
    half: &'s Half,
    stream: Vec<u8>,
    segment: usize,
    sent: BTreeMap<usize, Sent>,
    next: usize,
    window: usize,
    last: u64,
    newest: u64,
    probed: bool,
    backoff: u64,
    /// What has arrived.
    arrived: usize,
}

impl<'s> Sender<'s> {
    fn new(way: Direction, half: &'s Half, segment: usize) -> Self {
        Self {
            way,
            half,
            stream: [&*half.greeting, &half.rest].concat(),
            segment,
            sent: BTreeMap::new(),
            next: 0,
            window: 10,
            last: 0,
            newest: 0,
            probed: false,
            backoff: 1,
            arrived: 0,
        }
    }

    /// The segments to send now.
    fn poll(&mut self, now: u64, may_go_on: bool) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        let limit = if may_go_on {
            self.stream.len()
        } else {
            self.half.greeting.len()
        };
        let newest = self.newest;
        // RACK: what was sent a good while before something that has arrived is lost.
        for (from, sent) in &mut self.sent {
            if !sent.is_sacked && sent.at + 4 < newest {
                sent.at = now;
                out.push((*from, sent.end));
            }
        }
        let flying = self.sent.values().filter(|sent| !sent.is_sacked).count();
        let mut room = self.window.saturating_sub(flying);
        if out.is_empty() && flying != 0 && now > self.last + TIMEOUT * self.backoff {
            self.last = now;
            self.backoff *= 2;
            self.window = 1;
            self.probed = false;
            if let Some((from, sent)) = self.sent.iter_mut().find(|(_, sent)| !sent.is_sacked) {
                sent.at = now;
                out.push((*from, sent.end));
            }
        } else if out.is_empty() && flying != 0 && !self.probed && now > self.last + PROBE {
            self.probed = true;
            if self.next < limit {
                room = 1;
            } else if let Some((from, sent)) =
                self.sent.iter_mut().rev().find(|(_, sent)| !sent.is_sacked)
            {
                sent.at = now;
                out.push((*from, sent.end));
            }
        }
        while room != 0 && self.next < limit {
            let end = (self.next + self.segment).min(limit);
            self.sent.insert(
                self.next,
                Sent {
                    end,
                    at: now,
                    is_sacked: false,
                },
            );
            out.push((self.next, end));
            self.next = end;
            room -= 1;
        }
        if !out.is_empty() && flying == 0 {
            self.last = now;
        }
        out
    }

    /// The receiver has everything before `contiguous`, and the segment that begins at `from`.
    fn acknowledge(&mut self, now: u64, contiguous: usize, from: usize) {
        let mut is_new = false;
        let newest = &mut self.newest;
        self.sent.retain(|begin, sent| {
            if sent.end <= contiguous || *begin == from {
                is_new |= !sent.is_sacked;
                *newest = (*newest).max(sent.at);
                sent.is_sacked = true;
            }
            sent.end > contiguous
        });
        if is_new {
            self.last = now;
            self.backoff = 1;
            self.probed = false;
            self.window = (self.window + 1).min(64);
        }
    }
}

/// Carries both halves of a script; the reason of a reset, or how it went.
fn exchange(seed: u64, segment: usize, line: Line) -> Result<u64, String> {
    let names = Names::flink("jobmanager", "jm");
    let script = Spec::mixed(&names, seed ^ segment as u64, 60).script();
    let mut random = Random::new(seed);
    let mut connection = Connection::new(100, 4_294_000_000);
    connection.flow.names.canonical = Text::new(b"jobmanager:6123").unwrap();
    let mut senders = [
        Sender::new(Direction::Inbound, &script.client, segment),
        Sender::new(Direction::Outbound, &script.server, segment),
    ];
    let mut checkers: [Checker<'_>; 2] = [
        Checker::new(&script.client.expected),
        Checker::new(&script.server.expected),
    ];
    let mut queue = BinaryHeap::new();
    let mut order = 0u64;
    for now in 0..2_000_000u64 {
        while let Some(Reverse((at, _, side, from, end))) = queue.peek().copied() {
            if at > now {
                break;
            }
            queue.pop();
            let sender: &mut Sender = &mut senders[side];
            let (way, bytes) = (sender.way, sender.stream[from..end].to_vec());
            let start = receiver(&mut connection, way).start;
            let verdict = connection.send(way, start.wrapping_add(from as u32), &bytes);
            if verdict == Verdict::Reset {
                return Err(format!(
                    "reset for {} at {way:?} {from}",
                    connection.work.reset
                ));
            }
            if verdict != Verdict::Pass {
                continue;
            }
            let receiver = receiver(&mut connection, way);
            let before = sender.arrived;
            let contiguous = before
                + receiver.bytes[before.min(receiver.bytes.len())..]
                    .iter()
                    .take_while(|byte| byte.is_some())
                    .count();
            let fresh: Vec<u8> = receiver.bytes[before..contiguous]
                .iter()
                .flatten()
                .copied()
                .collect();
            sender.arrived = contiguous;
            receiver.acknowledged = contiguous;
            if let Err(error) = Checker::feed(&mut checkers[side], &fresh) {
                return Err(format!("wrong {way:?}: {error:#}"));
            }
            stream::acknowledge(
                connection.direction(way),
                start.wrapping_add(contiguous as u32),
                0,
            );
            sender.acknowledge(now, contiguous, from);
        }
        if senders
            .iter()
            .all(|sender| sender.arrived == sender.stream.len())
        {
            return Ok(now);
        }
        let may = [
            senders[1].arrived >= script.server.trigger,
            senders[0].arrived >= script.client.trigger,
        ];
        for side in 0..2 {
            for (from, end) in senders[side].poll(now, may[side]) {
                if random.happens(line.loss) {
                    continue;
                }
                for _ in 0..=u64::from(random.happens(line.duplication)) {
                    order += 1;
                    let late = if random.happens(line.reorder) {
                        LATE
                    } else {
                        0
                    };
                    queue.push(Reverse((now + DELAY + late, order, side, from, end)));
                }
            }
        }
    }
    Err(format!(
        "stalled: {} of {}, {} of {}",
        senders[0].arrived,
        senders[0].stream.len(),
        senders[1].arrived,
        senders[1].stream.len()
    ))
}

#[test]
fn scripts_arrive_over_impaired_lines() {
    let clean = Line {
        loss: 0.0,
        duplication: 0.0,
        reorder: 0.0,
    };
    let mut failures: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (what, line) in [
        ("clean", clean),
        (
            "loss",
            Line {
                loss: 0.01,
                ..clean
            },
        ),
        (
            "doubled",
            Line {
                duplication: 0.1,
                ..clean
            },
        ),
        (
            "reordered",
            Line {
                reorder: 0.1,
                ..clean
            },
        ),
        (
            "all",
            Line {
                loss: 0.03,
                duplication: 0.05,
                reorder: 0.1,
            },
        ),
    ] {
        for segment in [88, 200, 536, 1460] {
            for seed in 0..SEEDS {
                if let Err(why) = exchange(seed, segment, line) {
                    failures
                        .entry(format!("{what}, {segment}"))
                        .or_default()
                        .push(format!("{seed}: {why}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Frames with one reference, and what each must become.
struct Frames {
    way: Direction,
    frame: Vec<u8>,
    expected: Vec<u8>,
}

impl Frames {
    fn new(way: Direction, body: usize) -> Self {
        let canonical = b"pekko.tcp://flink@jobmanager:6123/user/rpc/x";
        let (name, translated): (&[u8], &[u8]) = match way {
            Direction::Inbound => (ALIAS, b"pekko://flink/////////////user/rpc/x"),
            Direction::Outbound => (canonical, b"pekko.tcp://flink@jm:000000006123/user/rpc/x"),
        };
        Self {
            way,
            frame: envelope(name, body),
            expected: envelope(translated, body),
        }
    }

    /// A connection whose names are known, and how many bytes it has carried.
    fn connection(&self) -> (Connection, usize) {
        let mut connection = Connection::new(100, 4_294_000_000);
        connection.flow.names.canonical = Text::new(b"jobmanager:6123").unwrap();
        connection.flow.outbound.flags = stream::flag::SYNCED;
        connection.flow.outbound.ranges[0].walker.frame_begins();
        let greeting = envelope(ALIAS, 0);
        connection.send(Direction::Inbound, 100, &greeting);
        match self.way {
            Direction::Inbound => (connection, greeting.len()),
            Direction::Outbound => (connection, 0),
        }
    }

    fn check(&self, arrived: &[u8], what: &str) {
        for (index, frame) in arrived.chunks(self.frame.len()).enumerate() {
            assert_eq!(
                frame.escape_ascii().to_string(),
                self.expected[..frame.len()].escape_ascii().to_string(),
                "{what}: frame {index}"
            );
        }
    }
}

const ALIAS: &[u8] = b"pekko.tcp://flink@jm:6123/user/rpc/x";

fn envelope(recipient: &[u8], body: usize) -> Vec<u8> {
    let field = |tag: u8, content: &[u8]| {
        let mut out = vec![tag];
        let mut len = content.len();
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(content);
        out
    };
    let reference = field(0x0a, &field(0x0a, recipient));
    let message = field(0x12, &[reference, field(0x12, &vec![b'x'; body])].concat());
    let message = field(0x0a, &message);
    [&(message.len() as u32).to_be_bytes()[..], &message].concat()
}

fn receiver(connection: &mut Connection, way: Direction) -> &mut support::Receiver {
    match way {
        Direction::Inbound => &mut connection.inbound,
        Direction::Outbound => &mut connection.outbound,
    }
}

/// Large segments, of which some come again, cut anew: pages begin inside names.
#[test]
fn large_segments_may_come_again() {
    for way in [Direction::Inbound, Direction::Outbound] {
        for (body, size) in [
            (0, 8_000_000),
            (7, 8_000_000),
            (60, 8_000_000),
            (1 << 20, 200_000_000),
        ] {
            let frames = Frames::new(way, body);
            let stream = frames.frame.repeat(size / frames.frame.len());
            let (mut connection, ahead) = frames.connection();
            let start = receiver(&mut connection, way)
                .start
                .wrapping_add(ahead as u32);
            let mut random = Random::new(body as u64);
            let (mut at, mut ends) = (0, vec![0]);
            while at < stream.len() {
                let end = at + 1 + random.below(65_000.min(stream.len() - at));
                let send = |connection: &mut Connection, from: usize, end: usize| {
                    let verdict =
                        connection.send(way, start.wrapping_add(from as u32), &stream[from..end]);
                    assert_ne!(verdict, Verdict::Reset, "{way:?} {body} at {from}");
                    verdict
                };
                while send(&mut connection, at, end) != Verdict::Pass {}
                at = end;
                ends.push(end);
                if random.happens(0.3) {
                    let from = at - random.below(at.min(200_000));
                    let len = random.below((at - from).min(65_000) + 1);
                    if len != 0 {
                        send(&mut connection, from, from + len);
                    }
                }
                if random.happens(0.5) && ends.len() > 4 {
                    let acknowledged = ends[ends.len() - 4] + random.below(2_000);
                    let acknowledged = acknowledged.min(at);
                    receiver(&mut connection, way).acknowledged = acknowledged + ahead;
                    stream::acknowledge(
                        connection.direction(way),
                        start.wrapping_add(acknowledged as u32),
                        0,
                    );
                }
            }
            let arrived = receiver(&mut connection, way).stream();
            frames.check(&arrived[ahead..], &format!("{way:?} {body}"));
        }
    }
}

/// Large segments, of which some are lost before or behind the engine; the sender repeats what is missing, cut anew.
#[test]
fn lost_parts_of_large_segments_are_repaired() {
    const UNIT: usize = 1448;
    for (way, body, is_lost_before) in [
        (Direction::Inbound, 0, true),
        (Direction::Inbound, 190, true),
        (Direction::Inbound, 4000, true),
        (Direction::Inbound, 60, false),
        (Direction::Outbound, 60, true),
        (Direction::Outbound, 60, false),
        (Direction::Outbound, 4000, false),
    ] {
        let frames = Frames::new(way, body);
        let stream = frames.frame.repeat(20_000_000 / frames.frame.len());
        let (mut connection, ahead) = frames.connection();
        let start = receiver(&mut connection, way)
            .start
            .wrapping_add(ahead as u32);
        let mut random = Random::new(body as u64);
        let units = stream.len().div_ceil(UNIT);
        let mut arrived = vec![false; units];
        let (mut first, mut next) = (0, 0);
        let what = format!("{way:?} {body} {is_lost_before}");
        while first < units {
            // Either what is missing, or what is next.
            let repeats =
                next == units || next - first > 3000 || first != next && random.happens(0.3);
            let from = if repeats {
                (first..next).find(|unit| !arrived[*unit]).unwrap_or(first)
            } else {
                next
            };
            let most = if repeats { 3 } else { 44 };
            let mut end = (from + 1 + random.below(most)).min(units);
            if !repeats {
                next = end;
            } else {
                end = end.min(next.max(from + 1));
            }
            let lost = random.happens(0.03);
            if lost && is_lost_before {
                continue;
            }
            let bytes = &stream[from * UNIT..(end * UNIT).min(stream.len())];
            let seq = start.wrapping_add((from * UNIT) as u32);
            let verdict = if lost {
                // The engine sees it, the receiver does not.
                let side = receiver(&mut connection, way);
                let kept = side.bytes.clone();
                let verdict = connection.send(way, seq, bytes);
                receiver(&mut connection, way).bytes = kept;
                if verdict == Verdict::Reset {
                    verdict
                } else {
                    Verdict::Drop(Counter::DroppedHole)
                }
            } else {
                connection.send(way, seq, bytes)
            };
            assert_ne!(
                verdict,
                Verdict::Reset,
                "{what}: reset {} at {from}",
                connection.work.reset
            );
            if verdict == Verdict::Pass {
                arrived[from..end].fill(true);
                while first < units && arrived[first] {
                    first += 1;
                }
                let done = (first * UNIT).min(stream.len());
                if random.happens(0.7) {
                    receiver(&mut connection, way).acknowledged = done + ahead;
                    stream::acknowledge(
                        connection.direction(way),
                        start.wrapping_add(done as u32),
                        0,
                    );
                }
            }
        }
        let got = receiver(&mut connection, way).stream();
        frames.check(&got[ahead..], &what);
    }
}

/// Where memory for marks is short now and then, segments are lost; where it stays short, the connection is reset.
#[test]
fn memory_may_be_short() {
    let frames = Frames::new(Direction::Inbound, 60);
    let stream = frames.frame.repeat(4_000_000 / frames.frame.len());
    let (mut connection, ahead) = frames.connection();
    let start = connection.inbound.start.wrapping_add(ahead as u32);
    let mut random = Random::new(7);
    let units: Vec<_> = (0..stream.len()).step_by(1448).collect();
    let mut arrived = vec![false; units.len()];
    let mut first = 0;
    let mut dropped = 0;
    while first < units.len() {
        // A segment out of the window, which may lie behind a hole; memory is there or not.
        let window = 40.min(units.len() - first);
        let from = first
            + if random.happens(0.5) {
                0
            } else {
                random.below(window)
            };
        let count = 1 + random.below(window.min(from + 1));
        let end = (from + count).min(units.len());
        connection.pages.room = random.happens(0.7).then_some(connection.pages.pages.len());
        connection.work.now_ns += 1_000_000;
        let bytes = &stream[units[from]..(end * 1448).min(stream.len())];
        let verdict = connection.send(
            Direction::Inbound,
            start.wrapping_add(units[from] as u32),
            bytes,
        );
        assert_ne!(verdict, Verdict::Reset, "reset {}", connection.work.reset);
        if verdict != Verdict::Pass {
            dropped += usize::from(verdict == Verdict::Drop(Counter::DroppedMemory));
            continue;
        }
        arrived[from..end].fill(true);
        while first < units.len() && arrived[first] {
            first += 1;
        }
        let done = (first * 1448).min(stream.len());
        connection.inbound.acknowledged = done + ahead;
        stream::acknowledge(
            connection.direction(Direction::Inbound),
            start.wrapping_add(done as u32),
            0,
        );
    }
    frames.check(&connection.inbound.stream()[ahead..], "short");
    assert!(dropped > 10, "memory was short {dropped} times only");

    connection.pages.room = Some(connection.pages.pages.len());
    let (mut at, mut drops) = (stream.len(), 0);
    loop {
        connection.work.now_ns += 100_000_000;
        match connection.send(
            Direction::Inbound,
            start.wrapping_add(at as u32),
            &frames.frame,
        ) {
            Verdict::Pass => at += frames.frame.len(),
            Verdict::Drop(Counter::DroppedMemory) => drops += 1,
            Verdict::Reset => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(connection.work.reset, stream::reset::MEMORY);
    assert!((20..60).contains(&drops), "{drops} drops before the reset");
}
