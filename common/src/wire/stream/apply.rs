//! Writes edits into the packet.

use super::{EDITS, Packet, job::Job};
use crate::{
    layout::Counter,
    wire::{
        seq::{after, before, distance},
        steps::Steps,
    },
};

impl<P: Packet> Job<'_, P> {
    /// See [`super::Stage::Apply`].
    #[inline(always)]
    pub(super) fn apply(self) {
        let (seq, end) = (self.work.seq, self.work.end());
        let to = self.work.edited_to;
        if !after(to, seq) {
            return;
        }
        let to = if after(to, end) { end } else { to };
        if !self.packet.writable(to.wrapping_sub(seq)) {
            self.work.drop_for(Counter::DroppedStore);
            return;
        }
        self.work.index = 0;
        let is_one = self.work.count == 1;
        let mut apply = Apply(self);
        if is_one {
            apply.step();
        } else {
            P::repeat(&mut apply, EDITS as u32);
        }
        let job = apply.0;
        if job.work.drop == 0 && !job.packet.finish() {
            job.work.drop_for(Counter::DroppedStore);
        }
    }
}

/// Applies one edit a step, from `work.index` on.
struct Apply<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Apply<'_, P> {
    const AT_ONCE: u32 = 4;

    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        if job.work.index >= job.work.count {
            return false;
        }
        let edit = job.work.edits[job.work.index as usize & (EDITS - 1)];
        job.work.index += 1;
        let (seq, len) = (job.work.seq, job.work.len);
        if before(edit.at, seq) && !after(edit.at.wrapping_add(u32::from(edit.len)), seq) {
            return true;
        }
        // The overlap, in bytes of the edit and of the segment.
        let ahead = distance(seq, edit.at);
        let cut = if ahead > 0 { ahead as u32 } else { 0 };
        let offset = if ahead > 0 {
            0
        } else {
            edit.at.wrapping_sub(seq)
        };
        if cut >= u32::from(edit.len) || offset >= len {
            return true;
        }
        let rest = u32::from(edit.len) - cut;
        let room = len - offset;
        let count = if rest < room { rest } else { room };
        let from = u32::from(edit.from()) + cut;
        let sum = if edit.is_exact() && count == u32::from(edit.len) {
            Some(job.names.sums[usize::from(edit.kind()) & 3])
        } else {
            None
        };
        let text = job.names.text(edit.kind());
        if job.packet.store(offset, text, from, count, sum) {
            return true;
        }
        job.work.drop_for(Counter::DroppedStore);
        false
    }
}
