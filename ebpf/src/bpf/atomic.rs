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

/// Writes a value and returns what it was, as one step and with a full barrier.
///
/// The target has the instruction (BPF_XCHG, Linux 5.12), but `core` offers no atomic swap for it.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub fn swap(at: *mut u64, mut value: u64) -> u64 {
    // SAFETY: `at` points into a map value, aligned, as the verifier checks too.
    unsafe {
        core::arch::asm!(
            "{value} = xchg_64({at} + 0, {value})",
            at = in(reg) at,
            value = inout(reg) value,
        );
    }
    value
}

/// As above, where the program is only checked.
#[cfg(not(target_arch = "bpf"))]
pub fn swap(at: *mut u64, value: u64) -> u64 {
    // SAFETY: as above.
    unsafe { core::sync::atomic::AtomicU64::from_ptr(at) }
        .swap(value, core::sync::atomic::Ordering::SeqCst)
}
