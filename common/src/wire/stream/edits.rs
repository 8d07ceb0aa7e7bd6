//! The edit log: rule 1.

use super::{Job, Packet, Steps, flag};
use crate::{
    layout::{Counter, Direction, EDIT_LOG, Edit},
    wire::seq::{after, distance},
};

impl<P: Packet> Job<'_, P> {
    /// Appends an edit; there is room, as the walk checks it before every byte.
    #[inline(always)]
    pub(super) fn push(&mut self, edit: Edit) {
        let direction = &mut *self.direction;
        let slot = direction.log_tail as usize & (EDIT_LOG - 1);
        direction.log[slot] = edit;
        direction.log_tail = direction.log_tail.wrapping_add(1);
        direction.edits += 1;
        let end = edit.at.wrapping_add(u32::from(edit.len));
        if after(end, direction.edited_to) {
            direction.edited_to = end;
        }
        self.work.edits += 1;
    }

    #[inline(always)]
    pub(super) fn log_is_full(&self) -> bool {
        self.direction
            .log_tail
            .wrapping_sub(self.direction.log_head)
            >= EDIT_LOG as u32 - 2
    }

    /// Forgets the edits of acknowledged bytes.
    #[inline(always)]
    pub(super) fn trim(&mut self) {
        if self.direction.log_head != self.direction.log_tail && self.is(flag::ACKED) {
            let mut trim = Trim(self.direction);
            P::repeat(&mut trim, EDIT_LOG as u32);
        }
    }

    /// Applies the logged edits that overlap the segment: those of the walk, and all others if some
    /// of the segment was walked before.
    #[inline(always)]
    pub(super) fn apply(self) {
        self.work.index = self.work.logged;
        P::repeat(&mut Apply(self), EDIT_LOG as u32);
    }
}

/// Drops the oldest edit if its bytes are acknowledged.
pub(super) struct Trim<'a>(pub(super) &'a mut Direction);

impl Steps for Trim<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let direction = &mut *self.0;
        if direction.log_head == direction.log_tail {
            return false;
        }
        let edit = direction.log[direction.log_head as usize & (EDIT_LOG - 1)];
        if after(edit.at.wrapping_add(u32::from(edit.len)), direction.acked) {
            return false;
        }
        direction.log_head = direction.log_head.wrapping_add(1);
        true
    }
}

/// Applies one edit a step, from `work.index` on.
pub(super) struct Apply<'a, P>(pub(super) Job<'a, P>);

impl<P: Packet> Steps for Apply<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        if job.work.index == job.direction.log_tail {
            return false;
        }
        let edit = job.direction.log[job.work.index as usize & (EDIT_LOG - 1)];
        job.work.index = job.work.index.wrapping_add(1);
        let (seq, len) = (job.work.seq, job.work.len);
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
        let text = job.names.text(edit.kind());
        if job.packet.store(offset, text, from, count) {
            return true;
        }
        job.work.drop = Counter::DroppedStore as u32 + 1;
        false
    }
}
