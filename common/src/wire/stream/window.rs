//! What TCP itself would accept: RFC 9293 3.10.7.4, RFC 5961, and what nf_conntrack makes of them.
//!
//! A segment at the cursor is always walked: only the sender knows where that is. One beyond a hole must lie in
//! the window that the receiver has advertised; where acknowledgements take another path, within
//! [`FAR`] of the cursor.

use super::{Packet, job::Job};
use crate::{
    layout::{DirectionState, MAIN},
    wire::seq::{after, before},
};

/// How far ahead of the cursor a segment may be: what [`DirectionState::pages`] can tell apart. The largest buffers that
/// Linux gives a socket by itself are 6 MiB, and 32 MiB since Linux 6.17 (`tcp_rmem`).
const FAR: u32 = 30 << 20;
/// How far behind the cursor an acknowledgement or a repetition can be.
const BEHIND: u32 = FAR;

/// Takes an acknowledgement of `direction`'s bytes, with a window of `window` bytes before scaling. It is
/// called without the lock, and writes single values only. False if no receiver would send it.
#[inline(always)]
pub fn acknowledge(direction: &mut DirectionState, ack: u32, window: u32) -> bool {
    let known = match direction.acknowledged() {
        Some(acked) => acked,
        None => direction.ranges[MAIN].start,
    };
    if after(ack, direction.high) {
        // Bytes that passed unseen, or a stranger: it counts only if a segment goes on just there.
        let is_near = !after(ack, direction.high.wrapping_add(FAR));
        if is_near {
            direction.claimed = DirectionState::ACKED | u64::from(ack);
        }
        return is_near;
    }
    if before(ack, known.wrapping_sub(BEHIND)) {
        return false;
    }
    if before(ack, known) {
        return true;
    }
    // The scale of the window is at most 14 (RFC 7323 2.3).
    let scale = direction.scale;
    direction.window = if scale <= 14 { window << scale } else { 0 };
    direction.acked = DirectionState::ACKED | u64::from(ack);
    true
}

/// The sequence number that a segment must not go beyond, unless it is at the cursor.
#[inline(always)]
pub fn limit(direction: &DirectionState) -> u32 {
    let cursor = direction.cursor();
    let far = cursor.wrapping_add(FAR);
    let limit = advertised(direction);
    // A cursor beyond it says that acknowledgements take another path now.
    if after(cursor, limit) || after(limit, far) {
        far
    } else {
        limit
    }
}

/// The end of the window that the receiver has advertised; [`FAR`] from the cursor if that is not known.
#[inline(always)]
fn advertised(direction: &DirectionState) -> u32 {
    match direction.acknowledged() {
        Some(acked) if direction.window != 0 => acked.wrapping_add(direction.window),
        _ => direction.cursor().wrapping_add(FAR),
    }
}

/// Whether a segment of `len` bytes from `seq` is in the window, or at the cursor, and not far behind.
#[inline(always)]
pub fn is_near(direction: &DirectionState, seq: u32, len: u32) -> bool {
    let end = seq.wrapping_add(len);
    let cursor = direction.cursor();
    let is_next = !after(seq, cursor);
    (is_next || !after(end, limit(direction).wrapping_add(1)))
        && !before(seq, cursor.wrapping_sub(BEHIND))
}

/// Whether data from `seq` can be of the direction, whatever window is known: acknowledgements may take another path
/// since. What lies beyond the window is dropped by the walk, not passed untranslated.
#[inline(always)]
pub fn is_in_reach(direction: &DirectionState, seq: u32) -> bool {
    let cursor = direction.cursor();
    let is_before = !after(seq, cursor.wrapping_add(FAR)) || !after(seq, advertised(direction));
    is_before && !before(seq, cursor.wrapping_sub(BEHIND))
}

impl<P: Packet> Job<'_, P> {
    /// See [`limit`].
    #[inline(always)]
    pub(super) fn limit(&self) -> u32 {
        limit(self.direction)
    }
}
