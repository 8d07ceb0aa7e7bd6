//! Loads eight bytes from any place of a window.

/// Memory that [`load`] reads.
///
/// # Safety
/// The first `MASK + 8` bytes of a value are plain numbers, and `MASK` is one less than a power of two.
pub unsafe trait Window {
    /// An index is taken modulo `MASK + 1`: a mask is a bound that the verifier cannot lose.
    const MASK: usize;
}

/// The eight bytes of `window` from `index` on, the first one lowest.
///
/// BPF has one instruction for that, which the kernel takes for maps wherever the processor has it, too
/// (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`). The compiler does not use it: it composes bytes.
#[inline(always)]
pub fn load<W: Window>(window: &W, index: usize) -> u64 {
    // SAFETY: with the mask and eight bytes, the end is within the `MASK + 8` bytes that [`Window`] promises.
    let at = unsafe {
        core::ptr::from_ref(window)
            .cast::<u8>()
            .add(index & W::MASK)
    };
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: `at` is valid for eight bytes, as above.
        unsafe {
            core::arch::asm!(
                "{word} = *(u64 *)({at} + 0)",
                word = lateout(reg) word,
                at = in(reg) at,
                options(pure, readonly, nostack),
            );
        }
        u64::from_le(word)
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: `at` is valid for eight bytes, as above.
    u64::from_le(unsafe { at.cast::<u64>().read_unaligned() })
}
