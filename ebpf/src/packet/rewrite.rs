//! Writing addresses and ports, with every checksum that covers them.

use aya_ebpf::helpers::generated::bpf_csum_diff;
use truename_common::layout::{FiveTuple, UDP};

use super::{checksum::fold, fragment};

use crate::scratch::{Addresses, Change, Headers};

/// Offsets in the headers of IPv4, IPv6, TCP and UDP.
const IPV4_TTL: u32 = 8;
const IPV4_CHECKSUM: u32 = 10;
const IPV4_ADDRESSES: u32 = 12;
const IPV6_HOP_LIMIT: u32 = 7;
const IPV6_ADDRESSES: u32 = 8;
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;
const ICMP_CHECKSUM: u32 = 2;

/// A packet that can be written. All report failure by `false`.
pub trait Packet: Copy {
    /// Writes at an offset. `is_summed`: no checksum within the packet makes up for the change.
    fn store<T>(self, at: u32, value: &T, is_summed: bool) -> bool;

    /// Reads two bytes at an offset.
    fn load(self, at: u32) -> Option<u16>;

    /// Adds a difference to the checksum of an IPv4 header.
    fn add_to_header(self, at: u32, difference: u32) -> bool;

    /// Adds a difference to the checksum of a transport header.
    fn add_to_transport(self, at: u32, difference: u32, what: Sum) -> bool;
}

/// What changed under a transport checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// The pseudo header, which alone is in a checksum that the device completes (CHECKSUM_PARTIAL).
    pub is_pseudo: bool,
    /// A checksum of 0 means none, and stays (RFC 768).
    pub is_udp: bool,
}

impl Sum {
    const PLAIN: Self = Self {
        is_pseudo: false,
        is_udp: false,
    };
    const PSEUDO: Self = Self {
        is_pseudo: true,
        is_udp: false,
    };
}

/// A checksum after a change by `difference`.
#[inline(always)]
pub fn changed(checksum: u16, difference: u32) -> u16 {
    let sum = u64::from(!checksum) + u64::from(difference);
    !fold(((sum & 0xffff) + (sum >> 16)) as i64)
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

/// Makes a TCP or UDP packet, or a fragment of one, one from `to.client` to `to.endpoint`. False if it could not be written:
/// the packet is then spoilt.
#[inline(always)]
pub fn transport(
    packet: impl Packet,
    headers: &Headers,
    to: &FiveTuple,
    change: &mut Change,
) -> bool {
    let is_udp = headers.protocol == UDP;
    let checksum = headers.transport + if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    change
        .before
        .set(headers.version, &headers.source, &headers.destination);
    change.after.set(headers.version, &to.client, &to.endpoint);
    let Some(addresses) = network(packet, headers.network, headers.version, change, true) else {
        return false;
    };
    if headers.fragment == fragment::LATER {
        // The transport header is in the first one, with a checksum over all.
        return true;
    }
    let pseudo = Sum {
        is_pseudo: true,
        is_udp,
    };
    if !packet.add_to_transport(checksum, addresses, pseudo) {
        return false;
    }
    let before = ports(headers.source_port, headers.destination_port);
    let after = ports(to.client_port, to.endpoint_port);
    let plain = Sum {
        is_pseudo: false,
        is_udp,
    };
    before == after
        || packet.add_to_transport(checksum, difference(&[before], &[after]), plain)
            && packet.store(headers.transport, &after, false)
}

/// Makes an ICMP error one about a packet from `quoted.client` to `quoted.endpoint`, itself sent from
/// `source` to `destination`. False as for [`transport`].
#[inline(always)]
pub fn icmp(
    packet: impl Packet,
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
    let Some(outer) = network(packet, headers.network, headers.version, change, true) else {
        return false;
    };
    // ICMP over IPv4 has no pseudo header (RFC 792), ICMPv6 has (RFC 4443 2.3).
    if headers.version == 6 && !packet.add_to_transport(checksum, outer, Sum::PSEUDO) {
        return false;
    }
    change
        .before
        .set(headers.version, &headers.source, &headers.destination);
    change
        .after
        .set(headers.version, &quoted.client, &quoted.endpoint);
    let Some(addresses) = network(packet, headers.quoted, headers.version, change, false) else {
        return false;
    };
    // The quoted IPv4 header's own checksum makes up for the change of its addresses.
    if headers.version == 6 && !packet.add_to_transport(checksum, addresses, Sum::PLAIN) {
        return false;
    }
    let before = ports(headers.source_port, headers.destination_port);
    let after = ports(quoted.client_port, quoted.endpoint_port);
    let ports = difference(&[before], &[after]);
    packet.store(headers.transport, &after, false)
        && packet.add_to_transport(checksum, ports, Sum::PLAIN)
        && quoted_checksum(packet, headers, checksum, addresses, ports)
}

/// The transport checksum in the quoted packet, if it is there.
#[inline(always)]
fn quoted_checksum(
    packet: impl Packet,
    headers: &Headers,
    checksum: u32,
    addresses: u32,
    ports: u32,
) -> bool {
    let is_udp = headers.protocol == UDP;
    let at = headers.transport + if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    if at + 2 > headers.network + headers.network_len {
        return true;
    }
    let Some(before) = packet.load(at) else {
        return true;
    };
    if is_udp && before == 0 {
        return true;
    }
    let mut after = changed(changed(before, addresses), ports);
    if is_udp && after == 0 {
        after = 0xffff;
    }
    let sum = difference(&[u32::from(before)], &[u32::from(after)]);
    packet.store(at, &after, false) && packet.add_to_transport(checksum, sum, Sum::PLAIN)
}

/// Counts the hop limit down.
#[inline(always)]
pub fn hop(packet: impl Packet, headers: &Headers) -> bool {
    let less = headers.hop_limit.wrapping_sub(1);
    if headers.version == 6 {
        return packet.store(headers.network + IPV6_HOP_LIMIT, &less, true);
    }
    let word = |ttl: u8| u32::from(u16::from_ne_bytes([ttl, 0]));
    let sum = difference(&[word(headers.hop_limit)], &[word(less)]);
    packet.add_to_header(headers.network + IPV4_CHECKSUM, sum)
        && packet.store(headers.network + IPV4_TTL, &less, false)
}

/// Writes the addresses of the IP header at `at`, and returns the difference of their sums. `is_outer`:
/// it is the packet's own, so that of IPv6 changes the sum over the packet until [`Sum::PSEUDO`] is made
/// up for.
#[inline(always)]
fn network(
    packet: impl Packet,
    at: u32,
    version: u8,
    change: &mut Change,
    is_outer: bool,
) -> Option<u32> {
    let (before, after) = (&change.before.0, &change.after.0);
    if version == 4 {
        let [first, second, ..] = *after;
        let sum = difference(&before[..2], &after[..2]);
        let done = packet.store(at + IPV4_ADDRESSES, &[first, second], false)
            && packet.add_to_header(at + IPV4_CHECKSUM, sum);
        done.then_some(sum)
    } else {
        // IPv6 has no header checksum to make up for the addresses.
        let sum = difference(before, after);
        packet
            .store(at + IPV6_ADDRESSES, after, is_outer)
            .then_some(sum)
    }
}

/// What the sum of `after` is more than that of `before`.
#[inline(always)]
fn difference(before: &[u32], after: &[u32]) -> u32 {
    let len = (before.len() * 4) as u32;
    let (before, after) = (before.as_ptr().cast_mut(), after.as_ptr().cast_mut());
    // SAFETY: both have `len` bytes, which the helper only reads.
    unsafe { bpf_csum_diff(before, len, after, len, 0) as u32 }
}

/// Source and destination port as they stand in a header.
#[inline(always)]
fn ports(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
