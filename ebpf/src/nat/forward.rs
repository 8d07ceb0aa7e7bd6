//! Where a translated packet goes: to the host's stack, or on to the next hop.

use core::{mem, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head},
};
use truename_common::layout::{Counter, FiveTuple, Link, Settings, conntrack_flags, link_flags};

use super::{icmp_error, stages};
use crate::{
    maps::{CONNTRACK, LINKS, SETTINGS, Scratch, count, is_own_address},
    packet::{Buffer, DROP, Headers, NEXT, rewrite::Packet as _, tcp_flag},
};

/// Where the packet goes at the end of its way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Route {
    kind: u32,
    /// Of a packet that is forwarded, the interface it leaves by; of one for the stack, that by which it comes in.
    interface: u32,
}

impl Route {
    /// On as it came.
    pub const NEXT: Self = Self {
        kind: 0,
        interface: 0,
    };
    /// To the host's stack, by way of the loopback interface.
    const LOOPBACK: Self = Self {
        kind: 1,
        interface: 0,
    };
    const FORWARD: u32 = 2;
    /// To the host's stack, as if it had come in by another interface.
    const INGRESS: u32 = 3;

    /// Of a packet that the stack has sent on its way to the client. On the loopback interface that is a program of this
    /// host, whose connection netfilter knows by other addresses than the packet was bound to.
    #[inline(always)]
    pub fn after_stack(skb: *mut __sk_buff, settings: &Settings) -> Self {
        if is_own(skb) && is_loopback(skb, settings) {
            Self::LOOPBACK
        } else {
            Self::NEXT
        }
    }

    /// Whether it leaves by another interface, or by the one it came from.
    #[inline(always)]
    pub fn is_forward(self) -> bool {
        self.kind == Self::FORWARD
    }
}

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h).
#[repr(C)]
pub struct Fib {
    family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    /// In: bytes of the packet, checked against the route's MTU. Out: that MTU.
    len: u16,
    interface: u32,
    flow: u32,
    source: [u8; 16],
    destination: [u8; 16],
    ethernet: [u8; 16],
}

/// `struct bpf_redir_neigh`: the next hop.
#[repr(C)]
pub struct Neighbour {
    family: u32,
    address: [u8; 16],
}

impl Neighbour {
    /// The family of none: the kernel finds route and next hop.
    const UNKNOWN: u32 = 0;
}

const _: () = assert!(size_of::<Fib>() == 64 && size_of::<Neighbour>() == 20);

impl Fib {
    /// Asks for the route of a packet from `to.client` to `to.endpoint` that came in by `interface`.
    #[inline(always)]
    pub fn set(&mut self, to: &FiveTuple, headers: &Headers, interface: u32, len: u16) {
        let is_v4 = headers.version == 4;
        self.family = if is_v4 { AF_INET } else { AF_INET6 };
        self.protocol = to.protocol;
        self.source_port = to.client_port.to_be();
        self.destination_port = to.endpoint_port.to_be();
        self.len = len;
        self.interface = interface;
        self.flow = headers.flow;
        set_address(&mut self.source, &to.client, is_v4);
        set_address(&mut self.destination, &to.endpoint, is_v4);
    }

    /// Looks for the route. The result is one of `BPF_FIB_LKUP_RET_*`.
    #[inline(always)]
    fn look_up(&mut self, skb: *mut __sk_buff) -> i64 {
        // SAFETY: the structure is the helper's, and has 64 bytes.
        unsafe { bpf_fib_lookup(skb.cast(), (&raw mut *self).cast(), 64, 0) }
    }

    /// The same for a packet with its mark, where the kernel takes one.
    #[inline(always)]
    fn look_up_marked(&mut self, skb: *mut __sk_buff) -> i64 {
        // SAFETY: the context of the program.
        let mark = unsafe { (*skb).mark };
        if mark != 0 {
            let [_, _, _, _, a, b, c, d, ..] = &mut self.ethernet;
            [*a, *b, *c, *d] = mark.to_ne_bytes();
            // SAFETY: as below. A kernel that does not know the flag changes nothing.
            let result = unsafe { bpf_fib_lookup(skb.cast(), (&raw mut *self).cast(), 64, MARK) };
            if result != UNKNOWN_FLAG {
                return result;
            }
        }
        self.look_up(skb)
    }

    /// Asks for the route from `to.endpoint` to `to.client`, as the host itself would.
    #[inline(always)]
    fn set_back(&mut self, to: &FiveTuple, headers: &Headers, loopback: u32) {
        self.set(to, headers, loopback, 0);
        mem::swap(&mut self.source, &mut self.destination);
        mem::swap(&mut self.source_port, &mut self.destination_port);
    }

    /// The interface of the route that was found.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// The Ethernet addresses of the route that was found, as a header begins: destination, source.
    #[inline(always)]
    pub fn ethernet(&self) -> [u8; 12] {
        let [_, _, _, _, s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5] = self.ethernet;
        [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]
    }

    /// The MTU of the route that was found.
    #[inline(always)]
    pub fn mtu(&self) -> u16 {
        self.len
    }
}

/// What becomes of a packet that the kernel would not forward, which may be one for this host.
pub mod here {
    use truename_common::layout::conntrack_flags;

    /// It is for another host, to which there is no route.
    pub const NOWHERE: u32 = 0;
    /// It is for the host's stack, as it came.
    pub const NEXT: u32 = 1;
    /// It is for the host's stack, by way of the loopback interface.
    pub const LOOPBACK: u32 = 2;

    /// What becomes of packets to the client of a connection with these flags.
    #[inline(always)]
    pub fn of(flags: u8) -> u32 {
        if flags & conntrack_flags::LOOPBACK == 0 {
            NEXT
        } else {
            LOOPBACK
        }
    }
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LOOKUP_MARK`: Linux 6.10 and later.
const MARK: u32 = 1 << 5;
/// `-EINVAL`.
const UNKNOWN_FLAG: i64 = -22;
/// Results of `bpf_fib_lookup`.
const SUCCESS: i64 = 0;
const UNREACHABLE: i64 = 2;
const PROHIBITED: i64 = 3;
const NOT_FORWARDED: i64 = 4;
const FORWARDING_OFF: i64 = 5;
const NO_NEIGHBOUR: i64 = 7;
const FRAGMENTATION_NEEDED: i64 = 8;

/// Whether the packet comes from this host.
#[inline(always)]
pub fn is_own(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context of the program.
    unsafe { (*skb).ingress_ifindex == 0 }
}

/// Whether the packet is the first of a TCP connection.
#[inline(always)]
fn is_syn(headers: &Headers) -> bool {
    headers.has(tcp_flag::SYN) && !headers.has(tcp_flag::ACK)
}

/// Whether the packet is on the loopback interface.
#[inline(always)]
pub fn is_loopback(skb: *mut __sk_buff, settings: &Settings) -> bool {
    // SAFETY: the context of the program.
    unsafe { (*skb).ifindex == settings.loopback }
}

/// Whether the packet has a VLAN tag: then it is routed by the VLAN's own interface, and only what
/// stays on the host can be translated here.
#[inline(always)]
pub fn is_vlan(skb: *mut __sk_buff, headers: &Headers) -> bool {
    // SAFETY: the context of the program.
    headers.network > 14 || unsafe { (*skb).vlan_present } != 0
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
                stages::enter(skb, scratch);
            }
            return Ok(());
        }
        FORWARDING_OFF => return Err(drop(Counter::NatForwardingOff)),
        FRAGMENTATION_NEEDED => {
            count(Counter::NatTooBig, 1);
            return Err(stages::answer(skb, scratch, icmp_error::TOO_BIG));
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
        return Err(stages::answer(skb, scratch, icmp_error::HOP_LIMIT));
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
    stages::answer(skb, scratch, what)
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

#[inline(always)]
fn set_address(to: &mut [u8; 16], from: &[u8; 16], is_v4: bool) {
    if is_v4 {
        [to[0], to[1], to[2], to[3]] = [from[12], from[13], from[14], from[15]];
    } else {
        *to = *from;
    }
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
