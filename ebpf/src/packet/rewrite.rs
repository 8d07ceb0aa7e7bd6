//! Writing addresses and ports, with every checksum that covers them.
//!
//! A checksum may be one that the device or the peer completes later (CHECKSUM_PARTIAL): only the
//! pseudo header is in it, which the helpers know and the program does not. So ports and addresses are
//! given to them apart.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
};
use truename_common::layout::{FiveTuple, UDP};

use super::{Headers, payload::fold};

/// Offsets in the headers of IPv4, IPv6, TCP and UDP.
const IPV4_TTL: u32 = 8;
const IPV4_CHECKSUM: u32 = 10;
const IPV4_ADDRESSES: u32 = 12;
const IPV6_HOP_LIMIT: u32 = 7;
const IPV6_ADDRESSES: u32 = 8;
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;
const ICMP_CHECKSUM: u32 = 2;

/// Source and destination address, as they stand in a header; IPv4 uses the first two words.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Addresses([u32; 8]);

/// Working memory: what stood there, and what shall.
#[repr(C)]
pub struct Change {
    before: Addresses,
    after: Addresses,
}

impl Addresses {
    #[inline(always)]
    fn set(&mut self, version: u8, source: &[u8; 16], destination: &[u8; 16]) {
        let word = |address: &[u8; 16], index: usize| {
            let at = index * 4;
            u32::from_ne_bytes([
                address[at],
                address[at + 1],
                address[at + 2],
                address[at + 3],
            ])
        };
        if version == 4 {
            self.0[0] = word(source, 3);
            self.0[1] = word(destination, 3);
        } else {
            self.0 = [
                word(source, 0),
                word(source, 1),
                word(source, 2),
                word(source, 3),
                word(destination, 0),
                word(destination, 1),
                word(destination, 2),
                word(destination, 3),
            ];
        }
    }
}

/// Makes a TCP or UDP packet one from `to.client` to `to.endpoint`. False if it could not be written:
/// the packet is then spoilt.
#[inline(always)]
pub fn transport(
    skb: *mut __sk_buff,
    headers: &Headers,
    to: &FiveTuple,
    change: &mut Change,
) -> bool {
    let (checksum, flags) = if headers.protocol == UDP {
        (UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0))
    } else {
        (TCP_CHECKSUM, 0)
    };
    let checksum = headers.transport + checksum;
    change
        .before
        .set(headers.version, &headers.source, &headers.destination);
    change.after.set(headers.version, &to.client, &to.endpoint);
    let sum = network(skb, headers.network, headers.version, change);
    let Some(sum) = sum else {
        return false;
    };
    // SAFETY: the helpers check the packet's bounds.
    let is_set =
        unsafe { bpf_l4_csum_replace(skb, checksum, 0, sum, flags | u64::from(BPF_F_PSEUDO_HDR)) };
    if is_set != 0 {
        return false;
    }
    let before = ports(headers.source_port, headers.destination_port);
    let after = ports(to.client_port, to.endpoint_port);
    if before == after {
        return true;
    }
    // SAFETY: as above.
    unsafe {
        bpf_l4_csum_replace(
            skb,
            checksum,
            u64::from(before),
            u64::from(after),
            flags | 4,
        ) == 0
            && store(skb, headers.transport, &after, 0)
    }
}

/// Makes an ICMP error one about a packet from `quoted.client` to `quoted.endpoint`, itself sent from
/// `source` to `destination`. False as for [`transport`].
#[inline(always)]
pub fn icmp(
    skb: *mut __sk_buff,
    headers: &Headers,
    source: &[u8; 16],
    destination: &[u8; 16],
    quoted: &FiveTuple,
    change: &mut Change,
) -> bool {
    let checksum = headers.icmp + ICMP_CHECKSUM;
    change.before.set(
        headers.version,
        &headers.outer_source,
        &headers.outer_destination,
    );
    change.after.set(headers.version, source, destination);
    let Some(sum) = network(skb, headers.network, headers.version, change) else {
        return false;
    };
    // ICMP over IPv4 has no pseudo header (RFC 792), ICMPv6 has (RFC 4443 2.3).
    if headers.version == 6 && !replace(skb, checksum, sum, u64::from(BPF_F_PSEUDO_HDR)) {
        return false;
    }
    change
        .before
        .set(headers.version, &headers.source, &headers.destination);
    change
        .after
        .set(headers.version, &quoted.client, &quoted.endpoint);
    let Some(addresses) = network(skb, headers.quoted, headers.version, change) else {
        return false;
    };
    // The quoted IPv4 header's own checksum makes up for the change of its addresses.
    if headers.version == 6 && !replace(skb, checksum, addresses, 0) {
        return false;
    }
    let before = ports(headers.source_port, headers.destination_port);
    let after = ports(quoted.client_port, quoted.endpoint_port);
    // SAFETY: the pointers are to four bytes each.
    let ports = unsafe {
        bpf_csum_diff(
            &raw const before as *mut u32,
            4,
            &raw const after as *mut u32,
            4,
            0,
        )
    };
    store(skb, headers.transport, &after, 0)
        && replace(skb, checksum, ports as u64 & 0xffff_ffff, 0)
        && quoted_checksum(
            skb,
            headers,
            checksum,
            addresses,
            ports as u64 & 0xffff_ffff,
        )
}

/// The transport checksum in the quoted packet, if it is there.
#[inline(always)]
fn quoted_checksum(
    skb: *mut __sk_buff,
    headers: &Headers,
    checksum: u32,
    addresses: u64,
    ports: u64,
) -> bool {
    let is_udp = headers.protocol == UDP;
    let at = headers.transport + if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    if at + 2 > headers.network + headers.network_len {
        return true;
    }
    let mut old = 0u16;
    // SAFETY: `old` has two bytes; the helper checks the packet's bounds.
    if unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut old).cast(), 2) } != 0 {
        return true;
    }
    if is_udp && old == 0 {
        return true;
    }
    let sum = u64::from(!old) + (addresses & 0xffff_ffff) + ports;
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let mut new = !fold(((sum & 0xffff) + (sum >> 16)) as i64);
    if is_udp && new == 0 {
        new = 0xffff;
    }
    // SAFETY: the helper checks the packet's bounds.
    store(skb, at, &new, 0)
        && unsafe { bpf_l4_csum_replace(skb, checksum, u64::from(old), u64::from(new), 2) == 0 }
}

/// Counts the hop limit down.
#[inline(always)]
pub fn hop(skb: *mut __sk_buff, headers: &Headers) -> bool {
    let less = headers.hop_limit.wrapping_sub(1);
    if headers.version == 6 {
        return store(
            skb,
            headers.network + IPV6_HOP_LIMIT,
            &less,
            u64::from(BPF_F_RECOMPUTE_CSUM),
        );
    }
    let (from, to) = (
        u16::from_ne_bytes([headers.hop_limit, 0]),
        u16::from_ne_bytes([less, 0]),
    );
    // SAFETY: the helper checks the packet's bounds.
    unsafe {
        bpf_l3_csum_replace(
            skb,
            headers.network + IPV4_CHECKSUM,
            u64::from(from),
            u64::from(to),
            2,
        ) == 0
            && store(skb, headers.network + IPV4_TTL, &less, 0)
    }
}

/// Writes the addresses of the IP header at `at`, and returns the difference of their sums.
#[inline(always)]
fn network(skb: *mut __sk_buff, at: u32, version: u8, change: &mut Change) -> Option<u64> {
    let (before, after) = (change.before.0.as_mut_ptr(), change.after.0.as_mut_ptr());
    // A sum over a complete packet (CHECKSUM_COMPLETE) changes with the addresses of IPv6, which has no
    // header checksum to make up for them.
    // SAFETY: both have 32 bytes; the helpers check the packet's bounds.
    unsafe {
        if version == 4 {
            let sum = bpf_csum_diff(before, 8, after, 8, 0) as u64 & 0xffff_ffff;
            let stored = bpf_skb_store_bytes(skb, at + IPV4_ADDRESSES, after.cast(), 8, 0);
            let done = stored == 0 && bpf_l3_csum_replace(skb, at + IPV4_CHECKSUM, 0, sum, 0) == 0;
            done.then_some(sum)
        } else {
            let sum = bpf_csum_diff(before, 32, after, 32, 0) as u64 & 0xffff_ffff;
            let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
            let stored = bpf_skb_store_bytes(skb, at + IPV6_ADDRESSES, after.cast(), 32, flags);
            (stored == 0).then_some(sum)
        }
    }
}

/// Adds a difference to a transport checksum.
#[inline(always)]
fn replace(skb: *mut __sk_buff, at: u32, difference: u64, flags: u64) -> bool {
    // SAFETY: the helper checks the packet's bounds.
    unsafe { bpf_l4_csum_replace(skb, at, 0, difference, flags) == 0 }
}

#[inline(always)]
pub(crate) fn store<T>(skb: *mut __sk_buff, at: u32, value: &T, flags: u64) -> bool {
    let len = size_of::<T>() as u32;
    // SAFETY: `value` has `len` bytes; the helper checks the packet's bounds.
    unsafe { bpf_skb_store_bytes(skb, at, ptr::from_ref(value).cast(), len, flags) == 0 }
}

/// Source and destination port as they stand in a header.
#[inline(always)]
fn ports(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
