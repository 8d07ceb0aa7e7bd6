//! The RPC translator: from a packet to a flow to a verdict.

mod direction;
mod learn;
mod lock;
mod translate;

pub use direction::Found;

use aya_ebpf::programs::TcContext;
use truename_common::layout::Counter;

use crate::{
    maps::{count, scratch},
    packet::{self, Link, NEXT},
};

/// What every packet passes.
#[inline(always)]
pub fn classify(ctx: &TcContext, link: Link) -> i32 {
    count(Counter::Packets, 1);
    let Some(scratch) = scratch() else { return NEXT };
    match packet::parse(ctx, link, &mut scratch.segment, direction::is_wanted) {
        Ok(true) => {}
        Ok(false) => return NEXT,
        Err(why) => {
            count(why, 1);
            return NEXT;
        }
    }
    if !direction::find(&scratch.segment, &mut scratch.found) {
        return NEXT;
    }
    count(Counter::RpcPackets, 1);
    translate::segment(ctx, scratch)
}
