//! Searches the canonical name in a walk.
//!
//! Every occurrence of a pattern of `n` bytes has `n - 7` words of eight bytes. So it is enough to look at one
//! word of the stream in `n - 7` bytes, and to ask a filter whether the pattern has that word anywhere. What
//! the filter lets through is compared. Names that a segment cuts are read byte by byte.

use super::{
    Packet,
    block::BLOCK,
    front::{self, FRONT},
    job::{Job, more, reset},
};
use crate::{
    layout::{Edit, NEEDLE_WORDS, Walker},
    wire::{
        chunk::CHUNK,
        flow::filter_bit,
        pattern::{self, Match},
        seq::{after, before},
        steps::Steps,
    },
};

/// Bytes at the beginning of a flow that are searched byte by byte: what the endpoint's peers are called, and
/// how much of that looks like its own name, is seen there.
pub(super) const CAREFUL: u32 = 16 << 10;
/// The shortest pattern that is searched by words.
const NEEDLE_MIN: u32 = 15;
/// Positions of the pattern that are looked at in a step.
const POSITIONS: u32 = 32;
/// Words that are looked at in a step.
const SAMPLES: u32 = 32;

/// Bits of [`Walker::flags`] while the pattern is searched: what was decided about the open name.
pub(super) mod cut {
    /// It is translated up to [`super::Walker::authority`].
    pub const TRANSLATED: u8 = 1;
    /// It is left as it is.
    pub const LEFT: u8 = 2;
}

/// The class of a name: the recipient of its frame, or any other.
pub(super) const RECIPIENT: u16 = 0;
const OTHER: u16 = 1;
/// Bytes of a frame before the `://` of its recipient, at the most.
const BEFORE_RECIPIENT: u32 = 4 + 16 + 9;

impl Walker {
    /// The class of the name of which `matched` bytes stand before `position`.
    #[inline(always)]
    pub(super) fn class(&self, position: u32, matched: u16) -> u16 {
        let begin = self.frame_end.wrapping_sub(self.value).wrapping_sub(4);
        let before = position
            .wrapping_sub(u32::from(matched))
            .wrapping_sub(begin);
        if self.is_framed() && before <= BEFORE_RECIPIENT {
            RECIPIENT
        } else {
            OTHER
        }
    }
}

/// Searches the pattern: by words where that is possible, else 32 bytes a step while nothing is matched, else
/// one.
pub(super) struct Search<'a, P>(pub(super) Job<'a, P>);

impl<P: Packet> Steps for Search<'_, P> {
    const AT_ONCE: u32 = 2;

    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let (at, stop) = (job.work.at, job.work.stop);
        if !before(at, stop) || job.work.checks != 0 && job.work.walker.matched == 0 {
            return false;
        }
        if job.is_full() {
            job.pause();
            return false;
        }
        if job.names.outbound().is_none() && !job.work.walker.in_length() {
            job.pass_frame();
            return true;
        }
        if job.work.walker.matched == 0 && job.is_fast() {
            if job.work.walker.in_length() {
                if job.whole_front() {
                    return true;
                }
            } else if job.samples() {
                if job.work.is_open != 0 {
                    job.follow();
                }
                return job.work.drop == 0;
            }
        }
        let at = job.work.at;
        let Some(byte) = job.byte() else { return false };
        let next = at.wrapping_add(1);
        job.direction.careful = job.direction.careful.saturating_sub(1);
        if job.work.walker.in_length() {
            job.work.walker.length_byte(byte, next);
            job.work.at = next;
            return true;
        }
        let mut matched = job.work.walker.matched;
        if matched == 0 && byte != b':' {
            let skip = job.skip();
            let next = at.wrapping_add(skip);
            job.direction.careful = job.direction.careful.saturating_sub(skip);
            job.work.at = next;
            job.work.walker.frame_may_end(next);
            return true;
        }
        let was = matched;
        match pattern::step(&mut matched, byte, job.names) {
            Match::Open => {}
            Match::Broken => job.broken(was, at),
            Match::Whole => job.matched(at),
        }
        if matched != 0 && job.work.walker.left_in_frame(next) == 0 {
            // No name goes beyond the end of its frame.
            job.broken(matched, next);
            matched = 0;
        }
        job.work.walker.matched = matched;
        job.work.at = next;
        job.work.walker.frame_may_end(next);
        if matched == 0 {
            job.work.walker.flags = 0;
        } else if job.work.checks != 0
            && !before(next.wrapping_sub(u32::from(matched)), job.work.joint)
        {
            // Another name begins in the range that is checked, and was read there.
            job.work.walker.matched = 0;
            return false;
        }
        job.work.reset == 0
    }
}

/// Compares what stands around a word of the pattern, one place a step where the pattern has that word.
struct Align<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Align<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let (mut index, len) = (job.work.index, job.names.needle.len);
        let word = job.work.word;
        let mut looked = 0;
        while looked < POSITIONS {
            if index + 8 > len {
                return false;
            }
            if job.names.needle.word(index as usize) == word {
                break;
            }
            index += 1;
            looked += 1;
        }
        job.work.index = index + 1;
        if looked == POSITIONS {
            job.work.index = index;
            return true;
        }
        let begin = job.work.cursor.wrapping_sub(index);
        let behind = begin.wrapping_add(len);
        if before(begin, job.work.floor) || after(behind, job.work.cursor_end) {
            return true;
        }
        let Some(found) = job.compare(begin, len) else {
            return false;
        };
        if found != len {
            job.near_miss(found as u16, OTHER);
            return true;
        }
        job.whole_match(begin, len, OTHER);
        job.work.floor = behind;
        job.work.is_open = 1;
        false
    }
}

impl<P: Packet> Job<'_, P> {
    /// The round ends here. Samples are ahead of what is known: a name may have begun before.
    #[inline(always)]
    fn pause(&mut self) {
        self.work.more = more::WALK;
        let (at, floor) = (self.work.at, self.work.floor);
        let is_sampling = self.work.walker.matched == 0 && !self.work.walker.in_length();
        if self.is_fast() && is_sampling && after(at, floor) {
            self.rewind(at);
        }
    }

    /// Goes back to where a name may have begun that is not complete at `end`.
    #[inline(always)]
    fn rewind(&mut self, end: u32) {
        let from = end.wrapping_sub(self.names.needle.len - 1);
        let floor = self.work.floor;
        self.work.at = if before(from, floor) { floor } else { from };
    }

    /// No name is looked for: goes to the end of the frame.
    #[inline(always)]
    fn pass_frame(&mut self) {
        let (at, stop) = (self.work.at, self.work.stop);
        let left = stop.wrapping_sub(at);
        let in_frame = self.work.walker.left_in_frame(at);
        let skip = if in_frame < left { in_frame } else { left };
        self.work.walker.matched = 0;
        self.work.at = at.wrapping_add(skip);
        self.work.walker.frame_may_end(self.work.at);
    }

    /// Whether the search may look at words.
    #[inline(always)]
    fn is_fast(&self) -> bool {
        self.work.slow | self.work.checks | self.direction.careful == 0
            && self.names.needle.len >= NEEDLE_MIN
    }

    /// Reads the front of a frame at once, and looks at its recipient. False if it has to be read byte by byte.
    #[inline(never)]
    fn whole_front(&mut self) -> bool {
        let at = self.work.at;
        let left = self.work.stop.wrapping_sub(at);
        if left < FRONT || self.work.walker.count != 0 {
            return false;
        }
        let needed = FRONT + 9 + self.names.needle.len;
        let needed = if left < needed { left } else { needed };
        let Some(index) = self.in_block(at, needed, BLOCK as u32) else {
            return false;
        };
        let (len, low, high) = (
            self.work.block.word(index) as u32,
            self.work.block.word(index + 4),
            self.work.block.word(index + 12),
        );
        if !front::read(len, low, high, &mut self.work.front) {
            return false;
        }
        let front = self.work.front;
        let behind = at.wrapping_add(4);
        self.work.walker.frame_in_body(behind, front.len);
        self.work.at = behind;
        self.work.floor = behind;
        if front.path == 0 {
            self.work.at = behind.wrapping_add(front.len);
            self.work.walker.frame_may_end(self.work.at);
            return true;
        }
        let text = self.work.block.word(index + front.path);
        let scheme = if text as u8 == b'p' { 5 } else { 4 };
        // `://` of the recipient.
        let begin = front.path + scheme + 4;
        let len = self.names.needle.len;
        if len == 0 {
            return true;
        }
        let known = self.work.block_len.wrapping_sub(index);
        let room = if known < left { known } else { left };
        if begin + len > room {
            return true;
        }
        let same = P::equal(&self.work.block, index + begin, &self.names.needle, 0, len);
        let position = at.wrapping_add(begin);
        if same == len {
            self.whole_match(position, len, RECIPIENT);
            self.work.at = position.wrapping_add(len);
        } else if same >= 3 {
            self.near_miss(same as u16, RECIPIENT);
            self.work.at = position.wrapping_add(3);
        } else {
            return true;
        }
        self.work.floor = self.work.at;
        self.work.walker.frame_may_end(self.work.at);
        true
    }

    /// Looks at some words of the frame, or of the segment. False if what is left has to be read byte by byte.
    #[inline(never)]
    fn samples(&mut self) -> bool {
        self.work.is_open = 0;
        let stop = self.work.stop;
        let needle = self.names.needle.len;
        let left = stop.wrapping_sub(self.work.at);
        let in_frame = self.work.walker.left_in_frame(self.work.at);
        let is_frame_end = in_frame <= left;
        let left = if is_frame_end { in_frame } else { left };
        if before(self.work.at, self.work.floor) {
            return false;
        }
        let end = self.work.at.wrapping_add(left);
        self.work.cursor_end = end;
        self.work.bit = u32::from(is_frame_end);
        if left < 8 {
            if is_frame_end {
                self.work.at = end;
                self.work.walker.frame_may_end(end);
                return true;
            }
            return self.read_tail(end);
        }
        if !is_frame_end && left < needle && self.work.at == self.work.floor {
            return self.read_tail(end);
        }
        let Some(mut index) = self.in_block(self.work.at, 8, BLOCK as u32) else {
            return false;
        };
        let stride = needle - 7;
        let begin = index;
        let known = self.work.block_len.wrapping_sub(index);
        // The last place of a word.
        let last = index + if known < left { known } else { left } - 8;
        let mut samples = 0;
        while samples < SAMPLES && index <= last {
            let word = self.work.block.word(index);
            let bit = filter_bit(word);
            if self.names.filter[(bit / 64) as usize & (NEEDLE_WORDS - 1)] >> (bit & 63) & 1 != 0 {
                self.work.word = word;
                self.work.cursor = self.work.at.wrapping_add(index - begin);
                self.work.is_open = 1;
                return true;
            }
            index += stride;
            samples += 1;
        }
        self.work.at = self.work.at.wrapping_add(index - begin);
        self.clamp();
        true
    }

    /// The sample at `cursor` may lie in a name: goes behind it.
    #[inline(never)]
    fn follow(&mut self) {
        let at = self.work.cursor;
        self.candidate();
        let step = if self.work.is_open != 0 {
            self.work.floor.wrapping_sub(at)
        } else {
            self.names.needle.len - 7
        };
        self.work.is_open = 0;
        self.work.at = at.wrapping_add(step);
        self.clamp();
    }

    /// No sample lies behind the end of the frame.
    #[inline(always)]
    fn clamp(&mut self) {
        let end = self.work.cursor_end;
        if before(self.work.at, end) {
            return;
        }
        if self.work.bit != 0 {
            self.work.at = end;
            self.work.walker.frame_may_end(end);
        } else {
            self.read_tail(end);
        }
    }

    /// The last bytes of the segment may be the beginning of a name: they are read byte by byte.
    #[inline(always)]
    fn read_tail(&mut self, end: u32) -> bool {
        self.rewind(end);
        // Not again by words.
        self.work.floor = end;
        false
    }

    /// Whether `word` at `cursor` lies in a name that ends before `cursor_end`: `is_open`. The name is translated then,
    /// and `floor` is behind it.
    #[inline(always)]
    fn candidate(&mut self) {
        self.work.index = 0;
        self.work.is_open = 0;
        let mut align = Align(self.again());
        P::repeat(&mut align, CHUNK as u32);
    }

    /// How many bytes from `begin` on are those of the pattern.
    #[inline(always)]
    fn compare(&mut self, begin: u32, len: u32) -> Option<u32> {
        let index = self.in_block(begin, len, BLOCK as u32)?;
        Some(P::equal(
            &self.work.block,
            index,
            &self.names.needle,
            0,
            len,
        ))
    }

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

    /// The pattern, of which `matched` bytes stand before `position`, does not go on.
    #[inline(always)]
    fn broken(&mut self, matched: u16, position: u32) {
        if self.work.walker.flags & cut::TRANSLATED != 0 {
            // A translation that was guessed must not be read.
            self.work.reset = reset::NAME;
        }
        self.work.walker.flags = 0;
        let class = self.work.walker.class(position, matched);
        self.near_miss(matched, class);
    }

    #[inline(always)]
    fn near_miss(&mut self, matched: u16, class: u16) {
        let near = &mut self.direction.near[usize::from(class) & 1];
        if matched > self.names.pattern_prefix() && matched > *near {
            *near = matched;
        }
    }

    /// The whole pattern stands at `begin`.
    #[inline(always)]
    fn whole_match(&mut self, begin: u32, len: u32, class: u16) {
        self.hit(class);
        let canonical = u32::from(self.names.canonical.len);
        let at = begin.wrapping_add(len - 1).wrapping_sub(canonical);
        if let Some(kind) = self.names.outbound() {
            self.push(Edit::new(at, canonical as u16, kind, 0).exact());
        }
    }

    #[inline(always)]
    fn hit(&mut self, class: u16) {
        let hits = &mut self.direction.hits[usize::from(class) & 1];
        *hits = hits.saturating_add(1);
    }

    /// The pattern ends with the byte at `position`.
    #[inline(always)]
    fn matched(&mut self, position: u32) {
        let class = self.work.walker.class(position, self.work.walker.matched);
        self.hit(class);
        if self.work.walker.flags & cut::LEFT != 0 {
            self.work.reset = reset::NAME;
            return;
        }
        if self.work.walker.flags & cut::TRANSLATED == 0 {
            self.work.walker.authority = position.wrapping_sub(u32::from(self.names.canonical.len));
        }
        self.push_cut(position);
    }

    /// Translates the open name up to `end`, from where it was not translated yet.
    #[inline(always)]
    pub(super) fn push_cut(&mut self, end: u32) {
        let Some(kind) = self.names.outbound() else {
            return;
        };
        let begin = self.work.walker.authority;
        if !after(end, begin) {
            return;
        }
        let matched = self.work.walker.matched;
        // The authority begins behind the prefix of the pattern, `matched` bytes before `end`.
        let start = end
            .wrapping_sub(u32::from(matched))
            .wrapping_add(u32::from(self.names.pattern_prefix()));
        let from = begin.wrapping_sub(start);
        let len = end.wrapping_sub(begin);
        self.push(Edit::new(begin, len as u16, kind, from as u16));
        self.work.walker.authority = end;
    }
}
