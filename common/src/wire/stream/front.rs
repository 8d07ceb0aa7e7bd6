//! Reads the front of a frame at once: the way of nearly all frames.
//!
//! Encoders write minimal messages: the lengths of frame, payload, envelope, recipient and path determine one
//! another (`WireFormats.proto`, protobuf-java). Whatever looks different is left to the walker of `frame`,
//! which reads a byte at a time and comes to the same.

use crate::wire::frame::{FRAME_MAX, Fields};

/// Bytes that [`read`] looks at: the frame's length, four tags and lengths.
pub(super) const FRONT: u32 = 4 + 16;

/// What a frame begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Front {
    /// What was read: the sixteen bytes behind the frame's length.
    low: u64,
    high: u64,
    /// Bytes of the frame behind its length.
    pub len: u32,
    /// Where the recipient's path begins, counted from the frame's first byte; 0 if there is none to look at.
    pub path: u32,
    pub path_len: u32,
    /// 1 if the front could be read.
    is_read: u32,
}

/// Reads a front: the frame's length, as it stands there, and the sixteen bytes behind it.
///
/// Frames that follow one another often have the same front: it is read once, and compared without a call.
#[inline(always)]
pub(super) fn read(len: u32, low: u64, high: u64, front: &mut Front) -> bool {
    if front.low == low && front.high == high && front.len == len.swap_bytes() {
        return front.is_read != 0;
    }
    read_anew(len, low, high, front)
}

/// A call of its own, because the stack is small: of the callers, whose chain of calls is the deepest one.
#[inline(never)]
fn read_anew(len: u32, low: u64, high: u64, front: &mut Front) -> bool {
    front.low = low;
    front.high = high;
    front.len = len.swap_bytes();
    front.path = 0;
    front.is_read = 0;
    let Some((path, path_len)) = look(front.len, low, high) else {
        return false;
    };
    front.path = path;
    front.path_len = path_len;
    front.is_read = 1;
    true
}

/// Where the recipient's path begins, counted from the frame's first byte, and its length; 0 if there is none to look
/// at. `None` if the frame has to be read byte by byte.
#[inline(always)]
fn look(len: u32, low: u64, high: u64) -> Option<(u32, u32)> {
    let mut fields = Fields::of(low, high);
    if len == 4 && fields.two() == 0x0212 {
        // A control message without a handshake.
        return Some((0, 0));
    }
    if len > FRAME_MAX {
        return None;
    }
    let payload = fields.next();
    let envelope = fields.next();
    let recipient = fields.next();
    let path = fields.next();
    let is_minimal = payload.len != 0
        && envelope.len != 0
        && recipient.len != 0
        && path.len != 0
        && payload.tag == 0x0a
        && envelope.tag == 0x12
        && recipient.tag == 0x0a
        && path.tag == 0x0a
        && payload.value.wrapping_add(payload.len) == len
        && envelope.value.wrapping_add(envelope.len) == payload.value
        && recipient.value.wrapping_add(recipient.len) <= envelope.value
        && path.value.wrapping_add(path.len) == recipient.value;
    if !is_minimal {
        return None;
    }
    let path_at = 4 + payload.len + envelope.len + recipient.len + path.len;
    Some((path_at, path.value))
}
