//! Takes SYNs: the table of connections that have not carried data.

use aya_ebpf::programs::TcContext;
use truename_common::{
    layout::{DirectionState, Handshake},
    wire::{flow::state, steps::Steps, stream::Direction},
};

use crate::{
    bpf::{atomic, clock, repeat::repeat},
    maps::{HANDSHAKES, ONE_SIDED_FLOWS, RPC_FLOWS},
    packet::{load, tcp_flag},
    scratch::Scratch,
};

/// Bytes of a TCP header without options.
const HEADER: u32 = 20;
/// Kinds of options (RFC 9293 3.1, RFC 7323 2.2).
const END: u8 = 0;
const NOTHING: u8 = 1;
const WINDOW_SCALE: u8 = 3;

/// Takes the SYN in the working memory.
#[inline(always)]
pub fn take(ctx: &TcContext, scratch: &mut Scratch) -> i32 {
    let way = scratch.found.way;
    let has_ack = scratch.headers.has(tcp_flag::ACK);
    if has_ack != (way == Direction::Outbound) {
        return 0;
    }
    let scale = window_scale(ctx, scratch);
    let next = scratch.headers.seq.wrapping_add(1);
    let ack = scratch.headers.ack;
    let key = scratch.found.key;
    let known = HANDSHAKES.get_ptr_mut(&key);
    if has_ack {
        let Some(handshake) = known else { return 0 };
        // SAFETY: the pointer is to a map value. Two SYNs of a connection at once are copies of one.
        let handshake = unsafe { &mut *handshake };
        if handshake.syn_ack(ack, next, scale) {
            // A flow that was found in the middle was another connection's, or made up.
            if let Some(flow) = ONE_SIDED_FLOWS.get_ptr_mut(&key)
                // SAFETY: the pointer is to a map value; one integer is read.
                && unsafe { (*flow).flags } & state::ADOPTED != 0
            {
                let _ = ONE_SIDED_FLOWS.remove(&key);
            }
            if let Some(flow) = RPC_FLOWS.get_ptr_mut(&key) {
                // SAFETY: the pointer is to a map value, aligned.
                atomic::or(unsafe { &raw mut (*flow).flags }, state::SUCCEEDED);
            }
        }
        return 0;
    }
    let now = clock::now();
    if let Some(handshake) = known {
        // SAFETY: as above.
        unsafe { &mut *handshake }.syn(next, scale, now);
        return 0;
    }
    let handshake = &mut scratch.handshake;
    *handshake = Handshake::default();
    handshake.syn(next, scale, now);
    // A least-recently-used table takes every entry, unless memory is short: the flow is then adopted.
    let _ = HANDSHAKES.insert(&key, &*handshake, 0);
    0
}

/// The window scale in the options of the SYN; [`DirectionState::NO_SCALE`] if there are no options, 0 if they
/// have none.
#[inline(always)]
fn window_scale(ctx: &TcContext, scratch: &mut Scratch) -> u32 {
    let headers = &scratch.headers;
    let len = headers
        .payload
        .wrapping_sub(headers.transport)
        .wrapping_sub(HEADER);
    if len == 0 || len > 40 {
        return 0;
    }
    let at = headers.transport + HEADER;
    if !load(ctx.skb.skb, at, len & !3, &mut scratch.options.0) {
        return DirectionState::NO_SCALE;
    }
    scratch.index = 0;
    let mut search = Search {
        words: &scratch.options.0,
        index: &mut scratch.index,
        scale: 0,
        len,
    };
    repeat(&mut search, 40);
    search.scale
}

/// Looks at one option a step.
struct Search<'a> {
    words: &'a [u32; 32],
    index: &'a mut u32,
    scale: u32,
    len: u32,
}

impl Search<'_> {
    #[inline(always)]
    fn byte(&self, index: u32) -> u8 {
        let word = self.words[(index / 4) as usize & 31];
        (u32::from_le(word) >> (8 * (index & 3))) as u8
    }
}

impl Steps for Search<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let index = *self.index;
        if index >= self.len {
            return false;
        }
        let kind = self.byte(index);
        if kind == END {
            return false;
        }
        if kind == NOTHING {
            *self.index = index + 1;
            return true;
        }
        if kind == WINDOW_SCALE {
            self.scale = u32::from(self.byte(index + 2));
            return false;
        }
        let len = u32::from(self.byte(index + 1));
        *self.index = index + len;
        len >= 2
    }
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use crate::bpf::global::packet_part;

    packet_part!(
        /// [`super::take`].
        take, tn_syn = super::take, 0;
    );
}
