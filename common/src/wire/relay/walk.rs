//! The walk through one frame: its bytes, and what is noted on the way.

use core::ops::Range;

use super::{names::Translation, plan::Plan, proto::Stop};

/// What was seen on the way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// The name may stand where it is not understood.
    pub(super) uncertain: bool,
    /// The recipient is neither the canonical name nor an alias.
    pub(super) foreign: bool,
}

/// The walk through one frame.
pub(super) struct Walk<'a> {
    /// The frame from its length on.
    pub(super) bytes: &'a [u8],
    /// Whether all of it is there; else the walk ends behind the recipient.
    pub(super) is_whole: bool,
    pub(super) names: &'a mut Translation,
    pub(super) plan: &'a mut Plan,
    pub(super) seen: Seen,
}

impl<'a> Walk<'a> {
    /// The bytes at `range`.
    pub(super) fn text(&self, range: Range<usize>) -> Result<&'a [u8], Stop> {
        let end = range.end;
        self.bytes.get(range).ok_or(Stop::Need(end))
    }

    /// Whether the host that is replaced stands in `range`.
    pub(super) fn occurs(&self, range: Range<usize>) -> bool {
        self.bytes
            .get(range)
            .is_some_and(|bytes| self.names.occurs(bytes))
    }

    /// Whether the name that is replaced stands in `range`.
    pub(super) fn is_named(&self, range: Range<usize>) -> bool {
        self.bytes
            .get(range)
            .is_some_and(|bytes| self.names.is_named(bytes))
    }
}
