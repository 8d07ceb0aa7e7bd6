//! What kind of address one is.

/// Whether an address is one of 127.0.0.0/8, or ::1.
#[inline(always)]
pub fn is_loopback_address(address: &[u8; 16]) -> bool {
    const V6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let is_v4 = address.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127]);
    is_v4 || *address == V6
}
