//! A window on the bytes of a segment.

use crate::layout::{NEEDLE_WORDS, word};

/// Bytes in a window.
pub const CHUNK: usize = 128;
const WORDS: usize = NEEDLE_WORDS;
const _: () = assert!(8 * WORDS == CHUNK);
const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Bytes copied out of a packet. Kept as words, because the search looks at eight bytes at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Chunk {
    words: [u64; WORDS],
}

impl Chunk {
    pub const EMPTY: Self = Self { words: [0; WORDS] };

    /// A chunk with the first bytes of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut chunk = Self::EMPTY;
        for (word, eight) in chunk.words.iter_mut().zip(bytes.chunks(8)) {
            let mut le = [0; 8];
            for (to, from) in le.iter_mut().zip(eight) {
                *to = *from;
            }
            *word = u64::from_le_bytes(le).to_le();
        }
        chunk
    }

    /// A chunk with these words.
    #[inline(always)]
    pub const fn from_words(words: &[u64; WORDS]) -> Self {
        Self { words: *words }
    }

    /// Byte `index`, modulo [`CHUNK`]: a mask is a bound that the verifier cannot lose.
    #[inline(always)]
    pub fn byte(&self, index: usize) -> u8 {
        (u64::from_le(self.words[(index / 8) & (WORDS - 1)]) >> (8 * (index & 7))) as u8
    }

    /// The eight bytes from `index` on, the first one lowest; `index` is taken modulo [`CHUNK`].
    #[inline(always)]
    pub fn word(&self, index: usize) -> u64 {
        word(&self.words, index)
    }

    /// Where `byte` next stands at or after `index`, within the word of `index`; the beginning of the
    /// next word if it does not.
    #[inline(always)]
    pub fn find_in_word(&self, index: usize, byte: u8) -> usize {
        let word = u64::from_le(self.words[(index / 8) & (WORDS - 1)]);
        // Bytes before `index` are made to differ.
        let differ = word ^ (LOW * byte as u64) | !(u64::MAX << (8 * (index & 7)));
        // The lowest mark is exact: a borrow can only mark bytes above a byte that is equal.
        let mut marks = differ.wrapping_sub(LOW) & !differ & HIGH;
        let begin = index & !7;
        if marks == 0 {
            return begin + 8;
        }
        let mut at = begin;
        if marks as u32 == 0 {
            at += 4;
            marks >>= 32;
        }
        if marks as u16 == 0 {
            at += 2;
            marks >>= 16;
        }
        if marks as u8 == 0 {
            at += 1;
        }
        at
    }

    /// Word `index` of a text of which `word` is that word and only `len` bytes are known, and which goes on with the
    /// bytes of this window.
    #[inline(always)]
    pub fn appended(&self, word: u64, index: u32, len: u32) -> u64 {
        let begin = 8 * index;
        if begin >= len {
            return self.word((begin - len) as usize).to_le();
        }
        if len - begin >= 8 {
            return word;
        }
        let shift = 8 * (len & 7);
        let kept = u64::from_le(word) & !(u64::MAX << shift);
        (kept | self.word(0) << shift).to_le()
    }

    /// The memory that a packet is copied to.
    #[inline(always)]
    pub fn words_mut(&mut self) -> &mut [u64; WORDS] {
        &mut self.words
    }

    /// The bytes as words.
    #[inline(always)]
    pub fn words(&self) -> &[u64; WORDS] {
        &self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_appended() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 0..CHUNK {
            let mut words = *Chunk::new(&bytes[..CHUNK]).words();
            let more = Chunk::new(&bytes[len..]);
            for (index, word) in words.iter_mut().enumerate() {
                *word = more.appended(*word, index as u32, len as u32);
            }
            assert_eq!(&words, Chunk::new(&bytes[..CHUNK]).words(), "{len}");
        }
    }

    #[test]
    fn a_byte_is_found_where_it_stands() {
        for at in 0..8 {
            for from in 0..8 {
                for others in [b'9', b';', 0xba, 0x00, 0xff] {
                    let mut bytes = [others; CHUNK];
                    bytes[at] = b':';
                    let expected = if from <= at { at } else { 8 };
                    let chunk = Chunk::new(&bytes);
                    assert_eq!(
                        chunk.find_in_word(from, b':'),
                        expected,
                        "{at} {from} {others}"
                    );
                }
            }
        }
        let twice = Chunk::new(b"::;:9:::");
        assert_eq!(twice.find_in_word(0, b':'), 0);
        assert_eq!(twice.find_in_word(2, b':'), 3);
        assert_eq!(twice.find_in_word(4, b':'), 5);
    }
}
