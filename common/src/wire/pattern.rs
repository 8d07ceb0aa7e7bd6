//! The canonical name in what an endpoint sends: `://<system>@<canonical>/`, wherever it stands.
//!
//! One pattern of fixed length serves envelopes, ActorIdentity and Java strings alike, so nothing of
//! them has to be parsed. `://` occurs only at its beginning, so what was matched before a mismatch can
//! begin another match only by its last byte, a `:`.

use super::frame::FRAME_MAX;
use crate::layout::{FlowNames, Walker};

/// What [`Walker::tag`] holds while the pattern is searched: whether the ends of frames are known. No
/// name goes beyond the end of its frame, so one that is open there is none.
mod framing {
    pub const UNKNOWN: u8 = 0;
    /// In the four bytes of a frame's length.
    pub const LENGTH: u8 = 1;
    /// Before [`super::Walker::frame_end`].
    pub const BODY: u8 = 2;
}

impl Walker {
    /// Whether the search knows where frames end.
    #[inline(always)]
    pub const fn is_framed(&self) -> bool {
        self.tag != framing::UNKNOWN
    }

    /// Whether the next byte belongs to a frame's length.
    #[inline(always)]
    pub const fn in_length(&self) -> bool {
        self.tag == framing::LENGTH
    }

    /// The next byte is the first of a frame.
    #[inline(always)]
    pub fn frame_begins(&mut self) {
        self.tag = framing::LENGTH;
        self.count = 0;
        self.value = 0;
        self.matched = 0;
    }

    /// The search goes on at `position` in the frame that was being read.
    #[inline(always)]
    pub fn body_goes_on(&mut self, position: u32) {
        self.tag = framing::BODY;
        self.matched = 0;
        self.flags = 0;
        self.frame_may_end(position);
    }

    /// The length of the frame was read, and `len` bytes follow from `position` on.
    #[inline(always)]
    pub fn frame_in_body(&mut self, position: u32, len: u32) {
        self.count = 4;
        self.value = len;
        self.frame_end = position.wrapping_add(len);
        self.body_goes_on(position);
    }

    /// The search goes on where frames are not known.
    #[inline(always)]
    pub fn lose_framing(&mut self) {
        self.tag = framing::UNKNOWN;
        self.matched = 0;
        self.flags = 0;
    }

    /// Takes a byte of a frame's length; `next` is the position behind it.
    #[inline(always)]
    pub fn length_byte(&mut self, byte: u8, next: u32) {
        self.value = (self.value << 8) | u32::from(byte);
        self.count += 1;
        if self.count < 4 {
            return;
        }
        self.frame_end = next.wrapping_add(self.value);
        if self.value > FRAME_MAX {
            self.lose_framing();
        } else {
            self.body_goes_on(next);
        }
    }

    /// Begins the next frame if `next` is the end of this one.
    #[inline(always)]
    pub fn frame_may_end(&mut self, next: u32) {
        if self.tag == framing::BODY && next == self.frame_end {
            self.frame_begins();
        }
    }

    /// Bytes from `position` to the end of the frame, as far as it is known.
    #[inline(always)]
    pub const fn left_in_frame(&self, position: u32) -> u32 {
        if self.tag == framing::BODY {
            self.frame_end.wrapping_sub(position)
        } else {
            u32::MAX
        }
    }

    /// Keeps what `before` knew of frames, if its frame covers the range up to `position`.
    #[inline(always)]
    pub fn inherit_framing(&mut self, before: &Self, position: u32) {
        if self.tag == framing::UNKNOWN
            && before.tag == framing::BODY
            && before.frame_end.wrapping_sub(position) <= FRAME_MAX
        {
            self.tag = framing::BODY;
            self.frame_end = before.frame_end;
            self.frame_may_end(position);
        }
    }
}

/// What a byte did to the match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The pattern goes on, or has not begun.
    Open,
    /// The byte is the last of the pattern.
    Whole,
    /// The byte is not the one that the pattern needs.
    Broken,
}

/// Takes the byte after `matched` bytes of the pattern.
#[inline(always)]
pub fn step(matched: &mut u16, byte: u8, names: &FlowNames) -> Match {
    let before = *matched;
    if byte == names.pattern.at(usize::from(before)) {
        *matched = before + 1;
        if *matched >= names.pattern.len {
            *matched = 0;
            return Match::Whole;
        }
        return Match::Open;
    }
    let colon_before = before > 1 && names.pattern.at(usize::from(before) - 1) == b':';
    *matched = if byte == b':' {
        1
    } else if byte == b'/' && colon_before {
        2
    } else {
        0
    };
    if before == 0 {
        Match::Open
    } else {
        Match::Broken
    }
}

/// Whether the authority has begun but the pattern is not complete: bytes that were read may have
/// to be replaced, which only bytes still to come tell.
#[inline(always)]
pub fn is_open(matched: u16, names: &FlowNames) -> bool {
    matched > names.pattern_prefix()
}
