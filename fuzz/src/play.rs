//! Plays a script: what happens to the segments of both sides, as the rest of the input tells.

use std::fmt;

use arbitrary::{Result, Unstructured};
use truename_common::{
    layout::{DirectionState, Handshake, Text},
    wire::{
        flow::state,
        stream::{self, Direction, Verdict, flag, found, reset, window},
    },
};
use truename_tests::wire::{Checker, Envelope};

use crate::{
    script::{Script, Side, is_listed},
    support::{
        Connection,
        state::{State, same},
    },
};

/// What an input can do, at the most.
const ACTIONS: usize = 600;
/// How often the segment that everything waits for may be dropped: a cut name is held three times.
const DROPS: usize = 3;
/// Segments beyond a hole are not repeated more often without what is missing: a sender repeats that first.
const BEYOND: u32 = 6;
/// Nanoseconds between two segments, between two repetitions by a timer, and while an input pauses.
const TICK: u64 = 50_000;
const TIMEOUT: u64 = 300_000_000;
const PAUSE: u64 = 700_000_000;

/// A connection that is played.
pub struct Play<'s> {
    script: &'s Script,
    connection: Connection,
    /// The same, byte by byte.
    slow: Option<Connection>,
    lines: [Line<'s>; 2],
    /// Memory for marks was short.
    was_short: bool,
    is_over: bool,
    /// What happens is printed.
    is_shown: bool,
}

/// Set to see what an input does: `cargo xtask fuzz --show FILE`.
pub const SHOW: &str = "TRUENAME_FUZZ_SHOW";

/// One direction.
struct Line<'s> {
    way: Direction,
    side: &'s Side,
    start: u32,
    checker: Checker<'s>,
    /// What the receiver has.
    has: Vec<bool>,
    /// Where frames end, and how many of them were checked.
    ends: Vec<usize>,
    checked: usize,
    /// Bytes that were sent, that have arrived without a hole, and that the receiver has advertised.
    next: usize,
    arrived: usize,
    edge: Option<usize>,
}

impl<'s> Line<'s> {
    fn new(way: Direction, side: &'s Side, start: u32) -> Self {
        let mut ends = Vec::new();
        let mut at = 0;
        while let Some(len) = side.stream.get(at..).and_then(|rest| rest.first_chunk()) {
            at += 4 + u32::from_be_bytes(*len) as usize;
            ends.push(at);
        }
        Self {
            way,
            side,
            start,
            checker: Checker::new(&side.expected),
            has: vec![false; side.stream.len()],
            ends,
            checked: 0,
            next: 0,
            arrived: 0,
            edge: None,
        }
    }

    fn seq(&self, at: usize) -> u32 {
        self.start.wrapping_add(at as u32)
    }
}

impl<'s> Play<'s> {
    pub fn new(script: &'s Script) -> Self {
        let slow = script.is_compared.then(|| {
            let mut slow = connection(script);
            slow.work.slow = 1;
            slow
        });
        let [client, server] = script.starts;
        Self {
            script,
            connection: connection(script),
            slow,
            lines: [
                Line::new(Direction::Inbound, &script.client, client),
                Line::new(Direction::Outbound, &script.server, server),
            ],
            was_short: false,
            is_over: false,
            is_shown: std::env::var_os(SHOW).is_some(),
        }
    }

    /// Prints what happens.
    fn show(&self, what: impl FnOnce(&Self) -> String) {
        if self.is_shown {
            eprintln!("{}", what(self));
        }
    }

    /// Does what the input tells, then brings what is missing.
    pub fn run(mut self, input: &mut Unstructured<'_>) {
        self.show(|play| format!("{:#?}", Shown(play.script)));
        // The end of the input is the end of what happens.
        let _ = self.handshake(input);
        for _ in 0..ACTIONS {
            if self.is_over || input.is_empty() || self.act(input).is_err() {
                break;
            }
        }
        self.finish();
    }

    /// A handshake among those that a stranger makes up, who knows nobody's sequence numbers.
    fn handshake(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let [client, endpoint] = self.script.starts;
        let mut handshake = Handshake::default();
        let what: u8 = input.arbitrary()?;
        let beside = u32::from(input.arbitrary::<u16>()?) * 1000;
        let forged = client.wrapping_add(1 << 28).wrapping_add(beside);
        let answer = endpoint.wrapping_add(1 << 29).wrapping_add(beside);
        if what & 1 != 0 {
            handshake.syn(forged, 1, TICK);
        }
        handshake.syn(client, 7, 2 * TICK);
        if what & 2 != 0 {
            handshake.syn_ack(forged, answer, 1);
        }
        handshake.syn_ack(client, endpoint, 8);
        if what & 4 != 0 {
            handshake.syn(forged, 1, 3 * TICK);
        }
        if what & 8 != 0 {
            handshake.syn_ack(forged, answer, 1);
        }
        handshake.settle(Direction::Inbound, client);
        handshake.settle(Direction::Outbound, endpoint);
        assert!(
            handshake.is_confirmed()
                && handshake.offset(Direction::Inbound, client) == Some(0)
                && handshake.offset(Direction::Outbound, endpoint) == Some(0),
            "a stranger has changed the handshake: {handshake:?}"
        );
        Ok(())
    }

    fn act(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let what: u8 = input.arbitrary()?;
        let index = usize::from(what >> 4 & 1);
        let line = &self.lines[index];
        let (next, arrived) = (line.next, line.arrived);
        self.wait(TICK);
        match what & 15 {
            0..4 => {
                let len = length(input)?;
                self.send(index, next, len, true);
            }
            4 => {
                // Lost behind the engine.
                let len = length(input)?;
                self.send(index, next, len, false);
            }
            5 => {
                // Lost before it.
                let len = length(input)?;
                let line = &self.lines[index];
                let is_greeting = line.arrived < line.side.greeting;
                if self.is_synced(index) && !is_greeting {
                    let to = (next + len).min(self.limit(index));
                    self.lines[index].next = to;
                }
            }
            6 => {
                let back = usize::from(input.arbitrary::<u8>()?) * (1 + usize::from(what >> 5) * 8);
                let len = length(input)?;
                self.send(index, next.saturating_sub(back), len, what & 32 != 0);
            }
            7 => {
                let len = length(input)?;
                self.send(index, arrived, len, true);
            }
            8 | 9 => {
                let room = usize::from(input.arbitrary::<u8>()?) * 128;
                self.acknowledge(index, room, what & 15 == 8);
            }
            10 => {
                let ahead = input.arbitrary::<u16>()?;
                self.forge_ahead(index, u32::from(ahead) << (what >> 5));
            }
            11 => {
                let back = input.arbitrary::<u8>()?;
                let len = length(input)?;
                self.forge_behind(index, usize::from(back), len);
            }
            12 => {
                let beside = input.arbitrary::<u32>()?;
                self.forge_acknowledgement(index, beside);
            }
            13 => {
                self.limit_memory(what & 32 != 0);
                if what & 0xc0 == 0xc0 {
                    self.wait(PAUSE);
                }
            }
            14 => {
                // An acknowledgement that is late.
                let back = usize::from(input.arbitrary::<u8>()?);
                self.acknowledge_late(index, arrived.saturating_sub(back));
            }
            _ => {
                let len = length(input)?;
                let from = arrived + (next - arrived) / 2;
                self.send(index, from, len, true);
            }
        }
        Ok(())
    }

    /// Brings what is missing, as a sender does that repeats the same segment whenever its timer ends.
    fn finish(&mut self) {
        self.limit_memory(false);
        loop {
            let before = [self.lines[0].arrived, self.lines[1].arrived];
            for index in [0, 1] {
                self.bring(index);
            }
            let after = [self.lines[0].arrived, self.lines[1].arrived];
            let are_complete = self
                .lines
                .iter()
                .all(|line| line.arrived == line.side.stream.len());
            if self.is_over || are_complete {
                return;
            }
            assert!(before != after, "both sides wait at {after:?}");
        }
    }

    /// Brings the first segment that is missing.
    fn bring(&mut self, index: usize) {
        let from = self.lines[index].arrived;
        if self.lines[index].edge.is_some_and(|edge| edge <= from) {
            // The receiver has room again.
            self.acknowledge(index, 4096, true);
        }
        if self.is_over || from >= self.limit(index) {
            return;
        }
        let mut drops = Vec::new();
        while !self.is_over && self.lines[index].arrived == from {
            self.wait(TIMEOUT);
            if let Some(Verdict::Drop(why)) =
                self.send(index, from, self.script.last_segments, true)
            {
                drops.push(why);
            }
            assert!(
                drops.len() <= DROPS,
                "{:?}: the segment at {from} does not pass: {drops:?}",
                self.lines[index].way
            );
        }
        self.acknowledge(index, 8192, true);
    }

    /// Sends up to `len` bytes from `from` on; `arrives` tells whether the receiver gets what passes.
    fn send(&mut self, index: usize, from: usize, len: usize, arrives: bool) -> Option<Verdict> {
        let (mut from, mut len) = (from, len);
        if !self.is_synced(index) {
            // A connection is found at the beginning of a frame.
            from = 0;
            len = len.max(64);
        }
        let line = &self.lines[index];
        if line.arrived < line.side.greeting {
            // Handshakes come in order: what they tell is lost where their bytes are ranges.
            from = from.min(line.arrived);
        }
        let way = self.lines[index].way;
        let direction = self.connection.direction(way);
        let cursor = direction.cursor();
        let is_stuck = direction.flags & flag::SYNCED != 0 && direction.hole_drops >= BEYOND;
        let line = &self.lines[index];
        if is_stuck && line.seq(from).wrapping_sub(cursor) as i32 > 0 {
            from = line.arrived;
        }
        let to = (from + len).min(self.limit(index));
        if from >= to {
            return None;
        }
        let line = &mut self.lines[index];
        line.next = line.next.max(to);
        let seq = line.seq(from);
        let sent = &line.side.stream[from..to];
        let direction = self.connection.direction(way);
        assert!(
            direction.flags & flag::SYNCED == 0 || window::is_in_reach(direction, seq),
            "{way:?}: the segment at {from} is taken for a stranger's"
        );
        self.show(|_| format!("{way:?} {from}..{to} {}", sent.escape_ascii()));
        let verdict = self.connection.send(way, seq, sent);
        self.show(|play| {
            let lost = if arrives { "" } else { ", lost" };
            let direction = match way {
                Direction::Inbound => &play.connection.flow.inbound,
                Direction::Outbound => &play.connection.flow.outbound,
            };
            format!(
                "  {verdict:?}{lost}, cursor {}, {} ranges",
                direction.cursor().wrapping_sub(play.lines[index].start),
                direction.islands,
            )
        });
        let work = &self.connection.work;
        let (seen, why) = (work.found, work.reset);
        if let Some(slow) = &mut self.slow {
            let same = slow.send(way, seq, sent);
            assert_eq!(verdict, same, "{way:?}: {from} to {to}, fast and slow");
            // What names look like is a matter of experience: words that are skipped are not seen.
            let (fast, slow) = (&self.connection.flow.outbound, &mut slow.flow.outbound);
            (slow.near, slow.hits) = (fast.near, fast.hits);
            self.compare(index, from, to);
        }
        assert!(
            self.connection.flow.flags & state::LEFT_ALONE == 0,
            "{way:?}: the segment at {from} has the connection left alone"
        );
        assert!(
            seen & (found::RESYNCHRONISED | found::LOST_MARKS) == 0,
            "{way:?}: the segment at {from} has given up what was sent: {seen:x}"
        );
        match verdict {
            Verdict::Pass if arrives => self.arrive(index, from, to),
            Verdict::Pass | Verdict::Drop(_) => {}
            Verdict::Reset => {
                let is_short = why == reset::MEMORY && self.was_short;
                assert!(
                    !self.script.is_plain || is_short,
                    "{way:?}: the segment at {from} resets the connection for {why}"
                );
                self.is_over = true;
            }
        }
        Some(verdict)
    }

    /// The receiver has what was sent from `from` to `to`: complete frames are checked.
    fn arrive(&mut self, index: usize, from: usize, to: usize) {
        let way = self.lines[index].way;
        let line = &mut self.lines[index];
        line.has[from..to].fill(true);
        let more = line.has[line.arrived..].iter().take_while(|has| **has);
        line.arrived += more.count();
        let receiver = match way {
            Direction::Inbound => &self.connection.inbound,
            Direction::Outbound => &self.connection.outbound,
        };
        let names = &self.connection.flow.names;
        let is_known = !names.alias.is_empty() || !names.peer_alias.is_empty();
        if index == 0 && line.arrived >= line.side.trigger && !is_known {
            // The alias stood in pieces in several ranges: it is learned from another message, and what the endpoint
            // says until then keeps its name.
            self.is_over = true;
            return;
        }
        let begin = line.checker.arrived();
        while line
            .ends
            .get(line.checked)
            .is_some_and(|end| *end <= line.arrived)
        {
            line.checked += 1;
        }
        let end = if line.checked == 0 {
            0
        } else {
            line.ends[line.checked - 1]
        };
        let fresh: Vec<u8> = receiver.bytes[begin..end]
            .iter()
            .flatten()
            .copied()
            .collect();
        if let Err(error) = line.checker.feed(&fresh) {
            panic!("{way:?}: {error}");
        }
    }

    /// The receiver acknowledges what has arrived, and advertises `room` bytes, or what was sent; perhaps where the
    /// engine does not see it.
    fn acknowledge(&mut self, index: usize, room: usize, is_seen: bool) {
        let shift = if self.script.scale <= 14 {
            self.script.scale
        } else {
            0
        };
        let line = &mut self.lines[index];
        let edge = line
            .edge
            .unwrap_or(0)
            .max(line.next)
            .max(line.arrived + room);
        let advertised = (edge - line.arrived).div_ceil(1 << shift);
        let Ok(advertised) = u16::try_from(advertised) else {
            return;
        };
        line.edge = Some(line.arrived + (usize::from(advertised) << shift));
        let at = line.arrived;
        self.show(|play| {
            let seen = if is_seen { "" } else { ", not seen" };
            format!("acknowledged {:?} {at}{seen}", play.lines[index].way)
        });
        if is_seen {
            self.see_acknowledgement(index, at, advertised);
        }
    }

    /// An acknowledgement that comes after a later one.
    fn acknowledge_late(&mut self, index: usize, at: usize) {
        let way = self.lines[index].way;
        let start = self.lines[index].start;
        let last = self.connection.direction(way).acknowledged();
        if last.is_some_and(|last| last.wrapping_sub(start) as usize > at) {
            self.show(|_| format!("acknowledged late {way:?} {at}"));
            self.see_acknowledgement(index, at, 500);
        }
    }

    fn see_acknowledgement(&mut self, index: usize, at: usize, advertised: u16) {
        let ack = self.lines[index].seq(at);
        self.each(
            |connection, way| {
                let receiver = match way {
                    Direction::Inbound => &mut connection.inbound,
                    Direction::Outbound => &mut connection.outbound,
                };
                receiver.acknowledged = receiver.acknowledged.max(at);
                let direction = connection.direction(way);
                if direction.flags & flag::SYNCED != 0 {
                    let is_taken = stream::acknowledge(direction, ack, u32::from(advertised));
                    assert!(is_taken, "{way:?}: the acknowledgement of {at} is refused");
                }
            },
            index,
        );
    }

    /// Data that lies beyond every window.
    fn forge_ahead(&mut self, index: usize, ahead: u32) {
        let way = self.lines[index].way;
        let limit = window::limit(self.connection.direction(way));
        self.forge(
            index,
            limit.wrapping_add(2).wrapping_add(ahead),
            &self.forged(),
        );
    }

    /// Data that the receiver has acknowledged long ago, and that was other data then.
    fn forge_behind(&mut self, index: usize, back: usize, len: usize) {
        let way = self.lines[index].way;
        let line = &self.lines[index];
        let Some(acked) = self.connection.direction(way).acknowledged() else {
            return;
        };
        let acked = acked.wrapping_sub(line.start) as usize;
        let end = acked.saturating_sub(back);
        let len = len.min(end);
        let seq = line.seq(end - len);
        let mut data = self.forged().repeat(1 + len / 60);
        data.truncate(len);
        if len > 0 {
            self.forge(index, seq, &data);
        }
    }

    /// A frame to somebody else.
    fn forged(&self) -> Vec<u8> {
        let names = &self.script.names;
        Envelope {
            recipient: names.path(&"evil:1", "/user/rpc/x"),
            sender: Some(names.path(&names.canonical, "/user/y")),
            serializer: 20,
            ..Envelope::default()
        }
        .frame()
    }

    /// Data that TCP does not take: it changes nothing.
    fn forge(&mut self, index: usize, seq: u32, data: &[u8]) {
        if !self.is_synced(index) {
            return;
        }
        self.show(|play| format!("forged {:?} {seq}", play.lines[index].way));
        self.each(
            |connection, way| {
                let before = State::of(connection);
                if window::is_in_reach(connection.direction(way), seq) {
                    connection.translate(way, seq, &mut data.to_vec());
                }
                same(&before, &State::of(connection), || {
                    format!("{way:?}: data that was forged, at {seq}")
                });
            },
            index,
        );
    }

    /// An acknowledgement of what nobody has sent, or in a segment that lies far away.
    fn forge_acknowledgement(&mut self, index: usize, beside: u32) {
        let other = self.lines[1 - index].way;
        self.each(
            |connection, way| {
                let own = connection.direction(other);
                if own.flags & flag::SYNCED == 0 {
                    return;
                }
                let is_near = window::is_near(own, own.cursor().wrapping_add(beside), 0);
                let before = State::of(connection);
                let direction = connection.direction(way);
                let ack = direction.cursor().wrapping_add(beside ^ 1 << 31);
                // Far ahead, or far behind: else it is one that a receiver may send.
                let is_far =
                    (ack.wrapping_sub(direction.cursor()) as i32).unsigned_abs() > 64 << 20;
                if is_near && is_far && direction.flags & flag::SYNCED != 0 {
                    stream::acknowledge(direction, ack, 9);
                }
                same(&before, &State::of(connection), || {
                    format!("{way:?}: a forged acknowledgement")
                });
            },
            index,
        );
    }

    fn limit_memory(&mut self, is_short: bool) {
        self.was_short |= is_short;
        self.show(|_| format!("memory is short: {is_short}"));
        self.each(
            |connection, _| {
                let pages = &mut connection.pages;
                pages.room = is_short.then_some(pages.pages.len());
            },
            0,
        );
    }

    fn wait(&mut self, ns: u64) {
        self.each(|connection, _| connection.work.now_ns += ns, 0);
    }

    /// Does the same to the connection and to the one that is compared with it.
    fn each(&mut self, mut act: impl FnMut(&mut Connection, Direction), index: usize) {
        let way = self.lines[index].way;
        act(&mut self.connection, way);
        if let Some(slow) = &mut self.slow {
            act(slow, way);
        }
    }

    /// How far a side may send.
    fn limit(&self, index: usize) -> usize {
        let (line, other) = (&self.lines[index], &self.lines[1 - index]);
        let limit = if other.arrived >= other.side.trigger {
            line.side.stream.len()
        } else if index == 0 || other.arrived >= other.side.greeting {
            line.side.greeting
        } else {
            // The endpoint answers.
            0
        };
        line.edge.map_or(limit, |edge| limit.min(edge))
    }

    fn is_synced(&mut self, index: usize) -> bool {
        let way = self.lines[index].way;
        self.connection.direction(way).flags & flag::SYNCED != 0
    }

    /// Both ways to read a stream come to the same bytes and to the same state.
    fn compare(&self, index: usize, from: usize, to: usize) {
        let Some(slow) = &self.slow else { return };
        let (fast, way) = (&self.connection, self.lines[index].way);
        let bytes = |connection: &'_ Connection| match way {
            Direction::Inbound => connection.inbound.bytes.get(from..to).map(<[_]>::to_vec),
            Direction::Outbound => connection.outbound.bytes.get(from..to).map(<[_]>::to_vec),
        };
        assert!(
            bytes(fast) == bytes(slow),
            "{way:?}: {from} to {to}, fast and slow"
        );
        same(&State::of(fast), &State::of(slow), || {
            format!("{way:?} {from}..{to}, fast and slow")
        });
        assert!(
            fast.pages.pages == slow.pages.pages,
            "{way:?}: {from} to {to}: the marks, fast and slow"
        );
    }
}

/// A script without its streams.
struct Shown<'s>(&'s Script);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let script = self.0;
        formatter
            .debug_struct("Script")
            .field("canonical", &script.names.canonical.to_string())
            .field("alias", &script.names.alias.to_string())
            .field("client", &script.names.client.to_string())
            .field("is_plain", &script.is_plain)
            .field("is_listed", &script.is_listed)
            .field("has_peer_alias", &script.has_peer_alias)
            .field("is_adopted", &script.is_adopted)
            .field("is_named", &script.is_named)
            .field("is_late", &script.is_late)
            .field("knows_alias", &script.knows_alias)
            .field("is_compared", &script.is_compared)
            .field("starts", &script.starts)
            .field("ahead", &script.ahead)
            .field("scale", &script.scale)
            .finish()
    }
}

/// A connection as the kernel program begins one.
fn connection(script: &Script) -> Connection {
    let [client, server] = script.starts;
    let mut connection = Connection::new(client, server);
    let flow = &mut *connection.flow;
    for direction in [&mut flow.inbound, &mut flow.outbound] {
        if script.is_adopted {
            *direction = DirectionState::default();
        }
        direction.position += u64::from(script.ahead);
        direction.scale = if script.scale <= 14 {
            u32::from(script.scale)
        } else {
            DirectionState::NO_SCALE
        };
        if script.is_late {
            direction.careful = 0;
        }
    }
    let text =
        |name: &dyn std::fmt::Display| Text::new(name.to_string().as_bytes()).unwrap_or_default();
    if script.knows_alias {
        flow.names.alias = text(&script.names.alias);
        flow.names.system = Text::new(script.names.system.as_bytes()).unwrap_or_default();
    }
    if script.is_named || script.knows_alias {
        flow.names.canonical = text(&script.names.canonical);
    }
    if script.has_peer_alias {
        flow.names.peer_alias = text(&script.names.alias);
    }
    if script.is_listed {
        flow.policy = 1;
        connection.admitted = is_listed;
    }
    connection
}

/// The length of a segment: mostly short.
fn length(input: &mut Unstructured<'_>) -> Result<usize> {
    let len = usize::from(input.arbitrary::<u8>()?);
    Ok(match len {
        0..160 => 1 + len,
        160..250 => 160 + (len - 160) * 16,
        _ => 1448 * (len - 249),
    })
}
