//! Finds where in the stream the bytes of a segment belong, and joins ranges as holes are filled.

use super::{
    Direction, Packet, flag, found,
    head::{self, is_frame_at},
    job::{Job, range_flag, reset, step},
    search,
};
use crate::{
    layout::{Counter, DirectionState, MAIN, RANGES, Range, Walker},
    wire::{
        chunk::CHUNK,
        flow::state,
        frame::{self, FRAME_MAX},
        seq::{after, before},
        steps::Steps,
    },
};

/// Arrivals of one segment beyond a hole, without any progress, after which the hole is taken as
/// acknowledged unseen: a sender repeats what is behind a hole only if the hole is not its own.
const HOLE_DROPS: u32 = 8;
/// Zero bytes before a frame that are remembered, at the most.
const ZEROS_MAX: u16 = 0xfff;

impl<P: Packet> Job<'_, P> {
    /// The way of nearly all segments: the next bytes of a direction without holes, in a stream whose frames are known.
    /// True if all of the segment is body, and done.
    #[inline(always)]
    pub(super) fn passes_body(&mut self) -> bool {
        let end = self.work.end();
        if !self.is_next() || !self.work.is_inbound() {
            return false;
        }
        if after(end, self.direction.ranges[MAIN].walker.resume) {
            return false;
        }
        self.advance(end);
        true
    }

    /// Whether the segment goes on at the cursor, and nothing lies behind it.
    #[inline(always)]
    fn is_next(&self) -> bool {
        let main = &self.direction.ranges[MAIN];
        self.is(flag::SYNCED)
            && self.direction.islands == 0
            && self.work.at == main.end
            && main.flags & range_flag::LOST == 0
    }

    /// As [`Self::place`], where there is nothing to look for. False if there may be.
    #[inline(always)]
    pub(super) fn place_next(&mut self) -> bool {
        if !self.is_next() || !before(self.work.at, self.work.end()) {
            return false;
        }
        self.work.next = RANGES as u32;
        self.work.stop = self.work.end();
        self.keep_main();
        self.go_on(MAIN);
        true
    }

    /// Moves the cursor.
    #[inline(always)]
    fn advance(&mut self, reached: u32) {
        if self.direction.cursor() != reached {
            self.direction.hole_drops = 0;
            self.direction.held_drops = 0;
            self.direction.held_beyond = 0;
        }
        self.direction.set_cursor(reached);
        if after(reached, self.direction.high) {
            self.direction.high = reached;
        }
    }

    /// As [`Self::arrive`], for a walk that [`Self::place_next`] began.
    #[inline(always)]
    pub(super) fn arrive_next(&mut self) {
        let reached = self.work.at;
        self.advance(reached);
        self.direction.ranges[MAIN].walker.take(&self.work.walker);
        self.work.step = step::DONE;
        if self.work.state & state::LEFT_ALONE != 0 {
            self.direction.flags &= !flag::SYNCED;
        }
    }

    /// See [`super::Stage::Place`].
    #[inline(always)]
    pub(super) fn place(&mut self) {
        let was = self.work.step;
        self.work.step = step::DONE;
        let (at, end) = (self.work.at, self.work.end());
        if self.work.drop != 0 || self.work.reset != 0 {
            return;
        }
        self.scan(at, end);
        if was == step::JOINED && self.meets_another() {
            return;
        }
        if !before(at, end) {
            return;
        }
        if !self.is(flag::SYNCED) {
            self.work.step = step::LOOK;
            self.work.next = RANGES as u32;
            self.work.stop = end;
            return;
        }
        let main = MAIN as u32;
        let is_at_cursor = self.work.holder == main || self.work.follower == main;
        let must_give_up = self.must_give_up(at);
        if !is_at_cursor && !must_give_up && after(end, self.limit()) {
            self.work.found |= found::OUT_OF_WINDOW;
            self.work.drop_for(Counter::OutOfWindow);
            return;
        }
        if self.is_known(at, end) {
            return;
        }
        if must_give_up {
            self.give_up(at);
            self.work.step = step::KNOWN;
            return;
        }
        self.work.step = step::LOOK;
    }

    /// Looks at all ranges: which of them has the byte at `at`, goes on with it, or begins behind it.
    #[inline(always)]
    fn scan(&mut self, at: u32, end: u32) {
        let main = &self.direction.ranges[MAIN];
        let none = RANGES as u32;
        let work = &mut *self.work;
        work.holder = if before(at, main.end) {
            MAIN as u32
        } else {
            none
        };
        work.follower = if at == main.end { MAIN as u32 } else { none };
        work.next = none;
        work.free = MAIN as u32 + 1;
        work.lost = none;
        work.first_range = none;
        work.last_range = if after(at, main.end) {
            MAIN as u32
        } else {
            none
        };
        work.nearest = end.wrapping_sub(at);
        work.nearest_first = at.wrapping_sub(main.end);
        work.nearest_last = work.nearest_first;
        if self.direction.islands != 0 {
            self.work.free = none;
            self.work.index = MAIN as u32 + 1;
            self.work.bit = self.direction.islands;
            self.work.cursor = at;
            let mut scan = Scan(self.again());
            P::repeat(&mut scan, RANGES as u32);
        }
        self.work.stop = if self.work.next == none {
            end
        } else {
            self.direction.range(self.work.next as usize).start
        };
    }

    /// Whether another range begins just where the one ends that has grown: `at`.
    #[inline(always)]
    fn meets_another(&mut self) -> bool {
        let (holder, grown) = (self.work.holder as usize, self.work.range as usize);
        let at = self.work.at;
        if holder == RANGES || holder == grown || self.direction.range(holder).start != at {
            return false;
        }
        self.work.next = holder as u32;
        self.work.walker = self.range().walker;
        self.work.stop = at;
        self.work.step = step::WALK;
        true
    }

    /// Whether a range has the byte at `at`, or goes on with it.
    #[inline(always)]
    fn is_known(&mut self, at: u32, end: u32) -> bool {
        let (holder, follower) = (self.work.holder as usize, self.work.follower as usize);
        if holder != RANGES
            && follower != RANGES
            && self.direction.range(holder).start == at
            && self.direction.range(follower).flags & range_flag::LOST == 0
        {
            // The walk ended here for want of room.
            self.work.next = holder as u32;
            self.work.stop = at;
            self.go_on(follower);
            return true;
        }
        if holder != RANGES {
            let known = self.direction.range(holder).end;
            self.work.replayed = 1;
            self.work.at = if before(known, end) { known } else { end };
            self.work.range = holder as u32;
            self.work.step = step::KNOWN;
            return true;
        }
        if follower != RANGES {
            self.go_on(follower);
            return true;
        }
        self.is_covered(at)
    }

    /// Whether the frame at the end of the range before `at` covers the hole between them: whatever fills the hole is
    /// body, and needs no edit.
    #[inline(always)]
    fn is_covered(&mut self, at: u32) -> bool {
        let last = self.work.last_range as usize;
        if !self.work.is_inbound() || last == RANGES {
            return false;
        }
        let range = self.direction.range(last);
        if range.flags & range_flag::LOST != 0 || after(at, range.walker.resume) {
            return false;
        }
        if last == MAIN {
            self.direction.set_cursor(at);
        } else {
            range.end = at;
        }
        self.go_on(last);
        true
    }

    /// Walks range `index` on from its end.
    #[inline(always)]
    fn go_on(&mut self, index: usize) {
        self.work.range = index as u32;
        let range = self.direction.range(index);
        let is_lost = range.flags & range_flag::LOST != 0;
        self.work.walker.take(&range.walker);
        self.work.floor = self.work.at;
        self.work.step = if is_lost { step::LOOK } else { step::WALK };
    }

    /// Whether the hole before `at` was acknowledged, or is never filled.
    #[inline(always)]
    fn must_give_up(&self, at: u32) -> bool {
        let cursor = self.direction.cursor();
        let claimed = self.direction.claimed;
        let passed = claimed & DirectionState::ACKED != 0
            && after(claimed as u32, cursor)
            && !before(claimed as u32, at);
        passed || self.direction.hole_drops >= HOLE_DROPS && self.direction.hole_seq == at
    }

    /// Goes on behind the hole: with the first range, or with nothing but the position.
    #[inline(always)]
    fn give_up(&mut self, at: u32) {
        self.work.found |= found::RESYNCHRONISED;
        self.direction.flags &= !flag::HANDSHAKE;
        self.direction.hole_drops = 0;
        let first = self.work.first_range as usize;
        if first != RANGES {
            let to = self.direction.range(first).end;
            self.direction.set_cursor(to);
            let range = *self.direction.range(first);
            self.direction.ranges[MAIN] = range;
            self.leave(first);
        } else {
            self.direction.set_cursor(at);
            self.direction.ranges[MAIN] = lost(at);
        }
    }

    /// See [`super::Stage::Open`]: begins a range at `at`, goes on with one that is lost, or drops.
    #[inline(always)]
    pub(super) fn look(&mut self) {
        let (at, stop) = (self.work.at, self.work.stop);
        let is_synced = self.is(flag::SYNCED);
        let is_main = !is_synced || self.direction.cursor() == at;
        if self.work.drop != 0 {
            return;
        }
        let head = self.work.head;
        if !is_synced {
            if head & head::FRAMED == 0 && self.work.is_inbound() {
                self.work.found |= found::UNSYNCHRONISED;
                self.work.step = step::DONE;
                return;
            }
            self.adopt(at);
        }
        self.work.range = MAIN as u32;
        let mut is_new = false;
        if !is_main {
            let index = self.lost_or_free();
            // What follows on a range does not begin inside a name: else that would not have passed. And without a
            // cursor nothing can be checked.
            let is_adopted = self.direction.ranges[MAIN].flags & range_flag::LOST != 0;
            let contradicts =
                self.work.rest.len != 0 && (self.work.lost as usize != RANGES || is_adopted);
            // The frame that tells the endpoint's name is read from its beginning.
            let greets = !self.work.is_inbound() && self.is(flag::HANDSHAKE);
            if head & head::UNCLEAR != 0 || index == RANGES || contradicts || greets {
                self.hole(at);
                return;
            }
            self.work.range = index as u32;
            is_new = index == self.work.free as usize;
            if is_new && !self.keep_head(at) {
                self.hole(at);
                return;
            }
        }
        self.open(at, stop, is_new);
    }

    /// The lost range that ends at `at`; else a free one; [`RANGES`] if there is none.
    #[inline(always)]
    fn lost_or_free(&self) -> usize {
        if self.work.lost as usize != RANGES {
            self.work.lost as usize
        } else {
            self.work.free as usize
        }
    }

    /// Range `index` is not used any more.
    #[inline(always)]
    fn leave(&mut self, index: usize) {
        let range = self.direction.range(index);
        range.start = 0;
        range.end = 0;
        self.direction.islands = self.direction.islands.saturating_sub(1);
    }

    /// The flow is found in the middle.
    #[inline(always)]
    fn adopt(&mut self, at: u32) {
        self.direction.clear_ranges();
        self.direction.ranges[MAIN] = lost(at);
        self.direction.position = DirectionState::ORIGIN;
        self.direction.oldest_page = DirectionState::FIRST_PAGE;
        self.direction.high = at;
        self.direction.hole_drops = 0;
        self.direction.careful = search::CAREFUL;
        self.direction.flags |= flag::SYNCED;
        // The frame may be the endpoint's Associate, or tell by its sender what the endpoint is called.
        let tells = head::CONTROL
            | if self.names.canonical.is_empty() {
                head::FRAMED
            } else {
                0
            };
        if !self.work.is_inbound() && self.work.head & tells != 0 {
            self.direction.flags |= flag::HANDSHAKE;
        }
    }

    /// Begins to walk at `at` in the range that was chosen; `is_new` if it is to begin there.
    #[inline(always)]
    fn open(&mut self, at: u32, stop: u32, is_new: bool) {
        let inbound = self.work.is_inbound();
        let head = self.work.head;
        let is_framed = head & head::FRAMED != 0;
        let (first, zeros) = (self.work.first, self.work.zeros as u16 & ZEROS_MAX);
        if is_new {
            self.direction.islands += 1;
            self.add_rest(at);
        }
        let range = self.range();
        if inbound {
            if is_framed {
                range.first = first;
                range.zeros = zeros;
                range.flags &= !range_flag::LOST;
            } else {
                range.flags |= range_flag::LOST;
            }
        } else {
            // The pattern is searched for wherever frames begin: the next segment goes on with what is matched.
            range.flags &= !range_flag::LOST;
            if is_new && is_framed {
                range.flags |= range_flag::FRAMED;
            }
        }
        let mut walker = Walker::at(at);
        if !inbound && is_framed {
            walker.frame_begins();
        }
        let mut begin = at;
        if inbound {
            // What lies before the first frame needs no more edits.
            begin = if is_framed { first } else { stop };
            walker = Walker::at(begin);
        }
        self.work.walker = walker;
        self.work.floor = begin;
        self.work.at = begin;
        self.work.step = step::WALK;
    }

    /// The segment begins at `at` and cannot be read alone.
    #[inline(always)]
    fn hole(&mut self, at: u32) {
        if self.direction.hole_drops == 0 {
            self.direction.hole_seq = at;
        }
        if self.direction.hole_seq == at {
            self.direction.hole_drops += 1;
        }
        self.work.drop_for(Counter::DroppedHole);
    }

    /// Whether frames have to be read.
    #[inline(always)]
    pub(super) fn reads_frames(&self) -> bool {
        self.work.is_inbound() || self.is(flag::HANDSHAKE)
    }

    /// Whether the pattern has to be searched in what is left of the walk.
    #[inline(always)]
    pub(super) fn must_search(&mut self) -> bool {
        if self.work.drop != 0 || self.work.more != 0 || !before(self.work.at, self.work.stop) {
            return false;
        }
        let is_lost = !self.work.walker.is_framed();
        if is_lost && self.work.checks == 0 && self.work.at == self.work.seq {
            self.find_framing();
            if self.work.walker.is_framed() {
                self.frame_seems_to_begin();
            }
        }
        true
    }

    /// Where frames begin is known again, if the segment begins with one.
    #[inline(never)]
    fn find_framing(&mut self) {
        if self.load_chunk(self.work.at) && frame::plausible(&self.work.chunk, self.work.chunk_len)
        {
            self.work.walker.frame_begins();
        }
    }

    /// Beyond a hole only what is before it tells whether a frame begins here.
    #[inline(always)]
    fn frame_seems_to_begin(&mut self) {
        let (at, index) = (self.work.at, self.work.range as usize);
        let range = self.range();
        if index != MAIN && range.flags & range_flag::FRAMED == 0 {
            range.flags |= range_flag::FRAMED;
            range.first = at;
        }
    }

    /// See [`super::Stage::Arrive`].
    #[inline(always)]
    pub(super) fn arrive(&mut self) {
        let reached = self.work.at;
        let index = self.work.range as usize;
        if index == MAIN {
            self.advance(reached);
        }
        self.keep_more(index, reached);
        let range = self.direction.range(index);
        range.end = reached;
        // Copied from one map to the other: the stack of Linux 6.1 has no room for it.
        range.walker = self.work.walker;
        if after(reached, self.direction.high) {
            self.direction.high = reached;
        }
        if self.work.state & state::LEFT_ALONE != 0 {
            self.direction.flags &= !flag::SYNCED;
            return;
        }
        self.work.step = step::KNOWN;
        let next = self.work.next as usize;
        // Not `>=`: `range` would lose its mask, and the verifier of Linux 6.1 the bound.
        if self.work.drop != 0
            || self.work.reset != 0
            || self.work.more != 0
            || reached != self.work.stop
            || next == RANGES
        {
            return;
        }
        self.begin_check(next);
    }

    /// A short range beyond a hole grows up to `reached`: more of its first bytes can be kept.
    #[inline(always)]
    fn keep_more(&mut self, index: usize, reached: u32) {
        let range = self.direction.range(index);
        let (end, known) = (range.end, range.end.wrapping_sub(range.start));
        let is_short = known != 0 && known < CHUNK as u32;
        // Not if the end lies before the segment: the range has grown over a hole that its frame covers.
        let is_here = end.wrapping_sub(self.work.seq) < self.work.len;
        if index != MAIN && is_short && is_here && after(reached, end) && self.load_chunk(end) {
            let len = reached.wrapping_sub(end);
            let len = if len < self.work.chunk_len {
                len
            } else {
                self.work.chunk_len
            };
            self.append_head(index, known, len);
        }
    }

    /// See [`super::Stage::Join`]: the walk has met another range, whose beginning was checked; the two
    /// become one.
    #[inline(always)]
    pub(super) fn join(&mut self) {
        let next = self.work.next as usize;
        self.end_check(next);
        if self.work.reset != 0 || self.work.drop != 0 {
            return;
        }
        let index = self.work.range as usize;
        let other = self.direction.range(next);
        let (start, end, head_len) = (other.start, other.end, u32::from(other.head_len));
        let first = other.first;
        let mut flags = other.flags;
        // Whether the walk's state is the one at the end of the two.
        let mut goes_on = false;
        if self.work.is_inbound() {
            let is_lost = flags & range_flag::LOST != 0;
            let zeros = other.zeros;
            let walker = &self.work.walker;
            let (resume, begin) = (walker.resume, walker.frame_begin());
            if self.range().flags & range_flag::LOST != 0 {
                // Nothing was known, so nothing contradicts.
            } else if self.work.at == end || !before(resume, end) {
                // All of the other range was read again, or is body of this frame: it must not have
                // frames of its own.
                if !is_lost {
                    self.work.reset = reset::FRAMES;
                }
                goes_on = true;
                flags &= !range_flag::LOST;
            } else if is_lost || !begin.is_some_and(|at| is_frame_at(at, first, zeros)) {
                self.work.reset = reset::FRAMES;
            }
        } else {
            // The open name may have all of the other range.
            let walker = &self.work.walker;
            goes_on = walker.matched != 0;
            let left = walker.left_in_frame(start);
            let is_known = left <= FRAME_MAX;
            if flags & range_flag::FRAMED != 0 && is_known && left > first.wrapping_sub(start) {
                // It began in the body of this frame: what was taken for a length may be part of a name.
                self.work.reset = reset::FRAMES;
            }
            if self.range().flags & range_flag::FRAMED != 0 {
                flags |= range_flag::FRAMED;
            } else if is_known {
                flags &= !range_flag::FRAMED;
            } else {
                // The next join, behind known frames, checks it.
                self.range().first = first;
            }
        }
        if index == MAIN {
            self.direction.set_cursor(end);
        } else {
            let room = end.wrapping_sub(start);
            let kept = if head_len < room { head_len } else { room };
            let known = start.wrapping_sub(self.range().start);
            self.append_head(index, known, kept);
        }
        self.take_state(next, goes_on);
        if self.range().flags & range_flag::LOST != 0 {
            self.take_first(next);
        }
        self.leave(next);
        let range = self.direction.range(index);
        range.end = end;
        range.flags = flags;
        self.work.at = end;
        self.work.replayed = 1;
        self.work.step = step::JOINED;
    }

    /// Nothing is known of the walked range: its first frame is that of range `next`.
    #[inline(always)]
    fn take_first(&mut self, next: usize) {
        let other = self.direction.range(next);
        let (first, zeros, rest) = (other.first, other.zeros, other.rest);
        let range = self.range();
        range.first = first;
        range.zeros = zeros;
        if rest.len != 0 {
            range.rest = rest;
        }
    }

    /// The walked range takes the state at its end: that of the walk, or that of range `next`.
    #[inline(always)]
    fn take_state(&mut self, next: usize, goes_on: bool) {
        if goes_on {
            let walker = &self.work.walker;
            self.direction.range(self.work.range as usize).walker = *walker;
            return;
        }
        let mut walker = self.direction.range(next).walker;
        if !self.work.is_inbound() {
            let end = self.direction.range(next).end;
            walker.inherit_framing(&self.work.walker, end);
        }
        self.range().walker = walker;
    }

    /// The direction that is walked.
    #[inline(always)]
    pub(super) fn way(&self) -> Direction {
        if self.work.is_inbound() {
            Direction::Inbound
        } else {
            Direction::Outbound
        }
    }
}

/// Looks at one range a step, of which `work.bit` are in use from there on; see [`Job::scan`]. The lowest unused one is
/// taken, so that the used ones are looked at first.
struct Scan<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Scan<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let index = job.work.index;
        let at = job.work.cursor;
        let is_enough = job.work.bit == 0 && job.work.free != RANGES as u32;
        if index >= RANGES as u32 || is_enough {
            return false;
        }
        job.work.index = index + 1;
        let cursor = job.direction.cursor();
        let range = job.direction.range(index as usize);
        let (start, end, flags) = (range.start, range.end, range.flags);
        if start == end {
            if job.work.free == RANGES as u32 {
                job.work.free = index;
            }
            return true;
        }
        job.work.bit = job.work.bit.wrapping_sub(1);
        if before(at, start) {
            let far = start.wrapping_sub(at);
            if far <= job.work.nearest {
                job.work.nearest = far;
                job.work.next = index;
            }
        } else if before(at, end) {
            job.work.holder = index;
        } else if at == end {
            job.work.follower = index;
            if flags & range_flag::LOST != 0 {
                job.work.lost = index;
            }
        } else {
            let far = at.wrapping_sub(end);
            if far < job.work.nearest_last {
                job.work.nearest_last = far;
                job.work.last_range = index;
            }
        }
        let far = start.wrapping_sub(cursor);
        if far < job.work.nearest_first {
            job.work.nearest_first = far;
            job.work.first_range = index;
        }
        true
    }
}

/// A range that ends at `at`, and of which nothing is known.
#[inline(always)]
fn lost(at: u32) -> Range {
    Range {
        start: at,
        end: at,
        walker: Walker::at(at),
        flags: range_flag::LOST,
        ..Range::default()
    }
}
