//! ICMP errors about translated packets. What they quote is translated, so that who is told can find
//! its own connection in it.

use aya_ebpf::bindings::__sk_buff;
use truename_common::layout::{Counter, FiveTuple, Settings, conntrack_flags};

use super::{conntrack, forward, is_routed_by_stack, left_alone, route, tag};
use crate::{
    maps::{CONNTRACK, SETTINGS, count},
    packet::{Buffer, DROP, ICMP, ICMPV6, NEXT, rewrite},
    scratch::{Route, Scratch},
};

/// From the client's side, about a packet from the alias: becomes one about a packet of the target.
#[inline(always)]
pub fn from_client(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return NEXT;
    };
    conntrack::global::set_by_stack(skb, scratch);
    let Some(entry) = conntrack::global::find(scratch) else {
        count(Counter::NatIcmpUnknown, 1);
        return left_alone(&scratch.nat.service);
    };
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let flags = unsafe { (*entry).flags };
    if flags & conntrack_flags::LOCAL == 0 && route::is_vlan(skb, &scratch.headers) {
        return NEXT;
    }
    let Scratch { headers, nat, .. } = &mut *scratch;
    nat.to.client = headers.outer_source;
    if headers.outer_source == nat.original.client {
        nat.to.client = nat.key.client;
    }
    nat.to.endpoint = nat.key.endpoint;
    set_protocol(&mut nat.to, headers.version);
    nat.here = route::here::NOWHERE;
    nat.is_overdue = 0;
    if flags & conntrack_flags::LOCAL != 0 {
        forward::deliver(skb, scratch, flags);
    } else if nat.by_stack != 0 {
        nat.route = Route::NEXT;
    } else if let Err(verdict) = forward::global::route(skb, scratch) {
        return verdict;
    }
    // The quoted packet came from the target: the key, turned round.
    let nat = &mut scratch.nat;
    let quoted = &mut nat.original;
    quoted.client = nat.key.endpoint;
    quoted.endpoint = nat.key.client;
    quoted.client_port = nat.key.endpoint_port;
    quoted.endpoint_port = nat.key.client_port;
    write(skb, scratch, settings)
}

/// From the target's side, about a packet of the client: becomes one about a packet to the alias.
/// `nat.key` is the connection's.
#[inline(always)]
pub fn to_client(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return NEXT;
    };
    let Some(entry) = CONNTRACK.get_ptr(&scratch.nat.key) else {
        return NEXT;
    };
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let entry = unsafe { &*entry };
    let is_local = is_routed_by_stack(entry);
    if !is_local && route::is_vlan(skb, &scratch.headers) {
        return NEXT;
    }
    let Scratch { headers, nat, .. } = &mut *scratch;
    let quoted: &mut FiveTuple = &mut nat.original;
    quoted.client = entry.client;
    quoted.endpoint = entry.alias;
    quoted.client_port = entry.client_port;
    quoted.endpoint_port = entry.alias_port;
    nat.to.client = headers.outer_source;
    if headers.outer_source == nat.key.endpoint {
        nat.to.client = entry.alias;
    }
    nat.to.endpoint = entry.client;
    set_protocol(&mut nat.to, headers.version);
    nat.here = route::here::of(entry.flags);
    nat.is_overdue = 0;
    if is_local {
        nat.route = Route::after_stack(skb, settings);
    } else if let Err(verdict) = forward::global::route(skb, scratch) {
        return verdict;
    }
    write(skb, scratch, settings)
}

/// By which rules the error is routed: not by those of what it quotes, which was here before.
#[inline(always)]
fn set_protocol(to: &mut FiveTuple, version: u8) {
    to.protocol = if version == 4 { ICMP } else { ICMPV6 };
    to.client_port = 0;
    to.endpoint_port = 0;
}

/// Writes the error from `nat.to.client` to `nat.to.endpoint` about `nat.original`.
#[inline(always)]
fn write(skb: *mut __sk_buff, scratch: &mut Scratch, settings: &Settings) -> i32 {
    let Scratch { headers, nat, .. } = scratch;
    let hops = nat.route.is_forward() && !route::is_own(skb);
    let done = (!hops || rewrite::hop(Buffer(skb), headers))
        && rewrite::icmp(
            Buffer(skb),
            headers,
            &nat.to.client,
            &nat.to.endpoint,
            &nat.original,
            &mut nat.change,
        );
    tag(skb, settings);
    if !done {
        count(Counter::NatStore, 1);
        return DROP;
    }
    count(Counter::NatIcmp, 1);
    NEXT
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use crate::bpf::global::part;

    part!(
        /// [`super::from_client`].
        from_client, tn_icmp_from_client, super::from_client
    );
    part!(
        /// [`super::to_client`].
        to_client, tn_icmp_to_client, super::to_client
    );
}
