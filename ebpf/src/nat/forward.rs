//! Where a translated packet goes: to the host's stack, or on to the next hop.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head},
};
use truename_common::layout::{Counter, Link, conntrack_flags, link_flags};

use super::{
    icmp_error,
    route::{here, is_own},
};
use crate::{
    maps::{CONNTRACK, LINKS, SETTINGS, count, is_own_address},
    packet::{Buffer, DROP, NEXT, rewrite::Packet as _, tcp_flag},
    scratch::{Headers, Neighbour, Route, Scratch},
};

/// Results of `bpf_fib_lookup`.
const SUCCESS: i64 = 0;
const UNREACHABLE: i64 = 2;
const PROHIBITED: i64 = 3;
const NOT_FORWARDED: i64 = 4;
const FORWARDING_OFF: i64 = 5;
const NO_NEIGHBOUR: i64 = 7;
const FRAGMENTATION_NEEDED: i64 = 8;

/// Whether the packet is the first of a TCP connection.
#[inline(always)]
fn is_syn(headers: &Headers) -> bool {
    headers.has(tcp_flag::SYN) && !headers.has(tcp_flag::ACK)
}

/// A packet to a target of this host goes on as it came, but one of the host itself that is about to leave
/// has to be turned round, and one that now seems to come from the host itself is taken from the loopback
/// interface only. (One of the host itself that is on the loopback interface would get there anyway, but with the
/// connection tracking of netfilter still bound to the addresses that it had.)
#[inline(always)]
pub fn deliver(skb: *mut __sk_buff, scratch: &mut Scratch, flags: u8) {
    let turns = is_own(skb) || flags & conntrack_flags::MASKED != 0;
    scratch.nat.route = if flags & conntrack_flags::DIRECT == 0 && turns {
        Route::LOOPBACK
    } else {
        Route::NEXT
    };
}

/// Asks the kernel for the route of `nat.to`. The packet is still as it came: what cannot be forwarded
/// is answered with an ICMP error about it.
///
/// # Errors
/// What is returned to the kernel instead.
#[inline(always)]
pub fn route(skb: *mut __sk_buff, scratch: &mut Scratch) -> Result<(), i32> {
    let Some(settings) = SETTINGS.get(0) else {
        return Err(NEXT);
    };
    let Scratch { headers, nat, .. } = &mut *scratch;
    let is_own = is_own(skb);
    // SAFETY: the context of the program.
    let interface = unsafe { (*skb).ifindex };
    let asked = if is_own && !is_in_vrf(interface) {
        settings.loopback
    } else {
        interface
    };
    let len = segment_len(skb, headers);
    nat.fib.set(&nat.to, headers, asked, len);
    let mut result = nat.fib.look_up_marked(skb);
    if result == FORWARDING_OFF {
        // The kernel says so before it looks for the route. What this host sends needs no forwarding, nor does what is
        // for it.
        nat.fib.interface = if is_own { interface } else { settings.loopback };
        let other = nat.fib.look_up_marked(skb);
        if is_own || other == NOT_FORWARDED {
            result = other;
        }
    }
    match result {
        SUCCESS | NO_NEIGHBOUR => {}
        // No route at all, or an address of this host.
        NOT_FORWARDED if nat.here == here::NOWHERE => {
            return Err(no_route(skb, scratch, result));
        }
        NOT_FORWARDED => {
            if is_own || nat.here == here::LOOPBACK {
                nat.route = Route::LOOPBACK;
            } else {
                global::enter(skb, scratch);
            }
            return Ok(());
        }
        FORWARDING_OFF => return Err(drop(Counter::NatForwardingOff)),
        FRAGMENTATION_NEEDED => {
            count(Counter::NatTooBig, 1);
            return Err(icmp_error::global::answer(
                skb,
                scratch,
                icmp_error::TOO_BIG,
            ));
        }
        _ => return Err(no_route(skb, scratch, result)),
    }
    if result == NO_NEIGHBOUR && nat.is_overdue != 0 {
        // The next packet begins anew, and asks for the next hop again.
        let _ = CONNTRACK.remove(&nat.key);
        return Err(no_route(skb, scratch, result));
    }
    if headers.hop_limit <= 1 && !is_own {
        count(Counter::NatHopLimit, 1);
        return Err(icmp_error::global::answer(
            skb,
            scratch,
            icmp_error::HOP_LIMIT,
        ));
    }
    nat.route = Route {
        kind: Route::FORWARD,
        interface: nat.fib.interface,
    };
    // A packet that waits until its next hop is found needs a route: with it, the kernel tells the sender that the next hop
    // is not there. A packet that comes in has none. The host's own packet has the route to the alias, which
    // leads nowhere: it needs a new one. Only a SYN is sure to have borrowed its old one, which older kernels leak.
    // SAFETY: the context of the program.
    let comes_in = unsafe { (*skb).ingress_ifindex } == interface;
    let needs_route = comes_in || is_own && is_syn(headers);
    nat.neighbour.family = if result == NO_NEIGHBOUR && needs_route {
        Neighbour::UNKNOWN
    } else {
        u32::from(nat.fib.family)
    };
    nat.neighbour.address = nat.fib.destination;
    Ok(())
}

/// Whether an interface is a port of a VRF.
#[inline(always)]
fn is_in_vrf(interface: u32) -> bool {
    link(interface).is_some_and(|link| link.flags & link_flags::VRF != 0)
}

/// Finds the interface by which a translated packet for the host's stack has to come in. Where `rp_filter` is strict
/// that is the one by which the host would send to its new source; of the one by which the target answers, the stack
/// knows nothing.
#[inline(always)]
pub fn enter(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let Scratch { headers, nat, .. } = scratch;
    nat.route = Route::NEXT;
    // SAFETY: the context of the program.
    let interface = unsafe { (*skb).ifindex };
    let Some(settings) = SETTINGS.get(0) else {
        return 0;
    };
    let is_strict = link(interface).is_some_and(|link| link.flags & link_flags::STRICT != 0);
    if !is_strict || headers.version != 4 || headers.network == 0 {
        return 0;
    }
    nat.fib.set_back(&nat.to, headers, settings.loopback);
    let result = nat.fib.look_up(skb);
    let other = nat.fib.interface;
    if matches!(result, SUCCESS | NO_NEIGHBOUR)
        && other != interface
        && let Some(link) = link(other)
    {
        nat.entrance = link.address;
        nat.route = Route {
            kind: Route::INGRESS,
            interface: other,
        };
    }
    0
}

/// 1 if the stack would drop the packet for its source: an address of this host, or one that strict `rp_filter` refuses.
/// Only packets that begin a connection are asked for, and not where there are several routes.
#[inline(always)]
pub fn is_spoofed(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    const CHECKED: u32 = link_flags::STRICT | link_flags::ONE_WAY;
    let Scratch { headers, nat, .. } = scratch;
    if headers.version == 4 && is_own_address(&headers.source) {
        return 1;
    }
    // SAFETY: the context of the program.
    let came_by = unsafe { (*skb).ingress_ifindex };
    let is_checked = link(came_by).is_some_and(|link| link.flags & CHECKED == CHECKED);
    let Some(settings) = SETTINGS
        .get(0)
        .filter(|_| is_checked && headers.version == 4)
    else {
        return 0;
    };
    nat.fib.set_back(&nat.original, headers, settings.loopback);
    let is_right = match nat.fib.look_up(skb) {
        SUCCESS | NO_NEIGHBOUR => nat.fib.interface == came_by,
        // Nothing is known if this cannot be asked.
        result => result == FORWARDING_OFF,
    };
    i32::from(!is_right)
}

/// What is known of an attached interface.
#[inline(always)]
fn link(interface: u32) -> Option<&'static Link> {
    // SAFETY: the entry is replaced whole, by user space.
    unsafe { LINKS.get(&interface) }
}

/// The packet cannot be sent on, and its sender is told why, unless the route is for packets to vanish.
#[inline(always)]
fn no_route(skb: *mut __sk_buff, scratch: &mut Scratch, result: i64) -> i32 {
    count(Counter::NatNoRoute, 1);
    let what = match result {
        NOT_FORWARDED => icmp_error::NO_ROUTE,
        NO_NEIGHBOUR => icmp_error::NO_HOST,
        UNREACHABLE => icmp_error::UNREACHABLE,
        PROHIBITED => icmp_error::PROHIBITED,
        _ => return DROP,
    };
    icmp_error::global::answer(skb, scratch, what)
}

#[inline(always)]
fn drop(why: Counter) -> i32 {
    count(why, 1);
    DROP
}

/// Bytes of the IP packet, of a super-packet those of its segments.
#[inline(always)]
fn segment_len(skb: *mut __sk_buff, headers: &Headers) -> u16 {
    // SAFETY: the context of the program.
    let segment = unsafe { (*skb).gso_size };
    let len = if segment == 0 {
        headers.network_len
    } else if headers.flags != 0 {
        headers.payload.wrapping_sub(headers.network) + segment
    } else {
        headers.transport.wrapping_sub(headers.network) + 8 + segment
    };
    if len > 0xffff { 0xffff } else { len as u16 }
}

/// The end of a packet's way.
#[inline(always)]
pub fn finish(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let route = scratch.nat.route;
    if route.kind == Route::NEXT.kind {
        return NEXT;
    }
    // The helpers that redirect want an Ethernet header.
    if scratch.headers.network == 0 && !add_ethernet(skb, scratch.headers.version) {
        count(Counter::NatStore, 1);
        return DROP;
    }
    if route.is_forward() && scratch.nat.neighbour.family == Neighbour::UNKNOWN {
        // SAFETY: the helper takes none for the next hop.
        return unsafe { bpf_redirect_neigh(route.interface, ptr::null_mut(), 0, 0) } as i32;
    }
    if route.is_forward() {
        let neighbour = &raw mut scratch.nat.neighbour;
        // SAFETY: the structure is the helper's, and has 20 bytes.
        return unsafe { bpf_redirect_neigh(route.interface, neighbour.cast(), 20, 0) } as i32;
    }
    let Some(settings) = SETTINGS.get(0) else {
        return DROP;
    };
    // The interface's own address, which is what the stack expects there.
    let (interface, address) = if route.kind == Route::INGRESS {
        (route.interface, scratch.nat.entrance)
    } else {
        (settings.loopback, [0; 6])
    };
    if !Buffer(skb).store(0, &address, false) {
        count(Counter::NatStore, 1);
        return DROP;
    }
    // SAFETY: the helper checks the interface.
    unsafe { bpf_redirect(interface, u64::from(BPF_F_INGRESS)) as i32 }
}

#[inline(always)]
fn add_ethernet(skb: *mut __sk_buff, version: u8) -> bool {
    let ethertype: u16 = if version == 4 { 0x0800 } else { 0x86dd };
    // SAFETY: the helper checks the length.
    unsafe {
        bpf_skb_change_head(skb, 14, 0) == 0 && Buffer(skb).store(12, &ethertype.to_be(), false)
    }
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use aya_ebpf::bindings::__sk_buff;

    use crate::{
        bpf::global::part,
        packet::DROP,
        scratch::{Scratch, scratch},
    };

    part!(
        /// [`super::enter`].
        enter, tn_enter, super::enter
    );
    part!(
        /// [`super::is_spoofed`].
        is_spoofed, tn_is_spoofed, super::is_spoofed
    );

    /// What [`tn_route`] returns when the packet can go on; no verdict of the kernel's.
    const GO_ON: i32 = i32::MIN;

    /// [`super::route`].
    ///
    /// # Errors
    /// What is returned to the kernel instead.
    #[inline(always)]
    pub fn route(skb: *mut __sk_buff, _: &mut Scratch) -> Result<(), i32> {
        match tn_route(skb) {
            GO_ON => Ok(()),
            verdict => Err(verdict),
        }
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn tn_route(skb: *mut __sk_buff) -> i32 {
        // SAFETY: `route`, the only caller, lends it.
        let Some(scratch) = (unsafe { scratch() }) else {
            return DROP;
        };
        match super::route(skb, scratch) {
            Ok(()) => GO_ON,
            Err(verdict) => verdict,
        }
    }
}
