//! What truename costs: nanoseconds of the program, round trips of frames, streams in one direction, and
//! traffic through services, over real TCP.

use anyhow::Context as _;

mod haproxy;
mod options;
mod packets;
mod relay;
mod report;
mod roundtrip;
mod services;
mod stream;

pub use options::{Options, Part};
pub use packets::{PacketCost, packets};
pub use report::Report;
pub use roundtrip::{RoundTrips, round_trips};
pub use services::{ServiceRates, services};
pub use stream::{Cell, Fault, Row, Streams, streams};

/// An alias that is longer than the canonical name, so that truename has to relay: a Service's name in Kubernetes.
const LONG_ALIAS: &str = "flink-jobmanager.default.svc.cluster.local";

/// Keeps what is measured on some CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpus {
    /// Everything on one: what is compared is work, not how fast a machine wakes another of its CPUs,
    /// which varies tenfold from run to run.
    One,
    /// Client and endpoint on one each, as two hosts are.
    Two,
}

impl Cpus {
    /// Puts the calling thread, and those that it starts, on the CPU of this number; of one, all are the same.
    ///
    /// # Errors
    /// The kernel does not allow it.
    fn pin(self, number: usize) -> anyhow::Result<()> {
        let cpu = match self {
            Self::One => 0,
            Self::Two => number,
        };
        crate::sys::pin_to_cpus(&[cpu]).with_context(|| format!("keep the benchmark on CPU {cpu}"))
    }

    /// Lets the calling thread, and those that it starts, run on all of them.
    ///
    /// # Errors
    /// The kernel does not allow it.
    fn spread(self) -> anyhow::Result<()> {
        match self {
            Self::One => self.pin(0),
            Self::Two => crate::sys::pin_to_cpus(&[0, 1]).context("spread the benchmark over CPUs"),
        }
    }
}

/// Runs something in a thread of its own, so that where it is pinned ends with it.
fn in_thread<T: Send>(run: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(run);
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The middle value.
fn median<T: Copy + Ord>(values: &mut [T]) -> Option<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
