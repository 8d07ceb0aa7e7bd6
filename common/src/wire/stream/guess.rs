//! Decides about names that the end of a segment cuts.
//!
//! What was read of a name is translated at once if it cannot reasonably be anything else: if it is longer
//! than every near miss that the endpoint was seen to send. A guess is checked when the rest comes, which is
//! before the frame is complete, so no receiver ever reads a wrong one.

use super::{
    Packet, found,
    job::Job,
    search::{RECIPIENT, cut},
};
use crate::{
    layout::{Counter, MAIN},
    wire::{
        flow::state,
        seq::{after, before},
    },
};

/// How often a segment is held for one name. A sender that may send what follows does so at the latest with its tail
/// loss probe (RFC 8985 7).
const HOLDS: u16 = 3;
/// The same for all names beyond holes: they wait for what fills the hole, and that it was not acknowledged unseen.
const HOLDS_BEYOND: u16 = 64;

impl<P: Packet> Job<'_, P> {
    /// Whether a name is open at the end of the segment.
    #[inline(always)]
    pub(super) fn must_settle(&mut self) -> bool {
        let walker = &self.direction.range(self.work.range as usize).walker;
        if self.work.is_inbound() {
            walker.recipient_open()
        } else {
            walker.matched > self.names.pattern_prefix()
        }
    }

    /// After the walk: decides about the name that is open at the end of the segment.
    #[inline(always)]
    pub(super) fn settle(&mut self) {
        let range = self.range();
        let (walker, reached) = (range.walker, range.end);
        let (seq, end) = (self.work.seq, self.work.end());
        if self.work.state & state::LEFT_ALONE != 0 || !before(seq, reached) {
            return;
        }
        if self.work.is_inbound() {
            if walker.recipient_open() && after(end, walker.scheme_end) {
                self.settle_recipient(reached);
            }
            return;
        }
        let matched = walker.matched;
        let prefix = self.names.pattern_prefix();
        if matched > prefix
            && after(end, reached.wrapping_sub(u32::from(matched - prefix)))
            && walker.flags & cut::LEFT == 0
        {
            self.settle_pattern(reached);
        }
    }

    /// A recipient is cut, and its alias, or even the endpoint's system, is not known.
    #[inline(always)]
    fn settle_recipient(&mut self, reached: u32) {
        let walker = self.range().walker;
        if !self.names.system.is_empty() && !walker.is_own_system() {
            // Another system's: it is left as it is, whatever follows.
            return;
        }
        let is_any = self.names.allows_local(self.work.policy);
        let is_alias = self.work.policy != 0
            && walker.may_be_alias(reached, &self.names.recipients())
            && self.names.has_local();
        if is_alias || is_any && !self.names.system.is_empty() {
            self.range().walker.make_local();
            self.work.walker = self.range().walker;
            self.push_local(walker.scheme_end, reached);
            self.range().walker = self.work.walker;
            return;
        }
        if self.hold() {
            return;
        }
        self.work.found |= found::CUT;
        self.range().walker.leave();
    }

    /// What the endpoint sends is cut inside what may be its name.
    #[inline(always)]
    fn settle_pattern(&mut self, reached: u32) {
        let walker = self.range().walker;
        if walker.flags & cut::TRANSLATED == 0 {
            let missing = u32::from(self.names.pattern.len - walker.matched);
            if walker.left_in_frame(reached) < missing {
                // The frame ends before the name could.
                return;
            }
            let class = usize::from(walker.class(reached, walker.matched)) & 1;
            // At the beginning of a flow it is not known yet what else its names look like.
            let is_early = self.direction.careful != 0;
            if is_early || self.direction.near[class] != 0 {
                if !is_early && self.direction.hits[class] == 0 && class == usize::from(RECIPIENT) {
                    // Recipients were never the endpoint itself.
                    self.range().walker.flags |= cut::LEFT;
                    return;
                }
                if self.hold() {
                    return;
                }
            }
            self.work.found |= found::GUESSED;
            self.range().walker.flags |= cut::TRANSLATED;
            let begin =
                reached.wrapping_sub(u32::from(walker.matched - self.names.pattern_prefix()));
            self.range().walker.authority = begin;
        }
        self.work.walker = self.range().walker;
        self.push_cut(reached);
        self.range().walker = self.work.walker;
    }

    /// Drops the segment, unless that was done [`HOLDS`] times since the cursor moved, or [`HOLDS_BEYOND`] times beyond
    /// holes. It was walked: what follows it tells what the name is, and TCP sends it again.
    #[inline(always)]
    fn hold(&mut self) -> bool {
        let (held, most) = if self.work.range as usize == MAIN {
            (&mut self.direction.held_drops, HOLDS)
        } else {
            (&mut self.direction.held_beyond, HOLDS_BEYOND)
        };
        if *held >= most {
            return false;
        }
        *held += 1;
        self.work.drop_for(Counter::DroppedHeld);
        true
    }
}
