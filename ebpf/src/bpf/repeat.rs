//! Loops that the verifier checks once.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::bpf_loop;
use truename_common::wire::steps::Steps;

/// Calls `state.step()` until it returns false, at most `times` times.
#[inline(always)]
pub fn repeat<S: Steps>(state: &mut S, times: u32) {
    // SAFETY: the callback has the type that the helper calls, and `state` outlives the call.
    unsafe {
        bpf_loop(
            times,
            callback::<S> as *mut c_void,
            ptr::from_mut(state).cast(),
            0,
        );
    }
}

/// The callback of `bpf_loop` (Linux 5.17): 1 ends the loop.
#[inline(never)]
unsafe extern "C" fn callback<S: Steps>(_index: u32, state: *mut c_void) -> i64 {
    // SAFETY: `state` is the reference that `repeat` gave to the helper.
    let state = unsafe { &mut *state.cast::<S>() };
    let mut steps = 0;
    while steps < S::AT_ONCE {
        if !state.step() {
            return 1;
        }
        steps += 1;
    }
    0
}
