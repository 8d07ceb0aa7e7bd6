//! One CPU at a time works on a flow.
//!
//! `bpf_spin_lock` allows no helper calls, and the work needs them. The holder runs with bottom halves
//! disabled and never waits, so waiting for it is short; a program is never cancelled half-way.

use truename_common::{layout::RpcFlow, wire::steps::Steps};

use crate::bpf::{atomic::swap, repeat::repeat};

/// Attempts before the packet is dropped: some 100 µs.
const ATTEMPTS: u32 = 1 << 14;

struct Attempt {
    lock: *mut u64,
    taken: bool,
}

impl Steps for Attempt {
    #[inline(always)]
    fn step(&mut self) -> bool {
        self.taken = swap(self.lock, 1) == 0;
        !self.taken
    }
}

#[inline(always)]
fn lock_of(flow: *mut RpcFlow) -> *mut u64 {
    // SAFETY: the pointer is to a map value, valid until the program ends.
    unsafe { &raw mut (*flow).lock }
}

/// Takes the lock; false if another CPU held it for too long.
#[inline(always)]
pub fn take(flow: *mut RpcFlow) -> bool {
    let lock = lock_of(flow);
    if swap(lock, 1) == 0 {
        return true;
    }
    let mut attempt = Attempt { lock, taken: false };
    repeat(&mut attempt, ATTEMPTS);
    attempt.taken
}

/// Releases the lock.
#[inline(always)]
pub fn release(flow: *mut RpcFlow) {
    swap(lock_of(flow), 0);
}
