//! What is relayed now, for the control API and the metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use truename_common::layout::{Authority, FiveTuple, Socket, TCP, bytes};

use super::namespace;
use crate::{
    config,
    datapath::{DatapathError, Drift, Pins, Steering},
};

/// What a worker needs.
pub(super) struct Context {
    pub steering: Arc<Mutex<Steering>>,
    pub relays: Arc<Relays>,
    /// Ends all its connections.
    pub stop: CancellationToken,
    /// How many connections it has.
    pub connections: Arc<AtomicUsize>,
    /// Endpoints that may not listen any more.
    pub suspects: Arc<Suspects>,
}

/// Endpoints that may not listen any more: a connection could not be made, or ended.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    endpoints: Mutex<BTreeSet<Socket>>,
    told: Notify,
}

impl Suspects {
    /// Has an endpoint looked at.
    pub fn add(&self, endpoint: Socket) {
        self.endpoints.lock().insert(endpoint);
        self.told.notify_one();
    }

    /// Waits until there is one.
    pub async fn added(&self) {
        self.told.notified().await;
    }

    /// Takes all.
    pub fn take(&self) -> BTreeSet<Socket> {
        std::mem::take(&mut *self.endpoints.lock())
    }
}

/// All relayed connections.
#[derive(Debug, Default)]
pub struct Relays {
    next: AtomicU64,
    limit: AtomicU32,
    /// Bytes that all connections keep back, and as many as they may.
    kept: AtomicU64,
    memory: AtomicU64,
    /// Seconds in which a client must have sent a frame.
    handshake_timeout: AtomicU32,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    totals: Counts,
    /// The endpoints that have a relay.
    served: Mutex<BTreeMap<Socket, Served>>,
    problems: Mutex<Vec<String>>,
    /// The network namespaces, by inode, that the program that steers was attached to.
    steered: Mutex<BTreeSet<u64>>,
    /// The relay is to look whether all is as it should be.
    asked: Notify,
    /// What connections are marked with in the kernel, while they are open.
    marks: Mutex<BTreeMap<FiveTuple, u64>>,
}

/// An endpoint that has a relay.
#[derive(Clone, Debug, Default)]
pub(super) struct Served {
    /// The aliases that it answers to; none: all.
    pub admitted: Option<Vec<Authority>>,
}

/// What was counted since the agent started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub accepted: AtomicU64,
    /// More connections, or more bytes kept back, than there may be.
    pub refused: AtomicU64,
    /// The endpoint could not be reached.
    pub failed: AtomicU64,
    /// The client sent no frame in time.
    pub silent: AtomicU64,
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
    /// Connections that were reset because there were too many, or because frames needed too much memory.
    pub refused: u64,
    /// Connections that were reset because the endpoint did not answer.
    pub failed: u64,
    /// Connections that were reset because the client sent no frame in time.
    pub silent: u64,
    /// Frames that passed unchanged because they could not be translated with certainty.
    pub unchanged: u64,
}

/// A relayed connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub client: SocketAddr,
    pub endpoint: SocketAddr,
    pub canonical: Mutex<Authority>,
    pub created_ns: u64,
    pub seen_ns: AtomicU64,
    pub alias: Mutex<Option<Authority>>,
    pub inbound: Way,
    pub outbound: Way,
    /// Ends it.
    pub stop: CancellationToken,
}

/// What was counted of a direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub frames: AtomicU64,
    pub edits: AtomicU64,
    /// Frames that passed unchanged because they could not be translated with certainty.
    pub unchanged: AtomicU64,
}

/// A relayed connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The client's socket.
    pub client: SocketAddr,
    /// The endpoint's.
    pub endpoint: SocketAddr,
    /// What the client calls the endpoint, once it has.
    pub alias: Option<Authority>,
    /// What the endpoint calls itself.
    pub canonical: Authority,
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
        let open = self.open.lock();
        let row = |connection: &Arc<Connection>| Row {
            client: connection.client,
            endpoint: connection.endpoint,
            alias: *connection.alias.lock(),
            canonical: *connection.canonical.lock(),
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
            open: self.open.lock().len() as u64,
            limit: u64::from(self.limit.load(Relaxed)),
            accepted: self.totals.accepted.load(Relaxed),
            refused: self.totals.refused.load(Relaxed),
            failed: self.totals.failed.load(Relaxed),
            silent: self.totals.silent.load(Relaxed),
            unchanged: self.totals.unchanged.load(Relaxed),
        }
    }

    /// What keeps endpoints from being relayed, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().clone()
    }

    /// Where somebody else took off the program that steers. It is brought back soon.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn lost(&self, pins: &Pins) -> Result<Vec<Drift>, DatapathError> {
        let mut lost = Vec::new();
        for inode in self.steered.lock().iter().copied() {
            // It ends with its namespace.
            if !Steering::is_attached(pins, inode)? && namespace::exists(inode) {
                lost.push(Drift::Steering { inode });
            }
        }
        Ok(lost)
    }

    /// Has the relay look at once whether all is as it should be.
    pub fn look(&self) {
        self.asked.notify_one();
    }

    /// Waits until somebody wants the relay to look.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// From now on the program that steers is to be found in these network namespaces.
    pub(super) fn steer(&self, namespaces: BTreeSet<u64>) {
        *self.steered.lock() = namespaces;
    }

    /// Whether an endpoint has a relay.
    pub fn serves(&self, endpoint: Socket) -> bool {
        self.served.lock().contains_key(&endpoint)
    }

    /// How many endpoints have a relay.
    pub fn endpoints(&self) -> usize {
        self.served.lock().len()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.totals
    }

    pub(super) fn limit(&self, limits: &config::Relay) {
        self.limit.store(limits.max_connections, Relaxed);
        let memory = u64::from(limits.memory) << 20;
        self.memory.store(memory, Relaxed);
        self.handshake_timeout
            .store(limits.handshake_timeout, Relaxed);
    }

    /// The time in which a client must have sent a frame.
    pub(super) fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout.load(Relaxed).into())
    }

    /// Ends the connections of endpoints that have no relay.
    pub(super) fn end_unserved(&self) {
        let served = self.served.lock();
        for connection in self.open.lock().values() {
            if !served.contains_key(&socket(connection.endpoint)) {
                connection.stop.cancel();
            }
        }
    }

    /// Takes other bytes into account than before. False if all connections keep too many.
    pub(super) fn keep(&self, before: usize, now: usize) -> bool {
        if before == now {
            return true;
        }
        let (before, now) = (before as u64, now as u64);
        let kept = self.kept.fetch_add(now.wrapping_sub(before), Relaxed);
        now < before || kept.wrapping_add(now).wrapping_sub(before) <= self.memory.load(Relaxed)
    }

    /// What a relay has to know of an endpoint, if it has one.
    pub(super) fn of(&self, endpoint: Socket) -> Option<Served> {
        self.served.lock().get(&endpoint).cloned()
    }

    pub(super) fn serve(&self, endpoint: Socket, served: Served) {
        self.served.lock().insert(endpoint, served);
    }

    /// All other endpoints have no relay.
    pub(super) fn keep_only(&self, endpoints: &BTreeSet<Socket>) {
        let mut served = self.served.lock();
        served.retain(|endpoint, _| endpoints.contains(endpoint));
    }

    pub(super) fn tell(&self, followed: Result<Vec<String>, String>) {
        *self.problems.lock() = followed.unwrap_or_else(|error| vec![error]);
    }

    /// A mark is in use from now on.
    pub(super) fn mark(&self, connection: FiveTuple, mark: u64) {
        self.marks.lock().insert(connection, mark);
    }

    /// A mark is not in use any more. A later connection may have another one.
    pub(super) fn unmark(&self, connection: &FiveTuple, mark: u64) {
        let mut marks = self.marks.lock();
        if marks.get(connection) == Some(&mark) {
            marks.remove(connection);
        }
    }

    /// The marks that are in use.
    pub(super) fn marks(&self) -> BTreeMap<FiveTuple, u64> {
        self.marks.lock().clone()
    }

    /// Adds a connection, which is there as long as what is returned. None if there are too many.
    pub(super) fn enter(self: &Arc<Self>, connection: Connection) -> Option<Open> {
        let mut open = self.open.lock();
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

/// The socket as the kernel tables have it.
pub fn socket(at: SocketAddr) -> Socket {
    Socket {
        address: bytes(at.ip()),
        port: at.port(),
        protocol: TCP,
        pad: 0,
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
        self.relays.open.lock().remove(&self.number);
    }
}
