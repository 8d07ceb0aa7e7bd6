//! Searching the canonical name in a walk.

use super::{Job, Packet, Steps, flag};
use crate::{
    layout::{Counter, Edit},
    wire::{
        chunk::CHUNK,
        pattern::{self, Match},
        seq::before,
    },
};

/// Searches the pattern: 32 bytes a step while nothing is matched, else one.
pub(super) struct Search<'a, P>(pub(super) Job<'a, P>);

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
    pub(super) fn skip(&self) -> u32 {
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
    pub(super) fn guess_fails(&mut self) {
        if self.is(flag::GUESSED) {
            self.work.reset = 1;
        }
    }

    /// `skip` bytes, but not beyond the bytes of the chunk, the frame, or the end of the walk.
    #[inline(always)]
    pub(super) fn limited(&self, skip: u32) -> u32 {
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
    pub(super) fn matched(&mut self, position: u32) {
        if self.is(flag::GUESSED) {
            self.direction.flags &= !flag::GUESSED;
            return;
        }
        self.push_alias(position.wrapping_sub(u32::from(self.names.canonical.len)));
    }

    /// Logs the translation of the canonical authority at `at`.
    #[inline(always)]
    pub(super) fn push_alias(&mut self, at: u32) {
        if let Some(kind) = self.names.outbound() {
            self.push(Edit::new(at, self.names.canonical.len, kind, 0));
        }
    }
}
