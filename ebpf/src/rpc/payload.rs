//! The payload of a TCP segment, as the stream rules see it.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_pull_data},
};
use truename_common::{
    layout::{Authority, Head, HeadKey, LongText, Needle, Page, PageKey, RpcFlow},
    wire::{
        chunk::{CHUNK, Chunk},
        steps::Steps,
        stream::{BLOCK, Block, Packet, Stage, Work},
    },
};

use crate::{
    bpf::{
        helper::{csum_diff, length, opaque, skb_load_bytes, skb_store_bytes},
        repeat::repeat,
    },
    maps::{HEADS, LISTED, PAGES, READY_PAGES},
    packet::{fold, tcp_flag},
    scratch::{Buffers, Bytes, blank_head, blank_page, listed_key},
};

/// Longest edit: the longest text.
const EDIT_MAX: u64 = 334;
/// Offset of the checksum in a TCP header.
const CHECKSUM: u32 = 16;

/// See [`Packet`].
pub struct Payload<'a> {
    pub skb: *mut __sk_buff,
    pub buffers: &'a mut Buffers,
}

impl Payload<'_> {
    /// What the `len` bytes at `at` are more, as a sum, than those in `buffers.before`.
    #[inline(always)]
    fn difference(&mut self, at: u64, len: u64) -> Option<u16> {
        if !load_padded(self.skb.cast(), at, len, &mut self.buffers.after) {
            return None;
        }
        let padded = opaque((len + 3) & !3);
        if padded > 336 {
            return None;
        }
        // The sum is computed in two calls, as kernels before 6.13 take at most 512 bytes in one.
        // SAFETY: both buffers have 336 bytes.
        let sum = unsafe {
            let less = csum_diff(self.buffers.before.0.as_ptr(), padded, ptr::null(), 0, 0);
            csum_diff(
                ptr::null(),
                0,
                self.buffers.after.0.as_ptr(),
                padded,
                less as u64,
            )
        };
        Some(fold(sum))
    }

    /// Turns the segment into an RST, so that what was sent of a wrong guess is never read.
    #[inline(always)]
    pub fn reset(&mut self) {
        let at = u64::from(self.buffers.transport) + 12;
        let word = &raw mut self.buffers.before.0[0];
        // SAFETY: `word` is valid for four bytes; the helpers check the packet's bounds.
        unsafe {
            if skb_load_bytes(self.skb.cast(), at, word.cast(), 4) != 0 {
                return;
            }
            let old = u64::from(*word as u16);
            let new = old | u64::from(((tcp_flag::RST as u16) << 8).to_le());
            bpf_l4_csum_replace(
                self.skb.cast(),
                self.buffers.transport + CHECKSUM,
                old,
                new,
                2,
            );
            let flags = (new >> 8) as u8;
            skb_store_bytes(self.skb.cast(), at + 1, ptr::from_ref(&flags).cast(), 1, 0);
        }
    }
}

/// Copies `len` bytes at `at` of the packet, and zeros up to a multiple of four.
#[inline(always)]
fn load_padded(skb: *mut c_void, at: u64, len: u64, to: &mut Bytes) -> bool {
    match to.0.get_mut(opaque(len / 4) as usize) {
        Some(word) => *word = 0,
        None => return false,
    }
    let Some(len) = length(len, EDIT_MAX) else {
        return false;
    };
    // SAFETY: `to` has 336 bytes, `len` is at most 334; the helper checks the packet's bounds.
    unsafe { skb_load_bytes(skb, at, to.0.as_mut_ptr().cast(), len) == 0 }
}

impl Packet for Payload<'_> {
    #[inline(always)]
    fn load(&mut self, offset: u32, len: u32, chunk: &mut Chunk) -> bool {
        let Some(len) = length(u64::from(len), CHUNK as u64) else {
            return false;
        };
        let to = chunk.words_mut().as_mut_ptr();
        let at = u64::from(self.buffers.payload) + u64::from(offset);
        // SAFETY: `to` has CHUNK bytes, `len` is at most that; the helper checks the packet's bounds.
        unsafe { skb_load_bytes(self.skb.cast(), at, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn load_block(&mut self, offset: u32, len: u32, block: &mut Block) -> bool {
        let Some(len) = length(u64::from(len), BLOCK as u64) else {
            return false;
        };
        let to = block.words_mut().as_mut_ptr();
        let at = u64::from(self.buffers.payload) + u64::from(offset);
        // SAFETY: `to` has BLOCK bytes, `len` is at most that; the helper checks the packet's bounds.
        unsafe { skb_load_bytes(self.skb.cast(), at, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn writable(&mut self, len: u32) -> bool {
        self.buffers.sum = 0;
        // One copy for all stores: each of them would make the packet writable up to its own end.
        // SAFETY: the context of the program.
        unsafe { bpf_skb_pull_data(self.skb, self.buffers.payload + len) == 0 }
    }

    #[inline(always)]
    fn store(
        &mut self,
        offset: u32,
        text: &LongText,
        from: u32,
        len: u32,
        sum: Option<u32>,
    ) -> bool {
        let at = u64::from(self.buffers.payload) + u64::from(offset);
        let (from, len) = (u64::from(from), u64::from(len));
        let is_known = sum.is_some();
        let known = sum.unwrap_or_default();
        if !is_known && !load_padded(self.skb.cast(), at, len, &mut self.buffers.before) {
            return false;
        }
        let from = opaque(from);
        if from >= EDIT_MAX {
            return false;
        }
        let Some(stored) = length(len, EDIT_MAX) else {
            return false;
        };
        // SAFETY: an edit lies within its text; `from` and `len` are each below 335, and another text or
        // the pattern follows in the same map value.
        if unsafe {
            skb_store_bytes(
                self.skb.cast(),
                at,
                text.bytes.as_ptr().add(from as usize).cast(),
                stored,
                0,
            )
        } != 0
        {
            return false;
        }
        let mut sum = fold(i64::from(known));
        if !is_known {
            match self.difference(at, len) {
                Some(difference) => sum = difference,
                None => return false,
            }
        }
        // A sum that begins at an odd byte of the segment is the byte-swapped one.
        if (at - u64::from(self.buffers.transport)) & 1 != 0 {
            sum = sum.swap_bytes();
        }
        self.buffers.sum += u32::from(sum);
        true
    }

    #[inline(always)]
    fn finish(&mut self) -> bool {
        // Without BPF_F_PSEUDO_HDR the helper leaves a CHECKSUM_PARTIAL packet alone.
        // SAFETY: the helper checks the packet's bounds.
        unsafe {
            bpf_l4_csum_replace(
                self.skb.cast(),
                self.buffers.transport + CHECKSUM,
                0,
                u64::from(fold(i64::from(self.buffers.sum))),
                0,
            ) == 0
        }
    }

    #[inline(always)]
    fn page(&mut self, key: &PageKey, create: bool) -> Option<&mut Page> {
        page(key, create)
    }

    #[inline(always)]
    fn forget(&mut self, key: &PageKey) {
        forget(key);
    }

    #[inline(always)]
    fn head(&mut self, key: &HeadKey, create: bool) -> Option<&mut Head> {
        head(key, create)
    }

    #[inline(always)]
    fn forget_head(&mut self, key: &HeadKey) {
        let _ = HEADS.remove(key);
    }

    #[inline(always)]
    fn admits(&mut self, alias: &Authority) -> bool {
        let Some(key) = listed_key() else {
            return false;
        };
        // SAFETY: the pointer is to this CPU's value (see SCRATCH), and only this function uses it.
        let key = unsafe { &mut *key };
        key.endpoint = self.buffers.endpoint;
        key.alias.len = 0;
        let mut copy = CopyText {
            to: &mut key.alias,
            from: alias,
        };
        Self::repeat(&mut copy, 256);
        key.alias.len = alias.len;
        // SAFETY: the value is one byte that never changes.
        unsafe { LISTED.get(&*key) }.is_some()
    }

    #[inline(always)]
    fn equal(window: &Block, at: u32, text: &Needle, from: u32, len: u32) -> u32 {
        global::tn_equal(window, text, at, from, len)
    }

    #[inline(always)]
    fn repeat<S: Steps>(state: &mut S, times: u32) {
        repeat(state, times);
    }

    #[inline(always)]
    fn stage(&mut self, stage: Stage, flow: &mut RpcFlow, work: &mut Work) {
        let (skb, buffers) = (self.skb, &raw mut *self.buffers);
        match stage {
            Stage::Walk => global::tn_walk(skb, flow, work, buffers),
            Stage::Head => global::tn_head(skb, flow, work, buffers),
            Stage::Rest => global::tn_rest(skb, flow, work, buffers),
            Stage::Open => global::tn_open(skb, flow, work, buffers),
            Stage::Frames => global::tn_frames(skb, flow, work, buffers),
            Stage::Search => global::tn_search(skb, flow, work, buffers),
            Stage::Apply => global::tn_apply(skb, flow, work, buffers),
            Stage::Prepare => global::tn_prepare(flow, work),
            Stage::Keep => global::tn_keep(flow, work),
            Stage::Place => global::tn_place(flow, work),
            Stage::Arrive => global::tn_arrive(skb, flow, work, buffers),
            Stage::Join => global::tn_join(flow, work),
            Stage::Settle => global::tn_settle(flow, work),
            Stage::Mark => global::tn_mark(flow, work),
            Stage::Sweep => global::tn_sweep(flow, work),
            Stage::Recall => global::tn_recall(flow, work),
        };
    }
}

/// The page with a key; a new one if `create`.
#[inline(always)]
fn page(key: &PageKey, create: bool) -> Option<&'static mut Page> {
    let mut page = READY_PAGES.get_ptr_mut(key);
    if page.is_none() {
        page = PAGES.get_ptr_mut(key);
    }
    if page.is_none() && create {
        let blank = blank_page()?;
        page = if READY_PAGES.insert(key, blank, 0).is_ok() {
            READY_PAGES.get_ptr_mut(key)
        } else {
            let _ = PAGES.insert(key, blank, 0);
            PAGES.get_ptr_mut(key)
        };
    }
    // SAFETY: the pointer is to a map value, valid until the program ends; only the flow's own packets use its
    // pages, and this CPU has the flow's lock.
    page.map(|page| unsafe { &mut *page })
}

/// Removes a page. It lies in one of both tables.
#[inline(always)]
fn forget(key: &PageKey) {
    if READY_PAGES.remove(key).is_err() {
        let _ = PAGES.remove(key);
    }
}

/// The head with a key; a new one if `create`.
#[inline(always)]
fn head(key: &HeadKey, create: bool) -> Option<&'static mut Head> {
    if create {
        // One that is there is written anew.
        HEADS.insert(key, blank_head()?, 0).ok()?;
    }
    let head = HEADS.get_ptr_mut(key);
    // SAFETY: as for a page.
    head.map(|head| unsafe { &mut *head })
}

/// [`Packet`] for the stages that work on a flow and its pages, and never touch the packet.
pub struct Pages;

impl Packet for Pages {
    #[inline(always)]
    fn load(&mut self, _: u32, _: u32, _: &mut Chunk) -> bool {
        false
    }

    #[inline(always)]
    fn load_block(&mut self, _: u32, _: u32, _: &mut Block) -> bool {
        false
    }

    #[inline(always)]
    fn writable(&mut self, _: u32) -> bool {
        false
    }

    #[inline(always)]
    fn store(&mut self, _: u32, _: &LongText, _: u32, _: u32, _: Option<u32>) -> bool {
        false
    }

    #[inline(always)]
    fn finish(&mut self) -> bool {
        false
    }

    #[inline(always)]
    fn page(&mut self, key: &PageKey, create: bool) -> Option<&mut Page> {
        page(key, create)
    }

    #[inline(always)]
    fn forget(&mut self, key: &PageKey) {
        forget(key);
    }

    #[inline(always)]
    fn head(&mut self, key: &HeadKey, create: bool) -> Option<&mut Head> {
        head(key, create)
    }

    #[inline(always)]
    fn forget_head(&mut self, key: &HeadKey) {
        let _ = HEADS.remove(key);
    }

    #[inline(always)]
    fn admits(&mut self, _: &Authority) -> bool {
        false
    }

    #[inline(always)]
    fn repeat<S: Steps>(state: &mut S, times: u32) {
        repeat(state, times);
    }

    #[inline(always)]
    fn stage(&mut self, _: Stage, _: &mut RpcFlow, _: &mut Work) {}
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
        let byte = if index < usize::from(self.from.len) {
            self.from.at(index)
        } else {
            0
        };
        self.to.set(index, byte);
        self.to.len += 1;
        true
    }
}

/// The stages of the stream engine. The verifier checks each once; see [`crate::bpf::global`].
mod global {
    use aya_ebpf::bindings::__sk_buff;
    use truename_common::{
        layout::{Needle, RpcFlow},
        wire::stream::{self, Block, Stage, Work},
    };

    use super::{Pages, Payload};
    use crate::scratch::Buffers;

    /// A stage that reads or writes the packet.
    macro_rules! packet_stage {
        ($($name:ident = $stage:ident),+ $(,)?) => { $(
            #[doc = concat!("[`Stage::", stringify!($stage), "`].")]
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub extern "C" fn $name(
                skb: *mut __sk_buff,
                flow: *mut RpcFlow,
                work: *mut Work,
                buffers: *mut Buffers,
            ) -> i32 {
                if flow.is_null() || work.is_null() || buffers.is_null() {
                    return 0;
                }
                // SAFETY: the caller lends its exclusive references for the time of the call.
                let (flow, work, buffers) = unsafe { (&mut *flow, &mut *work, &mut *buffers) };
                stream::run(Stage::$stage, &mut Payload { skb, buffers }, flow, work);
                0
            }
        )+ };
    }

    /// A stage that works on the flow and its pages alone.
    macro_rules! flow_stage {
        ($($name:ident = $stage:ident),+ $(,)?) => { $(
            #[doc = concat!("[`Stage::", stringify!($stage), "`].")]
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub extern "C" fn $name(flow: *mut RpcFlow, work: *mut Work) -> i32 {
                if flow.is_null() || work.is_null() {
                    return 0;
                }
                // SAFETY: the caller lends its exclusive references for the time of the call.
                let (flow, work) = unsafe { (&mut *flow, &mut *work) };
                stream::run(Stage::$stage, &mut Pages, flow, work);
                0
            }
        )+ };
    }

    packet_stage!(
        tn_walk = Walk,
        tn_head = Head,
        tn_rest = Rest,
        tn_open = Open,
        tn_frames = Frames,
        tn_search = Search,
        tn_arrive = Arrive,
        tn_apply = Apply,
    );

    flow_stage!(
        tn_prepare = Prepare,
        tn_keep = Keep,
        tn_place = Place,
        tn_join = Join,
        tn_settle = Settle,
        tn_mark = Mark,
        tn_sweep = Sweep,
        tn_recall = Recall,
    );

    /// [`stream::equal`].
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn tn_equal(
        window: *const Block,
        text: *const Needle,
        at: u32,
        from: u32,
        len: u32,
    ) -> u32 {
        if window.is_null() || text.is_null() {
            return 0;
        }
        // SAFETY: the caller lends its references for the time of the call.
        let (window, text) = unsafe { (&*window, &*text) };
        stream::equal(window, at, text, from, len)
    }
}
