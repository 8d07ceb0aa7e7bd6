//! TCP sequence numbers: a circle of 2³² (RFC 9293 3.4).

/// How far `a` is ahead of `b`; negative if behind.
#[inline(always)]
pub const fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

/// Whether `a` lies after `b`.
#[inline(always)]
pub const fn after(a: u32, b: u32) -> bool {
    distance(a, b) > 0
}

/// Whether `a` lies before `b`.
#[inline(always)]
pub const fn before(a: u32, b: u32) -> bool {
    distance(a, b) < 0
}
