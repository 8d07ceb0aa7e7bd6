//! Sums of ones complement (RFC 1071).

/// The ones-complement sum of a difference, folded to 16 bits.
#[inline(always)]
pub fn fold(sum: i64) -> u16 {
    let mut sum = sum as u32;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
