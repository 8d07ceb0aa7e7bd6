//! The working memory of one packet: plain structures. What they mean, and what changes them, is in the modules that use them.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use truename_common::{
    layout::{
        AliasStat, Conntrack, Endpoint, FiveTuple, Handshake, Head, ListedAlias, Names, Page, Peer,
        RpcFlow, Service, Target,
    },
    wire::stream::{Direction, Work},
};

/// The values that a new flow and a new page begin with: too large for the stack.
#[map]
static BLANK_FLOW: Array<RpcFlow> = Array::with_max_entries(1, 0);

#[map]
static BLANK_PAGE: Array<Page> = Array::with_max_entries(1, 0);

#[map]
static BLANK_HEAD: Array<Head> = Array::with_max_entries(1, 0);

/// Working memory of one packet. Programs of a CPU do not interrupt one another: tc runs with
/// bottom halves disabled.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Working memory too: what is looked up in `LISTED`.
#[map]
static LISTED_KEY: PerCpuArray<ListedAlias> = PerCpuArray::with_max_entries(1, 0);

/// See [`SCRATCH`].
#[repr(C)]
pub struct Scratch {
    pub headers: Headers,
    pub nat: Nat,
    pub found: Found,
    pub handshake: Handshake,
    pub options: Options,
    pub work: Work,
    pub buffers: Buffers,
    pub names: Names,
    pub peer: Peer,
    pub alias: AliasStat,
    pub hash: u64,
    pub index: u32,
    pub pad: u32,
}

/// The working memory of this CPU.
///
/// A global function that hands a part of it to a table, as key or value, calls this instead of taking
/// an argument: the verifier of Linux 6.1 takes neither from memory behind an argument.
///
/// # Safety
/// The caller is the first of the packet, or was lent the working memory by its caller, who does not
/// use it meanwhile.
#[inline(always)]
pub unsafe fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the pointer is to this CPU's value, which no other program uses meanwhile (see
    // SCRATCH), and this one does not either.
    Some(unsafe { &mut *scratch })
}

/// What is looked up in `LISTED`: too large for the stack.
#[inline(always)]
pub fn listed_key() -> Option<*mut ListedAlias> {
    LISTED_KEY.get_ptr_mut(0)
}

/// The value that a new flow begins with.
#[inline(always)]
pub fn blank_flow() -> Option<&'static RpcFlow> {
    BLANK_FLOW.get(0)
}

/// The value that a new page begins with.
#[inline(always)]
pub fn blank_page() -> Option<&'static Page> {
    BLANK_PAGE.get(0)
}

/// The value that a new head begins with.
#[inline(always)]
pub fn blank_head() -> Option<&'static Head> {
    BLANK_HEAD.get(0)
}

/// The headers of a packet. They live in working memory, not on the stack.
///
/// Addresses, ports and protocol of an ICMP error are those of the packet that it quotes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Headers {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
    /// TCP only, as are `payload`, `payload_len` and `flags`.
    pub seq: u32,
    pub ack: u32,
    /// The advertised window, not scaled.
    pub window: u32,
    /// Offset of the transport header.
    pub transport: u32,
    /// Offset and length of the payload.
    pub payload: u32,
    pub payload_len: u32,
    /// Bits of `packet::tcp_flag`.
    pub flags: u32,
    /// Offset of the IP header, and bytes from there to the end of the IP packet.
    pub network: u32,
    pub network_len: u32,
    /// 4 or 6.
    pub version: u8,
    /// `TCP` or `UDP`.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// See `packet::fragment`.
    pub fragment: u8,
    /// What the fragments of a packet have in common, beside addresses and protocol.
    pub id: u32,
    /// Offset of the ICMP header of an ICMP error, else 0.
    pub icmp: u32,
    /// Of an ICMP error, the addresses of its own header.
    pub outer_source: [u8; 16],
    pub outer_destination: [u8; 16],
    /// Of an ICMP error, the offset of the quoted IP header.
    pub quoted: u32,
    /// DSCP and flow label, as `bpf_fib_lookup` takes them.
    pub flow: u32,
}

/// Working memory of the translation; see [`SCRATCH`].
#[repr(C)]
pub struct Nat {
    /// The connection as the client sees it, and as the target sees it.
    pub original: FiveTuple,
    pub key: FiveTuple,
    /// The addresses and ports that the packet shall have: `client` is its source.
    pub to: FiveTuple,
    pub entry: Conntrack,
    pub service: Service,
    pub target: Target,
    pub change: Change,
    pub fib: Fib,
    pub neighbour: Neighbour,
    pub route: Route,
    /// Of a packet for the stack that comes in by another interface, that interface's link address.
    pub entrance: [u8; 6],
    pub pad_entrance: [u8; 2],
    pub quote: Quote,
    pub hash: u64,
    pub now_ns: u64,
    pub removal: Removal,
    /// Candidate source ports: the next one, and how the search went.
    pub index: u32,
    pub outcome: u32,
    pub tried: u32,
    /// The [`truename_common::nat::Choice`] by which the connection was found.
    pub choice: u32,
    pub pad: u32,
    /// Where a packet goes that the kernel would not forward; see `nat::route::here`.
    pub here: u32,
    /// 1: the host's stack forwards the packet, if its target is elsewhere.
    pub by_stack: u32,
    /// 1: no candidate source port was free, and those of connections that are not answered count as free.
    pub is_pressed: u32,
    /// 1: the target has had time to answer, and did not.
    pub is_overdue: u32,
    pub pad_overdue: u32,
}

/// Where the packet goes at the end of its way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Route {
    pub kind: u32,
    /// Of a packet that is forwarded, the interface it leaves by; of one for the stack, that by which it comes in.
    pub interface: u32,
}

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h).
#[repr(C)]
pub struct Fib {
    pub family: u8,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    /// In: bytes of the packet, checked against the route's MTU. Out: that MTU.
    pub len: u16,
    pub interface: u32,
    pub flow: u32,
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub ethernet: [u8; 16],
}

/// `struct bpf_redir_neigh`: the next hop.
#[repr(C)]
pub struct Neighbour {
    pub family: u32,
    pub address: [u8; 16],
}

const _: () = assert!(size_of::<Fib>() == 64 && size_of::<Neighbour>() == 20);

/// Bytes of the packet that are quoted: enough for the headers, few enough to be no amplifier.
pub const QUOTE_MAX: u32 = 128;

/// What is quoted, and when the last error was due, had they come one an interval.
#[repr(C)]
pub struct Quote {
    pub words: [u32; QUOTE_MAX as usize / 4],
    pub due_ns: u64,
}

/// What making room in a full table of connections looks for.
#[repr(C)]
pub struct Removal {
    pub now_ns: u64,
    /// When it last found nothing. This outlives the packet.
    pub in_vain_ns: u64,
    /// A [`truename_common::nat::Spare`].
    pub spare: u32,
    /// How many more entries may be removed.
    pub left: u32,
}

/// Source and destination address, as they stand in a header; IPv4 uses the first two words.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Addresses(pub [u32; 8]);

/// Working memory: what stood there, and what shall.
#[repr(C)]
pub struct Change {
    pub before: Addresses,
    pub after: Addresses,
}

/// The flow that a packet belongs to. It lives in working memory, not on the stack.
#[repr(C)]
pub struct Found {
    pub key: FiveTuple,
    pub way: Direction,
    /// Set where the endpoint was looked up.
    pub endpoint: Endpoint,
    /// The interface at whose hook the packet is, and the one that it came in by; 0: none.
    pub interface: u32,
    pub came_by: u32,
}

/// The options of a TCP header.
#[repr(C)]
pub struct Options(pub [u32; 32]);

/// Where the payload is, and working memory to edit it.
#[repr(C)]
pub struct Buffers {
    /// Offsets of the TCP header and of the payload.
    pub transport: u32,
    pub payload: u32,
    /// The number of the endpoint.
    pub endpoint: u32,
    /// What the stores so far have changed in the checksum.
    pub sum: u32,
    pub before: Bytes,
    pub after: Bytes,
}

/// Bytes of a packet, aligned for the checksum helper.
#[repr(C, align(8))]
pub struct Bytes(pub [u32; 84]);
