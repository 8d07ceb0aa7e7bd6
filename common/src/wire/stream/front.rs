//! Reads the front of a frame at once: the way of nearly all frames.
//!
//! Encoders write minimal messages: the lengths of frame, payload, envelope, recipient and path determine one
//! another (`WireFormats.proto`, protobuf-java). Whatever looks different is left to the walker of `frame`,
//! which reads a byte at a time and comes to the same.

use crate::wire::{chunk::Chunk, frame::FRAME_MAX, varint::varint};

/// Bytes that [`read`] looks at: the frame's length, four tags and lengths.
pub(super) const FRONT: u32 = 4 + 16;

/// What a frame begins with.
#[derive(Clone, Copy)]
pub(super) struct Front {
    /// Bytes of the frame behind its length.
    pub len: u32,
    /// Where the recipient's path begins, counted from the frame's first byte; 0 if there is none to look at.
    pub path: u32,
    pub path_len: u32,
}

/// The next tag and length of what lies in `low` and `high`.
struct Field {
    tag: u8,
    value: u32,
    /// Bytes of both; 0 if they cannot be read here.
    len: u32,
}

#[inline(always)]
fn field(low: &mut u64, high: &mut u64) -> Field {
    let tag = *low as u8;
    let (value, bytes) = varint(*low >> 8);
    let len = bytes + 1;
    let shift = 8 * len;
    *low = *low >> shift | *high << (64 - shift);
    *high >>= shift;
    Field {
        tag,
        value,
        len: if bytes == 0 { 0 } else { len },
    }
}

/// Reads the front at `index`, with [`FRONT`] bytes behind it in the window.
#[inline(always)]
pub(super) fn read(chunk: &Chunk, index: usize) -> Option<Front> {
    let len = (chunk.word(index) as u32).swap_bytes();
    let mut low = chunk.word(index + 4);
    let mut high = chunk.word(index + 12);
    if len == 4 && low as u16 == 0x0212 {
        // A control message without a handshake.
        return Some(Front {
            len,
            path: 0,
            path_len: 0,
        });
    }
    if len > FRAME_MAX {
        return None;
    }
    let payload = field(&mut low, &mut high);
    let envelope = field(&mut low, &mut high);
    let recipient = field(&mut low, &mut high);
    let path = field(&mut low, &mut high);
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
    Some(Front {
        len,
        path: 4 + payload.len + envelope.len + recipient.len + path.len,
        path_len: path.value,
    })
}

/// How many bytes of `window` from `at` on equal those of `text` from `from` on, up to `len`. Both have so
/// many.
#[inline(always)]
pub(super) fn equal(
    window: &[u64; crate::layout::NEEDLE_WORDS],
    at: u32,
    text: &[u64; crate::layout::NEEDLE_WORDS],
    from: u32,
    len: u32,
) -> u32 {
    let mut done = 0;
    let mut words = 0;
    while words < crate::layout::NEEDLE_WORDS {
        if done >= len {
            return len;
        }
        let differ = crate::layout::word(window, (at + done) as usize)
            ^ crate::layout::word(text, (from + done) as usize);
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

/// The index of the lowest bit of `word`, which is not zero. BPF has no instruction for it.
#[inline(always)]
pub(super) fn first_bit(word: u64) -> u32 {
    let mut rest = word;
    let mut at = 0;
    if rest as u32 == 0 {
        at += 32;
        rest >>= 32;
    }
    if rest as u16 == 0 {
        at += 16;
        rest >>= 16;
    }
    if rest as u8 == 0 {
        at += 8;
        rest >>= 8;
    }
    if rest & 15 == 0 {
        at += 4;
        rest >>= 4;
    }
    if rest & 3 == 0 {
        at += 2;
        rest >>= 2;
    }
    at + (rest & 1 == 0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::NEEDLE_WORDS;

    #[test]
    fn the_first_bit_is_found() {
        for bit in 0..64 {
            assert_eq!(first_bit(1 << bit), bit);
            assert_eq!(first_bit(u64::MAX << bit), bit);
        }
    }

    #[test]
    fn equal_bytes_are_counted() {
        let a = *Chunk::new(b"....pekko.tcp://flink@jm:6123/user").words();
        let b = *Chunk::new(b"pekko.tcp://flink@jm:6124/").words();
        assert_eq!(equal(&a, 4, &b, 0, 26), 24);
        assert_eq!(equal(&a, 4, &b, 0, 20), 20);
        assert_eq!(equal(&a, 10, &b, 6, 18), 18);
        assert_eq!(equal(&[0; NEEDLE_WORDS], 0, &[0; NEEDLE_WORDS], 0, 120), 120);
    }
}
