use crate::layout::FiveTuple;

/// Any odd constant with bits all over (the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash of a connection, the same in the kernel and outside. It keeps clients apart; it does not
/// withstand one that chooses its addresses and ports.
#[inline(always)]
pub fn hash(tuple: &FiveTuple) -> u64 {
    let ports = u64::from(tuple.client_port) << 32
        | u64::from(tuple.endpoint_port) << 8
        | u64::from(tuple.protocol);
    let [a, b] = words(&tuple.client);
    let [c, d] = words(&tuple.endpoint);
    let mut hash = MULTIPLIER;
    for word in [a, b, c, d, ports] {
        hash = mix(hash ^ word);
    }
    mix(hash)
}

/// Spreads every bit over all bits above it, then folds them down.
#[inline(always)]
pub(super) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_mul(MULTIPLIER);
    value ^ (value >> 32)
}

#[inline(always)]
const fn words(address: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [
        u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        u64::from_le_bytes([i, j, k, l, m, n, o, p]),
    ]
}
