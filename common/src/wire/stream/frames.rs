//! Reading the frames of a walk, and what becomes of a recipient.

use super::{Job, Packet, Steps, Way, flag, found, state};
use crate::{
    layout::{Counter, Edit, EditKind},
    wire::{
        authority,
        frame::{Captured, Known, Step},
        seq::{after, before},
    },
};

/// Reads frames, a byte a step.
pub(super) struct Frames<'a, P>(pub(super) Job<'a, P>);

impl<P: Packet> Steps for Frames<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let skip = job.work.walker.resume;
        if after(skip, job.work.at) {
            job.work.at = if after(skip, job.work.stop) {
                job.work.stop
            } else {
                skip
            };
        }
        if !before(job.work.at, job.work.stop) {
            return false;
        }
        if job.log_is_full() {
            job.work.drop = Counter::DroppedLogFull as u32 + 1;
            return false;
        }
        let Some(byte) = job.byte() else { return false };
        let position = job.work.at;
        if job.work.walker.at_boundary() {
            job.work.frames += 1;
            job.direction.frames += 1;
        }
        let step = job.read(position, byte);
        job.work.at = position.wrapping_add(1);
        job.act(step, position)
    }
}

impl<P: Packet> Job<'_, P> {
    /// The walk has stopped: a recipient that is still open becomes the local form if that is
    /// certain to be right, and one that is becoming it goes on.
    #[inline(always)]
    pub(super) fn close_recipient(&mut self) {
        let (walker, stop) = (self.work.walker, self.work.stop);
        if self.work.at != stop {
            return;
        }
        if walker.recipient_open()
            && walker.is_own_system()
            && self.names.allows_local(self.work.policy)
        {
            self.work.walker.make_local();
        }
        if self.work.walker.local_open() {
            self.push_local(walker.scheme_end, stop);
        }
    }

    /// Logs the local form up to `end`, from where it is not logged yet.
    #[inline(always)]
    pub(super) fn push_local(&mut self, scheme_end: u32, end: u32) {
        let begin = self.work.walker.local_to();
        if !after(end, begin) {
            return;
        }
        let len = end.wrapping_sub(begin);
        let from = begin.wrapping_sub(scheme_end);
        self.push(Edit::new(begin, len as u16, EditKind::Local, from as u16));
        self.work.walker.set_local_to(end);
    }

    #[inline(always)]
    pub(super) fn read(&mut self, position: u32, byte: u8) -> Step {
        let names = self.names.recipients();
        let mut captured = Captured {
            authority: &mut self.direction.captured,
            system: &mut self.direction.captured_system,
            at: &mut self.direction.captured_at,
        };
        self.work.walker.step(position, byte, &names, &mut captured)
    }

    /// Acts on what a byte of a frame brought about; false ends the walk of frames.
    #[inline(always)]
    pub(super) fn act(&mut self, step: Step, position: u32) -> bool {
        match step {
            Step::Go => return true,
            Step::Recipient if self.work.way == Way::Inbound as u32 => self.recipient(position),
            Step::Recipient => {}
            Step::Associate => self.work.found |= found::ASSOCIATE,
            Step::Malformed => self.work.found |= found::MALFORMED,
            Step::NoAuthority => self.work.found |= found::NO_AUTHORITY,
            Step::TooLong => {
                self.work.found |= if self.work.walker.is_tls() {
                    found::TLS
                } else {
                    found::TOO_LONG
                };
                self.work.state |= state::LEFT_ALONE;
                self.work.at = self.work.stop;
                self.work.walker.resume = self.work.stop;
                self.work.walker.lose_framing();
                return false;
            }
        }
        if self.work.way == Way::Outbound as u32 {
            // The first frame is understood: from here on the pattern is searched.
            self.direction.flags &= !flag::HANDSHAKE;
            self.work.walker.body_goes_on(self.work.at);
            return false;
        }
        true
    }

    /// Decides what becomes of the recipient whose authority ends before `position`.
    #[inline(never)]
    pub(super) fn recipient(&mut self, position: u32) {
        let walker = self.work.walker;
        if walker.is_local() {
            self.push_local(walker.scheme_end, position);
        }
        if walker.is_left() {
            return;
        }
        let len = position.wrapping_sub(walker.authority);
        if len == 0 {
            self.work.found |= found::NO_AUTHORITY;
            return;
        }
        if self.names.system.is_empty() {
            self.names.system = self.direction.captured_system;
        } else if !walker.is_own_system() {
            if !walker.is_local() {
                self.work.found |= found::OTHER_SYSTEM;
            }
            return;
        }
        match walker.known(position, &self.names.recipients()) {
            Known::Canonical => {
                self.work.state |= state::CANONICAL_USED;
                // What the client does on another connection is not for this one.
                self.names.peer_alias.len = 0;
                self.names.text_mut(EditKind::PeerAlias).len = 0;
                return;
            }
            Known::Alias => {}
            Known::Neither => {
                let whole = self.direction.captured_at == walker.authority
                    && authority::port_len(&self.direction.captured) > 0;
                if !whole {
                    self.work.found |= found::NO_AUTHORITY;
                    return;
                }
                if self.work.policy != 0 && !self.packet.admits(&self.direction.captured) {
                    self.work.found |= found::NOT_ADMITTED;
                    return;
                }
                if self.names.alias.is_empty() {
                    self.names.alias = self.direction.captured;
                    self.work.found |= found::ALIAS;
                }
            }
        }
        if walker.is_local() {
            return;
        }
        let canonical = u32::from(self.names.canonical.len);
        if canonical != 0 && canonical <= len && len == u32::from(self.names.alias.len) {
            self.push(Edit::new(
                walker.authority,
                len as u16,
                EditKind::Canonical,
                0,
            ));
        } else if self.names.has_local() {
            self.push_local(walker.scheme_end, position);
        } else {
            self.work.found |= found::NO_AUTHORITY;
        }
    }
}
