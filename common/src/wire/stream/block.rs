//! A window on a segment for the search, and how it is compared with a text.

use crate::layout::{NEEDLE_WORDS, Needle, eight};

/// Words of a [`Block`]. A power of two.
const BLOCK_WORDS: usize = 128;
/// Bytes of a [`Block`].
pub const BLOCK: usize = 8 * BLOCK_WORDS;

/// A larger window on a segment, for the search.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Block {
    words: [u64; BLOCK_WORDS],
    /// Behind the last byte: what is read of it is of no text.
    pad: u64,
}

// SAFETY: the words and the padding are `BLOCK + 8` bytes.
unsafe impl eight::Window for Block {
    const MASK: usize = BLOCK - 1;
}

impl Block {
    pub const EMPTY: Self = Self {
        words: [0; BLOCK_WORDS],
        pad: 0,
    };

    /// The eight bytes from `index` on, the first one lowest; `index` is taken modulo [`BLOCK`].
    #[inline(always)]
    pub fn word(&self, index: u32) -> u64 {
        eight::load(self, index as usize)
    }

    /// The memory that a packet is copied to.
    #[inline(always)]
    pub fn words_mut(&mut self) -> &mut [u64; BLOCK_WORDS] {
        &mut self.words
    }

    /// Takes the first bytes of `bytes`; what is behind them is not changed.
    pub fn fill(&mut self, bytes: &[u8]) {
        for (word, eight) in self.words.iter_mut().zip(bytes.chunks(8)) {
            let mut le = [0; 8];
            for (to, from) in le.iter_mut().zip(eight) {
                *to = *from;
            }
            *word = u64::from_le_bytes(le).to_le();
        }
    }
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
