//! The payload of a TCP segment, as the stream rules see it.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{
        bpf_csum_diff, bpf_l4_csum_replace, bpf_loop, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use truename_common::{
    layout::{Authority, ListedAlias},
    wire::{
        chunk::{CHUNK, Chunk},
        stream::{Packet, Source, Steps},
    },
};

use super::{Segment, tcp_flag};
use crate::maps::{Bytes, LISTED};

/// Longest edit: the longest text.
const EDIT_MAX: u32 = 334;
/// Offset of the checksum in a TCP header.
const CHECKSUM: u32 = 16;

/// See [`Packet`].
pub struct Payload<'a> {
    skb: *mut c_void,
    /// Offsets of the TCP header and of the payload.
    transport: u32,
    offset: u32,
    before: &'a mut Bytes,
    after: &'a mut Bytes,
    listed: &'a mut ListedAlias,
}

impl<'a> Payload<'a> {
    #[inline(always)]
    pub fn new(
        ctx: &TcContext,
        segment: &Segment,
        before: &'a mut Bytes,
        after: &'a mut Bytes,
        listed: &'a mut ListedAlias,
    ) -> Self {
        Self {
            skb: ctx.as_ptr(),
            transport: segment.transport,
            offset: segment.payload,
            before,
            after,
            listed,
        }
    }

    /// Turns the segment into an RST, so that what was sent of a wrong guess is never read.
    #[inline(always)]
    pub fn reset(&mut self) {
        let at = self.transport + 12;
        let word = &mut self.before.0[0] as *mut u32;
        // SAFETY: `word` is valid for four bytes; the helper checks the packet's bounds.
        unsafe {
            if bpf_skb_load_bytes(self.skb.cast(), at, word.cast(), 4) != 0 {
                return;
            }
            let old = u64::from(*word as u16);
            let new = old | u64::from(((tcp_flag::RST as u16) << 8).to_le());
            bpf_l4_csum_replace(self.skb.cast(), self.transport + CHECKSUM, old, new, 2);
            let flags = (new >> 8) as u8;
            bpf_skb_store_bytes(self.skb.cast(), at + 1, ptr::from_ref(&flags).cast(), 1, 0);
        }
    }
}

/// Copies `len` bytes at `at` of the packet, and zeros up to a multiple of four.
#[inline(always)]
fn load_padded(skb: *mut c_void, at: u32, len: u32, to: &mut Bytes) -> bool {
    let last = (len / 4) as usize;
    if len == 0 || len > EDIT_MAX || last >= to.0.len() {
        return false;
    }
    to.0[last] = 0;
    // SAFETY: `to` has 336 bytes, `len` is at most 334; the helper checks the packet's bounds.
    unsafe { bpf_skb_load_bytes(skb.cast(), at, to.0.as_mut_ptr().cast(), len) == 0 }
}

/// The ones-complement sum of a difference, folded to 16 bits.
#[inline(always)]
fn fold(sum: i64) -> u16 {
    let mut sum = sum as u32;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

impl Packet for Payload<'_> {
    #[inline(always)]
    fn load(&mut self, offset: u32, len: u32, chunk: &mut Chunk) -> bool {
        if len == 0 || len > CHUNK as u32 {
            return false;
        }
        let to = chunk.words_mut().as_mut_ptr();
        // SAFETY: `to` has CHUNK bytes, `len` is at most that; the helper checks the packet's bounds.
        unsafe { bpf_skb_load_bytes(self.skb.cast(), self.offset + offset, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn store(&mut self, offset: u32, text: Source<'_>, from: u32, len: u32) -> bool {
        let (bytes, size) = match text {
            Source::Authority(text) => (text.bytes.as_ptr(), 256),
            Source::Long(text) => (text.bytes.as_ptr(), EDIT_MAX),
        };
        if from >= EDIT_MAX || from + len > size {
            return false;
        }
        let at = self.offset + offset;
        if !load_padded(self.skb, at, len, self.before) {
            return false;
        }
        if len == 0 || len > EDIT_MAX {
            return false;
        }
        // SAFETY: `from + len` is at most the text's size.
        let stored = unsafe {
            bpf_skb_store_bytes(self.skb.cast(), at, bytes.add(from as usize).cast(), len, 0)
        };
        if stored != 0 || !load_padded(self.skb, at, len, self.after) {
            return false;
        }
        let padded = (len + 3) & !3;
        if padded > 336 {
            return false;
        }
        // The sum is computed in two calls, as kernels before 6.13 take at most 512 bytes in one.
        // SAFETY: both buffers have 336 bytes.
        let sum = unsafe {
            let less = bpf_csum_diff(self.before.0.as_mut_ptr(), padded, ptr::null_mut(), 0, 0);
            bpf_csum_diff(ptr::null_mut(), 0, self.after.0.as_mut_ptr(), padded, less as u32)
        };
        let mut sum = fold(sum);
        // A sum that begins at an odd byte of the segment is the byte-swapped one.
        if (at - self.transport) & 1 != 0 {
            sum = sum.swap_bytes();
        }
        // Without BPF_F_PSEUDO_HDR the helper leaves a CHECKSUM_PARTIAL packet alone.
        // SAFETY: the helper checks the packet's bounds.
        unsafe {
            bpf_l4_csum_replace(self.skb.cast(), self.transport + CHECKSUM, 0, u64::from(sum), 0) == 0
        }
    }

    #[inline(always)]
    fn admits(&mut self, alias: &Authority) -> bool {
        let mut copy = CopyText { to: &mut self.listed.alias, from: alias };
        copy.to.len = 0;
        Self::repeat(&mut copy, 256);
        self.listed.alias.len = alias.len;
        // SAFETY: the value is one byte that never changes.
        unsafe { LISTED.get(&*self.listed) }.is_some()
    }

    #[inline(always)]
    fn repeat<S: Steps>(state: &mut S, times: u32) {
        repeat(state, times);
    }
}

/// Calls `state.step()` until it returns false, at most `times` times.
#[inline(always)]
pub fn repeat<S: Steps>(state: &mut S, times: u32) {
    // SAFETY: the callback has the type that the helper calls, and `state` outlives the call.
    unsafe {
        bpf_loop(times, callback::<S> as *mut c_void, ptr::from_mut(state).cast(), 0);
    }
}

/// Copies a text and clears what is behind it, a byte a step; `to.len` counts the steps.
struct CopyText<'a> {
    to: &'a mut Authority,
    from: &'a Authority,
}

impl Steps for CopyText<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let index = usize::from(self.to.len);
        if index >= 256 {
            return false;
        }
        self.to.bytes[index] = if index < usize::from(self.from.len) { self.from.at(index) } else { 0 };
        self.to.len += 1;
        true
    }
}

/// The callback of `bpf_loop` (Linux 5.17): 1 ends the loop.
#[inline(never)]
unsafe extern "C" fn callback<S: Steps>(_index: u32, state: *mut c_void) -> i64 {
    // SAFETY: `state` is the reference that `repeat` gave to the helper.
    let state = unsafe { &mut *state.cast::<S>() };
    i64::from(!state.step())
}
