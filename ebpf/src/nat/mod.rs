//! The network address translator: from a packet to a connection to a destination.
//!
//! A packet is translated once, at the first hook that sees it, and tagged (`tc_index`) so that the
//! next hook leaves it alone.

mod allocate;
mod candidate;
mod conntrack;
mod entry;
mod forward;
mod icmp;
mod icmp_error;
mod receive;
mod room;
mod route;
mod sockets;
mod tables;
pub mod xdp;

pub use forward::finish;

use aya_ebpf::bindings::__sk_buff;
use truename_common::{
    layout::{
        Conntrack, Counter, EventKind, FiveTuple, Service, Settings, Socket, Target,
        conntrack_flags, conntrack_marks, service_flags, target_flags,
    },
    nat::{self, Segment},
};

use crate::{
    events::raise,
    maps::{CONNTRACK, SERVICES, SETTINGS, count},
    packet::{Buffer, DROP, NEXT, fragment, rewrite, tcp_flag},
    ports::wanted,
    scratch::{Headers, Route, Scratch, blank_flow},
};

/// Translates the packet in the working memory, and decides where it goes: [`NEXT`] if the way goes
/// on, by way of [`finish`] at its end, else what is returned to the kernel.
#[inline(always)]
pub fn translate(skb: *mut __sk_buff, scratch: &mut Scratch, wanted: u32) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return NEXT;
    };
    // SAFETY: the context of the program.
    let tag = unsafe { (*skb).tc_index };
    if settings.tag == 0 || tag == u32::from(settings.tag) {
        return NEXT;
    }
    if receive::is_strangers(skb, &scratch.headers, settings) {
        count(Counter::NatStrangers, 1);
        return NEXT;
    }
    let icmp = scratch.headers.icmp != 0;
    if wanted & wanted::SERVICE != 0 && is_to_service(scratch, icmp) {
        // Such a packet is a martian, which the stack drops, unless it is told not to.
        if scratch.nat.service.flags & service_flags::LOOPBACK != 0
            && receive::is_from_outside(skb, settings)
        {
            count(Counter::NatStrangers, 1);
            return NEXT;
        }
        return if icmp {
            icmp::global::from_client(skb, scratch)
        } else {
            global::from_client(skb, scratch)
        };
    }
    if wanted & wanted::TARGET != 0 {
        if let Some(entry) = reply_of(scratch, icmp) {
            // SAFETY: the pointer is to a map value, valid until the program ends.
            let marks = unsafe { (*entry).marks };
            if marks & conntrack_marks::TWIN != 0 && receive::was_seen(skb, settings) {
                return NEXT;
            }
            if marks & conntrack_marks::BY_STACK != 0 && receive::global::leaves(skb, scratch) == 0
            {
                return NEXT;
            }
            return if icmp {
                icmp::global::to_client(skb, scratch)
            } else {
                global::to_client(skb, scratch)
            };
        }
        if icmp {
            count(Counter::NatIcmpUnknown, 1);
        }
    }
    if wanted & wanted::ASKS != 0 {
        conntrack::global::note_asked(skb, scratch);
    }
    if wanted & wanted::DIRECT != 0 {
        return global::direct(skb, scratch);
    }
    NEXT
}

/// Looks up the service that the packet goes to; the source of the packet that an ICMP error quotes.
#[inline(always)]
fn is_to_service(scratch: &mut Scratch, icmp: bool) -> bool {
    let Scratch { headers, nat, .. } = scratch;
    headers.tuple(&mut nat.original);
    if icmp {
        swap(&mut nat.original);
    }
    let alias: Socket = nat.original.endpoint();
    // SAFETY: services are replaced whole, by user space.
    match unsafe { SERVICES.get(&alias) } {
        Some(service) => {
            nat.service = *service;
            true
        }
        None => false,
    }
}

/// Looks up the connection that the packet is a reply of; that of the packet that an ICMP error quotes.
#[inline(always)]
fn reply_of(scratch: &mut Scratch, icmp: bool) -> Option<*mut Conntrack> {
    let Scratch { headers, nat, .. } = scratch;
    headers.tuple(&mut nat.key);
    if !icmp {
        swap(&mut nat.key);
    }
    CONNTRACK.get_ptr_mut(&nat.key)
}

/// Turns a tuple round.
#[inline(always)]
fn swap(tuple: &mut FiveTuple) {
    core::mem::swap(&mut tuple.client, &mut tuple.endpoint);
    core::mem::swap(&mut tuple.client_port, &mut tuple.endpoint_port);
}

/// A packet of a client to a service.
#[inline(always)]
pub fn from_client(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return NEXT;
    };
    let Some(entry) = conntrack::of_client(skb, scratch, settings) else {
        return refused(skb, scratch);
    };
    scratch.nat.is_overdue = 0;
    // SAFETY: the pointer is to a map value, valid until the program ends.
    if entry::is_unanswered(unsafe { &*entry }) {
        scratch.nat.is_overdue = entry::global::is_overdue(entry);
    }
    let flags = entry::touch(entry, scratch, true);
    scratch.nat.to = scratch.nat.key;
    scratch.nat.here = route::here::NOWHERE;
    if flags & (conntrack_flags::LOCAL | conntrack_flags::DIRECT) != 0 {
        forward::deliver(skb, scratch, flags);
    } else if scratch.nat.by_stack != 0 {
        scratch.nat.route = Route::NEXT;
    } else if let Err(verdict) = forward::global::route(skb, scratch) {
        return verdict;
    }
    if !write(skb, scratch, settings) {
        return DROP;
    }
    count(Counter::NatSent, 1);
    // From here on the packet is what the target sees.
    let Scratch { headers, nat, .. } = scratch;
    headers.source = nat.to.client;
    headers.destination = nat.to.endpoint;
    headers.source_port = nat.to.client_port;
    headers.destination_port = nat.to.endpoint_port;
    NEXT
}

/// A packet to a service that has no connection, and gets none.
#[inline(always)]
fn refused(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    match candidate::Outcome::from_number(scratch.nat.outcome) {
        candidate::Outcome::NotBeginning => {
            count(Counter::NatNoConnection, 1);
            left_alone(&scratch.nat.service)
        }
        candidate::Outcome::Elsewhere => NEXT,
        outcome => {
            let why = outcome.counter();
            count(why, 1);
            if let Some(blank) = blank_flow() {
                let (detail, text) = (why as u32, &blank.names.alias);
                raise(EventKind::Refused, detail, &scratch.nat.original, text);
            }
            // Room and ports may be there when the client tries again.
            if outcome == candidate::Outcome::NoTarget {
                icmp_error::global::answer(skb, scratch, icmp_error::NO_PORT)
            } else {
                DROP
            }
        }
    }
}

/// What happens to a packet to `service` that is not translated: the stack of this host has the alias, or nobody.
#[inline(always)]
fn left_alone(service: &Service) -> i32 {
    if service.flags & service_flags::UNASSIGNED != 0 {
        DROP
    } else {
        NEXT
    }
}

/// A packet of a target to a client; `nat.key` is its connection's.
#[inline(always)]
pub fn to_client(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return NEXT;
    };
    let Some(entry) = CONNTRACK.get_ptr_mut(&scratch.nat.key) else {
        return NEXT;
    };
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let flags = unsafe { (*entry).flags };
    let is_local = is_routed_by_stack(entry);
    // The VLAN's own interface translates it, and notes it.
    if !is_local && route::is_vlan(skb, &scratch.headers) {
        return NEXT;
    }
    scratch.nat.is_overdue = 0;
    entry::touch(entry, scratch, false);
    entry::towards_client(entry, &mut scratch.nat.to, scratch.headers.protocol);
    scratch.nat.here = route::here::of(flags);
    if is_local {
        scratch.nat.route = Route::after_stack(skb, settings);
    } else if let Err(verdict) = forward::global::route(skb, scratch) {
        return verdict;
    }
    if !write(skb, scratch, settings) {
        return DROP;
    }
    count(Counter::NatReceived, 1);
    // The RPC translator goes by what the target sees: the headers stay.
    NEXT
}

/// Whether what the target sends leaves the host's stack towards the client by itself.
#[inline(always)]
fn is_routed_by_stack(entry: *const Conntrack) -> bool {
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let entry = unsafe { &*entry };
    conntrack_flags::is_routed_by_stack(entry.flags) || entry.marks & conntrack_marks::BY_STACK != 0
}

/// A packet to a target that does not come by way of a service. Its tuple may be that of a connection
/// that does: then its source port is replaced.
#[inline(always)]
pub fn direct(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return NEXT;
    };
    let Scratch { headers, nat, .. } = &mut *scratch;
    headers.tuple(&mut nat.original);
    nat.hash = nat::hash(&nat.original);
    nat.target = Target {
        address: headers.destination,
        source: [0; 16],
        port: headers.destination_port,
        flags: target_flags::LOCAL,
        pad: [0; 4],
    };
    let Some(entry) = conntrack::of_direct(skb, scratch, settings) else {
        return NEXT;
    };
    entry::touch(entry, scratch, true);
    scratch.nat.to = scratch.nat.key;
    scratch.nat.route = Route::NEXT;
    if !write(skb, scratch, settings) {
        return DROP;
    }
    count(Counter::NatSent, 1);
    scratch.headers.source_port = scratch.nat.to.client_port;
    NEXT
}

/// Gives the packet the addresses and ports of `nat.to`, and tags it.
#[inline(always)]
fn write(skb: *mut __sk_buff, scratch: &mut Scratch, settings: &Settings) -> bool {
    let Scratch { headers, nat, .. } = scratch;
    let hops = nat.route.is_forward() && !route::is_own(skb);
    let done = (!hops || rewrite::hop(Buffer(skb), headers))
        && rewrite::transport(Buffer(skb), headers, &nat.to, &mut nat.change);
    tag(skb, settings);
    if headers.fragment != fragment::WHOLE {
        count(Counter::NatFragment, 1);
    }
    if !done {
        count(Counter::NatStore, 1);
    }
    done
}

/// Marks the packet as translated.
#[inline(always)]
fn tag(skb: *mut __sk_buff, settings: &Settings) {
    // SAFETY: the context of the program, in which this field may be written.
    unsafe { (*skb).tc_index = u32::from(settings.tag) };
}

/// What the segment says about its connection.
#[inline(always)]
fn segment(headers: &Headers) -> Segment {
    let flags = headers.flags;
    Segment {
        syn: flags & tcp_flag::SYN != 0,
        ack: flags & tcp_flag::ACK != 0,
        fin: flags & tcp_flag::FIN != 0,
        rst: flags & tcp_flag::RST != 0,
    }
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use crate::bpf::global::part;

    part!(
        /// [`super::from_client`].
        from_client, tn_from_client, super::from_client
    );
    part!(
        /// [`super::to_client`].
        to_client, tn_to_client, super::to_client
    );
    part!(
        /// [`super::direct`].
        direct, tn_direct, super::direct
    );
}
