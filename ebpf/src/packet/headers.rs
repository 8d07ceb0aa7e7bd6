use core::mem::size_of;

use aya_ebpf::programs::TcContext;
use truename_common::layout::{Counter, TCP, v4_mapped};

use super::helper::opaque;

/// What a device's packets begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Ethernet,
    None,
}

/// A TCP segment. It lives in working memory, not on the stack.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Segment {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
    pub seq: u32,
    pub ack: u32,
    /// Offset of the TCP header.
    pub transport: u32,
    /// Offset and length of the payload.
    pub payload: u32,
    pub payload_len: u32,
    /// Bits of [`tcp_flag`].
    pub flags: u32,
}

/// Flags of a TCP header (RFC 9293 3.1).
pub mod tcp_flag {
    pub const FIN: u32 = 1;
    pub const SYN: u32 = 2;
    pub const RST: u32 = 4;
    pub const ACK: u32 = 16;
}

impl Segment {
    /// Whether one of `flags` is set.
    #[inline(always)]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IPv6 extension headers (RFC 8200 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// More than a well-meant packet has.
const EXTENSIONS: usize = 4;

/// Reads a value of the linear part of the packet.
#[inline(always)]
fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let start = ctx.data();
    if start + offset + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie between data and data_end, as the verifier checks too; T is plain data
    // here (integers and arrays of bytes), and the read does not need alignment.
    Some(unsafe { ((start + offset) as *const T).read_unaligned() })
}

#[inline(always)]
fn read_u16(ctx: &TcContext, offset: usize) -> Option<u16> {
    read::<[u8; 2]>(ctx, offset).map(u16::from_be_bytes)
}

/// Reads the headers of a TCP segment into `segment`. `Ok(false)` if the packet is something else,
/// or `wanted` says no to its ports.
///
/// # Errors
/// The counter that says why the headers of what looks like TCP could not be read.
#[inline(always)]
pub fn parse(
    ctx: &TcContext,
    link: Link,
    segment: &mut Segment,
    wanted: impl Fn(u16, u16) -> bool,
) -> Result<bool, Counter> {
    let network = match link {
        Link::Ethernet => ethernet(ctx),
        Link::None => match read::<[u8; 8]>(ctx, 0) {
            Some(header) if header[0] >> 4 == 4 => Some((0, ETHERTYPE_IPV4)),
            Some(header) if header[0] >> 4 == 6 => Some((0, ETHERTYPE_IPV6)),
            _ => None,
        },
    };
    let network = match network {
        Some((at, ETHERTYPE_IPV4)) => ipv4(ctx, anywhere(at))?,
        Some((at, ETHERTYPE_IPV6)) => ipv6(ctx, anywhere(at))?,
        _ => None,
    };
    let Some(network) = network else {
        return Ok(false);
    };
    let ports = read::<[u8; 4]>(ctx, network.transport).ok_or(Counter::Unparsed)?;
    segment.source_port = u16::from_be_bytes([ports[0], ports[1]]);
    segment.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
    if !wanted(segment.source_port, segment.destination_port) {
        return Ok(false);
    }
    if network.fragment {
        return Err(Counter::Fragment);
    }
    addresses(ctx, &network, segment).ok_or(Counter::Unparsed)?;
    tcp(ctx, &network, segment).ok_or(Counter::Unparsed)?;
    Ok(true)
}

/// Places in the packet.
struct Network {
    version: u8,
    /// Offset of the IP header, and of the TCP header.
    at: usize,
    transport: usize,
    /// Offset of the first byte behind the packet's payload.
    end: usize,
    fragment: bool,
}

/// The offset, of which the verifier shall know only a bound: it would go through all that follows
/// once for every number of VLAN tags.
#[inline(always)]
fn anywhere(at: usize) -> usize {
    opaque(at as u64) as usize & 31
}

/// Offset and type of the network layer, behind up to two VLAN tags in the packet. (A tag that the
/// device took out of the packet is not there.)
#[inline(always)]
fn ethernet(ctx: &TcContext) -> Option<(usize, u16)> {
    let ethertype = read_u16(ctx, 12)?;
    if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
        return Some((14, ethertype));
    }
    let ethertype = read_u16(ctx, 16)?;
    if ethertype != ETHERTYPE_VLAN {
        return Some((18, ethertype));
    }
    Some((22, read_u16(ctx, 20)?))
}

#[inline(always)]
fn ipv4(ctx: &TcContext, at: usize) -> Result<Option<Network>, Counter> {
    let Some(header) = read::<[u8; 12]>(ctx, at) else {
        return Ok(None);
    };
    if header[9] != TCP {
        return Ok(None);
    }
    let header_len = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err(Counter::Unparsed);
    }
    // Only the first fragment has ports; the others cannot be told apart.
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if fragment & 0x1fff != 0 {
        return Ok(None);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    Ok(Some(Network {
        version: 4,
        at,
        transport: at + header_len,
        // A packet of more than 64 KiB (BIG TCP, Linux 6.3) has no length.
        end: if total == 0 {
            ctx.len() as usize
        } else {
            at + total
        },
        fragment: fragment & 0x2000 != 0,
    }))
}

#[inline(always)]
fn ipv6(ctx: &TcContext, at: usize) -> Result<Option<Network>, Counter> {
    let Some(header) = read::<[u8; 8]>(ctx, at) else {
        return Ok(None);
    };
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut next = header[6];
    let mut transport = at + 40;
    let mut fragment = false;
    let mut extensions = 0;
    while next != TCP {
        if extensions == EXTENSIONS {
            return Ok(None);
        }
        extensions += 1;
        let Some(extension) = read::<[u8; 8]>(ctx, transport) else {
            return Ok(None);
        };
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(extension[1]) + 1) * 8,
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            FRAGMENT if extension[2] == 0 && extension[3] & 0xf8 == 0 => {
                fragment |= extension[3] & 1 != 0;
                8
            }
            _ => return Ok(None),
        };
        next = extension[0];
        transport += len;
    }
    Ok(Some(Network {
        version: 6,
        at,
        transport,
        // A jumbogram (BIG TCP) has no length here.
        end: if payload == 0 {
            ctx.len() as usize
        } else {
            at + 40 + payload
        },
        fragment,
    }))
}

#[inline(always)]
fn addresses(ctx: &TcContext, network: &Network, segment: &mut Segment) -> Option<()> {
    if network.version == 4 {
        segment.source = v4_mapped(read::<[u8; 4]>(ctx, network.at + 12)?);
        segment.destination = v4_mapped(read::<[u8; 4]>(ctx, network.at + 16)?);
    } else {
        segment.source = read::<[u8; 16]>(ctx, network.at + 8)?;
        segment.destination = read::<[u8; 16]>(ctx, network.at + 24)?;
    }
    Some(())
}

/// The TCP header, if it is whole and agrees with the packet's length.
#[inline(always)]
fn tcp(ctx: &TcContext, network: &Network, segment: &mut Segment) -> Option<()> {
    let header = read::<[u8; 20]>(ctx, network.transport)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    let payload = network.transport + header_len;
    if header_len < 20 || payload > network.end || network.end > ctx.len() as usize {
        return None;
    }
    segment.seq = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    segment.ack = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    segment.transport = network.transport as u32;
    segment.payload = payload as u32;
    segment.payload_len = (network.end - payload) as u32;
    segment.flags = u32::from(header[13]);
    Some(())
}
