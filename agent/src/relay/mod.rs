//! The relay: translates connections whose alias is longer than the canonical name, which cannot be done in place.
//!
//! The kernel program gives new connections to a socket of the agent in the network namespace of the endpoint
//! ([`Steering`]), unless the client's aliases are known to fit. A thread in that namespace ([`worker`]) accepts them,
//! connects to the endpoint, and translates what passes ([`connection`]). It learns the alias, and tells the kernel program
//! whether the client's next connection needs the relay.

mod connection;
mod down;
mod namespace;
mod shared;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use truename_common::layout::{Authority, EventKind, RELAYS_MAX, Socket, ip, relay};

use shared::Served;
pub use shared::{Relays, Row, socket};

use crate::{
    api::EventRow,
    clock::Moment,
    config::{Aliases, Config, Listen, OnChange},
    datapath::{DatapathError, Drift, Pins, Steering},
    netlink::NetlinkError,
};
use namespace::{Namespace, Namespaces};
use worker::Worker;

/// Endpoints are looked for at most this often.
const PAUSE: Duration = Duration::from_millis(200);
/// A container that was not found, or is gone, is told by nothing.
const REFRESH: Duration = Duration::from_secs(10);
/// The mark of a connection that nobody relays is removed after this time: it may not be accepted yet.
const STALE: Duration = Duration::from_secs(60);

/// Why the relay cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The kernel refused something.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The host could not be looked at.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A network namespace could not be entered, or has no room for a listening socket.
    #[error(
        "cannot relay in the network namespace net:[{inode}]: {source}; the agent needs CAP_SYS_ADMIN and CAP_SYS_PTRACE for containers"
    )]
    Namespace {
        /// Its number.
        inode: u64,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs the relays of all endpoints.
pub struct Relay {
    pins: Pins,
    config: watch::Receiver<Arc<Config>>,
    events: broadcast::Receiver<EventRow>,
    relays: Arc<Relays>,
    /// How much that somebody else took off was brought back.
    reattached: Arc<AtomicU64>,
    workers: BTreeMap<u64, Worker>,
    /// After this time a mark is stale: at once when the agent starts, as all are of an agent before.
    stale: Duration,
}

impl Relay {
    /// Relays what `relays` then tells of.
    pub fn new(
        pins: Pins,
        config: watch::Receiver<Arc<Config>>,
        events: broadcast::Receiver<EventRow>,
        relays: Arc<Relays>,
        reattached: Arc<AtomicU64>,
    ) -> Self {
        Self {
            pins,
            config,
            events,
            relays,
            reattached,
            workers: BTreeMap::new(),
            stale: Duration::ZERO,
        }
    }

    /// Relays until it is told to stop. Then connections are reset; the kernel holds new ones back for a while, and
    /// refuses those of relayed clients after that, until the next agent is there.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let config = Arc::clone(&self.config.borrow_and_update());
            let (pins, relays) = (self.pins.clone(), Arc::clone(&self.relays));
            let mut workers = std::mem::take(&mut self.workers);
            let reattached = Arc::clone(&self.reattached);
            let stale = self.stale;
            let followed = spawn_blocking(move || {
                let swept = sweep(&pins, &relays, stale);
                if let Err(error) = swept {
                    log::warn!("Marks of connections that ended stay: {error}");
                }
                let followed = follow(&pins, &config, &relays, &mut workers, &reattached);
                (followed, workers)
            });
            match followed.await {
                Ok((followed, workers)) => {
                    self.stale = STALE;
                    self.workers = workers;
                    self.relays
                        .tell(followed.map_err(|error| error.to_string()));
                }
                Err(error) => self.relays.tell(Err(error.to_string())),
            }
            let news = async {
                sleep(PAUSE).await;
                // In time or not: it is looked again.
                let _ = timeout(REFRESH, self.news()).await;
            };
            if stop.run_until_cancelled(news).await.is_none() {
                let workers = std::mem::take(&mut self.workers);
                let pins = self.pins.clone();
                // Threads are waited for, so that no connection outlives the agent's answer that it has stopped.
                let stopped = spawn_blocking(move || {
                    let held = hold(&pins);
                    drop(workers);
                    held
                });
                if let Ok(Err(error)) = stopped.await {
                    // A detach has taken the tables away.
                    log::debug!("{error}");
                }
                return;
            }
        }
    }

    /// Waits for something that another endpoint may follow from.
    async fn news(&mut self) {
        let told = [EventKind::NoFit, EventKind::CanonicalLearned].map(EventKind::label);
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Ok(event) if told.contains(&event.kind.as_str()) => return,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return,
                    // The agent is ending.
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                Ok(()) = self.config.changed() => return,
                () = self.relays.asked() => return,
            }
        }
    }
}

/// Removes marks of connections that are not relayed.
fn sweep(pins: &Pins, relays: &Relays, stale: Duration) -> Result<(), DatapathError> {
    let mut steering = Steering::open(pins)?;
    let used = relays.marks();
    let is_used = |connection: &_, mark| used.get(connection) == Some(&mark);
    steering.sweep(stale, Moment::now().ns(), is_used)
}

/// From now on nobody relays.
fn hold(pins: &Pins) -> Result<(), DatapathError> {
    let mut steering = Steering::open(pins)?;
    let now = Moment::now().ns();
    for endpoint in steering.relays()?.into_keys() {
        steering.hold(endpoint, now)?;
    }
    Ok(())
}

/// Brings relays to what the configuration and the host want; what is missing, a sentence each.
fn follow(
    pins: &Pins,
    config: &Config,
    relays: &Arc<Relays>,
    workers: &mut BTreeMap<u64, Worker>,
    reattached: &AtomicU64,
) -> Result<Vec<String>, RelayError> {
    let mut steering = Steering::open(pins)?;
    let present = steering.relays()?;
    relays.limit(&config.relay);
    let drains = config.relay.on_change == OnChange::Drain;
    if !config.relays() {
        // New connections go to the endpoints before old ones are reset.
        for endpoint in present.keys() {
            steering.leave(*endpoint)?;
        }
        for inode in steering.pinned()? {
            steering.detach(inode)?;
        }
        relays.steer(BTreeSet::new());
        relays.keep_only(&BTreeSet::new());
        workers.retain(|_, worker| drains && worker.is_in_use());
        return Ok(Vec::new());
    }
    let wanted = wanted(config, &steering, &present)?;
    for endpoint in present.keys().filter(|endpoint| !wanted.contains(endpoint)) {
        steering.leave(*endpoint)?;
    }
    workers.retain(|_, worker| worker.is_alive());
    let mut namespaces = Namespaces::look()?;
    let (mut missing, mut served) = (Vec::new(), BTreeSet::new());
    let pinned = steering.pinned()?;
    let lost = relays.lost(pins)?;
    let (mut started, mut used) = (BTreeSet::new(), BTreeSet::new());
    for endpoint in &wanted {
        let address = ip(endpoint.address);
        let listen = Listen {
            address: Some(address),
            port: endpoint.port,
        };
        let Some(namespace) = namespaces.of(address)? else {
            missing.push(format!(
                "connections to {listen} cannot be relayed: no network namespace behind an interface of this host has the address; run the agent where the endpoint runs, and let it see the host's processes"
            ));
            continue;
        };
        let number = free(workers);
        let inode = namespace.inode;
        let refused = |source| RelayError::Namespace { inode, source };
        let link = namespace.file.try_clone().map_err(refused)?;
        let worker = match workers.entry(inode) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let Some(number) = number else {
                    missing.push(format!("connections to {listen} cannot be relayed: there are relays in {RELAYS_MAX} network namespaces"));
                    continue;
                };
                let worker = start(namespace, number, pins, &mut steering, relays)?;
                started.insert(inode);
                entry.insert(worker)
            }
        };
        if used.insert(inode) && (started.contains(&inode) || !Steering::is_attached(pins, inode)?)
        {
            // In place of the program of an earlier agent.
            steering.attach(link, inode)?;
            let drift = Drift::Steering { inode };
            if lost.contains(&drift) {
                log::warn!("Somebody else removed or replaced {drift}: it is brought back");
                reattached.fetch_add(1, Ordering::Relaxed);
            }
        }
        let served_now = Served {
            admitted: admitted(config, *endpoint),
        };
        // Before connections come.
        relays.serve(*endpoint, served_now);
        served.insert(*endpoint);
        let value = relay::value(worker.number(), config.relay.hold);
        let known = present.get(endpoint).map(|known| known & !relay::DOWN);
        if started.contains(&inode) || known != Some(value) {
            steering.serve(*endpoint, value)?;
            worker.look_at(*endpoint);
            log::info!("Relaying for {listen}");
        }
    }
    workers.retain(|inode, worker| {
        used.contains(inode) || worker.is_in_use() || namespace::exists(*inode)
    });
    for inode in pinned {
        if !workers.contains_key(&inode) && !namespace::exists(inode) {
            steering.detach(inode)?;
        }
    }
    relays.steer(used);
    relays.keep_only(&served);
    if !drains {
        relays.end_unserved();
    }
    if config.relay.enabled.is_none() {
        // Most nodes of a cluster are on other hosts.
        missing.clear();
    }
    Ok(missing)
}

/// The sockets of the endpoints that may need a relay: those that the configuration names, and those of `*` that have
/// told their names.
fn wanted(
    config: &Config,
    steering: &Steering,
    present: &BTreeMap<Socket, u32>,
) -> Result<BTreeSet<Socket>, DatapathError> {
    let sockets: BTreeSet<_> = config
        .endpoints
        .iter()
        .map(|endpoint| endpoint.listen.to_socket())
        .collect();
    let is_endpoint = |socket: &Socket| {
        socket.address != [0; 16] && (sockets.contains(socket) || sockets.contains(&socket.any()))
    };
    let known = steering.named()?;
    let all = sockets.iter().chain(&known).chain(present.keys());
    Ok(all.filter(|socket| is_endpoint(socket)).copied().collect())
}

/// The aliases that an endpoint answers to; none: all.
fn admitted(config: &Config, endpoint: Socket) -> Option<Vec<Authority>> {
    let has = |socket: Socket| {
        let mut endpoints = config.endpoints.iter();
        endpoints.find(|known| known.listen.to_socket() == socket)
    };
    match &has(endpoint).or_else(|| has(endpoint.any()))?.aliases {
        Aliases::Any => None,
        Aliases::Listed(aliases) => Some(aliases.iter().map(|alias| alias.to_layout()).collect()),
    }
}

/// The lowest number that no relay has.
fn free(workers: &BTreeMap<u64, Worker>) -> Option<u32> {
    let used: BTreeSet<_> = workers.values().map(Worker::number).collect();
    (0..RELAYS_MAX).find(|number| !used.contains(number))
}

fn start(
    namespace: Namespace,
    number: u32,
    pins: &Pins,
    steering: &mut Steering,
    relays: &Arc<Relays>,
) -> Result<Worker, RelayError> {
    let inode = namespace.inode;
    let refused = |source| RelayError::Namespace { inode, source };
    let own = Arc::new(Mutex::new(Steering::open(pins)?));
    let (worker, listeners) =
        Worker::start(namespace, number, own, Arc::clone(relays)).map_err(refused)?;
    for (is_v6, listener) in listeners {
        steering.listen(number, is_v6, &listener)?;
    }
    Ok(worker)
}
