//! The RPC translator: from a packet to a flow to a verdict.

mod direction;
mod learn;
mod lock;
pub mod stages;
mod translate;

pub use direction::Found;

use aya_ebpf::programs::TcContext;
use truename_common::layout::Counter;

use crate::{
    maps::{count, scratch},
    packet::{Link, NEXT},
};

/// What every packet passes.
#[inline(always)]
pub fn classify(ctx: &TcContext, link: Link) -> i32 {
    count(Counter::Packets, 1);
    // SAFETY: no other call of this packet precedes.
    let Some(scratch) = (unsafe { scratch() }) else {
        return NEXT;
    };
    let segment = &raw mut scratch.segment;
    let wanted = match link {
        Link::Ethernet => stages::tn_parse_ether(ctx.skb.skb, segment),
        Link::None => stages::tn_parse_raw(ctx.skb.skb, segment),
    };
    if wanted == 0 {
        return NEXT;
    }
    if stages::tn_find(scratch) == 0 {
        return NEXT;
    }
    count(Counter::RpcPackets, 1);
    stages::translate(ctx.skb.skb, scratch)
}
