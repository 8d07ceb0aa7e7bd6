use core::{cell::Cell, mem::size_of};

use aya_ebpf::programs::{TcContext, XdpContext};
use truename_common::layout::{Counter, FiveTuple, TCP, UDP, v4_mapped};

use super::fragment;
use crate::{bpf::helper::opaque, ports::wanted, scratch::Headers};

/// What a device's packets begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Ethernet,
    None,
}

/// Flags of a TCP header (RFC 9293 3.1).
pub mod tcp_flag {
    pub const FIN: u32 = 1;
    pub const SYN: u32 = 2;
    pub const RST: u32 = 4;
    pub const ACK: u32 = 16;
}

impl Headers {
    /// Whether one of `flags` is set.
    #[inline(always)]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// The flow from source to destination.
    #[inline(always)]
    pub fn tuple(&self, tuple: &mut FiveTuple) {
        tuple.client = self.source;
        tuple.endpoint = self.destination;
        tuple.client_port = self.source_port;
        tuple.endpoint_port = self.destination_port;
        tuple.protocol = self.protocol;
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

/// IP protocol numbers of ICMP (RFC 792) and ICMPv6 (RFC 4443).
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// A packet as a program is given it.
pub trait View {
    /// Whether fragments are told by their first one.
    const TRACKS: bool;
    /// Address of the first byte, and of the one behind the last, of what can be read directly.
    fn data(&self) -> usize;
    fn data_end(&self) -> usize;
    /// Bytes of the packet.
    fn len(&self) -> u32;
    /// Something could not be read, because the packet ends before, or the part that can be read directly.
    fn missed(&self) {}
}

/// A packet of tc, whose headers may lie outside of what can be read directly.
pub struct Linear<'a> {
    pub ctx: &'a TcContext,
    pub missed: Cell<bool>,
}

impl View for Linear<'_> {
    const TRACKS: bool = true;

    #[inline(always)]
    fn data(&self) -> usize {
        self.ctx.data()
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        self.ctx.data_end()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn missed(&self) {
        self.missed.set(true);
    }
}

impl View for XdpContext {
    // All of them go up to tc.
    const TRACKS: bool = false;

    #[inline(always)]
    fn data(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.data_end() - self.data()) as u32
    }
}

/// Reads a value of the linear part of the packet.
#[inline(always)]
fn read<T: Copy>(ctx: &impl View, offset: usize) -> Option<T> {
    let start = ctx.data();
    if start + offset + size_of::<T>() > ctx.data_end() {
        ctx.missed();
        return None;
    }
    // SAFETY: the bytes lie between data and data_end, as the verifier checks too; T is plain data
    // here (integers and arrays of bytes), and the read does not need alignment.
    Some(unsafe { ((start + offset) as *const T).read_unaligned() })
}

#[inline(always)]
fn read_u16(ctx: &impl View, offset: usize) -> Option<u16> {
    read::<[u8; 2]>(ctx, offset).map(u16::from_be_bytes)
}

/// Reads the headers of a packet into `headers`. Returns 0 if it is nothing of ours, else what
/// `wanted` says of its protocol and its ports.
///
/// # Errors
/// The counter that says why the headers of what looks like ours could not be read.
#[inline(always)]
pub fn parse<V: View>(
    ctx: &V,
    link: Link,
    headers: &mut Headers,
    wanted: impl Fn(u8, bool, u16, u16) -> u32,
) -> Result<u32, Counter> {
    let network = match link {
        Link::Ethernet => ethernet(ctx),
        Link::None => match read::<[u8; 8]>(ctx, 0) {
            Some(header) if header[0] >> 4 == 4 => Some((0, ETHERTYPE_IPV4)),
            Some(header) if header[0] >> 4 == 6 => Some((0, ETHERTYPE_IPV6)),
            _ => None,
        },
    };
    let network = match network {
        Some((at, ETHERTYPE_IPV4)) => ipv4(ctx, anywhere(at), headers)?,
        Some((at, ETHERTYPE_IPV6)) => ipv6(ctx, anywhere(at), headers)?,
        _ => None,
    };
    let Some(network) = network else {
        return Ok(0);
    };
    headers.network = network.at as u32;
    headers.version = network.version;
    headers.hop_limit = network.hop_limit;
    headers.icmp = 0;
    if network.protocol == ICMP || network.protocol == ICMPV6 {
        return quoted(ctx, &network, headers, wanted);
    }
    if network.is_later {
        headers.protocol = network.protocol;
        headers.transport = network.transport as u32;
        headers.network_len = (network.end - network.at) as u32;
        headers.flags = 0;
        (headers.source, headers.destination) =
            addresses(ctx, network.version, network.at).ok_or(Counter::Unparsed)?;
        return Ok(wanted::PORTS);
    }
    let ports = read::<[u8; 4]>(ctx, network.transport).ok_or(Counter::Unparsed)?;
    headers.source_port = u16::from_be_bytes([ports[0], ports[1]]);
    headers.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
    let wanted = wanted(
        network.protocol,
        false,
        headers.source_port,
        headers.destination_port,
    );
    if wanted == 0 {
        return Ok(0);
    }
    if network.end > ctx.len() as usize {
        return Err(Counter::Unparsed);
    }
    headers.protocol = network.protocol;
    headers.transport = network.transport as u32;
    headers.network_len = (network.end - network.at) as u32;
    let version = network.version;
    (headers.source, headers.destination) =
        addresses(ctx, version, network.at).ok_or(Counter::Unparsed)?;
    if network.protocol == TCP {
        tcp(ctx, &network, headers).ok_or(Counter::Unparsed)?;
    } else {
        headers.flags = 0;
        if network.transport + 8 > network.end {
            return Err(Counter::Unparsed);
        }
    }
    Ok(wanted)
}

/// The headers of an ICMP error and of the packet that it quotes.
#[inline(always)]
fn quoted(
    ctx: &impl View,
    network: &Network,
    headers: &mut Headers,
    wanted: impl Fn(u8, bool, u16, u16) -> u32,
) -> Result<u32, Counter> {
    let Some(header) = read::<[u8; 8]>(ctx, network.transport) else {
        return Ok(0);
    };
    let is_error = match network.protocol {
        // Unreachable, source quench, time exceeded, parameter problem.
        ICMP => matches!(header[0], 3 | 4 | 11 | 12) && network.version == 4,
        _ => matches!(header[0], 1..=4) && network.version == 6,
    };
    if !is_error || headers.fragment != fragment::WHOLE {
        return Ok(0);
    }
    let at = network.transport + 8;
    // Extension headers of the quoted packet are not looked through: it is one of ours, or was
    // refused.
    let (protocol, transport) = if network.version == 4 {
        let Some(inner) = read::<[u8; 20]>(ctx, at) else {
            return Ok(0);
        };
        let header_len = usize::from(inner[0] & 15) * 4;
        if inner[0] >> 4 != 4 || header_len < 20 || inner[6] & 0x1f != 0 || inner[7] != 0 {
            return Ok(0);
        }
        (inner[9], at + header_len)
    } else {
        let Some(inner) = read::<[u8; 8]>(ctx, at) else {
            return Ok(0);
        };
        if inner[0] >> 4 != 6 {
            return Ok(0);
        }
        (inner[6], at + 40)
    };
    if protocol != TCP && protocol != UDP {
        return Ok(0);
    }
    let Some(ports) = read::<[u8; 8]>(ctx, transport) else {
        return Ok(0);
    };
    headers.source_port = u16::from_be_bytes([ports[0], ports[1]]);
    headers.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
    let wanted = wanted(
        protocol,
        true,
        headers.source_port,
        headers.destination_port,
    );
    if wanted == 0 {
        return Ok(0);
    }
    if transport + 8 > network.end || network.end > ctx.len() as usize {
        return Err(Counter::Unparsed);
    }
    headers.icmp = network.transport as u32;
    headers.quoted = at as u32;
    headers.transport = transport as u32;
    headers.protocol = protocol;
    headers.network_len = (network.end - network.at) as u32;
    headers.flags = 0;
    (headers.source, headers.destination) =
        addresses(ctx, network.version, at).ok_or(Counter::Unparsed)?;
    (headers.outer_source, headers.outer_destination) =
        addresses(ctx, network.version, network.at).ok_or(Counter::Unparsed)?;
    Ok(wanted)
}

/// Places in the packet.
struct Network {
    version: u8,
    protocol: u8,
    hop_limit: u8,
    /// Offset of the IP header, and of the transport header.
    at: usize,
    transport: usize,
    /// Offset of the first byte behind the packet's payload.
    end: usize,
    /// It is a fragment, but not the first one.
    is_later: bool,
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
fn ethernet(ctx: &impl View) -> Option<(usize, u16)> {
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
fn ipv4<V: View>(ctx: &V, at: usize, headers: &mut Headers) -> Result<Option<Network>, Counter> {
    let Some(header) = read::<[u8; 12]>(ctx, at) else {
        return Ok(None);
    };
    let protocol = header[9];
    if protocol != TCP && protocol != UDP && protocol != ICMP {
        return Ok(None);
    }
    let header_len = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err(Counter::Unparsed);
    }
    // Only the first fragment has ports.
    let part = u16::from_be_bytes([header[6], header[7]]);
    let is_later = part & 0x1fff != 0;
    if is_later && (!V::TRACKS || protocol == ICMP) {
        return Ok(None);
    }
    headers.id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    headers.flow = u32::from_ne_bytes([header[1], 0, 0, 0]);
    headers.fragment = if is_later {
        fragment::LATER
    } else {
        fragment::FIRST * u8::from(part & 0x2000 != 0)
    };
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    Ok(Some(Network {
        version: 4,
        protocol,
        hop_limit: header[8],
        at,
        transport: at + header_len,
        // A packet of more than 64 KiB (BIG TCP, Linux 6.3) has no length.
        end: if total == 0 {
            ctx.len() as usize
        } else {
            at + total
        },
        is_later,
    }))
}

#[inline(always)]
fn ipv6<V: View>(ctx: &V, at: usize, headers: &mut Headers) -> Result<Option<Network>, Counter> {
    let Some(header) = read::<[u8; 8]>(ctx, at) else {
        return Ok(None);
    };
    if header[0] >> 4 != 6 {
        return Err(Counter::Unparsed);
    }
    headers.flow = u32::from_ne_bytes([header[0] & 15, header[1], header[2], header[3]]);
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut next = header[6];
    let mut transport = at + 40;
    headers.fragment = fragment::WHOLE;
    let mut is_later = false;
    let mut extensions = 0;
    while next != TCP && next != UDP && next != ICMPV6 {
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
            FRAGMENT if V::TRACKS => {
                let [_, _, part @ .., a, b, c, d] = extension;
                let part = u16::from_be_bytes(part);
                headers.id = u32::from_be_bytes([a, b, c, d]);
                if part & 0xfff8 != 0 {
                    // What follows is no header.
                    next = extension[0];
                    if next != TCP && next != UDP {
                        return Ok(None);
                    }
                    headers.fragment = fragment::LATER;
                    is_later = true;
                    break;
                }
                headers.fragment |= fragment::FIRST * (extension[3] & 1);
                8
            }
            _ => return Ok(None),
        };
        next = extension[0];
        transport += len;
    }
    Ok(Some(Network {
        version: 6,
        protocol: next,
        hop_limit: header[7],
        at,
        transport,
        // A jumbogram (BIG TCP) has no length here.
        end: if payload == 0 {
            ctx.len() as usize
        } else {
            at + 40 + payload
        },
        is_later,
    }))
}

/// Source and destination of the IP header at `at`.
#[inline(always)]
fn addresses(ctx: &impl View, version: u8, at: usize) -> Option<([u8; 16], [u8; 16])> {
    if version == 4 {
        let source = v4_mapped(read::<[u8; 4]>(ctx, at + 12)?);
        Some((source, v4_mapped(read::<[u8; 4]>(ctx, at + 16)?)))
    } else {
        let source = read::<[u8; 16]>(ctx, at + 8)?;
        Some((source, read::<[u8; 16]>(ctx, at + 24)?))
    }
}

/// The TCP header, if it is whole and agrees with the packet's length.
#[inline(always)]
fn tcp(ctx: &impl View, network: &Network, headers: &mut Headers) -> Option<()> {
    let header = read::<[u8; 20]>(ctx, network.transport)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    let payload = network.transport + header_len;
    if header_len < 20 || payload > network.end {
        return None;
    }
    headers.seq = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    headers.ack = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    headers.payload = payload as u32;
    headers.payload_len = (network.end - payload) as u32;
    headers.flags = u32::from(header[13]);
    headers.window = u32::from(u16::from_be_bytes([header[14], header[15]]));
    Some(())
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use core::cell::Cell;

    use aya_ebpf::{
        bindings::{__sk_buff, xdp_md},
        helpers::generated::bpf_skb_pull_data,
        programs::{TcContext, XdpContext},
    };

    use super::{Linear, Link, fragment, parse as parse_headers};
    use crate::{maps::count, ports::wanted, scratch::Headers};

    /// Bytes that the headers may take: those of an ICMP error over IPv6 and of what it quotes, and VLAN
    /// tags.
    const HEADERS: u32 = 128;
    /// [`super::parse`] for devices with an Ethernet header: bits of [`wanted`].
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn tn_parse_ether(skb: *mut __sk_buff, headers: *mut Headers) -> i32 {
        parse(skb, headers, Link::Ethernet)
    }

    /// [`super::parse`] for devices without a link-layer header: bits of [`wanted`].
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn tn_parse_raw(skb: *mut __sk_buff, headers: *mut Headers) -> i32 {
        parse(skb, headers, Link::None)
    }

    /// [`super::parse`] in XDP: bits of [`wanted`].
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn tn_parse_xdp(ctx: *mut xdp_md, headers: *mut Headers) -> i32 {
        if headers.is_null() {
            return 0;
        }
        // SAFETY: the caller lends its exclusive reference for the time of the call.
        let headers = unsafe { &mut *headers };
        // What cannot be read is counted in tc.
        parse_headers(&XdpContext::new(ctx), Link::Ethernet, headers, wanted).unwrap_or(0) as i32
    }

    #[inline(always)]
    fn parse(skb: *mut __sk_buff, headers: *mut Headers, link: Link) -> i32 {
        if headers.is_null() {
            return 0;
        }
        // SAFETY: the caller lends its exclusive reference for the time of the call.
        let headers = unsafe { &mut *headers };
        let ctx = TcContext::new(skb);
        let view = Linear {
            ctx: &ctx,
            missed: Cell::new(false),
        };
        match parse_headers(&view, link, headers, wanted) {
            Ok(wanted) if wanted != 0 => wanted as i32,
            // Stack and drivers leave headers in the linear part, nearly always: they are read where they are.
            // Only if one is missing, and there is more of the packet, it is fetched: that copies, and costs more
            // than all the rest.
            _ if view.missed.get() && ctx.data_end() - ctx.data() < ctx.len() as usize => MISSED,
            Ok(_) => 0,
            Err(why) => {
                count(why, 1);
                0
            }
        }
    }

    /// [`fragment::note`] and [`fragment::look_up`], whichever the fragment needs; bits of [`wanted`].
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn tn_fragment(headers: *mut Headers, wanted: u32) -> i32 {
        if headers.is_null() {
            return 0;
        }
        // SAFETY: the caller lends its exclusive reference for the time of the call.
        let headers = unsafe { &mut *headers };
        if headers.fragment == fragment::LATER {
            return fragment::look_up(headers) as i32;
        }
        fragment::note(headers);
        wanted as i32
    }

    /// What [`tn_parse_ether`] and [`tn_parse_raw`] return if a header lies outside of the linear part.
    pub const MISSED: i32 = -1;

    /// Fetches headers into the linear part. A header that is not there afterwards is not read.
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn tn_fetch_headers(skb: *mut __sk_buff) -> i32 {
        let len = TcContext::new(skb).len();
        // SAFETY: the context of the program.
        unsafe { bpf_skb_pull_data(skb, HEADERS.min(len)) };
        0
    }
}
