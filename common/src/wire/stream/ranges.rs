//! Where a segment belongs: rules 2, 3 and 4.

use super::{Job, Packet, Stage, Steps, Way, Work, flag, found};
use crate::{
    layout::{Counter, FlowNames, MAIN, RANGES, Range, RpcFlow, Walker},
    wire::{
        chunk::CHUNK,
        frame,
        seq::{after, before, distance},
    },
};

/// Arrivals of one segment beyond a hole, without any progress, after which the hole is taken as
/// acknowledged unseen: a sender repeats what is behind a hole only if the hole is not its own.
const HOLE_DROPS: u32 = 8;

/// Bits of [`Work::head`].
mod head {
    /// A plausible frame, so the segment can be walked without what is before it.
    pub const FRAME: u32 = 1;
    /// That frame is a control message.
    pub const CONTROL: u32 = 2;
    /// Not the tail of the pattern.
    pub const NO_TAIL: u32 = 4;
}

impl<P: Packet> Job<'_, P> {
    /// Whether the first bytes of the segment matter.
    #[inline(always)]
    pub(super) fn must_look(&self) -> bool {
        !self.is(flag::SYNCED)
            || after(self.work.seq, self.direction.cursor())
            || self.may_find_frames()
    }

    /// Whether the search does not know where frames end, and the segment may tell.
    #[inline(always)]
    pub(super) fn may_find_frames(&self) -> bool {
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
    pub(super) fn enter(&mut self) -> bool {
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
    pub(super) fn walker(&self) -> Walker {
        let mut walker = Walker::at(self.work.seq);
        if self.work.way == Way::Outbound as u32 && self.work.head & head::FRAME != 0 {
            walker.frame_begins();
        }
        walker
    }

    /// The range that the segment continues.
    #[inline(always)]
    pub(super) fn range(&mut self) -> &mut Range {
        self.direction.range(self.work.range as usize)
    }

    /// Finds how a segment beyond the cursor can be walked: `work.range` and `work.at`. False if it
    /// cannot; it is dropped then, or passes if `work.drop` is 0.
    #[inline(always)]
    pub(super) fn beyond(&mut self, seq: u32, end: u32) -> bool {
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
    pub(super) fn island(&mut self, seq: u32, end: u32) -> bool {
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
    pub(super) fn resynchronise(&mut self) -> bool {
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
    pub(super) fn adopt(&mut self) -> bool {
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
    pub(super) fn next_range(&self, from: u32, end: u32) -> usize {
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
    pub(super) fn aim(&mut self) -> bool {
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
    pub(super) fn reads_frames(&self) -> bool {
        self.work.way == Way::Inbound as u32 || self.is(flag::HANDSHAKE)
    }

    /// Whether the pattern has to be searched in what is left of the walk.
    #[inline(always)]
    pub(super) fn must_search(&mut self) -> bool {
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
    pub(super) fn arrive(&mut self) -> bool {
        let (reached, stop) = (self.work.at, self.work.stop);
        let (next, end) = (self.work.next as usize, self.end());
        let range = self.direction.range(self.work.range as usize);
        range.end = reached;
        // Copied from one table to the other: the stack of Linux 6.1 has no room for it.
        range.walker = self.work.walker;
        // Not `>=`: `range` would lose its mask, and the verifier of Linux 6.1 the bound.
        if self.work.drop != 0 || self.work.reset != 0 || reached != stop || next == RANGES {
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
        } else if self.work.walker.at_boundary() && self.work.walker.resume == other_start {
            let other = self.direction.range(next).walker;
            self.range().walker = other;
        } else if before(self.work.walker.resume, other_end) {
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
    pub(super) fn searches(&self) -> bool {
        self.is(flag::HANDSHAKE) || self.names.outbound().is_some()
    }
}

/// See [`Stage::Walk`].
#[inline(always)]
pub(super) fn walk<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
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
pub(super) fn look<P: Packet>(packet: &mut P, names: &FlowNames, work: &mut Work) {
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
pub(super) fn load_head<P: Packet>(packet: &mut P, work: &mut Work, len: u32) -> bool {
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
