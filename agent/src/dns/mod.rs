//! The names plane: a DNS server for the canonical names of the cluster.
//!
//! [`zone`] decides about one question, and is pure. What it does not know goes to the name servers of this host, as
//! it came ([`upstream`]). [`server`] has the sockets. Everything is bounded: questions that wait, connections, times,
//! lengths.

mod framing;
mod server;
mod upstream;
mod zone;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

pub use server::Server;
pub use zone::Zone;

/// Counts questions.
#[derive(Debug, Default)]
pub struct Counters {
    /// From what is known of the cluster.
    answered: AtomicU64,
    /// By a name server of this host.
    forwarded: AtomicU64,
    /// By no name server of this host.
    unanswered: AtomicU64,
    /// Not a question that is served.
    refused: AtomicU64,
    /// Not a message of DNS, or not a question.
    malformed: AtomicU64,
    /// Too many at a time.
    overflow: AtomicU64,
}

impl Counters {
    /// The numbers now, each with its label.
    pub fn read(&self) -> BTreeMap<String, u64> {
        [
            ("answered", &self.answered),
            ("forwarded", &self.forwarded),
            ("unanswered", &self.unanswered),
            ("refused", &self.refused),
            ("malformed", &self.malformed),
            ("overflow", &self.overflow),
        ]
        .map(|(label, counter)| (label.to_owned(), counter.load(Ordering::Relaxed)))
        .into()
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
