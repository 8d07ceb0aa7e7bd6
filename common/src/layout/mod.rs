//! Keys and values of the kernel tables.
//!
//! Every type is `repr(C)` with explicit padding, so that equal values are equal bytes. Addresses
//! are 16 bytes, IPv4 as v4-mapped IPv6 (RFC 4291 2.5.5.2); ports are in host byte order. A change
//! of any type here needs a new [`VERSION`]: aya 0.14 reopens pinned maps without checking them.

mod conntrack;
mod counter;
pub mod eight;
mod endpoint;
mod event;
mod flow;
mod link;
mod names;
mod service;
mod socket;
mod text;

pub use conntrack::{Conntrack, ConntrackState, conntrack_flags, conntrack_marks};
pub use counter::Counter;
pub use endpoint::{Endpoint, ListedAlias, Names, Policy, Protocol};
pub use event::{Event, EventKind};
pub use flow::{
    AliasKey, AliasStat, DirectionState, Edit, EditKind, FlowNames, Handshake, Head, HeadKey, MAIN,
    NEEDLE_WORDS, Needle, PAGE_BITS, PAGE_BYTES, PAGE_WORDS, PAGES_KEPT, Page, PageKey, Peer,
    PeerKey, RANGES, Range, RpcFlow, Walker, word,
};
pub use link::{Link, link_flags};
pub use names::{
    A_RECORD, AAAA_RECORD, ADDRESSES_TOLD, CapturedName, CapturedRecords, NAME_MAX, NAMES_TTL,
    NO_DATA, NO_DATA_LEN,
};
pub use service::{
    SERVICES_MAX, SLOTS_MAX, SLOTS_PER_SERVICE, Service, Settings, Slots, TARGETS_MAX, Target,
    service_flags, settings_flags, target_flags,
};
pub use socket::{FiveTuple, Socket, TCP, UDP, bytes, ip, v4_mapped};
pub use text::{AUTHORITY_MAX, Authority, LongText, SYSTEM_MAX, System, Text};

/// Values of [`map::STEERED`].
pub mod steered {
    /// The client's aliases fit: its connections are translated in place.
    pub const IN_PLACE: u64 = 1;
    /// One does not: its connections are relayed, or refused.
    pub const RELAYED: u64 = 2;
    /// A connection that was given to the relay.
    pub const CONNECTION: u64 = 3;
    /// A connection of the relay itself.
    pub const OWN: u64 = 4;
    /// How long [`OWN`] is believed when a connection begins: the relay connects at once.
    pub const OWN_NS: u64 = 10_000_000_000;
    /// A connection that nobody could relay, but somebody will soon: its SYN is not refused, so that TCP sends it again.
    pub const HELD: u64 = 5;
    /// How long [`HELD`] is believed: the kernel refuses at once.
    pub const HELD_NS: u64 = 1_000_000_000;
    /// Of an endpoint, whose client is all zeros: since when nobody relays.
    pub const AWAY: u64 = 6;

    /// A value of a connection at a time, which tells it from an earlier one with the same addresses and ports.
    #[inline(always)]
    pub const fn at(value: u64, now_ns: u64) -> u64 {
        value | now_ns << 8
    }

    /// The value without its time.
    #[inline(always)]
    pub const fn kind(value: u64) -> u64 {
        value & 0xff
    }

    /// Nanoseconds since its time.
    #[inline(always)]
    pub const fn age_ns(value: u64, now_ns: u64) -> u64 {
        (now_ns << 8).wrapping_sub(value & !0xff) >> 8
    }
}

/// Endpoints that can have a relay.
pub const RELAYS_MAX: u32 = 1024;

/// Values of [`map::RELAYS`]: the number of a relay, how many seconds connections are held while nobody relays, and whether
/// the endpoint is down.
pub mod relay {
    /// The endpoint does not listen: its clients are refused.
    pub const DOWN: u32 = 1 << 31;
    const HOLD: u32 = 16;

    /// A value for an endpoint that listens.
    #[inline(always)]
    pub const fn value(number: u32, hold_s: u8) -> u32 {
        number | (hold_s as u32) << HOLD
    }

    /// The number of the relay.
    #[inline(always)]
    pub const fn number(value: u32) -> u32 {
        value & ((1 << HOLD) - 1)
    }

    /// How long connections are held.
    #[inline(always)]
    pub const fn hold_ns(value: u32) -> u64 {
        (value >> HOLD) as u8 as u64 * 1_000_000_000
    }
}

/// Where the listening socket of relay `number` stands in [`map::RELAY_LISTENERS`].
#[inline(always)]
pub const fn relay_listener(number: u32, is_v6: bool) -> u32 {
    2 * number + is_v6 as u32
}

/// Version of every pinned table. It is part of the pin path.
pub const VERSION: u32 = 3;

/// Names of the pinned tables, as the kernel program declares them.
pub mod map {
    /// `u16` port (host order) → [`port_flags`](super::port_flags): the first, cheapest question.
    pub const PORTS: &str = "PORTS";
    /// [`Socket`](super::Socket) → [`Endpoint`](super::Endpoint).
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// [`Socket`](super::Socket) → [`Names`](super::Names), configured or learned.
    pub const NAMES: &str = "NAMES";
    /// [`ListedAlias`](super::ListedAlias) → `u8` 1.
    pub const LISTED: &str = "LISTED";
    /// [`FiveTuple`](super::FiveTuple) → [`RpcFlow`](super::RpcFlow).
    pub const RPC_FLOWS: &str = "RPC_FLOWS";
    /// The same, of flows whose other side has not been seen: least recently used.
    pub const ONE_SIDED_FLOWS: &str = "ONE_SIDED_FLOWS";
    /// [`FiveTuple`](super::FiveTuple) → [`Handshake`](super::Handshake), least recently used.
    pub const HANDSHAKES: &str = "HANDSHAKES";
    /// [`PageKey`](super::PageKey) → [`Page`](super::Page): those whose memory is allocated when the table is made.
    pub const READY_PAGES: &str = "READY_PAGES";
    /// The same, of those that have no room there.
    pub const PAGES: &str = "PAGES";
    /// [`HeadKey`](super::HeadKey) → [`Head`](super::Head).
    pub const HEADS: &str = "HEADS";
    /// [`PeerKey`](super::PeerKey) → [`Peer`](super::Peer).
    pub const PEERS: &str = "PEERS";
    /// [`AliasKey`](super::AliasKey) → [`AliasStat`](super::AliasStat).
    pub const ALIASES: &str = "ALIASES";
    /// [`Socket`](super::Socket) of an alias → [`Service`](super::Service).
    pub const SERVICES: &str = "SERVICES";
    /// Position → number of a target.
    pub const SLOTS: &str = "SLOTS";
    /// Number → [`Target`](super::Target).
    pub const TARGETS: &str = "TARGETS";
    /// [`FiveTuple`](super::FiveTuple) that the target sees → [`Conntrack`](super::Conntrack).
    pub const CONNTRACK: &str = "CONNTRACK";
    /// [`FiveTuple`](super::FiveTuple) that the client sees → `u32` number of the target, of
    /// connections that stay where their service sends no new ones.
    pub const MOVED: &str = "MOVED";
    /// Number of an interface → `u8` 1, if frames may be sent there from XDP.
    pub const XDP_DEVICES: &str = "XDP_DEVICES";
    /// Address of this host → `u8` 1. `*` stands for these.
    pub const ADDRESSES: &str = "ADDRESSES";
    /// Number of an attached interface → [`Link`](super::Link).
    pub const LINKS: &str = "LINKS";
    /// [`FiveTuple`](super::FiveTuple) → `u64` `CLOCK_MONOTONIC` nanoseconds: when a program of this host last sent a
    /// datagram from the socket of an alias (`endpoint`) to another host (`client`), which may answer. Least recently
    /// used.
    pub const ASKED: &str = "ASKED";
    /// Low 16 bits of the hash of what a client sees → `u32`, a bit for every candidate source port
    /// that a connection with such a hash was given, and [`TRIED_DIRECT`](crate::nat::TRIED_DIRECT). There are two halves,
    /// and what counts is both together. The kernel program sets bits in that which the entry behind them names
    /// ([`TRIED_WRITTEN`](crate::nat::TRIED_WRITTEN)); the agent clears bits in the other.
    pub const PORT_BITMAP: &str = "PORT_BITMAP";
    /// 0 → [`Settings`](super::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// Tries that the allocation of a source port took → `u64` connections per CPU; at
    /// [`MAX_PORT_TRIES`](crate::nat::MAX_PORT_TRIES) those that found none.
    pub const PORT_TRY_HISTOGRAM: &str = "PORT_TRY_HISTOGRAM";
    /// [`Socket`](super::Socket) of an endpoint → `u32`, a value of [`relay`](super::relay): connections of the clients in
    /// [`STEERED`] go to it.
    pub const RELAYS: &str = "RELAYS";
    /// [`relay_listener`](super::relay_listener) → the listening socket.
    pub const RELAY_LISTENERS: &str = "RELAY_LISTENERS";
    /// [`FiveTuple`](super::FiveTuple) → a value of [`steered`](super::steered). Without the client's port it is about all new
    /// connections of the client, with it about one, and then with its [time](super::steered::at). Least recently used.
    pub const STEERED: &str = "STEERED";
    /// [`CapturedName`](super::CapturedName) → [`CapturedRecords`](super::CapturedRecords): questions of containers for these
    /// names are answered.
    pub const CAPTURED: &str = "CAPTURED";
    /// 0 → `u64` `CLOCK_MONOTONIC` nanoseconds: until then [`CAPTURED`] counts. The agent goes on putting it off.
    pub const CAPTURED_UNTIL: &str = "CAPTURED_UNTIL";
    /// [`Counter`](super::Counter) → `u64` per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`Event`](super::Event).
    pub const EVENTS: &str = "EVENTS";
}

/// Bits of a value of [`map::PORTS`].
pub mod port_flags {
    /// An RPC endpoint listens on this port of some address.
    pub const ENDPOINT: u8 = 1;
    /// A service listens on this port of some address.
    pub const SERVICE: u8 = 2;
    /// A target of a service has this port.
    pub const TARGET: u8 = 4;
    /// Questions of containers to this port are answered, if they are about the cluster.
    pub const CAPTURE: u8 = 8;
}

/// Asserts sizes at compile time and, for user space, marks the types as plain data.
macro_rules! plain {
    ($($type:ty = $size:expr),+ $(,)?) => {
        $(
            const _: () = assert!(core::mem::size_of::<$type>() == $size);
            // SAFETY: repr(C), Copy, no padding (the size is the sum of the fields), and every bit
            // pattern is a value.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $type {}
        )+
    };
}
pub(crate) use plain;
