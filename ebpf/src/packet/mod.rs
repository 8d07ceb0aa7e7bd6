//! Headers of a packet: link, network and transport layer.

mod address;
mod buffer;
mod checksum;
pub mod fragment;
mod frame;
pub mod headers;
mod lose;
pub mod rewrite;

pub use address::is_loopback_address;
pub use buffer::{Buffer, load};
pub use checksum::fold;
pub use frame::Frame;
pub use headers::{ICMP, ICMPV6, Link, tcp_flag};
pub use lose::lose;

/// The next program or filter decides: `TCX_NEXT`, and `TC_ACT_UNSPEC` of clsact.
pub const NEXT: i32 = -1;
/// The packet is dropped: `TC_ACT_SHOT`.
pub const DROP: i32 = 2;
