//! Atomic changes of table values, which `core` does not offer for this target.

/// Adds to a value, in one step.
#[inline(always)]
pub fn add(value: *mut u64, more: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: `value` points into a map value, aligned, as the verifier checks too.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({value} + 0) += {more}",
            value = in(reg) value,
            more = in(reg) more,
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above; the program does not run here.
    unsafe {
        *value += more;
    }
}

/// Sets bits of a value, in one step (Linux 5.12).
#[inline(always)]
pub fn or(value: *mut u32, bits: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "lock *(u32 *)({value} + 0) |= {bits}",
            value = in(reg) value,
            bits = in(wreg) bits,
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        *value |= bits;
    }
}
