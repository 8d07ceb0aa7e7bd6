//! The rules for one direction of a TCP stream.
//!
//! A **cursor** divides the bytes that have been walked from those that have not; an **edit log**
//! holds the edits of the bytes that may be sent again; **islands** are ranges walked beyond a hole.
//!
//! 1. A byte has one translated value for ever. What lies before the cursor, or on an island, is
//!    never walked again; the logged edits are applied to it, however it is cut.
//! 2. What lies behind the cursor is walked.
//! 3. A segment beyond a hole passes if a body covers the hole; if it can be understood by itself it
//!    becomes an island, joined when the hole is filled; else it is dropped and TCP sends it again.
//!    If the receiver has acknowledged the hole, it passed unseen: the stream is resynchronised.
//! 4. A flow without a SYN is adopted at a segment that starts with a plausible frame.
//! 5. A segment that ends inside a name whose translation depends on bytes to come is *held*:
//!    walked, but dropped, until those bytes have been seen. Only when the same bytes come again and
//!    again without the next ones (a sender that may send nothing else) is the likely translation
//!    made; if the rest then disproves it, the connection is reset before the frame is complete.
//! 6. What is no frame is left alone.
//! 7. Sequence numbers wrap; a byte may come in any cut, any order, and any number of times.

use super::{
    chunk::{CHUNK, Chunk},
    flow::{self, state},
    frame::{self, Captured, Known, Step},
    pattern::{self, Match},
    seq::{after, before, distance},
};
use crate::layout::{
    Authority, Counter, Direction, EDIT_LOG, Edit, EditKind, FlowNames, LongText, MAIN, RANGES,
    Range, RpcFlow, System, Walker,
};

/// Bits of [`Direction::flags`].
pub mod flag {
    /// The cursor is valid.
    pub const SYNCED: u32 = 1;
    /// [`super::Direction::acked`] is valid.
    pub const ACKED: u32 = 2;
    /// Outbound: the first frame, which announces the canonical name, has not been walked.
    pub const HANDSHAKE: u32 = 4;
    /// Outbound: the open pattern is already translated, by a guess.
    pub const GUESSED: u32 = 8;
    /// A FIN was seen, at the cursor or behind it.
    pub const FIN: u32 = 16;
}

/// Arrivals of one segment beyond a hole, without any progress, after which the hole is taken as
/// acknowledged unseen: a sender repeats what is behind a hole only if the hole is not its own.
const HOLE_DROPS: u32 = 8;
/// A guess is made when a held segment has come so often again without any new byte, and for so long:
/// the sender has then timed out often (200 ms on Linux, doubled each time), and sends nothing else.
const HELD_DROPS: u32 = 3;
const HELD_NS: u64 = 2_000_000_000;
/// Chunks or header bytes that a segment can have: more than a 64 KiB packet needs.
const WALK_STEPS: u32 = 1 << 17;

/// A computation that is repeated until it returns false.
pub trait Steps {
    fn step(&mut self) -> bool;
}

/// The payload of one TCP segment, and the tables around it.
pub trait Packet {
    /// Copies `len` bytes (1 to [`CHUNK`]) of the payload, from `offset`. False if that failed.
    fn load(&mut self, offset: u32, len: u32, chunk: &mut Chunk) -> bool;

    /// Replaces `len` bytes (at least 1) of the payload at `offset` by those of `text` from `from`,
    /// and corrects the checksum. False if that failed.
    fn store(&mut self, offset: u32, text: &LongText, from: u32, len: u32) -> bool;

    /// Whether the endpoint's list admits `alias`.
    fn admits(&mut self, alias: &Authority) -> bool;

    /// Calls `state.step()` until it returns false, at most `times` times.
    fn repeat<S: Steps>(state: &mut S, times: u32);

    /// Runs a [`Stage`]: calls [`run`]. The kernel does it through a function of its own, which the
    /// verifier checks once.
    fn stage(&mut self, stage: Stage, flow: &mut RpcFlow, work: &mut Work);
}

/// The costly parts of [`process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Composes the texts that the known names allow.
    Prepare,
    /// Looks at the first bytes of the segment.
    Look,
    /// Walks to the end of the segment, or to the next range.
    Walk,
    /// Reads frames up to the end of the walk.
    Frames,
    /// Searches the pattern up to the end of the walk.
    Search,
    /// Applies the logged edits.
    Apply,
}

/// Runs a stage.
#[inline(always)]
pub fn run<P: Packet>(stage: Stage, packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    match stage {
        Stage::Prepare => prepare::<P>(&mut flow.names, work),
        Stage::Look => look(packet, &flow.names, work),
        Stage::Walk => walk(packet, flow, work),
        Stage::Frames => P::repeat(&mut Frames(Job::new(packet, flow, work)), WALK_STEPS),
        Stage::Search => P::repeat(&mut Search(Job::new(packet, flow, work)), WALK_STEPS),
        Stage::Apply => Job::new(packet, flow, work).apply(),
    }
}

/// Towards the endpoint, or away from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Way {
    Inbound = 0,
    Outbound = 1,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Dropped for the reason; TCP sends it again.
    Drop(Counter),
    /// The connection must be reset.
    Reset,
}

/// Bits of [`Work::found`]: what the walk came upon.
pub mod found {
    /// An alias was learned, in [`super::FlowNames::alias`].
    pub const ALIAS: u32 = 1;
    /// An announced address, in [`super::Direction::captured`].
    pub const ASSOCIATE: u32 = 2;
    pub const MALFORMED: u32 = 4;
    pub const NO_AUTHORITY: u32 = 8;
    pub const OTHER_SYSTEM: u32 = 16;
    pub const NOT_ADMITTED: u32 = 32;
    pub const RESYNCHRONISED: u32 = 64;
    pub const ADOPTED: u32 = 128;
    pub const TOO_LONG: u32 = 256;
    pub const TLS: u32 = 512;
    pub const GUESSED: u32 = 1024;
    pub const REAPPLIED: u32 = 2048;
    pub const UNSYNCHRONISED: u32 = 4096;
    pub const CUT: u32 = 8192;
    /// There are edits to apply.
    pub(super) const TO_APPLY: u32 = 1 << 31;
}

/// The state of one segment's processing. It lives in a map in the kernel, where the verifier takes
/// every scalar for unknown and so verifies a loop's body once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    pub chunk: Chunk,
    /// `CLOCK_MONOTONIC` nanoseconds, set by the caller.
    pub now_ns: u64,
    walker: Walker,
    /// Payload offset and length of the bytes in `chunk`.
    chunk_offset: u32,
    chunk_len: u32,
    /// Sequence number and length of the segment.
    seq: u32,
    len: u32,
    /// The byte that is walked next, and where the walk stops.
    at: u32,
    stop: u32,
    /// The range that the segment continues.
    range: u32,
    /// What the first bytes of the segment look like: bits of [`head`].
    head: u32,
    /// Where the edits begin that have to be applied.
    logged: u32,
    /// The range that the walk may meet.
    next: u32,
    /// Where the range ended before the walk.
    old: u32,
    /// 1 if some of the segment was walked before.
    replayed: u32,
    /// Position in a loop.
    index: u32,
    /// Why the segment cannot pass: a [`Counter`] plus 1, or 0.
    drop: u32,
    reset: u32,
    /// Bits of [`found`].
    pub found: u32,
    /// Edits made in this segment, frames walked.
    pub edits: u32,
    pub frames: u32,
    /// Bits of [`state`] to add to the flow.
    state: u32,
    way: u32,
    policy: u32,
    /// 1 if the walk met a range and goes on behind it.
    more: u32,
    progress: flow::Progress,
}

/// Bits of [`Work::head`].
mod head {
    /// A plausible frame, so the segment can be walked without what is before it.
    pub const FRAME: u32 = 1;
    /// That frame is a control message.
    pub const CONTROL: u32 = 2;
    /// Not the tail of the pattern.
    pub const NO_TAIL: u32 = 4;
}

/// One direction at work.
struct Job<'a, P> {
    packet: &'a mut P,
    direction: &'a mut Direction,
    names: &'a mut FlowNames,
    work: &'a mut Work,
}

/// Begins a direction at a SYN: `next` is the sequence number behind it.
#[inline(always)]
pub fn begin(direction: &mut Direction, next: u32, way: Way) {
    direction.ranges[MAIN] = Range {
        start: next,
        end: next,
        walker: Walker::at(next),
    };
    direction.edited_to = next;
    direction.flags = flag::SYNCED
        | if way == Way::Outbound {
            flag::HANDSHAKE
        } else {
            0
        };
}

/// Takes an acknowledgement of `direction`'s bytes.
#[inline(always)]
pub fn acknowledge(direction: &mut Direction, ack: u32) {
    if direction.flags & flag::ACKED == 0 || after(ack, direction.acked) {
        direction.acked = ack;
        direction.flags |= flag::ACKED;
    }
}

/// Processes the payload of a segment: `len` bytes (at least 1) from `seq`.
#[inline(always)]
pub fn process<P: Packet>(
    packet: &mut P,
    flow: &mut RpcFlow,
    work: &mut Work,
    way: Way,
    seq: u32,
    len: u32,
) -> Verdict {
    work.seq = seq;
    work.len = len;
    work.chunk_len = 0;
    work.drop = 0;
    work.reset = 0;
    work.found = 0;
    work.edits = 0;
    work.frames = 0;
    work.state = 0;
    work.head = 0;
    work.way = way as u32;
    work.policy = flow.policy;
    if !flow.names.is_prepared() {
        packet.stage(Stage::Prepare, flow, work);
    }
    if Job::new(packet, flow, work).must_look() {
        packet.stage(Stage::Look, flow, work);
    }
    if !Job::new(packet, flow, work).enter() {
        return match work.drop {
            0 => Verdict::Pass,
            why => Verdict::Drop(reason(why)),
        };
    }
    if !before(seq.wrapping_add(len), work.at) {
        // A segment can meet every range once.
        let mut met = 0;
        while met < RANGES {
            packet.stage(Stage::Walk, flow, work);
            if work.more == 0 {
                break;
            }
            met += 1;
        }
        if work.reset != 0 {
            return Verdict::Reset;
        }
        if work.drop != 0 {
            return Verdict::Drop(reason(work.drop));
        }
    }
    if Job::new(packet, flow, work).settle() {
        return Verdict::Drop(Counter::DroppedHeld);
    }
    flow.flags |= work.state;
    if work.found & found::ALIAS != 0 && !flow.names.is_prepared() {
        packet.stage(Stage::Prepare, flow, work);
    }
    if work.found & found::TO_APPLY != 0 {
        packet.stage(Stage::Apply, flow, work);
    }
    match work.drop {
        0 => Verdict::Pass,
        why => Verdict::Drop(reason(why)),
    }
}

/// Composes the texts that the known names allow.
#[inline(always)]
pub fn prepare<P: Packet>(names: &mut FlowNames, work: &mut Work) {
    let mut prepare = flow::Prepare::new(names, &mut work.progress);
    P::repeat(&mut prepare, flow::Prepare::STEPS);
    prepare.finish();
}

impl<'a, P: Packet> Job<'a, P> {
    #[inline(always)]
    fn new(packet: &'a mut P, flow: &'a mut RpcFlow, work: &'a mut Work) -> Self {
        let direction = if work.way == Way::Inbound as u32 {
            &mut flow.inbound
        } else {
            &mut flow.outbound
        };
        Self {
            packet,
            direction,
            names: &mut flow.names,
            work,
        }
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        self.work.seq.wrapping_add(self.work.len)
    }

    #[inline(always)]
    fn is(&self, flag: u32) -> bool {
        self.direction.flags & flag != 0
    }

    /// Whether the first bytes of the segment matter.
    #[inline(always)]
    fn must_look(&self) -> bool {
        !self.is(flag::SYNCED)
            || after(self.work.seq, self.direction.cursor())
            || self.may_find_frames()
    }

    /// Whether the search does not know where frames end, and the segment may tell.
    #[inline(always)]
    fn may_find_frames(&self) -> bool {
        let main = &self.direction.ranges[MAIN];
        self.work.way == Way::Outbound as u32
            && self.work.seq == main.end
            && !main.walker.is_framed()
            && !self.is(flag::HANDSHAKE)
            && self.names.outbound().is_some()
    }

    /// Finds the range that the segment continues, and where in it: `work.range` and `work.at`. False
    /// if there is none: the segment is dropped then, or passes if `work.drop` is 0.
    #[inline(always)]
    fn enter(&mut self) -> bool {
        if !self.is(flag::SYNCED) && !self.adopt() {
            self.work.found |= found::UNSYNCHRONISED;
            return false;
        }
        let (seq, end, cursor) = (self.work.seq, self.end(), self.direction.cursor());
        self.trim();
        self.work.logged = self.direction.log_tail;
        self.work.replayed =
            u32::from(before(seq, cursor) || before(seq, self.direction.edited_to));
        self.work.range = MAIN as u32;
        self.work.at = cursor;
        if after(seq, cursor) && !self.beyond(seq, end) {
            return false;
        }
        if self.work.head & head::FRAME != 0 && self.may_find_frames() {
            self.direction.ranges[MAIN].walker.frame_begins();
        }
        self.work.old = self.range().end;
        true
    }

    /// A walker at the first byte of the segment.
    #[inline(always)]
    fn walker(&self) -> Walker {
        let mut walker = Walker::at(self.work.seq);
        if self.work.way == Way::Outbound as u32 && self.work.head & head::FRAME != 0 {
            walker.frame_begins();
        }
        walker
    }

    /// After the walk: true if the segment is held.
    #[inline(always)]
    fn settle(&mut self) -> bool {
        if self.work.range == MAIN as u32 && self.direction.cursor() != self.work.old {
            self.direction.hole_drops = 0;
            self.direction.held_drops = 0;
        }
        if self.is_held(self.work.seq, self.end(), self.work.old) {
            return true;
        }
        if self.work.state & state::LEFT_ALONE != 0 {
            self.direction.flags &= !flag::SYNCED;
        }
        if self.work.replayed != 0 {
            self.work.logged = self.direction.log_head;
        }
        if self.work.logged != self.direction.log_tail {
            self.work.found |= found::TO_APPLY;
            if self.work.replayed != 0 {
                self.work.found |= found::REAPPLIED;
            }
        }
        false
    }

    /// The range that the segment continues.
    #[inline(always)]
    fn range(&mut self) -> &mut Range {
        self.direction.range(self.work.range as usize)
    }

    /// Finds how a segment beyond the cursor can be walked: `work.range` and `work.at`. False if it
    /// cannot; it is dropped then, or passes if `work.drop` is 0.
    #[inline(always)]
    fn beyond(&mut self, seq: u32, end: u32) -> bool {
        let inbound = self.work.way == Way::Inbound as u32;
        if inbound && !after(seq, self.direction.ranges[MAIN].walker.resume) {
            // Body: whatever fills the hole needs no edit.
            self.work.at = seq;
            return true;
        }
        if !inbound && !self.searches() {
            self.direction.ranges[MAIN] = Range {
                start: end,
                end,
                walker: Walker::at(end),
            };
            return false;
        }
        if self.is(flag::ACKED) && after(self.direction.acked, self.direction.cursor())
            || self.direction.hole_drops >= HOLE_DROPS
        {
            return self.resynchronise();
        }
        if self.island(seq, end) {
            return true;
        }
        if self.direction.hole_drops == 0 {
            self.direction.hole_seq = seq;
        }
        if self.direction.hole_seq == seq {
            self.direction.hole_drops += 1;
        }
        self.work.drop = Counter::DroppedHole as u32 + 1;
        false
    }

    /// Finds the range that the segment repeats or continues, or begins a new one.
    #[inline(always)]
    fn island(&mut self, seq: u32, end: u32) -> bool {
        let inbound = self.work.way == Way::Inbound as u32;
        let mut free = RANGES;
        let mut index = MAIN + 1;
        while index < RANGES {
            let range = &self.direction.ranges[index];
            if range.start == range.end {
                free = index;
            } else if before(seq, range.start) {
                if after(end, range.end) {
                    // Swallows it: comes again when the hole before is filled.
                    return false;
                }
            } else if !after(seq, range.end) || inbound && !after(seq, range.walker.resume) {
                self.work.range = index as u32;
                self.work.at = if after(seq, range.end) {
                    seq
                } else {
                    range.end
                };
                return true;
            }
            index += 1;
        }
        let alone = if inbound || self.is(flag::HANDSHAKE) {
            head::FRAME
        } else {
            head::FRAME | head::NO_TAIL
        };
        if self.work.head & alone == 0 {
            return false;
        }
        if free == RANGES {
            return false;
        }
        *self.direction.range(free) = Range {
            start: seq,
            end: seq,
            walker: self.walker(),
        };
        self.work.range = free as u32;
        self.work.at = seq;
        true
    }

    /// The hole was acknowledged, or is never filled: goes on behind it.
    #[inline(always)]
    fn resynchronise(&mut self) -> bool {
        self.work.found |= found::RESYNCHRONISED;
        self.direction.flags &= !(flag::SYNCED | flag::GUESSED | flag::HANDSHAKE);
        if self.adopt() {
            return true;
        }
        self.work.found |= found::UNSYNCHRONISED;
        false
    }

    /// Begins at this segment, if it starts with a plausible frame. What the endpoint sends can be
    /// searched from any byte on: the pattern needs no frames.
    #[inline(always)]
    fn adopt(&mut self) -> bool {
        let framed = self.work.head & head::FRAME != 0;
        let outbound = self.work.way == Way::Outbound as u32;
        if !framed && !outbound {
            return false;
        }
        let seq = self.work.seq;
        self.direction.ranges = [Range::default(); RANGES];
        self.direction.ranges[MAIN] = Range {
            start: seq,
            end: seq,
            walker: self.walker(),
        };
        self.direction.hole_drops = 0;
        self.direction.edited_to = seq;
        self.direction.flags |= flag::SYNCED;
        // The endpoint's Associate may be the frame.
        if outbound && self.work.head & head::CONTROL != 0 {
            self.direction.flags |= flag::HANDSHAKE;
        }
        self.work.range = MAIN as u32;
        self.work.at = seq;
        self.work.found |= found::ADOPTED;
        true
    }

    /// The first other range that begins in [`from`, `end`]; [`RANGES`] if there is none.
    #[inline(always)]
    fn next_range(&self, from: u32, end: u32) -> usize {
        let mut found = RANGES;
        let mut nearest = distance(end, from);
        let mut index = MAIN + 1;
        while index < RANGES {
            let range = &self.direction.ranges[index];
            let far = distance(range.start, from);
            if range.start != range.end
                && index != self.work.range as usize
                && far >= 0
                && far <= nearest
            {
                nearest = far;
                found = index;
            }
            index += 1;
        }
        found
    }

    /// Prepares the walk to the end of the segment or to the next range. False if there is none.
    #[inline(always)]
    fn aim(&mut self) -> bool {
        let (from, end) = (self.work.at, self.end());
        if before(end, from) {
            return false;
        }
        let next = self.next_range(from, end);
        self.work.next = next as u32;
        self.work.stop = if next < RANGES {
            self.direction.range(next).start
        } else {
            end
        };
        self.work.walker = self.range().walker;
        true
    }

    /// Whether frames have to be read.
    #[inline(always)]
    fn reads_frames(&self) -> bool {
        self.work.way == Way::Inbound as u32 || self.is(flag::HANDSHAKE)
    }

    /// Whether the pattern has to be searched in what is left of the walk.
    #[inline(always)]
    fn must_search(&mut self) -> bool {
        if self.work.way == Way::Inbound as u32 {
            self.close_recipient();
            return false;
        }
        if self.work.drop != 0 || !before(self.work.at, self.work.stop) {
            return false;
        }
        if self.names.outbound().is_none() {
            self.work.walker.lose_framing();
            self.work.at = self.work.stop;
            return false;
        }
        true
    }

    /// After the walk: joins the next range. False when done.
    #[inline(always)]
    fn arrive(&mut self) -> bool {
        let (reached, walker) = (self.work.at, self.work.walker);
        let (stop, next, end) = (self.work.stop, self.work.next as usize, self.end());
        let range = self.range();
        range.end = reached;
        range.walker = walker;
        if self.work.drop != 0 || self.work.reset != 0 || reached != stop || next >= RANGES {
            return false;
        }
        let other_start = self.direction.range(next).start;
        let other_end = self.direction.range(next).end;
        if self.work.way == Way::Outbound as u32 {
            // Outbound ranges begin where no pattern goes on, so an open one ends here.
            self.direction.flags &= !flag::GUESSED;
            let other = self.direction.range(next).walker;
            let range = self.direction.range(self.work.range as usize);
            range.walker = other;
            range.walker.inherit_framing(&self.work.walker, other_end);
        } else if walker.at_boundary() && walker.resume == other_start {
            let other = self.direction.range(next).walker;
            self.range().walker = other;
        } else if before(walker.resume, other_end) {
            // The other began in a body after all, and this one ends in it. Its edits stand.
            self.direction.flags &= !flag::SYNCED;
            self.work.found |= found::RESYNCHRONISED;
        }
        *self.direction.range(next) = Range::default();
        self.range().end = other_end;
        self.work.at = other_end;
        before(other_end, end)
    }

    /// Whether outbound bytes are searched at all.
    #[inline(always)]
    fn searches(&self) -> bool {
        self.is(flag::HANDSHAKE) || self.names.outbound().is_some()
    }

    /// The walk has stopped: a recipient that is still open becomes the local form if that is
    /// certain to be right, and one that is becoming it goes on.
    #[inline(always)]
    fn close_recipient(&mut self) {
        let (walker, stop) = (self.work.walker, self.work.stop);
        if self.work.at != stop {
            return;
        }
        if walker.recipient_open()
            && walker.is_own_system()
            && self.names.allows_local(self.work.policy)
        {
            self.work.walker.make_local();
        }
        if self.work.walker.local_open() {
            self.push_local(walker.scheme_end, stop);
        }
    }

    /// Logs the local form up to `end`, from where it is not logged yet.
    #[inline(always)]
    fn push_local(&mut self, scheme_end: u32, end: u32) {
        let begin = self.work.walker.local_to();
        if !after(end, begin) {
            return;
        }
        let len = end.wrapping_sub(begin);
        let from = begin.wrapping_sub(scheme_end);
        self.push(Edit::new(begin, len as u16, EditKind::Local, from as u16));
        self.work.walker.set_local_to(end);
    }

    /// Appends an edit; there is room, as the walk checks it before every byte.
    #[inline(always)]
    fn push(&mut self, edit: Edit) {
        let direction = &mut *self.direction;
        let slot = direction.log_tail as usize & (EDIT_LOG - 1);
        direction.log[slot] = edit;
        direction.log_tail = direction.log_tail.wrapping_add(1);
        direction.edits += 1;
        let end = edit.at.wrapping_add(u32::from(edit.len));
        if after(end, direction.edited_to) {
            direction.edited_to = end;
        }
        self.work.edits += 1;
    }

    #[inline(always)]
    fn log_is_full(&self) -> bool {
        self.direction
            .log_tail
            .wrapping_sub(self.direction.log_head)
            >= EDIT_LOG as u32 - 2
    }

    /// Whether a name is open in the state of a walker.
    #[inline(always)]
    fn is_open(&self, walker: &Walker) -> bool {
        if self.work.way == Way::Inbound as u32 {
            walker.recipient_open()
        } else {
            !self.is(flag::GUESSED) && pattern::is_open(walker.matched, self.names)
        }
    }

    /// Whether the segment [`seq`, `end`) must wait for bytes behind its range, because it has bytes
    /// of a name that is open there. `old` is where the range ended before.
    #[inline(always)]
    fn is_held(&mut self, seq: u32, end: u32, old: u32) -> bool {
        let Range {
            end: reached,
            walker,
            ..
        } = *self.range();
        if !before(seq, reached) || !self.is_open(&walker) {
            return false;
        }
        let begin = if self.work.way == Way::Inbound as u32 {
            walker.scheme_end
        } else {
            reached.wrapping_sub(u32::from(
                walker.matched.wrapping_sub(self.names.pattern_prefix()),
            ))
        };
        if !after(end, begin) {
            return false;
        }
        if reached != old || self.work.range != MAIN as u32 {
            self.direction.held_ns = self.work.now_ns;
            return true;
        }
        let held = self.work.now_ns.wrapping_sub(self.direction.held_ns);
        if self.direction.held_drops < HELD_DROPS || held < HELD_NS {
            self.direction.held_drops += 1;
            return true;
        }
        if self.work.way == Way::Inbound as u32 {
            self.work.found |= found::CUT;
            self.range().walker.leave();
        } else {
            self.work.found |= found::GUESSED;
            self.push_alias(begin);
            self.direction.flags |= flag::GUESSED;
        }
        false
    }

    /// Forgets the edits of acknowledged bytes.
    #[inline(always)]
    fn trim(&mut self) {
        if self.direction.log_head != self.direction.log_tail && self.is(flag::ACKED) {
            let mut trim = Trim(self.direction);
            P::repeat(&mut trim, EDIT_LOG as u32);
        }
    }

    /// Applies the logged edits that overlap the segment: those of the walk, and all others if some
    /// of the segment was walked before.
    #[inline(always)]
    fn apply(self) {
        self.work.index = self.work.logged;
        P::repeat(&mut Apply(self), EDIT_LOG as u32);
    }

    /// The byte at sequence number `at`, or `None` if the packet could not be read.
    #[inline(always)]
    fn byte(&mut self) -> Option<u8> {
        let offset = self.work.at.wrapping_sub(self.work.seq);
        let mut index = offset.wrapping_sub(self.work.chunk_offset);
        if index >= self.work.chunk_len {
            let left = self.work.len.wrapping_sub(offset);
            let len = if left < CHUNK as u32 {
                left
            } else {
                CHUNK as u32
            };
            if len == 0 || !self.packet.load(offset, len, &mut self.work.chunk) {
                self.work.drop = Counter::DroppedStore as u32 + 1;
                return None;
            }
            self.work.chunk_offset = offset;
            self.work.chunk_len = len;
            index = 0;
        }
        Some(self.work.chunk.byte(index as usize))
    }
}

/// The counter that [`Work::drop`] stands for.
#[inline(always)]
fn reason(drop: u32) -> Counter {
    if drop == Counter::DroppedHole as u32 + 1 {
        Counter::DroppedHole
    } else if drop == Counter::DroppedLogFull as u32 + 1 {
        Counter::DroppedLogFull
    } else {
        Counter::DroppedStore
    }
}

/// See [`Stage::Walk`].
#[inline(always)]
fn walk<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    work.more = 0;
    if !Job::new(packet, flow, work).aim() {
        return;
    }
    if Job::new(packet, flow, work).reads_frames() {
        packet.stage(Stage::Frames, flow, work);
    }
    if Job::new(packet, flow, work).must_search() {
        packet.stage(Stage::Search, flow, work);
    }
    work.more = u32::from(Job::new(packet, flow, work).arrive());
}

/// Looks at the first bytes of a segment: `work.head`.
#[inline(always)]
fn look<P: Packet>(packet: &mut P, names: &FlowNames, work: &mut Work) {
    work.head = 0;
    if !load_head(packet, work, work.len) {
        return;
    }
    if frame::plausible(&work.chunk, work.chunk_len) {
        work.head |= head::FRAME;
        if work.chunk.byte(4) == 0x12 {
            work.head |= head::CONTROL;
        }
    }
    work.index = 0;
    P::repeat(&mut FindSlash(work), CHUNK as u32);
    if begins_no_tail(names, work, work.index as usize) {
        work.head |= head::NO_TAIL;
    }
}

#[inline(always)]
fn load_head<P: Packet>(packet: &mut P, work: &mut Work, len: u32) -> bool {
    let len = if len < CHUNK as u32 {
        len
    } else {
        CHUNK as u32
    };
    work.chunk_offset = 0;
    work.chunk_len = len;
    packet.load(0, len, &mut work.chunk)
}

/// Whether a segment of `len` bytes begins with a plausible frame.
#[inline(always)]
pub fn begins_frame<P: Packet>(packet: &mut P, work: &mut Work, len: u32) -> bool {
    load_head(packet, work, len) && frame::plausible(&work.chunk, work.chunk_len)
}

/// Moves `index` to the first `/` of the chunk.
struct FindSlash<'a>(&'a mut Work);

impl Steps for FindSlash<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let work = &mut *self.0;
        if work.index >= work.chunk_len || work.chunk.byte(work.index as usize) == b'/' {
            return false;
        }
        work.index += 1;
        true
    }
}

/// Whether a segment whose first `/` is at `slash` cannot begin inside the pattern.
///
/// A tail of the pattern ends at its last `/`, and the only slashes before are the two of `://`. So a
/// segment whose first `/` follows bytes that differ from the pattern's there, or that has none within
/// the pattern's length, begins outside.
#[inline(always)]
fn begins_no_tail(names: &FlowNames, work: &Work, slash: usize) -> bool {
    let len = usize::from(names.pattern.len);
    let valid = work.chunk_len as usize;
    if slash == 0 {
        return false;
    }
    if slash >= valid {
        return valid > len;
    }
    slash >= len
        || work.chunk.byte(slash - 1) != names.pattern.at(len.wrapping_sub(2))
        || slash >= 2 && work.chunk.byte(slash - 2) != names.pattern.at(len.wrapping_sub(3))
}

/// Reads frames, a byte a step.
struct Frames<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Frames<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let skip = job.work.walker.resume;
        if after(skip, job.work.at) {
            job.work.at = if after(skip, job.work.stop) {
                job.work.stop
            } else {
                skip
            };
        }
        if !before(job.work.at, job.work.stop) {
            return false;
        }
        if job.log_is_full() {
            job.work.drop = Counter::DroppedLogFull as u32 + 1;
            return false;
        }
        let Some(byte) = job.byte() else { return false };
        let position = job.work.at;
        if job.work.walker.at_boundary() {
            job.work.frames += 1;
            job.direction.frames += 1;
        }
        let step = job.read(position, byte);
        job.work.at = position.wrapping_add(1);
        job.act(step, position)
    }
}

impl<P: Packet> Job<'_, P> {
    #[inline(always)]
    fn read(&mut self, position: u32, byte: u8) -> Step {
        let names = self.names.recipients();
        let mut captured = Captured {
            authority: &mut self.direction.captured,
            system: &mut self.direction.captured_system,
            at: &mut self.direction.captured_at,
        };
        self.work.walker.step(position, byte, &names, &mut captured)
    }

    /// Acts on what a byte of a frame brought about; false ends the walk of frames.
    #[inline(always)]
    fn act(&mut self, step: Step, position: u32) -> bool {
        match step {
            Step::Go => return true,
            Step::Recipient if self.work.way == Way::Inbound as u32 => self.recipient(position),
            Step::Recipient => {}
            Step::Associate => self.work.found |= found::ASSOCIATE,
            Step::Malformed => self.work.found |= found::MALFORMED,
            Step::NoAuthority => self.work.found |= found::NO_AUTHORITY,
            Step::TooLong => {
                self.work.found |= if self.work.walker.is_tls() {
                    found::TLS
                } else {
                    found::TOO_LONG
                };
                self.work.state |= state::LEFT_ALONE;
                self.work.at = self.work.stop;
                self.work.walker.resume = self.work.stop;
                self.work.walker.lose_framing();
                return false;
            }
        }
        if self.work.way == Way::Outbound as u32 {
            // The first frame is understood: from here on the pattern is searched.
            self.direction.flags &= !flag::HANDSHAKE;
            self.work.walker.body_goes_on(self.work.at);
            return false;
        }
        true
    }

    /// Decides what becomes of the recipient whose authority ends before `position`.
    #[inline(never)]
    fn recipient(&mut self, position: u32) {
        let walker = self.work.walker;
        if walker.is_local() {
            self.push_local(walker.scheme_end, position);
        }
        if walker.is_left() {
            return;
        }
        let len = position.wrapping_sub(walker.authority);
        if len == 0 {
            self.work.found |= found::NO_AUTHORITY;
            return;
        }
        if self.names.system.is_empty() {
            self.names.system = self.direction.captured_system;
        } else if !walker.is_own_system() {
            if !walker.is_local() {
                self.work.found |= found::OTHER_SYSTEM;
            }
            return;
        }
        match walker.known(position, &self.names.recipients()) {
            Known::Canonical => {
                self.work.state |= state::CANONICAL_USED;
                // What the client does on another connection is not for this one.
                self.names.peer_alias.len = 0;
                self.names.text_mut(EditKind::PeerAlias).len = 0;
                return;
            }
            Known::Alias => {}
            Known::Neither => {
                let whole = self.direction.captured_at == walker.authority
                    && super::authority::port_len(&self.direction.captured) > 0;
                if !whole {
                    self.work.found |= found::NO_AUTHORITY;
                    return;
                }
                if self.work.policy != 0 && !self.packet.admits(&self.direction.captured) {
                    self.work.found |= found::NOT_ADMITTED;
                    return;
                }
                if self.names.alias.is_empty() {
                    self.names.alias = self.direction.captured;
                    self.work.found |= found::ALIAS;
                }
            }
        }
        if walker.is_local() {
            return;
        }
        let canonical = u32::from(self.names.canonical.len);
        if canonical != 0 && canonical <= len && len == u32::from(self.names.alias.len) {
            self.push(Edit::new(
                walker.authority,
                len as u16,
                EditKind::Canonical,
                0,
            ));
        } else if self.names.has_local() {
            self.push_local(walker.scheme_end, position);
        } else {
            self.work.found |= found::NO_AUTHORITY;
        }
    }
}

/// Searches the pattern: 32 bytes a step while nothing is matched, else one.
struct Search<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Search<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        if !before(job.work.at, job.work.stop) {
            return false;
        }
        if job.log_is_full() {
            job.work.drop = Counter::DroppedLogFull as u32 + 1;
            return false;
        }
        let Some(byte) = job.byte() else { return false };
        let position = job.work.at;
        let next = position.wrapping_add(1);
        if job.work.walker.in_length() {
            job.work.walker.length_byte(byte, next);
            job.work.at = next;
            return true;
        }
        let mut matched = job.work.walker.matched;
        if matched == 0 && byte != b':' {
            let next = position.wrapping_add(job.skip());
            job.work.at = next;
            job.work.walker.frame_may_end(next);
            return true;
        }
        match pattern::step(&mut matched, byte, job.names) {
            Match::Open => {}
            Match::Broken => job.guess_fails(),
            Match::Whole => job.matched(position),
        }
        job.work.walker.matched = matched;
        job.work.at = next;
        job.work.walker.frame_may_end(next);
        if job.work.walker.matched == 0 && matched != 0 {
            job.guess_fails();
        }
        job.work.reset == 0
    }
}

impl<P: Packet> Job<'_, P> {
    /// Bytes from `work.at` that are certainly not the first of the pattern, at least one: the first is
    /// known not to be. Looks at up to four words.
    #[inline(always)]
    fn skip(&self) -> u32 {
        let offset = self.work.at.wrapping_sub(self.work.seq);
        let index = offset.wrapping_sub(self.work.chunk_offset) as usize;
        let mut at = index;
        let mut words = 0;
        while words < 4 {
            let found = self.work.chunk.find_in_word(at, b':');
            if found == at || found & 7 != 0 || found >= CHUNK {
                at = found;
                break;
            }
            at = found;
            words += 1;
        }
        self.limited((at - index) as u32)
    }

    /// The open pattern is not the name: a translation that was guessed must not be read.
    #[inline(always)]
    fn guess_fails(&mut self) {
        if self.is(flag::GUESSED) {
            self.work.reset = 1;
        }
    }

    /// `skip` bytes, but not beyond the bytes of the chunk, the frame, or the end of the walk.
    #[inline(always)]
    fn limited(&self, skip: u32) -> u32 {
        let left = self.work.stop.wrapping_sub(self.work.at);
        let in_frame = self.work.walker.left_in_frame(self.work.at);
        let left = if left > in_frame { in_frame } else { left };
        let index = self
            .work
            .at
            .wrapping_sub(self.work.seq)
            .wrapping_sub(self.work.chunk_offset);
        let in_chunk = self.work.chunk_len.wrapping_sub(index);
        let skip = if skip > left { left } else { skip };
        if skip > in_chunk { in_chunk } else { skip }
    }

    /// The pattern ends with the byte at `position`.
    #[inline(always)]
    fn matched(&mut self, position: u32) {
        if self.is(flag::GUESSED) {
            self.direction.flags &= !flag::GUESSED;
            return;
        }
        self.push_alias(position.wrapping_sub(u32::from(self.names.canonical.len)));
    }

    /// Logs the translation of the canonical authority at `at`.
    #[inline(always)]
    fn push_alias(&mut self, at: u32) {
        if let Some(kind) = self.names.outbound() {
            self.push(Edit::new(at, self.names.canonical.len, kind, 0));
        }
    }
}

/// Drops the oldest edit if its bytes are acknowledged.
struct Trim<'a>(&'a mut Direction);

impl Steps for Trim<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let direction = &mut *self.0;
        if direction.log_head == direction.log_tail {
            return false;
        }
        let edit = direction.log[direction.log_head as usize & (EDIT_LOG - 1)];
        if after(edit.at.wrapping_add(u32::from(edit.len)), direction.acked) {
            return false;
        }
        direction.log_head = direction.log_head.wrapping_add(1);
        true
    }
}

/// Applies one edit a step, from `work.index` on.
struct Apply<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Apply<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        if job.work.index == job.direction.log_tail {
            return false;
        }
        let edit = job.direction.log[job.work.index as usize & (EDIT_LOG - 1)];
        job.work.index = job.work.index.wrapping_add(1);
        let (seq, len) = (job.work.seq, job.work.len);
        // The overlap, in bytes of the edit and of the segment.
        let ahead = distance(seq, edit.at);
        let cut = if ahead > 0 { ahead as u32 } else { 0 };
        let offset = if ahead > 0 {
            0
        } else {
            edit.at.wrapping_sub(seq)
        };
        if cut >= u32::from(edit.len) || offset >= len {
            return true;
        }
        let rest = u32::from(edit.len) - cut;
        let room = len - offset;
        let count = if rest < room { rest } else { room };
        let from = u32::from(edit.from()) + cut;
        let text = job.names.text(edit.kind());
        if job.packet.store(offset, text, from, count) {
            return true;
        }
        job.work.drop = Counter::DroppedStore as u32 + 1;
        false
    }
}

/// The system and authority that an Associate announced, after [`found::ASSOCIATE`].
pub fn announced(direction: &Direction) -> (&System, &Authority) {
    (&direction.captured_system, &direction.captured)
}
