//! Scripts over a line that loses, doubles and reorders segments, through the stream engine in user space: no byte is
//! wrong, and no connection is reset.

#[path = "../../common/tests/support/mod.rs"]
mod support;

use std::{cmp::Reverse, collections::BTreeMap, collections::BinaryHeap};

use support::Connection;
use truename_common::{
    layout::Text,
    wire::stream::{self, Verdict, Way},
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
    way: Way,
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
    fn new(way: Way, half: &'s Half, segment: usize) -> Self {
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
        Sender::new(Way::Inbound, &script.client, segment),
        Sender::new(Way::Outbound, &script.server, segment),
    ];
    let mut checkers: [Checker<'_>; 2] = [Checker::new(&script.client.expected), Checker::new(&script.server.expected)];
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
            let start = match way {
                Way::Inbound => connection.inbound.start,
                Way::Outbound => connection.outbound.start,
            };
            let verdict = connection.send(way, start.wrapping_add(from as u32), &bytes);
            if verdict == Verdict::Reset {
                return Err(format!("reset for {} at {way:?} {from}", connection.work.reset));
            }
            if verdict != Verdict::Pass {
                continue;
            }
            let receiver = match way {
                Way::Inbound => &mut connection.inbound,
                Way::Outbound => &mut connection.outbound,
            };
            let before = sender.arrived;
            let contiguous = before
                + receiver.bytes[before.min(receiver.bytes.len())..]
                    .iter()
                    .take_while(|byte| byte.is_some())
                    .count();
            let fresh: Vec<u8> = receiver.bytes[before..contiguous].iter().flatten().copied().collect();
            sender.arrived = contiguous;
            receiver.acknowledged = contiguous;
            if let Err(error) = Checker::feed(&mut checkers[side], &fresh) {
                return Err(format!("wrong {way:?}: {error:#}"));
            }
            stream::acknowledge(connection.direction(way), start.wrapping_add(contiguous as u32), 0);
            sender.acknowledge(now, contiguous, from);
        }
        if senders.iter().all(|sender| sender.arrived == sender.stream.len()) {
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
                    let late = if random.happens(line.reorder) { LATE } else { 0 };
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
fn impaired_lines() {
    let clean = Line { loss: 0.0, duplication: 0.0, reorder: 0.0 };
    let mut failures: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let count: u64 = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    for (what, line) in [
        ("clean", clean),
        ("loss", Line { loss: 0.01, ..clean }),
        ("doubled", Line { duplication: 0.1, ..clean }),
        ("reordered", Line { reorder: 0.1, ..clean }),
        ("all", Line { loss: 0.03, duplication: 0.05, reorder: 0.1 }),
    ] {
        for segment in [88, 200, 536, 1460] {
            for seed in std::env::var("FROM").map_or(0, |n| n.parse().unwrap())..count {
                let result = exchange(seed, segment, line);
                if let Err(why) = result {
                    if std::env::var("SHOW").is_ok_and(|wanted| wanted == format!("{what}/{segment}/{seed}")) {
                        eprintln!("TRACE {}", support::TRACE.with(|t| t.borrow().join("\n")));
                    }
                    failures.entry(format!("{what}, {segment}")).or_default().push(format!("{seed}: {why}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Long streams of equal frames in large segments: pages begin inside names.
#[test]
fn long_streams() {
    let alias = "pekko.tcp://flink@jm:6123/user/rpc/x";
    let canonical = "pekko.tcp://flink@jobmanager:6123/user/rpc/x";
    let field = |tag: u8, content: &[u8]| {
        let mut out = vec![tag, content.len() as u8];
        out.extend_from_slice(content);
        out
    };
    for (way, name) in [(Way::Inbound, alias), (Way::Outbound, canonical)] {
        for body in [0usize, 7, 60] {
            let reference = field(0x0a, &field(0x0a, name.as_bytes()));
            let message = field(0x12, &[reference, field(0x12, &vec![b'x'; body])].concat());
            let message = field(0x0a, &message);
            let frame = [&(message.len() as u32).to_be_bytes()[..], &message].concat();
            let count = 8_000_000 / frame.len();
            let stream = frame.repeat(count);
            let mut random = Random::new(body as u64);
            let mut connection = Connection::new(100, 4_294_000_000);
            connection.flow.names.canonical = Text::new(b"jobmanager:6123").unwrap();
            connection.flow.outbound.flags = 1;
            connection.flow.outbound.ranges[0].walker.frame_begins();
            let greeting = field(0x0a, &field(0x12, &field(0x0a, &field(0x0a, alias.as_bytes()))));
            let greeting = [&(greeting.len() as u32).to_be_bytes()[..], &greeting].concat();
            connection.send(Way::Inbound, 100, &greeting);
            let (start, ahead) = match way {
                Way::Inbound => (100 + greeting.len() as u32, greeting.len()),
                Way::Outbound => (4_294_000_000, 0),
            };
            let want = match way {
                Way::Inbound => frame
                    .escape_ascii()
                    .to_string()
                    .replace(".tcp://flink@jm:6123", "://flink////////////"),
                Way::Outbound => frame
                    .escape_ascii()
                    .to_string()
                    .replace("jobmanager:6123", "jm:000000006123"),
            };
            let mut at = 0;
            let mut sent = Vec::new();
            while at < stream.len() {
                let len = 1 + random.below(65_000.min(stream.len() - at));
                sent.push((at, at + len));
                at += len;
            }
            let mut done = 0;
            while done < sent.len() {
                let (from, end) = sent[done];
                let verdict = connection.send(way, start.wrapping_add(from as u32), &stream[from..end]);
                assert_ne!(verdict, Verdict::Reset, "{way:?} {body} {from}: {}", connection.work.reset);
                support::TRACE.with(|t| t.borrow_mut().clear());
                if verdict == Verdict::Pass {
                    done += 1;
                }
                // Something that was sent before comes again, cut anew.
                if random.happens(0.3) && from > 200_000 {
                    let from = from - random.below(200_000);
                    let len = 1 + random.below((end - from).min(65_000));
                    let verdict =
                        connection.send(way, start.wrapping_add(from as u32), &stream[from..from + len]);
                    assert_ne!(verdict, Verdict::Reset, "{way:?} {body} {from}: {}", connection.work.reset);
                }
                if random.happens(0.5) && done > 4 {
                    let acknowledged = (sent[done - 4].0 + random.below(2_000)).min(sent[done - 1].0);
                    let receiver = match way {
                        Way::Inbound => &mut connection.inbound,
                        Way::Outbound => &mut connection.outbound,
                    };
                    receiver.acknowledged = acknowledged + ahead;
                    stream::acknowledge(connection.direction(way), start.wrapping_add(acknowledged as u32), 0);
                }
            }
            let got = match way {
                Way::Inbound => connection.inbound.stream()[ahead..].to_vec(),
                Way::Outbound => connection.outbound.stream(),
            };
            for (index, frame) in got.chunks(frame.len()).enumerate() {
                assert_eq!(frame.escape_ascii().to_string(), want, "{way:?} {body} frame {index}");
            }
        }
    }
}
