//! Reads the front of a frame at once: the way of nearly all frames.
//!
//! Encoders write minimal messages: the lengths of frame, payload, envelope, recipient and path determine one
//! another (`WireFormats.proto`, protobuf-java). Whatever looks different is left to the walker of `frame`,
//! which reads a byte at a time and comes to the same.

use super::Block;
use crate::{
    layout::{NEEDLE_WORDS, Needle},
    wire::frame::{FRAME_MAX, Fields},
};

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

/// How many bytes of `window` from `at` on equal those of `text` from `from` on, up to `len`. Both have so
/// many.
#[inline(always)]
pub fn equal(window: &Block, at: u32, text: &Needle, from: u32, len: u32) -> u32 {
    let mut done = 0;
    let mut words = 0;
    while words < NEEDLE_WORDS {
        if done >= len {
            return len;
        }
        let differ = window.word(at + done) ^ text.word((from + done) as usize);
        if differ != 0 {
            let same = done + first_byte(differ);
            return if same < len { same } else { len };
        }
        done += 8;
        words += 1;
    }
    if done < len { done } else { len }
}

/// The index of the lowest byte of `word` that is not zero; `word` is not zero itself.
#[inline(always)]
pub(super) fn first_byte(word: u64) -> u32 {
    first_bit(word) / 8
}

/// The index of the lowest bit of `word`, which is not zero. BPF has no instruction for it, and the verifier follows
/// every branch: so a table tells.
#[inline(always)]
pub(super) fn first_bit(word: u64) -> u32 {
    let lowest = word & word.wrapping_neg();
    u32::from(BITS[(lowest.wrapping_mul(DE_BRUIJN) >> 58) as usize & 63])
}

/// Every six bits of it are another number.
const DE_BRUIJN: u64 = 0x03f7_9d71_b4cb_0a89;

/// By the six bits that a bit shifts to the top.
#[rustfmt::skip]
static BITS: [u8; 64] = [
    0, 1, 48, 2, 57, 49, 28, 3, 61, 58, 50, 42, 38, 29, 17, 4,
    62, 55, 59, 36, 53, 51, 43, 22, 45, 39, 33, 30, 24, 18, 12, 5,
    63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21, 44, 32, 23, 11,
    46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9, 13, 8, 7, 6,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bit_is_found() {
        for bit in 0..64 {
            assert_eq!(first_bit(1 << bit), bit);
            assert_eq!(first_bit(u64::MAX << bit), bit);
        }
    }

    #[test]
    fn equal_bytes_are_counted() {
        let mut a = Block::EMPTY;
        a.fill(b"....pekko.tcp://flink@jm:6123/user");
        let mut b = Needle::default();
        for (index, byte) in b"pekko.tcp://flink@jm:6124/".iter().enumerate() {
            b.set(index, *byte);
        }
        assert_eq!(equal(&a, 4, &b, 0, 26), 24);
        assert_eq!(equal(&a, 4, &b, 0, 20), 20);
        assert_eq!(equal(&a, 10, &b, 6, 18), 18);
        assert_eq!(equal(&Block::EMPTY, 0, &Needle::default(), 0, 120), 120);
    }
}
