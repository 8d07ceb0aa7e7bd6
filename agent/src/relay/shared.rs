//! What is relayed now, for the control API and the metrics.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use truename_common::layout::Socket;

use super::lock;

/// All relayed connections.
#[derive(Debug, Default)]
pub struct Relays {
    next: AtomicU64,
    limit: AtomicU32,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    totals: Counts,
    /// The endpoints that have a relay, and its number.
    served: Mutex<BTreeMap<Socket, u32>>,
    problems: Mutex<Vec<String>>,
}

/// What was counted since the agent started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub accepted: AtomicU64,
    /// More than the limit.
    pub refused: AtomicU64,
    /// The endpoint could not be reached.
    pub failed: AtomicU64,
    /// Frames that could not be translated with certainty.
    pub unchanged: AtomicU64,
}

/// What was counted since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that are open now.
    pub open: u64,
    /// As many as may be open.
    pub limit: u64,
    /// Connections that were relayed.
    pub accepted: u64,
    /// Connections that were reset because there were too many.
    pub refused: u64,
    /// Connections that were reset because the endpoint did not answer.
    pub failed: u64,
    /// Frames that passed unchanged because they could not be translated with certainty.
    pub unchanged: u64,
}

/// A relayed connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub client: SocketAddr,
    pub endpoint: SocketAddr,
    pub canonical: String,
    pub created_ns: u64,
    pub seen_ns: AtomicU64,
    pub alias: Mutex<Option<String>>,
    pub inbound: Way,
    pub outbound: Way,
}

/// What was counted of a direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub frames: AtomicU64,
    pub edits: AtomicU64,
}

/// A relayed connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The client's socket.
    pub client: SocketAddr,
    /// The endpoint's.
    pub endpoint: SocketAddr,
    /// What the client calls the endpoint, once it has.
    pub alias: Option<String>,
    /// What the endpoint calls itself.
    pub canonical: String,
    /// Frames in and out.
    pub frames: [u64; 2],
    /// Names that were translated in and out.
    pub edits: [u64; 2],
    /// `CLOCK_MONOTONIC` nanoseconds of its begin and of its last data.
    pub created_ns: u64,
    /// The time of its last data.
    pub seen_ns: u64,
}

impl Relays {
    /// The connections that are open.
    pub fn rows(&self) -> Vec<Row> {
        let open = lock(&self.open);
        let row = |connection: &Arc<Connection>| Row {
            client: connection.client,
            endpoint: connection.endpoint,
            alias: lock(&connection.alias).clone(),
            canonical: connection.canonical.clone(),
            frames: [&connection.inbound, &connection.outbound].map(|way| way.frames.load(Relaxed)),
            edits: [&connection.inbound, &connection.outbound].map(|way| way.edits.load(Relaxed)),
            created_ns: connection.created_ns,
            seen_ns: connection.seen_ns.load(Relaxed),
        };
        open.values().map(row).collect()
    }

    /// What was counted.
    pub fn totals(&self) -> Totals {
        Totals {
            open: lock(&self.open).len() as u64,
            limit: u64::from(self.limit.load(Relaxed)),
            accepted: self.totals.accepted.load(Relaxed),
            refused: self.totals.refused.load(Relaxed),
            failed: self.totals.failed.load(Relaxed),
            unchanged: self.totals.unchanged.load(Relaxed),
        }
    }

    /// What keeps endpoints from being relayed, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        lock(&self.problems).clone()
    }

    /// Whether an endpoint has a relay.
    pub fn serves(&self, endpoint: Socket) -> bool {
        lock(&self.served).contains_key(&endpoint)
    }

    /// How many endpoints have a relay.
    pub fn endpoints(&self) -> usize {
        lock(&self.served).len()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.totals
    }

    pub(super) fn limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    pub(super) fn serve(&self, served: BTreeMap<Socket, u32>) {
        *lock(&self.served) = served;
    }

    pub(super) fn tell(&self, followed: Result<Vec<String>, String>) {
        *lock(&self.problems) = followed.unwrap_or_else(|error| vec![error]);
    }

    /// Adds a connection, which is there as long as what is returned. None if there are too many.
    pub(super) fn enter(self: &Arc<Self>, connection: Connection) -> Option<Open> {
        let mut open = lock(&self.open);
        if open.len() >= self.limit.load(Relaxed) as usize {
            self.totals.refused.fetch_add(1, Relaxed);
            return None;
        }
        self.totals.accepted.fetch_add(1, Relaxed);
        let number = self.next.fetch_add(1, Relaxed);
        let connection = Arc::new(connection);
        open.insert(number, Arc::clone(&connection));
        Some(Open {
            relays: Arc::clone(self),
            number,
            connection,
        })
    }
}

/// A connection in the list.
pub(super) struct Open {
    relays: Arc<Relays>,
    number: u64,
    pub connection: Arc<Connection>,
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.relays.open).remove(&self.number);
    }
}
