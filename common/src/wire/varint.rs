//! Reads protobuf lengths from a word, without branches.

/// The varint in the low bytes of `word` and the number of its bytes, 1 to 4; 0 bytes if it is longer.
///
/// The first byte without its top bit ends the varint (protobuf encoding, "Base 128 Varints").
#[inline(always)]
pub const fn varint(word: u64) -> (u32, u32) {
    let ends = !word & 0x8080_8080;
    let last = ends & ends.wrapping_neg();
    let used = word & last.wrapping_sub(1);
    let value =
        used & 0x7f | (used & 0x7f00) >> 1 | (used & 0x7f_0000) >> 2 | (used & 0x7f00_0000) >> 3;
    // `last >> 7` is a power of 256: the product moves the wanted byte of the constant to the top.
    let len = (last >> 7).wrapping_mul(0x0102_0304_0000_0000) >> 56;
    (value as u32, table(last, len) as u32)
}

/// The length, 0 if no byte ends the varint.
#[inline(always)]
const fn table(last: u64, len: u64) -> u64 {
    if last == 0 { 0 } else { len }
}

#[cfg(test)]
mod tests {
    use super::varint;

    #[test]
    fn every_length_is_read() {
        for (bytes, expected) in [
            (&[0x00][..], (0, 1)),
            (&[0x7f, 0xff, 0xff, 0xff, 0xff], (127, 1)),
            (&[0x80, 0x01, 0x99], (128, 2)),
            (&[0xff, 0x7f], (16383, 2)),
            (&[0x80, 0x80, 0x01], (16384, 3)),
            (&[0xff, 0xff, 0xff, 0x7f], ((1 << 28) - 1, 4)),
        ] {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            assert_eq!(varint(u64::from_le_bytes(word)), expected, "{bytes:x?}");
        }
        assert_eq!(varint(0x01_80_80_80_80).1, 0);
    }
}
