//! The parts of the translator as global functions.
//!
//! The verifier checks a global function once, by itself, and not again for every way that leads to
//! its call: without this the ways multiply beyond its limit. The memory behind the arguments is known
//! to it by their types (BTF). A function must use all its arguments: one that is optimised away is not
//! passed, and the verifier refuses the call. So there are two kinds of stages.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use truename_common::{
    layout::{Needle, RpcFlow},
    wire::stream::{self, Block, Stage, Work},
};

use super::{
    direction, handshake, learn,
    payload::{Pages, Payload},
    translate,
};
use crate::{
    bpf::helper::changed,
    packet::NEXT,
    scratch::{Buffers, Scratch, scratch},
};

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
    tn_make = Make,
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

/// A part that is lent the working memory, and gets at it by itself: the verifier of Linux 6.1 lets no memory behind
/// an argument be the key or value of a map.
macro_rules! packet_part {
    ($($(#[$doc:meta])* $name:ident, $global:ident = $part:path, $nothing:expr;)+) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
            changed(scratch);
            let result = $global(skb);
            changed(scratch);
            result
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $global(skb: *mut __sk_buff) -> i32 {
            // SAFETY: the only caller lends it.
            let Some(scratch) = (unsafe { scratch() }) else {
                return $nothing;
            };
            $part(&TcContext::new(skb), scratch)
        }
    )+ };
}

/// The same for a flow.
macro_rules! flow_part {
    ($($(#[$doc:meta])* $name:ident, $global:ident = $part:path;)+) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(flow: &mut RpcFlow, scratch: &mut Scratch) {
            changed(scratch);
            $global(flow);
            changed(scratch);
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $global(flow: *mut RpcFlow) -> i32 {
            if flow.is_null() {
                return 0;
            }
            // SAFETY: the only caller lends it.
            let Some(scratch) = (unsafe { scratch() }) else {
                return 0;
            };
            // SAFETY: as above.
            $part(unsafe { &mut *flow }, scratch);
            0
        }
    )+ };
}

/// A question about the working memory, which it is lent.
macro_rules! question {
    ($($(#[$doc:meta])* $name:ident, $global:ident = $part:path;)+) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(scratch: &mut Scratch) -> bool {
            changed(scratch);
            let answer = $global() != 0;
            changed(scratch);
            answer
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $global() -> i32 {
            // SAFETY: the only caller lends it.
            let Some(scratch) = (unsafe { scratch() }) else {
                return 0;
            };
            i32::from($part(&scratch.headers, &mut scratch.found))
        }
    )+ };
}

question!(
    /// [`direction::find`].
    find, tn_find = direction::find;
    /// [`direction::check`].
    check, tn_check = direction::check;
);

packet_part!(
    /// [`translate::segment`].
    translate, tn_translate = translate::segment, NEXT;
    /// [`translate::create`].
    create, tn_new_flow = translate::create, 0;
    /// [`handshake::take`].
    syn, tn_syn = handshake::take, 0;
);

flow_part!(
    /// [`translate::begin`].
    begin, tn_begin = translate::begin;
    /// [`translate::confirm`].
    confirm, tn_confirm = translate::confirm;
    /// [`learn::names`].
    names, tn_names = learn::names;
    /// [`learn::report`].
    report, tn_report = learn::report;
    /// [`learn::relay`].
    relay, tn_relay = learn::relay;
    /// [`translate::account`].
    account, tn_account = translate::account;
);
