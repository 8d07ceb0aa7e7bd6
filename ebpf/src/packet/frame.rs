//! [`Packet`] for the frames of XDP (the helpers need Linux 5.18).

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_load_bytes, bpf_xdp_store_bytes},
};

use super::rewrite::{Packet, Sum, changed};

/// The context of an XDP program.
#[derive(Clone, Copy)]
pub struct Frame(pub *mut xdp_md);

impl Packet for Frame {
    #[inline(always)]
    fn store<T>(self, at: u32, value: &T, _: bool) -> bool {
        let len = size_of::<T>() as u32;
        let value = ptr::from_ref(value).cast_mut().cast::<c_void>();
        // SAFETY: `value` has `len` bytes, which the helper only reads; it checks the packet's bounds.
        unsafe { bpf_xdp_store_bytes(self.0, at, value.cast(), len) == 0 }
    }

    #[inline(always)]
    fn load(self, at: u32) -> Option<u16> {
        let mut value = 0u16;
        // SAFETY: `value` has two bytes; the helper checks the packet's bounds.
        let result = unsafe { bpf_xdp_load_bytes(self.0, at, (&raw mut value).cast(), 2) };
        (result == 0).then_some(value)
    }

    #[inline(always)]
    fn add_to_header(self, at: u32, difference: u32) -> bool {
        match self.load(at) {
            Some(checksum) => self.store(at, &changed(checksum, difference), false),
            None => false,
        }
    }

    #[inline(always)]
    fn add_to_transport(self, at: u32, difference: u32, what: Sum) -> bool {
        let Some(checksum) = self.load(at) else {
            return false;
        };
        if what.is_udp && checksum == 0 {
            return true;
        }
        let mut checksum = changed(checksum, difference);
        if what.is_udp && checksum == 0 {
            checksum = 0xffff;
        }
        self.store(at, &checksum, false)
    }
}
