//! Forwarding in XDP, before the kernel makes a socket buffer of the packet.
//!
//! Only what is plain: a packet of an existing connection between two other hosts. Everything else goes up
//! to tc unchanged, which does all that this does and more. So does a packet of each direction every four seconds
//! ([`entry::is_turn`]): frames that are sent from here tell the kernel nothing about its neighbours.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::{bpf_fib_lookup, bpf_redirect},
    programs::XdpContext,
};
use truename_common::layout::{
    Conntrack, Counter, TCP, conntrack_flags, port_flags, service_flags, settings_flags,
};

use super::{Settings, conntrack, entry, is_to_service, receive, reply_of};
use crate::{
    maps::{PORTS, SETTINGS, XDP_DEVICES, count},
    packet::{
        Frame, headers,
        rewrite::{self, Packet as _},
        tcp_flag,
    },
    ports::wanted,
    scratch::{Scratch, scratch},
};

const ETHERNET: u32 = 14;

/// What the program [`crate::tn_xdp`] does.
#[inline(always)]
pub fn enter(ctx: &XdpContext) -> u32 {
    // SAFETY: no other call of this packet precedes.
    match unsafe { scratch() } {
        Some(scratch) => forward(ctx, scratch),
        None => xdp_action::XDP_PASS,
    }
}

/// Forwards the packet, or leaves it to tc.
#[inline(always)]
fn forward(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    let wanted = headers::global::tn_parse_xdp(ctx.ctx, &raw mut scratch.headers) as u32;
    let Some(settings) = SETTINGS.get(0) else {
        return xdp_action::XDP_PASS;
    };
    let headers = &scratch.headers;
    let is_plain = headers.icmp == 0
        && headers.fragment == 0
        && headers.network == ETHERNET
        && headers.hop_limit > 1;
    if wanted & wanted::NAT == 0
        || !is_plain
        || settings.tag == 0
        || settings.flags & settings_flags::HONOUR != 0
        || receive::is_strangers_frame(ctx.ctx)
    {
        return xdp_action::XDP_PASS;
    }
    let Some((entry, from_client)) = connection(scratch, settings, wanted) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let flags = unsafe { (*entry).flags };
    if flags & (conntrack_flags::LOCAL | conntrack_flags::DIRECT) != 0 || is_rpc(scratch) {
        return xdp_action::XDP_PASS;
    }
    if from_client {
        scratch.nat.to = scratch.nat.key;
    } else {
        entry::towards_client(entry, &mut scratch.nat.to, scratch.headers.protocol);
    }
    if !has_route(ctx.ctx, scratch) || entry::is_turn(entry, from_client) {
        return xdp_action::XDP_PASS;
    }
    entry::touch(entry, scratch, from_client);
    let frame = Frame(ctx.ctx);
    let Scratch { headers, nat, .. } = scratch;
    let done = rewrite::hop(frame, headers)
        && rewrite::transport(frame, headers, &nat.to, &mut nat.change)
        && frame.store(0, &nat.fib.ethernet(), false);
    if !done {
        count(Counter::NatStore, 1);
        return xdp_action::XDP_DROP;
    }
    count(Counter::XdpForwarded, 1);
    count(
        if from_client {
            Counter::NatSent
        } else {
            Counter::NatReceived
        },
        1,
    );
    // SAFETY: the helper checks the interface.
    unsafe { bpf_redirect(nat.fib.interface(), 0) as u32 }
}

/// The connection that the packet belongs to, and whether it comes from the client.
#[inline(always)]
fn connection(
    scratch: &mut Scratch,
    settings: &Settings,
    wanted: u32,
) -> Option<(*mut Conntrack, bool)> {
    if wanted & wanted::SERVICE != 0 && is_to_service(scratch, false) {
        // It may begin another connection with the same addresses, in place of one that is over.
        let is_loopback = scratch.nat.service.flags & service_flags::LOOPBACK != 0;
        if is_loopback || scratch.headers.has(tcp_flag::SYN) {
            return None;
        }
        scratch.nat.by_stack = 0;
        return conntrack::find(scratch, settings).map(|entry| (entry, true));
    }
    if wanted & wanted::TARGET != 0 {
        return reply_of(scratch, false).map(|entry| (entry, false));
    }
    None
}

/// Whether the connection's target may be an RPC endpoint: its headers are translated in tc.
#[inline(always)]
fn is_rpc(scratch: &Scratch) -> bool {
    let key = &scratch.nat.key;
    key.protocol == TCP
        && PORTS
            .get(u32::from(key.endpoint_port))
            .is_some_and(|flags| flags & port_flags::ENDPOINT != 0)
}

/// Whether there is a route for `nat.to`, by a known neighbour and a device that takes frames of XDP.
#[inline(always)]
fn has_route(ctx: *mut xdp_md, scratch: &mut Scratch) -> bool {
    let Scratch { headers, nat, .. } = scratch;
    // SAFETY: the context of the program.
    let interface = unsafe { (*ctx).ingress_ifindex };
    if headers.network_len > 0xffff {
        return false;
    }
    nat.fib
        .set(&nat.to, headers, interface, headers.network_len as u16);
    // SAFETY: the structure is the helper's, and has 64 bytes.
    let result = unsafe { bpf_fib_lookup(ctx.cast(), (&raw mut nat.fib).cast(), 64, 0) };
    // SAFETY: the value is one byte that never changes.
    result == 0 && unsafe { XDP_DEVICES.get(&nat.fib.interface()) }.is_some()
}
