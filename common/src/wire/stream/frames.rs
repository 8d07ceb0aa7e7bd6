//! Reads the frames of a walk, and decides what a recipient is translated to.

use super::{
    Direction, Packet,
    block::BLOCK,
    flag, found,
    front::{self, FRONT},
    job::{Job, more, reset},
};
use crate::{
    layout::{Edit, EditKind, MAIN, RANGES},
    wire::{
        authority,
        flow::state,
        frame::{Captured, Known, Step},
        seq::{after, before},
        steps::Steps,
    },
};

/// Frames below this size are read several at a time: what is copied of the packet costs less than the calls.
const SHORT: u32 = 400;
/// Bytes of a longer frame that are looked at: its front, and a name.
const WINDOW: u32 = 160;

/// Reads frames: one a step, or one byte of a frame.
pub(super) struct Frames<'a, P>(pub(super) Job<'a, P>);

impl<P: Packet> Steps for Frames<'_, P> {
    const AT_ONCE: u32 = 2;

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
        if job.is_full() {
            job.work.more = more::WALK;
            return false;
        }
        if job.work.walker.at_boundary() {
            if job.work.slow | job.work.checks == 0 && job.whole_frame() {
                return true;
            }
            job.work.frames += 1;
            job.direction.frames += 1;
        }
        let Some(byte) = job.byte() else { return false };
        let position = job.work.at;
        let step = job.read(position, byte);
        job.work.at = position.wrapping_add(1);
        job.act(step, position)
    }
}

impl<P: Packet> Job<'_, P> {
    /// Reads the front of a whole frame at once. False if it has to be read byte by byte.
    #[inline(never)]
    fn whole_frame(&mut self) -> bool {
        let at = self.work.at;
        let left = self.work.stop.wrapping_sub(at);
        if left < FRONT || !self.work.is_inbound() {
            return false;
        }
        let needed = FRONT + self.names.front.len;
        let needed = if left < needed { left } else { needed };
        // Where frames are short the block has several.
        let wanted = if self.work.front.len < SHORT {
            BLOCK as u32
        } else {
            WINDOW
        };
        let Some(index) = self.in_block(at, needed, wanted) else {
            return false;
        };
        let first = self.work.block.word(index);
        if first as u32 == 0 {
            // A frame without bytes, or two.
            let frames = if first == 0 && left >= 8 { 2 } else { 1 };
            self.passes(frames, at.wrapping_add(4 * frames));
            return true;
        }
        let (low, high) = (
            self.work.block.word(index + 4),
            self.work.block.word(index + 12),
        );
        if !front::read(first as u32, low, high, &mut self.work.front) {
            return false;
        }
        let front = self.work.front;
        let end = at.wrapping_add(4).wrapping_add(front.len);
        if front.path == 0 {
            self.passes(1, end);
            return true;
        }
        let known = self.work.block_len.wrapping_sub(index);
        let room = if known < left { known } else { left };
        // What of the path lies in the window, and where.
        self.work.index = index + front.path;
        self.work.bit = room.saturating_sub(front.path);
        self.work.cursor = at.wrapping_add(front.path);
        self.work.cursor_end = end;
        if front.path_len < self.work.bit {
            self.work.bit = front.path_len;
        }
        self.whole_recipient()
    }

    /// Compares the path in the window with the names that the flow knows. False if it is none of them, or not
    /// there as a whole.
    #[inline(always)]
    fn whole_recipient(&mut self) -> bool {
        let (text, room) = (self.work.index, self.work.bit);
        let len = self.names.front.len;
        if len != 0
            && len <= room
            && P::equal(&self.work.block, text, &self.names.front, 0, len) == len
        {
            if !self.push_whole(self.work.cursor, len) {
                return false;
            }
            self.passes(1, self.work.cursor_end);
            return true;
        }
        let len = self.names.front_canonical.len;
        if len != 0
            && len <= room
            && P::equal(&self.work.block, text, &self.names.front_canonical, 0, len) == len
        {
            self.canonical_used();
            self.passes(1, self.work.cursor_end);
            return true;
        }
        false
    }

    /// Goes behind `frames` frames, the last of which ends at `end`.
    #[inline(always)]
    fn passes(&mut self, frames: u32, end: u32) {
        self.work.frames += frames;
        self.direction.frames += u64::from(frames);
        // All else is at rest already.
        self.work.walker.resume = end;
        self.work.walker.frame_end = end;
    }

    /// Translates the recipient at `path`, whose front is that of the alias and has `len` bytes. False if it
    /// cannot be.
    #[inline(always)]
    fn push_whole(&mut self, path: u32, len: u32) -> bool {
        let edit = self.whole_edit(path, len);
        if let Some(edit) = edit {
            self.push(edit.exact());
        }
        edit.is_some()
    }

    /// What a recipient at `path` needs whose front is that of the alias and has `len` bytes.
    #[inline(always)]
    pub(super) fn whole_edit(&self, path: u32, len: u32) -> Option<Edit> {
        let alias = u32::from(self.names.alias.len);
        let canonical = u32::from(self.names.canonical.len);
        if canonical != 0 && canonical <= alias {
            let authority = path.wrapping_add(len - 1).wrapping_sub(alias);
            Some(Edit::new(authority, alias as u16, EditKind::Canonical, 0))
        } else if self.names.has_local() {
            let scheme = self.names.scheme;
            let begin = path.wrapping_add(scheme);
            Some(Edit::new(
                begin,
                (len - 1 - scheme) as u16,
                EditKind::Local,
                0,
            ))
        } else {
            None
        }
    }

    /// The client names the endpoint by its canonical authority.
    #[inline(always)]
    fn canonical_used(&mut self) {
        self.work.state |= state::CANONICAL_USED;
        // What the client does on another connection is not for this one.
        self.names.peer_alias.len = 0;
        self.names.text_mut(EditKind::PeerAlias).len = 0;
    }

    /// The walk has stopped at the end of the segment: a recipient that is still open becomes the local form
    /// if that is certain to be right, and one that is becoming it goes on. Where a range begins, its first bytes tell
    /// what the recipient is.
    #[inline(always)]
    pub(super) fn close_recipient(&mut self) {
        let (walker, stop, next) = (self.work.walker, self.work.stop, self.work.next as usize);
        if self.work.at != stop || self.work.checks != 0 {
            return;
        }
        // What lies behind the hole was taken for the rest of a recipient: for one that becomes the local form.
        let has_rest = next != RANGES && self.direction.range(next).rest.len != 0;
        if !has_rest && stop != self.work.end() {
            return;
        }
        let goes_on = next != RANGES && !walker.is_local();
        let may_close = !goes_on && self.names.allows_local(self.work.policy) || has_rest;
        if may_close
            && walker.recipient_open()
            && walker.is_own_system()
            && !self.names.system.is_empty()
        {
            self.work.walker.make_local();
        }
        if self.work.walker.local_open() {
            self.push_local(walker.scheme_end, stop);
        }
    }

    /// Adds the local form up to `end`, from where it was not added yet.
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
    fn read(&mut self, position: u32, byte: u8) -> Step {
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
    fn act(&mut self, step: Step, position: u32) -> bool {
        match step {
            Step::Go => {}
            Step::Recipient if self.way() == Direction::Inbound => {
                if !self.recipient(position) {
                    self.read_no_more();
                    return false;
                }
            }
            Step::Recipient => {}
            Step::Associate => self.work.found |= found::ASSOCIATE,
            Step::Malformed => self.work.found |= found::MALFORMED,
            Step::NoAuthority => {
                self.work.found |= found::NO_AUTHORITY;
                self.fail_local();
            }
            Step::TooLong => {
                self.work.found |= if self.work.walker.is_tls() {
                    found::TLS
                } else {
                    found::TOO_LONG
                };
                // Beyond a hole it is a body in which a frame seemed to begin: the join resets the connection.
                if self.work.range as usize == MAIN {
                    self.work.state |= state::LEFT_ALONE;
                }
                self.read_no_more();
                return false;
            }
        }
        if step == Step::Go {
            if self.work.walker.at_boundary() {
                self.work.walker.rest();
            }
            return true;
        }
        if self.way() == Direction::Outbound && self.learns_from(step) {
            return true;
        }
        if self.way() == Direction::Outbound {
            // The first frame is understood: from here on the pattern is searched.
            self.direction.flags &= !flag::HANDSHAKE;
            self.work.walker.body_goes_on(self.work.at);
            return false;
        }
        self.work.walker.rest();
        true
    }

    /// Reads no more of the stream.
    #[inline(always)]
    fn read_no_more(&mut self) {
        self.work.at = self.work.stop;
        self.work.walker.resume = self.work.stop;
        self.work.walker.lose_framing();
    }

    /// Outbound: whether the frame goes on to be read, or the next one, because the endpoint's name is not known. The
    /// sender of what the endpoint sends is one of its actors.
    #[inline(always)]
    fn learns_from(&mut self, step: Step) -> bool {
        if !self.names.canonical.is_empty() || step != Step::Recipient && step != Step::NoAuthority
        {
            return false;
        }
        let walker = &mut self.work.walker;
        if step == Step::NoAuthority {
            walker.rest();
            return true;
        }
        if !walker.is_sender() {
            walker.read_sender();
            return true;
        }
        if self.direction.captured_at != walker.authority
            || authority::port_len(&self.direction.captured) == 0
        {
            walker.rest();
            return true;
        }
        self.work.found |= found::SENDER;
        false
    }

    /// The recipient has no authority after all: one whose first bytes became the local form must not be read.
    #[inline(always)]
    fn fail_local(&mut self) {
        if self.work.walker.is_local() {
            self.work.reset = reset::RECIPIENT;
        }
    }

    /// Decides what the recipient is translated to whose authority ends before `position`. False if the flow is left alone.
    #[inline(never)]
    fn recipient(&mut self, position: u32) -> bool {
        let walker = self.work.walker;
        if self.names.scheme == 0 {
            self.names.scheme = u32::from(walker.word_len());
            self.names.prepared = 0;
        }
        if walker.is_local() {
            self.push_local(walker.scheme_end, position);
        }
        if walker.is_left() {
            return true;
        }
        let len = position.wrapping_sub(walker.authority);
        if len == 0 {
            self.work.found |= found::NO_AUTHORITY;
            self.fail_local();
            return true;
        }
        if self.names.system.is_empty() {
            self.names.system = self.direction.captured_system;
            self.names.is_local = u32::from(walker.is_uri_host());
            self.names.prepared = 0;
        } else if !walker.is_own_system() {
            self.work.found |= found::OTHER_SYSTEM;
            // It was taken for the endpoint's by its first bytes.
            self.fail_local();
            return true;
        }
        match walker.known(position, &self.names.recipients()) {
            Known::Canonical => {
                self.canonical_used();
                return true;
            }
            Known::Alias => {}
            Known::Neither => {
                let whole = self.direction.captured_at == walker.authority
                    && authority::port_len(&self.direction.captured) > 0;
                if !whole && walker.is_local() && self.work.policy == 0 {
                    // Another recipient was captured meanwhile: this one teaches nothing.
                    return true;
                }
                if !whole {
                    self.work.found |= found::NO_AUTHORITY;
                    self.fail_local();
                    return true;
                }
                if self.work.policy != 0 && !self.packet.admits(&self.direction.captured) {
                    self.work.found |= found::NOT_ADMITTED;
                    self.fail_local();
                    return true;
                }
                if self.names.alias.is_empty() {
                    if self.names.is_too_long(&self.direction.captured)
                        && self.work.range as usize != MAIN
                    {
                        // The frames before it decide, which come again.
                        self.fail_local();
                        return true;
                    }
                    self.names.alias = self.direction.captured;
                    self.names.prepared = 0;
                    self.work.found |= found::ALIAS;
                    if self.names.is_too_long(&self.direction.captured) {
                        self.work.state |= state::LEFT_ALONE | state::NO_FIT;
                        self.fail_local();
                        return false;
                    }
                }
            }
        }
        if walker.is_local() {
            return true;
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
        true
    }
}
