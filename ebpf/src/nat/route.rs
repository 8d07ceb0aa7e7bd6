//! Where a packet comes from and where it may go: the interface, and the route that the kernel finds.

use core::mem;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_fib_lookup};
use truename_common::layout::{FiveTuple, Settings};

use crate::scratch::{Fib, Headers, Neighbour, Route};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LOOKUP_MARK`: Linux 6.10 and later.
const MARK: u32 = 1 << 5;
/// `-EINVAL`.
const UNKNOWN_FLAG: i64 = -22;

impl Route {
    /// On as it came.
    pub const NEXT: Self = Self {
        kind: 0,
        interface: 0,
    };
    /// To the host's stack, by way of the loopback interface.
    pub const LOOPBACK: Self = Self {
        kind: 1,
        interface: 0,
    };
    pub const FORWARD: u32 = 2;
    /// To the host's stack, as if it had come in by another interface.
    pub const INGRESS: u32 = 3;

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

impl Neighbour {
    /// The family of none: the kernel finds route and next hop.
    pub const UNKNOWN: u32 = 0;
}

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
    pub fn look_up(&mut self, skb: *mut __sk_buff) -> i64 {
        // SAFETY: the structure is the helper's, and has 64 bytes.
        unsafe { bpf_fib_lookup(skb.cast(), (&raw mut *self).cast(), 64, 0) }
    }

    /// The same for a packet with its mark, where the kernel takes one.
    #[inline(always)]
    pub fn look_up_marked(&mut self, skb: *mut __sk_buff) -> i64 {
        // SAFETY: the context of the program.
        let mark = unsafe { (*skb).mark };
        if mark != 0 {
            let [_, _, _, _, a, b, c, d, ..] = &mut self.ethernet;
            [*a, *b, *c, *d] = mark.to_ne_bytes();
            // SAFETY: as above. A kernel that does not know the flag changes nothing.
            let result = unsafe { bpf_fib_lookup(skb.cast(), (&raw mut *self).cast(), 64, MARK) };
            if result != UNKNOWN_FLAG {
                return result;
            }
        }
        self.look_up(skb)
    }

    /// Asks for the route from `to.endpoint` to `to.client`, as the host itself would.
    #[inline(always)]
    pub fn set_back(&mut self, to: &FiveTuple, headers: &Headers, loopback: u32) {
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

/// Where a packet goes that the kernel would not forward, as it may be for this host.
pub mod here {
    use truename_common::layout::conntrack_flags;

    /// It is for another host, to which there is no route.
    pub const NOWHERE: u32 = 0;
    /// It is for the host's stack, as it came.
    pub const NEXT: u32 = 1;
    /// It is for the host's stack, by way of the loopback interface.
    pub const LOOPBACK: u32 = 2;

    /// Where packets to the client of a connection with these flags go.
    #[inline(always)]
    pub fn of(flags: u8) -> u32 {
        if flags & conntrack_flags::LOOPBACK == 0 {
            NEXT
        } else {
            LOOPBACK
        }
    }
}

/// Whether the packet comes from this host.
#[inline(always)]
pub fn is_own(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context of the program.
    unsafe { (*skb).ingress_ifindex == 0 }
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

#[inline(always)]
fn set_address(to: &mut [u8; 16], from: &[u8; 16], is_v4: bool) {
    if is_v4 {
        [to[0], to[1], to[2], to[3]] = [from[12], from[13], from[14], from[15]];
    } else {
        *to = *from;
    }
}
