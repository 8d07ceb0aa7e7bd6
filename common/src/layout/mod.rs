//! Keys and values of the kernel tables.
//!
//! Every type is `repr(C)` with explicit padding, so that equal values are equal bytes. Addresses
//! are 16 bytes, IPv4 as v4-mapped IPv6 (RFC 4291 2.5.5.2); ports are in host byte order. A change
//! of any type here needs a new [`VERSION`]: aya 0.14 reopens pinned maps without checking them.

mod counter;
mod endpoint;
mod event;
mod flow;
mod socket;
mod text;

pub use counter::Counter;
pub use endpoint::{Endpoint, ListedAlias, Names, Policy, Protocol};
pub use event::{Event, EventKind};
pub use flow::{
    AliasKey, AliasStat, Direction, EDIT_LOG, Edit, EditKind, FlowNames, MAIN, Peer, PeerKey,
    RANGES, Range, RpcFlow, Walker,
};
pub use socket::{FiveTuple, Socket, TCP, UDP, v4_mapped};
pub use text::{AUTHORITY_MAX, Authority, LongText, SYSTEM_MAX, System, Text};

/// Version of every pinned table. It is part of the pin path.
pub const VERSION: u32 = 1;

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
    /// [`PeerKey`](super::PeerKey) → [`Peer`](super::Peer).
    pub const PEERS: &str = "PEERS";
    /// [`AliasKey`](super::AliasKey) → [`AliasStat`](super::AliasStat).
    pub const ALIASES: &str = "ALIASES";
    /// [`Counter`](super::Counter) → `u64` per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`Event`](super::Event).
    pub const EVENTS: &str = "EVENTS";
}

/// Bits of a value of [`map::PORTS`].
pub mod port_flags {
    /// An RPC endpoint listens on this port of some address.
    pub const ENDPOINT: u8 = 1;
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
