//! Segments that end inside a name: rule 5.

use super::{Job, Packet, Way, flag, found, state};
use crate::{
    layout::{MAIN, Range, Walker},
    wire::{
        pattern,
        seq::{after, before},
    },
};

/// A guess is made when a held segment has come so often again without any new byte, and for so long:
/// the sender has then timed out often (200 ms on Linux, doubled each time), and sends nothing else.
const HELD_DROPS: u32 = 3;

const HELD_NS: u64 = 2_000_000_000;

impl<P: Packet> Job<'_, P> {
    /// After the walk: true if the segment is held.
    #[inline(always)]
    pub(super) fn settle(&mut self) -> bool {
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

    /// Whether a name is open in the state of a walker.
    #[inline(always)]
    pub(super) fn is_open(&self, walker: &Walker) -> bool {
        if self.work.way == Way::Inbound as u32 {
            walker.recipient_open()
        } else {
            !self.is(flag::GUESSED) && pattern::is_open(walker.matched, self.names)
        }
    }

    /// Whether the segment [`seq`, `end`) must wait for bytes behind its range, because it has bytes
    /// of a name that is open there. `old` is where the range ended before.
    #[inline(always)]
    pub(super) fn is_held(&mut self, seq: u32, end: u32, old: u32) -> bool {
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
}
