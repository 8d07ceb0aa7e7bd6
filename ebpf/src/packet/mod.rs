//! Headers of a packet: link, network and transport layer.

mod headers;
mod helper;
pub mod payload;

pub use headers::{Link, Segment, parse, tcp_flag};

/// The next program or filter decides: `TCX_NEXT`, and `TC_ACT_UNSPEC` of clsact.
pub const NEXT: i32 = -1;
/// The packet is dropped: `TC_ACT_SHOT`.
pub const DROP: i32 = 2;
