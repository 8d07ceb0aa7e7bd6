//! Takes back a round for whose marks there is no memory: the ranges are again what they were before.

use super::{MEMORY_PATIENCE, Packet, job::Job, reset};
use crate::{
    layout::{Counter, MAIN, RANGES},
    wire::steps::Steps,
};

impl<P: Packet> Job<'_, P> {
    /// Keeps the ranges as they are.
    #[inline(always)]
    pub(super) fn keep_ranges(&mut self) {
        self.keep_main();
        if self.direction.islands != 0 {
            self.work.before.islands = self.direction.islands;
            self.work.bit = self.direction.islands;
            self.work.index = MAIN as u32 + 1;
            P::repeat(&mut Keep(self.again()), RANGES as u32);
            self.work.before.kept = self.work.index;
        }
    }

    /// The same where nothing lies beyond a hole.
    #[inline(always)]
    pub(super) fn keep_main(&mut self) {
        let main = &self.direction.ranges[MAIN];
        let kept = &mut self.work.before.ranges[MAIN];
        // The rest of this one does not change.
        kept.end = main.end;
        kept.walker.take(&main.walker);
        kept.flags = main.flags;
        self.work.before.islands = 0;
        self.work.before.kept = 0;
        self.work.before.flags = self.direction.flags;
    }

    /// There is no page for the marks of the round: it has not been. If that lasts, the connection is reset.
    #[inline(always)]
    pub(super) fn take_back(&mut self) {
        // Milliseconds, nearly; 0 stands for never.
        let now = (self.work.now_ns >> 20) as u32 | 1;
        if self.direction.short_since == 0 {
            self.direction.short_since = now;
        }
        if now.wrapping_sub(self.direction.short_since) > MEMORY_PATIENCE {
            self.work.reset = reset::MEMORY;
            return;
        }
        let kept = &self.work.before.ranges[MAIN];
        self.direction.set_cursor(kept.end);
        let main = &mut self.direction.ranges[MAIN];
        main.walker = kept.walker;
        main.flags = kept.flags;
        self.direction.islands = self.work.before.islands;
        self.direction.flags = self.work.before.flags;
        self.work.index = MAIN as u32 + 1;
        P::repeat(&mut TakeBack(self.again()), RANGES as u32);
        self.work.drop_for(Counter::DroppedMemory);
    }
}

/// Keeps range `work.index`, if `work.bit` ranges from there on are in use.
struct Keep<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Keep<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let index = self.0.work.index;
        // Not `>=`: the compiler would drop the mask, and the verifier the bound.
        if index == RANGES as u32 || self.0.work.bit == 0 {
            return false;
        }
        self.0.work.index = index + 1;
        let range = self.0.direction.range(index as usize);
        self.0.work.before.ranges[index as usize & (RANGES - 1)] = *range;
        self.0.work.bit -= u32::from(range.start != range.end);
        true
    }
}

/// Takes back range `work.index`.
struct TakeBack<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for TakeBack<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let index = self.0.work.index;
        if index == RANGES as u32 {
            return false;
        }
        self.0.work.index = index + 1;
        let range = self.0.direction.range(index as usize);
        if index >= self.0.work.before.kept {
            range.start = 0;
            range.end = 0;
        } else {
            *range = self.0.work.before.ranges[index as usize & (RANGES - 1)];
        }
        true
    }
}
