//! Remembers which bytes were edited, a bit a byte, and reads it again for bytes that come again.
//!
//! The marks of a direction lie in pages of [`PAGE_BYTES`] bytes of the stream, for each kind of edit apart, so a
//! run of marks tells kind, beginning and length of an edit. Edits never touch: between two of them there is
//! at least the `/` that ends a name.

use core::hint::black_box;

use super::{
    EDITS, Packet, Work,
    block::first_bit,
    found,
    job::{Job, hidden, more::RECALL, reset},
};
use crate::{
    layout::{
        DirectionState, Edit, EditKind, MAIN, PAGE_BITS, PAGE_BYTES, PAGE_WORDS, PAGES_KEPT, Page,
        PageKey, RpcFlow,
    },
    wire::{
        seq::{after, before, distance},
        steps::Steps,
    },
};

/// Pages that a segment can touch: 512 KiB, the largest packet of BIG TCP, and one.
const TOUCHED: u32 = 18;
/// Pages that are looked at for a segment, to let them go: all that have a bit. The cursor may have gone far since, over
/// bodies that were not looked at.
const LET_GO: u32 = 64 * PAGE_BITS as u32;
/// Longest edit: the longest text.
const EDIT_MAX: u32 = 334;

/// The two kinds of edits of a direction.
const fn kinds(is_inbound: bool) -> [EditKind; 2] {
    if is_inbound {
        [EditKind::Local, EditKind::Canonical]
    } else {
        [EditKind::Alias, EditKind::PeerAlias]
    }
}

const fn number(position: u64) -> u32 {
    (position / PAGE_BYTES) as u32
}

impl DirectionState {
    /// The word and the bit of page `number` in [`Self::pages`].
    #[inline(always)]
    const fn page_bit(number: u32) -> (usize, u64) {
        ((number / 64) as usize & (PAGE_BITS - 1), 1 << (number & 63))
    }

    #[inline(always)]
    fn has_page(&self, kind: u32, number: u32) -> bool {
        let (word, bit) = Self::page_bit(number);
        self.pages[(kind & 1) as usize][word] & bit != 0
    }

    #[inline(always)]
    fn set_page(&mut self, kind: u32, number: u32, exists: bool) {
        let (word, bit) = Self::page_bit(number);
        let word = &mut self.pages[(kind & 1) as usize][word];
        if exists {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    /// The sequence number of the first byte of a page.
    #[inline(always)]
    const fn page_begin(&self, number: u32) -> u32 {
        let ahead = (number as u64)
            .wrapping_mul(PAGE_BYTES)
            .wrapping_sub(self.position);
        self.ranges[MAIN].end.wrapping_add(ahead as u32)
    }
}

/// See [`super::Stage::Mark`]. A round without memory leaves no marks.
#[inline(always)]
pub(super) fn mark<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    if work.count == 1 && mark_one(packet, flow, work) {
        return;
    }
    for kind in kinds(work.is_inbound()) {
        if touches(packet, flow, work, kind) && work.found & found::NO_MEMORY == 0 {
            P::repeat(&mut MakePages { packet, flow, work }, TOUCHED);
        }
    }
    let mut job = Job::new(packet, flow, work);
    if job.work.found & found::NO_MEMORY != 0 {
        job.take_back();
        return;
    }
    job.direction.short_since = 0;
    for kind in kinds(work.is_inbound()) {
        if touches(packet, flow, work, kind) {
            P::repeat(&mut MarkPages { packet, flow, work }, TOUCHED);
        }
    }
}

/// Marks the only edit of a segment, as most have one, if it lies in one page and that is there. The loops of the other
/// way cost ten calls, and 100 ns where the kernel guards its returns.
#[inline(always)]
fn mark_one<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work) -> bool {
    let edit = work.edits[0];
    let begin = edit.at;
    let end = begin.wrapping_add(u32::from(edit.len));
    let (id, kind) = (flow.id, u32::from(edit.kind()));
    let direction = Job::new(packet, flow, work).direction;
    let page = number(direction.position_of(begin));
    let last = number(direction.position_of(end.wrapping_sub(1)));
    if page != last || !direction.has_page(kind, page) {
        return false;
    }
    let base = direction.page_begin(page);
    let key = PageKey {
        flow: id,
        page,
        kind,
    };
    let Some(marks) = packet.page(&key, false) else {
        return false;
    };
    mark_words(marks, begin.wrapping_sub(base), end.wrapping_sub(base));
    Job::new(packet, flow, work).direction.short_since = 0;
    true
}

/// Marks the bytes of a page from `at` to `end`.
#[inline(always)]
fn mark_words(marks: &mut Page, mut at: u32, end: u32) {
    // An edit of 334 bytes lies in seven words at the most.
    let mut words = 0;
    while words < 8 && at < end {
        // The compiler must not know the bound from elsewhere: the verifier needs the check just here.
        let Some(word) = marks.words.get_mut(black_box((at / 64) as usize)) else {
            return;
        };
        let bit = at & 63;
        let len = end - at;
        let ones = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
        *word |= ones << bit;
        at = (at | 63) + 1;
        words += 1;
    }
}

/// Whether there are edits of `kind`; `page` to `last_page` are the pages that they may lie in.
#[inline(always)]
fn touches<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work, kind: EditKind) -> bool {
    let (first, end) = (work.edits[0].at, work.edited_to);
    let direction = Job::new(packet, flow, work).direction;
    let page = number(direction.position_of(first));
    let last = number(direction.position_of(end.wrapping_sub(1)));
    work.kind = kind as u32;
    work.page = page;
    work.last_page = last;
    work.index = 0;
    work.kinds & (1 << kind as u32) != 0
}

/// Makes sure that there is a page, one a step.
struct MakePages<'a, P> {
    packet: &'a mut P,
    flow: &'a mut RpcFlow,
    work: &'a mut Work,
}

impl<P: Packet> Steps for MakePages<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let (page, kind) = (self.work.page, self.work.kind);
        if page > self.work.last_page {
            return false;
        }
        self.work.page = page + 1;
        let direction = Job::new(self.packet, self.flow, self.work).direction;
        if direction.has_page(kind, page) {
            return true;
        }
        let key = PageKey {
            flow: self.flow.id,
            page,
            kind,
        };
        if self.packet.page(&key, true).is_none() {
            self.work.found |= found::NO_MEMORY;
            return false;
        }
        let direction = Job::new(self.packet, self.flow, self.work).direction;
        direction.set_page(kind, page, true);
        true
    }
}

/// Marks the edits of one page a step.
struct MarkPages<'a, P> {
    packet: &'a mut P,
    flow: &'a mut RpcFlow,
    work: &'a mut Work,
}

impl<P: Packet> Steps for MarkPages<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let (page, kind) = (self.work.page, self.work.kind);
        if page > self.work.last_page {
            return false;
        }
        let direction = Job::new(self.packet, self.flow, self.work).direction;
        let base = direction.page_begin(page);
        self.work.base = base;
        self.work.page = page + 1;
        let key = PageKey {
            flow: self.flow.id,
            page,
            kind,
        };
        let Some(marks) = self.packet.page(&key, false) else {
            self.work.found |= found::LOST_MARKS;
            self.work.reset = reset::MARKS;
            return false;
        };
        let work = &mut *self.work;
        P::repeat(&mut Mark { marks, work }, EDITS as u32);
        true
    }
}

impl<P: Packet> Job<'_, P> {
    /// Whether the cursor has moved so far that pages may be let go.
    #[inline(always)]
    pub(super) fn must_sweep(&self) -> bool {
        self.direction.position >= self.direction.sweep_at || self.has_heads_over()
    }
}

/// See [`super::Stage::Sweep`]: lets go the pages of acknowledged bytes; where acknowledgements are not seen,
/// those that are far behind. The heads, too, if no hole is left.
#[inline(always)]
pub(super) fn sweep<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    let direction = Job::new(packet, flow, work).direction;
    direction.sweep_at = direction.position.wrapping_add(PAGE_BYTES / 2);
    let cursor = number(direction.position);
    let mut keep = cursor.saturating_sub(PAGES_KEPT);
    if let Some(acked) = direction.acknowledged() {
        // What was not acknowledged may begin inside an edit.
        let acked = number(direction.position_of(acked.wrapping_sub(EDIT_MAX)));
        if acked > keep && acked <= cursor {
            keep = acked;
        }
    }
    work.last_page = keep;
    let mut job = Job::new(packet, flow, work);
    if job.has_heads_over() {
        job.forget_heads();
    }
    P::repeat(&mut SweepPages { packet, flow, work }, LET_GO);
}

/// Lets go one page a step, of both kinds.
struct SweepPages<'a, P> {
    packet: &'a mut P,
    flow: &'a mut RpcFlow,
    work: &'a mut Work,
}

impl<P: Packet> Steps for SweepPages<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let direction = Job::new(self.packet, self.flow, self.work).direction;
        let page = direction.oldest_page;
        if page >= self.work.last_page {
            return false;
        }
        let direction = Job::new(self.packet, self.flow, self.work).direction;
        direction.oldest_page = page + 1;
        let has = [0, 1].map(|kind| direction.has_page(kind, page));
        direction.set_page(0, page, false);
        direction.set_page(1, page, false);
        let [first, second] = kinds(self.work.is_inbound());
        let mut key = PageKey {
            flow: self.flow.id,
            page,
            kind: first as u32,
        };
        if has[first as usize & 1] {
            self.packet.forget(&key);
        }
        if has[second as usize & 1] {
            key.kind = second as u32;
            self.packet.forget(&key);
        }
        true
    }
}

/// Marks the part of one edit that lies in a page.
struct Mark<'a> {
    marks: &'a mut Page,
    work: &'a mut Work,
}

impl Steps for Mark<'_> {
    const AT_ONCE: u32 = 4;

    #[inline(always)]
    fn step(&mut self) -> bool {
        let work = &mut *self.work;
        if work.index >= work.count {
            return false;
        }
        let edit = work.edits[work.index as usize & (EDITS - 1)];
        work.index += 1;
        if u32::from(edit.kind()) != work.kind {
            return true;
        }
        let begin = distance(edit.at, work.base);
        let end = begin + i32::from(edit.len);
        if end <= 0 {
            return true;
        }
        let at = if begin < 0 { 0 } else { begin as u32 };
        let mut end = end as u32;
        if end > PAGE_BYTES as u32 {
            // Edits are in the order of the stream: this one, or the rest of it, is the next page's.
            work.index -= 1;
            if at >= PAGE_BYTES as u32 {
                return false;
            }
            end = PAGE_BYTES as u32;
        }
        mark_words(self.marks, at, end);
        end < PAGE_BYTES as u32
    }
}

/// See [`super::Stage::Recall`].
#[inline(always)]
pub(super) fn recall<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    // Edits of the walk are there already; those of the marks come once more, which changes nothing.
    let (seq, end) = (work.recalled, work.end());
    let direction = Job::new(packet, flow, work).direction;
    let begin = match direction.acknowledged() {
        // What was acknowledged nobody reads again.
        Some(acked) if after(acked, seq) && !after(acked, direction.high) => acked,
        _ => seq,
    };
    if !before(begin, end) {
        return;
    }
    let from = number(direction.position_of(begin.wrapping_sub(EDIT_MAX)));
    let last = number(direction.position_of(end.wrapping_sub(1)));
    work.recalled = begin;
    // All of the segment lies in one range. The marks of a name that began in the hole before it begin with it.
    let range = Job::new(packet, flow, work).rest_of_range();
    (work.joint, work.rest) = range;
    for kind in kinds(work.is_inbound()) {
        work.kind = kind as u32;
        work.is_open = 0;
        work.page = from;
        work.last_page = last;
        if work.more == 0 && work.reset == 0 {
            P::repeat(&mut RecallPages { packet, flow, work }, TOUCHED);
        }
        if work.is_open != 0 && work.more == 0 {
            close(work, end);
        }
    }
}

/// Reads the marks of one page a step.
struct RecallPages<'a, P> {
    packet: &'a mut P,
    flow: &'a mut RpcFlow,
    work: &'a mut Work,
}

impl<P: Packet> Steps for RecallPages<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let (page, kind) = (self.work.page, self.work.kind);
        if page > self.work.last_page {
            return false;
        }
        let direction = Job::new(self.packet, self.flow, self.work).direction;
        let has = direction.has_page(kind, page);
        let base = direction.page_begin(page);
        let is_gone = page.wrapping_add(PAGES_KEPT) < number(direction.position);
        let work = &mut *self.work;
        let begin = work.recalled;
        work.base = base;
        work.index = 0;
        work.bit = 0;
        work.page = page + 1;
        if is_gone && before(begin, base.wrapping_add(PAGE_BYTES as u32)) {
            // Nobody knows any more what was written there.
            work.found |= found::LOST_MARKS;
            work.reset = reset::MARKS;
            return false;
        }
        if !has {
            if work.is_open != 0 {
                close(work, base);
            }
            return work.more == 0;
        }
        let ahead = begin.wrapping_sub(EDIT_MAX).wrapping_sub(base);
        if ahead < PAGE_BYTES as u32 {
            work.index = ahead / 64;
        }
        let key = PageKey {
            flow: self.flow.id,
            page,
            kind,
        };
        let Some(marks) = self.packet.page(&key, false) else {
            work.found |= found::LOST_MARKS;
            work.reset = reset::MARKS;
            return false;
        };
        P::repeat(&mut Recall { marks, work }, 16 * PAGE_WORDS as u32);
        self.work.more == 0
    }
}

/// The open run of marks ends at `end`: it is an edit.
#[inline(always)]
fn close(work: &mut Work, end: u32) {
    work.is_open = 0;
    let begin = work.run;
    // The beginning of a run that ends before `recalled` may not have been seen.
    if !after(end, work.recalled) || !before(begin, work.end()) {
        return;
    }
    if work.count >= EDITS as u32 {
        // The rest is recalled in another round.
        work.more = RECALL;
        work.recalled = begin;
        return;
    }
    let len = end.wrapping_sub(begin) as u16;
    let is_rest = begin == work.joint && work.rest.len != 0 && work.rest.kind() == work.kind as u16;
    let from = if is_rest {
        hidden(&work.rest, begin)
    } else {
        0
    };
    let edit = Edit {
        at: begin,
        len,
        source: (work.kind as u16) << 14 | from,
    };
    work.edits[work.count as usize & (EDITS - 1)] = edit;
    work.count += 1;
    work.found |= found::REAPPLIED;
    if after(end, work.edited_to) {
        work.edited_to = end;
    }
}

/// Goes to the next change in the marks of a page, or to the next word.
struct Recall<'a> {
    marks: &'a mut Page,
    work: &'a mut Work,
}

impl Steps for Recall<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let work = &mut *self.work;
        let Some(word) = self.marks.words.get(black_box(work.index as usize)) else {
            return false;
        };
        let base = work.base.wrapping_add(64 * work.index);
        if !before(base, work.end()) {
            return false;
        }
        let wanted = if work.is_open != 0 { !*word } else { *word };
        let rest = wanted >> (work.bit & 63) << (work.bit & 63);
        if rest == 0 {
            work.index += 1;
            work.bit = 0;
            return true;
        }
        let bit = first_bit(rest);
        work.bit = bit;
        let at = base.wrapping_add(bit);
        if work.is_open != 0 {
            close(work, at);
        } else {
            work.is_open = 1;
            work.run = at;
        }
        work.more == 0
    }
}
