//! Finds frames in the bytes beyond a hole, and checks what was read there when the hole is filled.
//!
//! Inbound, frames are found again at the first front whose lengths agree. What lies before it belongs to a
//! frame that began in the hole: body, or the rest of a recipient; `rest` decides. Outbound the pattern is
//! found wherever it stands; only the first bytes may be the rest of one. The first bytes are kept, and read
//! once more when the hole is filled: if they are not what they were taken for, the connection is reset
//! before the frame is complete.

use super::{
    Packet, Steps,
    job::{Job, Work, check, range_flag, reset, step},
    rest::hidden,
};
use crate::{
    layout::{Counter, Edit, MAIN, NEEDLE_WORDS, RANGES},
    wire::{
        chunk::{CHUNK, Chunk},
        frame,
        seq::{after, before},
    },
};

/// A frame begins at [`Work::first`].
pub(super) const FRAMED: u32 = 1;
/// The frame is a control message.
pub(super) const CONTROL: u32 = 2;
/// The bytes may be the rest of a name.
pub(super) const UNCLEAR: u32 = 4;

/// Bytes at the end of a segment in which the front of a frame may be that cannot be recognised yet.
const TAIL: u32 = 20;

impl<P: Packet> Job<'_, P> {
    /// See [`super::Stage::Head`]: looks at the bytes from `at` to `stop` for a frame: [`Work::head`], `first`.
    #[inline(always)]
    pub(super) fn read_head(&mut self) {
        let (at, stop) = (self.work.at, self.work.stop);
        self.work.head = 0;
        self.work.rest.len = 0;
        self.work.zeros = 0;
        self.work.first = at;
        if !self.load_chunk(at) {
            return;
        }
        let left = stop.wrapping_sub(at);
        if left < self.work.chunk_len {
            self.work.chunk_len = left;
        }
        if frame::plausible(&self.work.chunk, self.work.chunk_len) {
            self.work.head = FRAMED;
            if self.work.chunk.byte(4) == 0x12 {
                self.work.head |= CONTROL;
            }
        } else if self.work.is_inbound() {
            self.find_frame(at, stop);
        }
    }

    /// Inbound: finds the first frame, or decides that there is none.
    #[inline(always)]
    fn find_frame(&mut self, at: u32, stop: u32) {
        self.work.cursor = at.wrapping_add(1);
        self.work.cursor_end = stop;
        self.work.index = at.wrapping_add(1);
        self.work.run = u32::from(self.work.chunk.byte(0) == 0);
        let mut find = FindFrame(self.again());
        P::repeat(&mut find, 1 << 17);
        if self.work.head & FRAMED != 0 || self.work.drop != 0 {
            return;
        }
        // A frame may begin in the last bytes.
        let left = stop.wrapping_sub(at);
        let tail = if left < TAIL { left } else { TAIL };
        let from = stop.wrapping_sub(tail);
        if !self.load_chunk(from) {
            return;
        }
        let mut index = 0;
        while index < TAIL {
            if index < tail && frame::may_begin(&self.work.chunk, index, tail) {
                self.work.head |= UNCLEAR;
            }
            index += 1;
        }
    }

    /// Begins a range at `at`, and keeps its first bytes. False if there is no memory for them, or they cannot be read.
    #[inline(always)]
    pub(super) fn keep_head(&mut self, at: u32) -> bool {
        let index = self.work.range;
        let key = self.head_key(index as usize);
        if !self.load_chunk(at) {
            return false;
        }
        let Some(head) = self.packet.head(&key, true) else {
            return false;
        };
        head.words = *self.work.chunk.words();
        if index > self.direction.heads {
            self.direction.heads = index;
        }
        let work = &*self.work;
        let range = self.direction.range(work.range as usize);
        range.start = at;
        range.end = at;
        range.first = at;
        range.flags = 0;
        range.rest = work.rest;
        // What another range has of the segment is appended when the two are joined.
        let len = work.stop.wrapping_sub(at);
        range.head_len = if len < work.chunk_len {
            len
        } else {
            work.chunk_len
        } as u16;
        true
    }

    /// Range `index` of which all `known` bytes are kept goes on with the `len` bytes at the beginning of the window.
    #[inline(always)]
    pub(super) fn append_head(&mut self, index: usize, known: u32, len: u32) {
        let range = self.direction.range(index);
        if u32::from(range.head_len) != known || known >= CHUNK as u32 {
            return;
        }
        let room = CHUNK as u32 - known;
        range.head_len = (known + if len < room { len } else { room }) as u16;
        self.work.cursor = index as u32;
        self.work.bit = known;
        self.work.index = known / 8;
        let mut append = Append(self.again());
        P::repeat(&mut append, NEEDLE_WORDS as u32);
    }

    /// Lets go the heads of the ranges, when none is beyond a hole any more.
    #[inline(always)]
    pub(super) fn forget_heads(&mut self) {
        self.work.index = MAIN as u32 + 1;
        P::repeat(&mut ForgetHeads(self.again()), RANGES as u32);
        self.direction.heads = 0;
    }

    /// See [`Self::forget_heads`].
    #[inline(always)]
    pub(super) fn has_heads_over(&self) -> bool {
        self.direction.heads != 0 && self.direction.islands == 0
    }

    /// Prepares to read the first bytes of range `next` once more, in the state in which the walk met it.
    #[inline(always)]
    pub(super) fn begin_check(&mut self, next: usize) {
        let is_lost = self.range().flags & range_flag::LOST != 0;
        let inbound = self.work.is_inbound();
        let open = self.work.walker.matched != 0;
        let range = self.direction.range(next);
        let (start, end) = (range.start, range.end);
        let mut len = u32::from(range.head_len);
        let room = end.wrapping_sub(start);
        if room < len {
            len = room;
        }
        if inbound && range.flags & range_flag::LOST == 0 {
            let before_first = range.first.wrapping_sub(start);
            if before_first < len {
                len = before_first;
            }
        }
        if inbound && is_lost || !inbound && !open {
            len = 0;
        }
        let key = self.head_key(next);
        match self.packet.head(&key, false) {
            Some(head) => self.work.chunk = Chunk::from_words(&head.words),
            None => {
                self.direction.range(next).head_len = 0;
                // It was there when the range began.
                if len != 0 {
                    self.work.reset = reset::MARKS;
                }
            }
        }
        self.work.chunk_offset = start.wrapping_sub(self.work.seq);
        self.work.chunk_len = len;
        self.work.joint = start;
        self.work.at = start;
        self.work.stop = start.wrapping_add(len);
        self.work.checks = check::READS;
        self.work.step = step::CHECK;
    }

    /// An edit that the check has come to: what of it lies in the range must be of the one that was made there.
    #[inline(always)]
    pub(super) fn check(&mut self, edit: Edit) {
        let joint = self.work.joint;
        let end = edit.at.wrapping_add(u32::from(edit.len));
        if !after(end, joint) {
            self.add(edit);
            return;
        }
        let made = self.direction.range(self.work.next as usize).rest;
        let begin = edit.at.wrapping_sub(u32::from(edit.from()));
        let is_same = made.len != 0
            && made.at == begin
            && made.at.wrapping_add(u32::from(made.len)) == end
            && made.kind() == edit.kind();
        if !is_same {
            self.work.reset = reset::REST;
            return;
        }
        self.work.checks |= check::CONFIRMED;
        if before(edit.at, joint) {
            self.add(edit.first(joint.wrapping_sub(edit.at) as u16));
        }
    }

    /// The first bytes of range `next` were read once more. An edit that was made there must have been found.
    #[inline(always)]
    pub(super) fn end_check(&mut self, next: usize) {
        let rest = self.direction.range(next).rest;
        // Behind a range of which nothing is known it is checked later, unless the name began in that one.
        let waits = self.range().flags & range_flag::LOST != 0
            && self.range().rest.len == 0
            && hidden(&rest, self.work.joint) == 0;
        let is_confirmed = self.work.checks & check::CONFIRMED != 0;
        if rest.len != 0 && !waits && !is_confirmed && self.work.drop == 0 {
            self.work.reset = reset::REST;
        }
        self.work.checks = 0;
        self.work.chunk_len = 0;
        self.work.block_len = 0;
    }
}

/// Whether a segment of `len` bytes begins with a plausible frame, as far as it is there.
#[inline(always)]
pub fn begins_frame<P: Packet>(packet: &mut P, work: &mut Work, len: u32) -> bool {
    let len = if len < CHUNK as u32 {
        len
    } else {
        CHUNK as u32
    };
    work.chunk_offset = 0;
    work.chunk_len = len;
    if !packet.load(0, len, &mut work.chunk) {
        return false;
    }
    // Frames are shorter than 16 MiB, and a first one has a payload or an instruction.
    let tag = work.chunk.byte(4);
    let is_cut = len < 12 && work.chunk.byte(0) == 0 && (len < 5 || tag == 0x0a || tag == 0x12);
    is_cut || frame::plausible(&work.chunk, len)
}

/// Appends the window to the kept bytes of range `work.cursor`, of which there are `work.bit`, a word a step.
struct Append<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Append<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let (index, known) = (job.work.index, job.work.bit);
        // Not `>=`: the compiler would drop the masks, and the verifier the bounds.
        if index == NEEDLE_WORDS as u32 {
            return false;
        }
        job.work.index = index + 1;
        // Looked up for each word: a loop of the verifier's own over one head costs it 146,000 instructions more.
        let key = job.head_key(job.work.cursor as usize);
        let Some(head) = job.packet.head(&key, false) else {
            return false;
        };
        let word = &mut head.words[index as usize & (NEEDLE_WORDS - 1)];
        *word = job.work.chunk.appended(*word, index, known);
        true
    }
}

/// Lets go the head of range `work.index`, one a step.
struct ForgetHeads<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for ForgetHeads<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let index = job.work.index;
        if index > job.direction.heads {
            return false;
        }
        job.work.index = index + 1;
        let key = job.head_key(index as usize);
        job.packet.forget_head(&key);
        true
    }
}

/// Looks for the front of a frame, from `work.cursor` on: a candidate a step.
struct FindFrame<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for FindFrame<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let (at, stop) = (job.work.cursor, job.work.cursor_end);
        let left = stop.wrapping_sub(at);
        // Fewer bytes are not recognised.
        if !before(at, stop) || left < 8 {
            return false;
        }
        let index = match job.in_chunk(at, 8) {
            Some(index) => index,
            None => {
                if !job.load_chunk(at) {
                    return false;
                }
                0
            }
        };
        // The first byte of a length is zero: eight bytes are looked at together.
        let zero = job.work.chunk.find_in_word(index, 0);
        let skip = zero.wrapping_sub(index) as u32;
        // Read before it is known to lie in the window: else the compiler drops the mask, and the verifier of
        // Linux 6.1 the bound.
        let is_zero = job.work.chunk.byte(zero) == 0;
        if !is_zero || zero >= CHUNK || zero as u32 >= job.work.chunk_len {
            let known = job.work.chunk_len.wrapping_sub(index as u32);
            let skip = if skip < known { skip } else { known };
            job.work.cursor = at.wrapping_add(if skip == 0 { 1 } else { skip });
            return true;
        }
        let at = at.wrapping_add(skip);
        job.work.cursor = at;
        let left = stop.wrapping_sub(at);
        if left < 8 || !before(at, stop) {
            return false;
        }
        if !job.load_chunk(at) {
            return false;
        }
        if left < job.work.chunk_len {
            job.work.chunk_len = left;
        }
        let len = (job.work.chunk.word(0) as u32).swap_bytes();
        let goes_on = job.work.index == at;
        if frame::plausible(&job.work.chunk, job.work.chunk_len) && job.is_followed(at, len, stop) {
            job.work.head |= FRAMED;
            job.work.first = at;
            job.work.zeros = if goes_on { job.work.run } else { 0 };
            return false;
        }
        job.work.run = if goes_on { job.work.run + 1 } else { 1 };
        job.work.index = at.wrapping_add(1);
        job.work.cursor = at.wrapping_add(1);
        true
    }
}

impl<P: Packet> Job<'_, P> {
    /// Whether the frame of `len` bytes at `at` is followed by what may be another one, as far as that can be
    /// seen.
    #[inline(always)]
    fn is_followed(&mut self, at: u32, len: u32, stop: u32) -> bool {
        let next = at.wrapping_add(4).wrapping_add(len);
        if !before(next, stop) || len >= 1 << 24 {
            return len < 1 << 24;
        }
        if !self.load_chunk(next) {
            self.work.drop_for(Counter::DroppedStore);
            return false;
        }
        self.work.chunk.byte(0) == 0
    }
}
