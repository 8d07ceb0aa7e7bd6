//! What truename costs: nanoseconds of the program, and round trips over real TCP.

mod packets;
mod relay;
mod roundtrip;

pub use packets::{PacketCost, packets};
pub use roundtrip::{RoundTrips, round_trips};

/// The middle value.
fn median<T: Copy + Ord>(values: &mut [T]) -> Option<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
