//! The canonical name in what an endpoint sends: `://<system>@<canonical>/`, wherever it stands.
//!
//! One pattern of fixed length serves envelopes, ActorIdentity and Java strings alike, so nothing of
//! them has to be parsed. A proper prefix of the pattern that is also its suffix is at most the one
//! byte `:`, because `://` occurs nowhere else in it: after a mismatch the search goes on with 0 or
//! 1 matched bytes.

use crate::layout::FlowNames;

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
    *matched = u16::from(byte == b':');
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
