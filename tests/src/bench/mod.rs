//! What truename costs: nanoseconds of the program, round trips of frames, and traffic through services,
//! over real TCP.

use anyhow::Context as _;

mod packets;
mod relay;
mod roundtrip;
mod services;

pub use packets::{PacketCost, packets};
pub use roundtrip::{RoundTrips, round_trips};
pub use services::{ServiceRates, services};

/// Keeps everything on one CPU: what is compared is work, not how fast a machine wakes another of its
/// CPUs, which varies tenfold from run to run.
///
/// # Errors
/// The kernel does not allow it.
pub fn on_one_cpu() -> anyhow::Result<()> {
    crate::sys::pin_to_cpu(0).context("keep the benchmark on CPU 0")
}

/// The middle value.
fn median<T: Copy + Ord>(values: &mut [T]) -> Option<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
