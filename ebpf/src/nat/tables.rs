//! The tables as [`truename_common::nat`] reads them.

use truename_common::{
    layout::{FiveTuple, Target},
    nat::Tables,
};

use crate::maps::{MOVED, SLOTS, TARGETS};

/// The tables as [`truename_common::nat`] reads them.
pub struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn slot(&self, position: u32) -> Option<u32> {
        SLOTS.get(position).copied()
    }

    #[inline(always)]
    fn moved(&self, original: &FiveTuple) -> Option<u32> {
        // SAFETY: the value is a number that never changes.
        unsafe { MOVED.get(original) }.copied()
    }

    #[inline(always)]
    fn target(&self, number: u32) -> Option<Target> {
        target(number).copied()
    }
}

/// The target with a number, if it is in use.
#[inline(always)]
pub fn target(number: u32) -> Option<&'static Target> {
    TARGETS.get(number).filter(|target| target.port != 0)
}
