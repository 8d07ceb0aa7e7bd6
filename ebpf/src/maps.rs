//! The kernel tables. Names, keys and values are those of `truename_common::layout`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf, SockMap},
};
use truename_common::{
    layout::{
        AliasKey, AliasStat, CapturedName, CapturedRecords, Conntrack, Counter, Endpoint,
        FiveTuple, Handshake, Head, HeadKey, Link, ListedAlias, Names, Page, PageKey, Peer,
        PeerKey, RELAYS_MAX, RpcFlow, SERVICES_MAX, SLOTS_MAX, Service, Settings, Socket,
        TARGETS_MAX, Target,
    },
    nat::{MAX_PORT_TRIES, TRIED_WRITTEN},
};

#[map]
pub static PORTS: Array<u8> = Array::pinned(1 << 16, 0);

#[map]
pub static ENDPOINTS: HashMap<Socket, Endpoint> = HashMap::pinned(1024, 0);

#[map]
pub static NAMES: HashMap<Socket, Names> = HashMap::pinned(4096, 0);

#[map]
pub static LISTED: HashMap<ListedAlias, u8> = HashMap::pinned(4096, 0);

/// Not preallocated: an entry has 22 KiB, most hosts have few.
#[map]
pub static RPC_FLOWS: HashMap<FiveTuple, RpcFlow> = HashMap::pinned(4096, BPF_F_NO_PREALLOC);

/// Flows of which one side was seen only: acknowledgements take another path, or a stranger makes them up. They
/// make room for one another, never for those in [`RPC_FLOWS`].
#[map]
pub static ONE_SIDED_FLOWS: LruHashMap<FiveTuple, RpcFlow> = LruHashMap::pinned(256, 0);

#[map]
pub static HANDSHAKES: LruHashMap<FiveTuple, Handshake> = LruHashMap::pinned(8192, 0);

/// Preallocated. The kernel's cache for elements of 4 KiB has room for four (`bpf_mem_cache`), and is refilled and
/// emptied by an interrupt: each page of [`PAGES`] costs 10 µs, each of these less than one.
#[map]
pub static READY_PAGES: HashMap<PageKey, Page> = HashMap::pinned(2048, 0);

/// For what has no room in [`READY_PAGES`]. Not preallocated: 16 MiB of stream in flight need 529, a connection at rest
/// one or two.
#[map]
pub static PAGES: HashMap<PageKey, Page> = HashMap::pinned(16384, BPF_F_NO_PREALLOC);

/// Preallocated: a few of the ranges of all flows lie beyond holes at a time. Where there is no room, a segment beyond a
/// hole is dropped, and comes again.
#[map]
pub static HEADS: HashMap<HeadKey, Head> = HashMap::pinned(4096, 0);

#[map]
pub static PEERS: LruHashMap<PeerKey, Peer> = LruHashMap::pinned(4096, 0);

#[map]
pub static ALIASES: LruHashMap<AliasKey, AliasStat> = LruHashMap::pinned(4096, 0);

#[map]
pub static SERVICES: HashMap<Socket, Service> = HashMap::pinned(SERVICES_MAX, BPF_F_NO_PREALLOC);

#[map]
pub static SLOTS: Array<u32> = Array::pinned(SLOTS_MAX, 0);

#[map]
pub static TARGETS: Array<Target> = Array::pinned(TARGETS_MAX, 0);

#[map]
pub static CONNTRACK: HashMap<FiveTuple, Conntrack> = HashMap::pinned(1 << 16, 0);

#[map]
pub static MOVED: HashMap<FiveTuple, u32> = HashMap::pinned(1 << 16, BPF_F_NO_PREALLOC);

#[map]
pub static XDP_DEVICES: HashMap<u32, u8> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);

#[map]
pub static LINKS: HashMap<u32, Link> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);

#[map]
pub static ADDRESSES: HashMap<[u8; 16], u8> = HashMap::pinned(4096, BPF_F_NO_PREALLOC);

#[map]
pub static ASKED: LruHashMap<FiveTuple, u64> = LruHashMap::pinned(8192, 0);

#[map]
pub static PORT_BITMAP: Array<u32> = Array::pinned(TRIED_WRITTEN + 1, 0);

#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(1, 0);

#[map]
pub static PORT_TRY_HISTOGRAM: PerCpuArray<u64> = PerCpuArray::pinned(MAX_PORT_TRIES + 1, 0);

#[map]
pub static RELAYS: HashMap<Socket, u32> = HashMap::pinned(RELAYS_MAX, BPF_F_NO_PREALLOC);

#[map]
pub static RELAY_LISTENERS: SockMap = SockMap::pinned(2 * RELAYS_MAX, 0);

#[map]
pub static STEERED: LruHashMap<FiveTuple, u64> = LruHashMap::pinned(32768, 0);

/// Not preallocated: most hosts have a few names.
#[map]
pub static CAPTURED: HashMap<CapturedName, CapturedRecords> =
    HashMap::pinned(4096, BPF_F_NO_PREALLOC);

#[map]
pub static CAPTURED_UNTIL: Array<u64> = Array::pinned(1, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(64, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::pinned(256 << 10, 0);

/// [`crate::tn_rpc`]. Not pinned: every load has its own, so that programs of two builds never mix.
#[map]
pub static CHAIN: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// What the fragments of a packet have in common.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FragmentKey {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub id: u32,
    pub protocol: u32,
}

/// Ports of packets that come in fragments, of which the first one tells them. Not pinned: a packet in fragments does not
/// outlive a load.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, [u16; 2]> = LruHashMap::with_max_entries(8192, 0);

/// Adds `n` to a counter.
#[inline(always)]
pub fn count(counter: Counter, n: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer is to this CPU's value; see SCRATCH.
        unsafe { *value += n };
    }
}

/// Counts a new connection by the candidate source port it got.
#[inline(always)]
pub fn count_tries(tries: u32) {
    if let Some(value) = PORT_TRY_HISTOGRAM.get_ptr_mut(tries) {
        // SAFETY: the pointer is to this CPU's value; see SCRATCH.
        unsafe { *value += 1 };
    }
}

/// Whether this host has an address.
#[inline(always)]
pub fn is_own_address(address: &[u8; 16]) -> bool {
    // SAFETY: the value is one byte that never changes.
    unsafe { ADDRESSES.get(address) }.is_some()
}
