//! The way of a packet: headers, address translation, RPC translation, and out.

use aya_ebpf::programs::TcContext;
use truename_common::layout::{Counter, TCP};

use crate::{
    capture,
    maps::{CHAIN, count},
    nat,
    packet::{Link, NEXT, fragment, headers},
    ports, rpc,
    scratch::{Route, scratch},
};

/// What every packet passes.
#[inline(always)]
pub fn classify(ctx: &TcContext, link: Link) -> i32 {
    count(Counter::Packets, 1);
    // SAFETY: no other call of this packet precedes.
    let Some(scratch) = (unsafe { scratch() }) else {
        return NEXT;
    };
    let (skb, headers) = (ctx.skb.skb, &raw mut scratch.headers);
    let parse = || match link {
        Link::Ethernet => headers::global::tn_parse_ether(skb, headers),
        Link::None => headers::global::tn_parse_raw(skb, headers),
    };
    let mut parsed = parse();
    if parsed == headers::global::MISSED {
        headers::global::tn_fetch_headers(skb);
        parsed = parse();
    }
    if parsed <= 0 {
        return NEXT;
    }
    let mut wanted = parsed as u32;
    if wanted & ports::wanted::CAPTURE != 0 {
        let verdict = capture::tn_capture(skb);
        if verdict != NEXT {
            return verdict;
        }
    }
    scratch.nat.route = Route::NEXT;
    if wanted & ports::wanted::NAT != 0 {
        if scratch.headers.fragment != fragment::WHOLE {
            wanted = headers::global::tn_fragment(&raw mut scratch.headers, wanted) as u32;
            if wanted == 0 {
                return NEXT;
            }
        }
        let verdict = nat::translate(skb, scratch, wanted);
        if verdict != NEXT {
            return verdict;
        }
        // The target's port may be an endpoint's.
        let headers = &scratch.headers;
        wanted = if headers.icmp != 0 {
            0
        } else {
            ports::wanted(
                headers.protocol,
                false,
                headers.source_port,
                headers.destination_port,
            )
        };
    }
    if wanted & ports::wanted::RPC != 0 && scratch.headers.protocol == TCP {
        // SAFETY: the table holds programs of this type only; if it holds none, the way goes on here.
        unsafe { CHAIN.tail_call(ctx, 0) };
        count(Counter::RpcUnavailable, 1);
    }
    nat::finish(skb, scratch)
}

/// What the packets of endpoints pass, their headers being translated.
#[inline(always)]
pub fn rpc(ctx: &TcContext) -> i32 {
    // SAFETY: `classify` lends it, and does not come back.
    let Some(scratch) = (unsafe { scratch() }) else {
        return NEXT;
    };
    match rpc::translate::global::translate(ctx.skb.skb, scratch) {
        NEXT => nat::finish(ctx.skb.skb, scratch),
        verdict => verdict,
    }
}
