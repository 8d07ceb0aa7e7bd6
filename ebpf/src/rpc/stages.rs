//! The parts of the translator as global functions.
//!
//! The verifier checks a global function once, by itself, and not again for every way that leads to
//! its call: without this the ways multiply beyond its limit. The memory behind the arguments is known
//! to it by their types (BTF).

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use truename_common::{
    layout::RpcFlow,
    wire::stream::{self, Stage, Work},
};

use super::{direction, learn, translate};
use crate::{
    maps::{Scratch, scratch},
    packet::{
        NEXT,
        payload::{Buffers, Payload},
    },
};

macro_rules! stage {
    ($(#[$doc:meta])* $name:ident = $stage:expr) => {
        $(#[$doc])*
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
            stream::run($stage, &mut Payload { skb, buffers }, flow, work);
            0
        }
    };
}

stage!(
    /// [`Stage::Look`].
    tn_look = Stage::Look
);
stage!(
    /// [`Stage::Walk`].
    tn_walk = Stage::Walk
);
stage!(
    /// [`Stage::Frames`].
    tn_frames = Stage::Frames
);
stage!(
    /// [`Stage::Search`].
    tn_search = Stage::Search
);
stage!(
    /// [`Stage::Apply`].
    tn_apply = Stage::Apply
);

/// [`Stage::Prepare`]. It looks at no packet: an argument that a function does not use is not passed,
/// and the verifier objects.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_prepare(flow: *mut RpcFlow, work: *mut Work) -> i32 {
    if flow.is_null() || work.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let (flow, work) = unsafe { (&mut *flow, &mut *work) };
    stream::prepare::<Payload<'_>>(&mut flow.names, work);
    0
}

/// [`tn_translate`], which is lent the working memory.
#[inline(always)]
pub fn translate(skb: *mut __sk_buff, _: &mut Scratch) -> i32 {
    tn_translate(skb)
}

/// [`translate::segment`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tn_translate(skb: *mut __sk_buff) -> i32 {
    // SAFETY: `translate`, the only caller, lends it.
    let Some(scratch) = (unsafe { scratch() }) else {
        return NEXT;
    };
    translate::segment(&TcContext::new(skb), scratch)
}

/// [`direction::find`]; 1 if an endpoint is found.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_find(scratch: *mut Scratch) -> i32 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let scratch = unsafe { &mut *scratch };
    i32::from(direction::find(&scratch.headers, &mut scratch.found))
}

/// [`learn::names`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_names(flow: *mut RpcFlow, scratch: *mut Scratch) -> i32 {
    if flow.is_null() || scratch.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let (flow, scratch) = unsafe { (&mut *flow, &mut *scratch) };
    learn::names(flow, &scratch.found.key, scratch.found.way);
    0
}

/// [`tn_account`], which is lent the working memory.
#[inline(always)]
pub fn account(flow: &mut RpcFlow, _: &mut Scratch) {
    tn_account(flow);
}

/// [`translate::account`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tn_account(flow: *mut RpcFlow) -> i32 {
    if flow.is_null() {
        return 0;
    }
    // SAFETY: `account`, the only caller, lends it.
    let Some(scratch) = (unsafe { scratch() }) else {
        return 0;
    };
    // SAFETY: as above.
    translate::account(unsafe { &mut *flow }, scratch);
    0
}
