//! Helpers with a length, called so that the verifier can follow.

use core::{ffi::c_void, mem::transmute};

/// A value of which the compiler knows nothing, so that a bound that is checked after this is checked
/// on the very register that is used: the verifier does not relate a value to one computed from it.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: a register is moved to itself.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    core::hint::black_box(value)
}

/// A length from 1 to `max`, for a helper that takes no empty buffer. That it is not zero follows from
/// an addition: the verifier of Linux 6.1 learns nothing from a comparison that finds two values unequal.
#[inline(always)]
pub fn length(len: u64, max: u64) -> Option<u64> {
    let less = opaque(len.wrapping_sub(1));
    (less < max).then(|| less + 1)
}

/// `bpf_skb_load_bytes`, declared with 64-bit arguments: a conversion to 32 bits would come between
/// the check of the length and the call.
///
/// # Safety
/// `to` must be valid for `len` bytes, and `skb` the context of the program.
#[inline(always)]
pub unsafe fn skb_load_bytes(skb: *mut c_void, offset: u64, to: *mut c_void, len: u64) -> i64 {
    // SAFETY: 26 is the number of the helper (include/uapi/linux/bpf.h), which has this signature.
    let helper: unsafe extern "C" fn(*mut c_void, u64, *mut c_void, u64) -> i64 =
        unsafe { transmute(26usize) };
    // SAFETY: the caller's.
    unsafe { helper(skb, offset, to, len) }
}

/// `bpf_skb_store_bytes`, as above.
///
/// # Safety
/// `from` must be valid for `len` bytes, and `skb` the context of the program.
#[inline(always)]
pub unsafe fn skb_store_bytes(
    skb: *mut c_void,
    offset: u64,
    from: *const c_void,
    len: u64,
    flags: u64,
) -> i64 {
    // SAFETY: 9 is the number of the helper, which has this signature.
    let helper: unsafe extern "C" fn(*mut c_void, u64, *const c_void, u64, u64) -> i64 =
        unsafe { transmute(9usize) };
    // SAFETY: the caller's.
    unsafe { helper(skb, offset, from, len, flags) }
}

/// `bpf_csum_diff`, as above. `sum` is cut to 32 bits.
///
/// # Safety
/// The pointers must be valid for as many bytes as the lengths say, which are multiples of four.
#[inline(always)]
pub unsafe fn csum_diff(
    from: *const u32,
    from_len: u64,
    to: *const u32,
    to_len: u64,
    sum: u64,
) -> i64 {
    // SAFETY: 28 is the number of the helper, which has this signature.
    let helper: unsafe extern "C" fn(*const u32, u64, *const u32, u64, u64) -> i64 =
        unsafe { transmute(28usize) };
    // SAFETY: the caller's.
    unsafe { helper(from, from_len, to, to_len, sum) }
}

/// The memory behind the pointer is changed by somebody else: what the compiler knows of it does not hold any more.
///
/// A global function gets at the working memory by itself. The compiler takes a reference to it for the only way there,
/// and would keep values across the call.
#[inline(always)]
pub fn changed<T>(memory: &mut T) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: a register is moved to itself; that it may write memory is what is said.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) core::ptr::from_mut(memory) => _);
    }
    #[cfg(not(target_arch = "bpf"))]
    core::hint::black_box(memory);
}
