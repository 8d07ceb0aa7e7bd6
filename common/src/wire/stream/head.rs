//! Decides whether the bytes beyond a hole can be read alone, and checks it when the hole is filled.
//!
//! Inbound, frames are found again at the first front whose lengths agree. What lies before it belongs to a
//! frame that began in the hole: body, or the rest of a recipient. Outbound the pattern is found wherever it
//! stands; only the first bytes may be the rest of one. A segment whose first bytes may be the rest of a name
//! waits until the hole is filled. The first bytes are kept, and read once more then: if they had a name after
//! all, the connection is reset before the frame is complete.

use super::{
    Packet, Steps,
    job::{Job, Work, range_flag, reset, step},
};
use crate::{
    layout::{Counter, Edit, NEEDLE_WORDS},
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

/// Bytes of a frame's front before the path: what may be left of it when the hole ends inside it.
const BEFORE_PATH: u32 = 18;
/// Bytes at the end of a segment in which the front of a frame may be that cannot be recognised yet.
const TAIL: u32 = 20;

impl<P: Packet> Job<'_, P> {
    /// See [`super::Stage::Head`]: looks at the bytes from `at` to `stop` for a frame: [`Work::head`], `first`.
    #[inline(always)]
    pub(super) fn read_head(&mut self) {
        let (at, stop) = (self.work.at, self.work.stop);
        self.work.head = 0;
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

    /// See [`super::Stage::Rest`]: decides whether what lies before the first frame is the rest of a name.
    #[inline(always)]
    pub(super) fn look_at_rest(&mut self) {
        let (at, stop) = (self.work.at, self.work.stop);
        let is_framed = self.work.head & FRAMED != 0;
        if self.work.drop != 0 || is_framed && self.work.first == at || !self.load_chunk(at) {
            return;
        }
        let left = if is_framed {
            self.work.first.wrapping_sub(at)
        } else {
            stop.wrapping_sub(at)
        };
        if left < self.work.chunk_len {
            self.work.chunk_len = left;
        }
        self.read_rest(left);
    }

    /// Decides whether the first bytes, of which there are `left`, are the rest of a name.
    #[inline(always)]
    fn read_rest(&mut self, left: u32) {
        let inbound = self.work.is_inbound();
        if !inbound && self.names.outbound().is_none() {
            return;
        }
        self.work.block_len = 0;
        if self.in_block(self.work.at, 1, CHUNK as u32).is_none() {
            return;
        }
        self.work.index = 0;
        self.work.run = 0;
        self.work.bit = 0;
        let mut rest = Rest(self.again());
        P::repeat(&mut rest, CHUNK as u32);
        let looked = self.work.index;
        if self.work.head & (UNCLEAR | FRAMED) != 0 || looked < self.work.chunk_len {
            return;
        }
        // No name has ended. The bytes may end inside one.
        let is_open = if inbound {
            let last = self.work.chunk.byte(looked.wrapping_sub(1) as usize);
            let is_all = left <= looked;
            (self.work.run != 0 || last == b'/') && (is_all || self.work.bit & HAS_AT != 0)
        } else {
            left < u32::from(self.names.pattern.len)
        };
        if is_open || !inbound && self.names.needle.len == 0 {
            self.work.head |= UNCLEAR;
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
        // A frame may begin in the last bytes: its length's first byte is zero.
        let left = stop.wrapping_sub(at);
        let tail = if left < TAIL { left } else { TAIL };
        let from = stop.wrapping_sub(tail);
        if !self.load_chunk(from) {
            return;
        }
        let mut index = 0;
        while index < TAIL {
            if index < tail && self.work.chunk.byte(index as usize) == 0 {
                self.work.head |= UNCLEAR;
            }
            index += 1;
        }
    }

    /// Keeps the first bytes of the range that begins at `at`.
    #[inline(always)]
    pub(super) fn keep_head(&mut self, at: u32) {
        if !self.load_chunk(at) {
            return;
        }
        let work = &*self.work;
        let range = self.direction.range(work.range as usize);
        range.start = at;
        range.end = at;
        range.first = at;
        range.flags = 0;
        range.head = *work.chunk.words();
        range.head_len = work.chunk_len as u16;
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
        self.work.chunk = Chunk::from_words(&range.head);
        if inbound && is_lost || !inbound && !open {
            len = 0;
        }
        self.work.chunk_offset = start.wrapping_sub(self.work.seq);
        self.work.chunk_len = len;
        self.work.joint = start;
        self.work.at = start;
        self.work.stop = start.wrapping_add(len);
        self.work.checks = 1;
        self.work.step = step::CHECK;
    }

    /// An edit that the check has come to: what of it lies in the range was not made.
    #[inline(always)]
    pub(super) fn check(&mut self, edit: Edit) {
        let joint = self.work.joint;
        let end = edit.at.wrapping_add(u32::from(edit.len));
        if after(end, joint) {
            self.work.reset = reset::REST;
            return;
        }
        self.add(edit);
    }

    /// The first bytes of a range were read once more.
    #[inline(always)]
    pub(super) fn end_check(&mut self) {
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
        let range = job.direction.range(job.work.cursor as usize);
        let word = &mut range.head[index as usize & (NEEDLE_WORDS - 1)];
        *word = job.work.chunk.appended(*word, index, known);
        true
    }
}

/// Looks for the end of a name in the window, a byte a step.
struct Rest<'a, P>(Job<'a, P>);

/// Bits of [`Work::bit`]: what the run of host characters has.
const HAS_AT: u32 = 1;
const HAS_COLON: u32 = 2;
const DIGIT_LAST: u32 = 4;

impl<P: Packet> Steps for Rest<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let index = job.work.index;
        if index >= job.work.chunk_len {
            return false;
        }
        let byte = job.work.chunk.byte(index as usize);
        if byte != b'/' {
            job.work.index = index + 1;
            if is_host(byte) {
                job.work.run += 1;
                job.work.bit = job.work.bit & !DIGIT_LAST
                    | if byte == b'@' { HAS_AT } else { 0 }
                    | if byte == b':' { HAS_COLON } else { 0 }
                    | if byte.is_ascii_digit() { DIGIT_LAST } else { 0 };
            } else {
                job.work.run = 0;
                job.work.bit = 0;
            }
            return true;
        }
        if job.ends_name(index) {
            return false;
        }
        let (run, bits) = (job.work.run, job.work.bit);
        let inside = run != 0 && run == index;
        let whole = bits & (HAS_AT | HAS_COLON) == HAS_AT | HAS_COLON;
        if job.work.is_inbound() && bits & DIGIT_LAST != 0 && (inside || whole) {
            // The end of some recipient, perhaps.
            job.work.head |= UNCLEAR;
            return false;
        }
        job.work.index = index + 1;
        job.work.run = 0;
        job.work.bit = 0;
        true
    }
}

impl<P: Packet> Job<'_, P> {
    /// Whether a name that is known ends with the `/` at `slash` of the window, and so what of it lies there.
    #[inline(always)]
    fn ends_name(&mut self, slash: u32) -> bool {
        if !self.work.is_inbound() {
            let len = self.names.needle.len;
            let Some((_, from)) = self.overlap(&Which::Pattern, slash, len) else {
                return false;
            };
            // A whole pattern is found by the search. Other names may have the same end.
            if from != 0 {
                self.work.head |= UNCLEAR;
            }
            return true;
        }
        let len = self.names.front.len;
        if let Some((at, _)) = self.overlap(&Which::Front, slash, len) {
            // Perhaps a name in a body: it cannot be said which.
            if self.is_recipient(at) {
                self.work.head |= UNCLEAR;
            }
            return true;
        }
        let len = self.names.front_canonical.len;
        let Some((_, from)) = self.overlap(&Which::FrontCanonical, slash, len) else {
            return false;
        };
        // Its first bytes may have become the local form.
        if from > self.names.scheme {
            self.work.head |= UNCLEAR;
        }
        true
    }

    /// If `text` ends at `slash` of the window: where in the window it begins, and how many bytes of it
    /// lie before the window.
    #[inline(always)]
    fn overlap(&self, which: &Which, slash: u32, len: u32) -> Option<(u32, u32)> {
        if len == 0 {
            return None;
        }
        let text = match which {
            Which::Pattern => &self.names.needle,
            Which::Front => &self.names.front,
            Which::FrontCanonical => &self.names.front_canonical,
        };
        let seen = slash + 1;
        let (at, from, count) = if seen >= len {
            (seen - len, 0, len)
        } else {
            (0, len - seen, seen)
        };
        // Only the last `/` ends a name: those of `://` have more than its path behind them.
        if from + count != len || count < 2 {
            return None;
        }
        // The block begins where the window does.
        let same = P::equal(&self.work.block, at, text, from, count);
        (same == count).then_some((at, from))
    }

    /// Whether what begins at `at` of the window may be a recipient's path: the lengths before it are those of a
    /// reference, or some of them lie in the hole.
    #[inline(always)]
    fn is_recipient(&self, at: u32) -> bool {
        // All bytes are read before `at` is known to be small, for the same reason as in `FindFrame`.
        let is_tag = |back: u32| self.work.chunk.byte(at.wrapping_sub(back) as usize) == 0x0a;
        let short = is_tag(2) && is_tag(4);
        let long = is_tag(3) && (is_tag(5) || is_tag(6));
        at <= BEFORE_PATH || short || long
    }
}

/// A text that a name is compared with.
enum Which {
    Pattern,
    Front,
    FrontCanonical,
}

/// Bytes of `<system>@<host>:<port>`.
#[inline(always)]
const fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'.' | b'-' | b'_' | b':' | b'@' | b'[' | b']' | b'%')
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
