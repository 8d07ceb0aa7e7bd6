//! A window on the bytes of a segment.

/// Bytes in a window.
pub const CHUNK: usize = 128;
const WORDS: usize = CHUNK / 8;
const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Bytes copied out of a packet. Kept as words, because the search looks at eight bytes at a time
/// and the kernel allows only aligned loads from a map.
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

    /// Byte `index`, modulo [`CHUNK`]: a mask is a bound that the verifier cannot lose.
    #[inline(always)]
    pub fn byte(&self, index: usize) -> u8 {
        (u64::from_le(self.words[(index / 8) & (WORDS - 1)]) >> (8 * (index & 7))) as u8
    }

    /// Whether one of the eight bytes of word `index`, modulo their number, is `byte`.
    #[inline(always)]
    pub fn word_has(&self, index: usize, byte: u8) -> bool {
        let differ = self.words[index & (WORDS - 1)] ^ (LOW * byte as u64);
        differ.wrapping_sub(LOW) & !differ & HIGH != 0
    }

    /// The memory that a packet is copied to.
    #[inline(always)]
    pub fn words_mut(&mut self) -> &mut [u64; WORDS] {
        &mut self.words
    }
}
