//! Headers of a packet: link, network and transport layer.

mod address;
mod atomic;
mod buffer;
pub mod fragment;
mod frame;
mod headers;
pub mod helper;
mod lose;
pub mod payload;
pub mod rewrite;
pub mod stages;

pub use address::is_loopback_address;
pub use atomic::{add, or, or as atomic_or};
pub use buffer::Buffer;
pub use fragment::FragmentKey;
pub use frame::Frame;
pub use headers::{Headers, ICMP, ICMPV6, Linear, Link, parse, tcp_flag};
pub use helper::changed;
pub use lose::lose;
pub use payload::{fold, load};

/// The next program or filter decides: `TCX_NEXT`, and `TC_ACT_UNSPEC` of clsact.
pub const NEXT: i32 = -1;
/// The packet is dropped: `TC_ACT_SHOT`.
pub const DROP: i32 = 2;
