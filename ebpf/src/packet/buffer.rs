//! [`Packet`] for the socket buffers of tc.
//!
//! A checksum may be one that the device or the peer completes later (CHECKSUM_PARTIAL), or the sum over
//! the packet may be known (CHECKSUM_COMPLETE). Only the kernel knows which; its helpers keep both right.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};

use super::rewrite::{Packet, Sum};
use crate::bpf::helper::{length, skb_load_bytes};

/// The context of a tc program.
#[derive(Clone, Copy)]
pub struct Buffer(pub *mut __sk_buff);

impl Packet for Buffer {
    #[inline(always)]
    fn store<T>(self, at: u32, value: &T, is_summed: bool) -> bool {
        let len = size_of::<T>() as u32;
        let flags = if is_summed {
            u64::from(BPF_F_RECOMPUTE_CSUM)
        } else {
            0
        };
        // SAFETY: `value` has `len` bytes; the helper checks the packet's bounds.
        unsafe { bpf_skb_store_bytes(self.0, at, ptr::from_ref(value).cast(), len, flags) == 0 }
    }

    #[inline(always)]
    fn load(self, at: u32) -> Option<u16> {
        let mut value = 0u16;
        // SAFETY: `value` has two bytes; the helper checks the packet's bounds.
        let result = unsafe { bpf_skb_load_bytes(self.0.cast(), at, (&raw mut value).cast(), 2) };
        (result == 0).then_some(value)
    }

    #[inline(always)]
    fn add_to_header(self, at: u32, difference: u32) -> bool {
        // SAFETY: the helper checks the packet's bounds.
        unsafe { bpf_l3_csum_replace(self.0, at, 0, u64::from(difference), 0) == 0 }
    }

    #[inline(always)]
    fn add_to_transport(self, at: u32, difference: u32, what: Sum) -> bool {
        let mut flags = 0;
        if what.is_pseudo {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if what.is_udp {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        // SAFETY: the helper checks the packet's bounds.
        unsafe { bpf_l4_csum_replace(self.0, at, 0, u64::from(difference), flags) == 0 }
    }
}

/// Copies `len` bytes at `at` of the packet to the front of `words`, and zeros what is behind them.
/// `len` is a multiple of four.
#[inline(always)]
pub fn load(skb: *mut __sk_buff, at: u32, len: u32, words: &mut [u32; 32]) -> bool {
    *words = [0; 32];
    let Some(len) = length(u64::from(len), 128) else {
        return false;
    };
    // SAFETY: `words` has 128 bytes; the helper checks the packet's bounds.
    unsafe { skb_load_bytes(skb.cast(), u64::from(at), words.as_mut_ptr().cast(), len) == 0 }
}
