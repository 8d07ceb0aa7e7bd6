//! Which frames are meant for this host, as the kernel's own receive path decides.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use truename_common::layout::{Link, Settings, link_flags};

use super::route;
use crate::{
    maps::LINKS,
    packet::{Buffer, Frame, rewrite::Packet},
    scratch::{Headers, Scratch},
};

/// `PACKET_HOST` (include/uapi/linux/if_packet.h).
const HOST: u32 = 0;

/// Whether the packet came in a frame for another host: a promiscuous interface, a switch that floods. Linux
/// forwards none of these, and gives none to TCP.
#[inline(always)]
pub fn is_strangers(skb: *mut __sk_buff, headers: &Headers, settings: &Settings) -> bool {
    // SAFETY: the context of the program.
    let (kind, interface) = unsafe { ((*skb).pkt_type, (*skb).ifindex) };
    // Without a link-layer header there is nobody else.
    if kind == HOST || headers.network == 0 || route::is_loopback(skb, settings) {
        return false;
    }
    // What a bridge's port receives for the bridge has another address than the port's.
    // SAFETY: the entry is replaced whole, by user space.
    match unsafe { LINKS.get(&interface) } {
        Some(link) => {
            link.flags & link_flags::CONTAINER == 0 && !is_to(Buffer(skb), &link.controller)
        }
        None => true,
    }
}

/// Whether the packet came in from another host. (One that this host forwards is seen on its way out, too.)
#[inline(always)]
pub fn is_from_outside(skb: *mut __sk_buff, settings: &Settings) -> bool {
    !route::is_own(skb) && !route::is_loopback(skb, settings)
}

/// Whether another hook has seen the packet, by the way that it came. This is asked where its tag does not tell: filters
/// of others clear it.
#[inline(always)]
pub fn was_seen(skb: *mut __sk_buff, settings: &Settings) -> bool {
    // SAFETY: the context of the program.
    let (came_by, interface) = unsafe { ((*skb).ingress_ifindex, (*skb).ifindex) };
    // SAFETY: entries are replaced whole, by user space.
    let link = |number: &u32| unsafe { LINKS.get(number) };
    let has = |flag: u32| link(&interface).is_some_and(|link| link.flags & flag != 0);
    if came_by == 0 {
        has(link_flags::PORT)
    } else if came_by != interface {
        link(&came_by).is_some()
    } else if interface == settings.loopback {
        // It has left by there.
        link(&interface).is_some()
    } else {
        has(link_flags::CONTROLLER)
    }
}

/// 1 if the packet is on its way out. One that leaves by the interface that it came by is known by whose link
/// address it has as its source; without link addresses it is taken for one that comes in.
#[inline(always)]
pub fn leaves(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    const SOURCE: u32 = 6;
    let headers = &scratch.headers;
    // SAFETY: the context of the program.
    let (came_by, interface) = unsafe { ((*skb).ingress_ifindex, (*skb).ifindex) };
    if came_by != interface {
        return 1;
    }
    // SAFETY: the entry is replaced whole, by user space.
    let link = unsafe { LINKS.get(&interface) };
    let is_own = |link: &Link| has_at(Buffer(skb), SOURCE, &link.address);
    i32::from(headers.network != 0 && link.is_some_and(is_own))
}

/// The same as [`is_strangers`] for a frame of XDP, which the kernel has not looked at yet.
#[inline(always)]
pub fn is_strangers_frame(ctx: *mut xdp_md) -> bool {
    // SAFETY: the context of the program.
    let interface = unsafe { (*ctx).ingress_ifindex };
    // SAFETY: as above.
    let Some(link) = (unsafe { LINKS.get(&interface) }) else {
        return true;
    };
    let Link {
        address,
        controller,
        flags,
    } = link;
    let frame = Frame(ctx);
    flags & link_flags::CONTAINER == 0 && !is_to(frame, address) && !is_to(frame, controller)
}

/// Whether the frame goes to this link address.
#[inline(always)]
fn is_to(packet: impl Packet, address: &[u8; 6]) -> bool {
    has_at(packet, 0, address)
}

/// Whether the frame has this link address at an offset.
#[inline(always)]
fn has_at(packet: impl Packet, at: u32, address: &[u8; 6]) -> bool {
    let [a, b, c, d, e, f] = *address;
    let is_there = |at, word: [u8; 2]| packet.load(at) == Some(u16::from_ne_bytes(word));
    is_there(at, [a, b]) && is_there(at + 2, [c, d]) && is_there(at + 4, [e, f])
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use crate::bpf::global::part;

    part!(
        /// [`super::leaves`].
        leaves, tn_leaves, super::leaves
    );
}
