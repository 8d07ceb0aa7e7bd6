//! Looking through the tables of connections and flows, and forgetting what is over.

mod policy;
mod port_bitmap;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use truename_common::layout::{
    Authority, Conntrack, Event, EventKind, FiveTuple, Socket, conntrack_flags,
};

use crate::{
    api::{Clock, Code, EventRow, Finding, SweepRow, Timestamp},
    config::{WhenFull, index},
    daemon::{
        Current, RunError,
        expiry::is_flow_over,
        limit::{Admitted, Limit},
        map_writer::MapWriter,
        pulse::Pulse,
        rows::{event, text::socket},
    },
    datapath::{DatapathError, Pins, ServiceTables, Tables},
};
use policy::{Evicted, GcDecision, is_handshake_over, verdict};
use port_bitmap::Needed;

/// How often the tables are looked through. Never less often, whatever happens.
const EVERY: Duration = Duration::from_secs(10);
/// How soon after a sweep the next one may begin that a full table asks for.
const SOONEST: Duration = Duration::from_secs(1);
/// Evictions that are logged in a second.
const LOGGED: u32 = 20;

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sweep {
    /// Connections and flows that were looked at.
    scanned: usize,
    /// Connections that were forgotten.
    forgotten: usize,
    /// RPC flows that were forgotten, with their connection or alone.
    flows: usize,
    /// Connections that were evicted.
    evicted: usize,
    /// Entries of `MOVED` that were removed.
    moved: usize,
    /// Entries of `PORT_BITMAP` of which bits were cleared.
    cleared: usize,
    /// How long it took.
    took: Duration,
    /// What endpoints are called by the configuration and call themselves.
    mistaken: BTreeMap<Socket, (Authority, Authority)>,
}

/// What sweeps did.
#[derive(Clone, Debug, Default)]
pub struct Sweeps {
    /// The last one.
    pub last: Option<SweepRow>,
    /// Connections that all of them evicted.
    pub evicted: u64,
    /// The configured names that nodes do not use, as far as the last one saw.
    pub mistaken: Vec<Finding>,
}

/// What a sweep needs.
pub struct Gc {
    pub config: Current,
    pub pins: Pins,
    pub map_writer: Arc<Mutex<MapWriter>>,
    pub events: broadcast::Sender<EventRow>,
    /// Someone was refused because the table is full.
    pub full: Arc<Notify>,
    /// Is told what they did.
    pub sweeps: Arc<Mutex<Sweeps>>,
    /// Is told when the tables may be half-way.
    pub check: Arc<Notify>,
    pub pulse: Pulse,
}

impl Gc {
    /// Sweeps until it is told to stop.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        let gc = Arc::new(self);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let evicts = gc.evicts();
            let refused = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => false,
                () = gc.full.notified(), if evicts => true,
            };
            let worker = Arc::clone(&gc);
            let busy = gc.pulse.busy("connections to be looked through");
            let swept = tokio::task::spawn_blocking(move || worker.sweep(refused)).await?;
            drop(busy);
            match swept {
                Ok(sweep) => gc.report(sweep),
                Err(error) => log::warn!("{error}"),
            }
            if refused {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(SOONEST) => {}
                }
            }
        }
    }

    fn report(&self, sweep: Sweep) {
        let Sweep {
            scanned,
            forgotten,
            flows,
            evicted,
            moved,
            cleared,
            took,
            mistaken,
        } = sweep;
        if evicted > 0 {
            log::warn!("The table of connections was full: {evicted} were evicted");
        }
        log::debug!(
            "Looked at {scanned} in {took:?}: forgot {forgotten} connection(s), {flows} flow(s), {moved} move(s) and {cleared} mark(s) of source ports"
        );
        let config = Arc::clone(&self.config.borrow());
        let mistaken = mistaken
            .iter()
            .filter_map(|(at, (configured, announced))| {
                let endpoint = index::endpoint(&config, *at)?;
                endpoint.canonical.as_ref()?;
                let name = &endpoint.name;
                let sentence = format!(
                    "the endpoint {name} calls itself {announced}, and its canonical name is configured as {configured}: what peers send to it is dropped there; correct `canonical`, or leave it out"
                );
                Some(Finding::new(Code::WrongCanonical, sentence))
            });
        let mistaken = mistaken.collect();
        let mut sweeps = self.sweeps.lock();
        sweeps.mistaken = mistaken;
        sweeps.evicted += evicted as u64;
        sweeps.last = Some(SweepRow {
            time: Timestamp::now(),
            scanned,
            removed: forgotten + flows + evicted,
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        });
    }

    fn sweep(&self, refused: bool) -> Result<Sweep, DatapathError> {
        let began = Instant::now();
        // Services do not change while it is looked which connections need what was there before.
        let mut map_writer = self.map_writer.lock();
        let mut tables = Tables::open(&self.pins)?;
        let mut services = ServiceTables::open(&self.pins)?;
        let mut sweep = Sweep::default();
        let mut used = forget_connections(&mut services, &mut tables, &mut sweep)?;
        if self.evicts() {
            used.count -=
                self.evict(&mut services, &mut tables, &mut sweep, used.count, refused)?;
        }
        forget_flows(&services, &mut tables, &mut sweep)?;
        forget_handshakes(&mut tables)?;
        forget_moves(&mut services, &mut sweep, &used)?;
        if sweep.moved > 0 || map_writer.is_untidy(&used.targets) {
            map_writer.tidy().inspect_err(|_| self.check.notify_one())?;
        }
        sweep.cleared = port_bitmap::clear(&mut services, &used.tried)?;
        sweep.took = began.elapsed();
        Ok(sweep)
    }

    /// Whether connections make room for new ones.
    fn evicts(&self) -> bool {
        self.config.borrow().datapath.when_full == WhenFull::Evict
    }

    /// Evicts what is needed; how many.
    fn evict(
        &self,
        services: &mut ServiceTables,
        tables: &mut Tables,
        sweep: &mut Sweep,
        used: usize,
        refused: bool,
    ) -> Result<usize, DatapathError> {
        let mut evicted = Evicted::new(used, services.capacity() as usize, refused);
        if !evicted.is_needed() {
            return Ok(0);
        }
        services.visit_connections(|key, entry| {
            evicted.consider(key, &entry);
        })?;
        let mut limit = Limit::new(LOGGED);
        let before = sweep.evicted;
        for (key, seen_ns) in evicted.into_keys() {
            // One that was used in between is missed.
            let is_idle = |entry: &Conntrack| entry.seen_ns == seen_ns;
            if let Some(entry) = services.connection(&key)?.filter(is_idle) {
                sweep.flows += forget(services, tables, &key)?;
                sweep.evicted += 1;
                self.tell(&key, &entry, &mut limit);
            }
        }
        Ok(sweep.evicted - before)
    }

    /// Tells of an eviction as the kernel program tells of its events; the text is the alias.
    fn tell(&self, key: &FiveTuple, entry: &Conntrack, limit: &mut Limit) {
        let clock = Clock::read();
        let alias = socket(entry.alias, entry.alias_port);
        let event = Event {
            time_ns: clock.monotonic_ns(),
            kind: EventKind::Evicted as u32,
            detail: 0,
            flow: *key,
            text: Authority::new(alias.as_bytes()).unwrap_or_default(),
            pad: [0; 6],
        };
        let config = Arc::clone(&self.config.borrow());
        let row = EventRow {
            endpoint: index::service_name(&config, entry.alias(key.protocol)),
            ..event::event(&config, &clock, &event)
        };
        if limit.admit(Instant::now()) != Admitted::No {
            log::info!("{}", event::sentence(&row));
        }
        // An error means that nobody monitors.
        let _ = self.events.send(row);
    }
}

/// What the connections that stay use.
#[derive(Debug, Default)]
struct Used {
    count: usize,
    /// The sockets of their targets.
    targets: BTreeSet<([u8; 16], u16)>,
    /// Where connections are that clients may be listed for in `MOVED`.
    keys: BTreeMap<FiveTuple, FiveTuple>,
    /// Whether there is anything in `MOVED`.
    any_moved: bool,
    /// The bits of `PORT_BITMAP` by which they are found.
    tried: Needed,
}

impl Used {
    fn note(&mut self, key: &FiveTuple, entry: &Conntrack) {
        self.count += 1;
        self.tried.note(key, entry);
        self.targets.insert((key.endpoint, key.endpoint_port));
        if self.any_moved && entry.flags & conntrack_flags::DIRECT == 0 {
            self.keys.insert(entry.original(key.protocol), *key);
        }
    }
}

/// Forgets connections that are over.
fn forget_connections(
    services: &mut ServiceTables,
    tables: &mut Tables,
    sweep: &mut Sweep,
) -> Result<Used, DatapathError> {
    let settings = services.settings()?;
    let mut used = Used {
        any_moved: !services.moved()?.is_empty(),
        ..Used::default()
    };
    let mut over = Vec::new();
    // The clock is read before the entry, so that a packet in between makes it younger.
    let now = Clock::read().monotonic_ns();
    services.visit_connections(|key, entry| {
        sweep.scanned += 1;
        match verdict(&entry, now, &settings) {
            GcDecision::Keep => used.note(&key, &entry),
            GcDecision::Forget => over.push(key),
        }
    })?;
    for key in over {
        let now = Clock::read().monotonic_ns();
        let Some(entry) = services.connection(&key)? else {
            continue;
        };
        // It may have been used in between.
        match verdict(&entry, now, &settings) {
            GcDecision::Keep => used.note(&key, &entry),
            GcDecision::Forget => {
                sweep.flows += forget(services, tables, &key)?;
                sweep.forgotten += 1;
            }
        }
    }
    Ok(used)
}

/// Forgets a connection and its RPC flow, which have one life; how many RPC flows that were.
pub(in crate::daemon) fn forget(
    services: &mut ServiceTables,
    tables: &mut Tables,
    key: &FiveTuple,
) -> Result<usize, DatapathError> {
    let flow = tables.remove_flow(key)?;
    services.remove_connection(key)?;
    Ok(usize::from(flow))
}

/// Forgets RPC flows that have no connection and are over, and the marks of all that are gone.
fn forget_flows(
    services: &ServiceTables,
    tables: &mut Tables,
    sweep: &mut Sweep,
) -> Result<(), DatapathError> {
    // Pages and heads before flows: a flow exists before it makes one.
    let pages = tables.page_keys()?;
    let heads = tables.head_keys()?;
    let mut living = BTreeSet::new();
    let mut over = Vec::new();
    // The clock is read before the flow, so that a packet in between makes it younger.
    let now = Clock::read().monotonic_ns();
    tables.visit_flows(|key, flow| {
        sweep.scanned += 1;
        let (known, announced) = (flow.names.canonical, flow.outbound.captured);
        let is_announced = !announced.is_empty() && !flow.outbound.captured_system.is_empty();
        if is_announced && !known.is_empty() && announced != known {
            sweep.mistaken.insert(key.endpoint(), (known, announced));
        }
        if is_flow_over(&flow, now) {
            over.push((key, flow.id));
        } else {
            living.insert(flow.id);
        }
    })?;
    for (key, id) in over {
        let now = Clock::read().monotonic_ns();
        if services.connection(&key)?.is_some() {
            living.insert(id);
            continue;
        }
        match tables.flow(&key)? {
            Some(flow) if is_flow_over(&flow, now) => {
                tables.remove_flow(&key)?;
                sweep.flows += 1;
            }
            Some(flow) => {
                living.insert(flow.id);
            }
            None => {}
        }
    }
    for page in pages.iter().filter(|page| !living.contains(&page.flow)) {
        tables.remove_page(page)?;
    }
    for head in heads.iter().filter(|head| !living.contains(&head.flow)) {
        tables.remove_head(head)?;
    }
    Ok(())
}

/// Forgets connections that have carried nothing.
fn forget_handshakes(tables: &mut Tables) -> Result<(), DatapathError> {
    let now = Clock::read().monotonic_ns();
    for (key, handshake) in tables.handshakes()? {
        if is_handshake_over(&handshake, now) {
            tables.remove_handshake(&key, &handshake)?;
        }
    }
    Ok(())
}

/// Forgets where connections stay that are gone, or that are somewhere else.
fn forget_moves(
    services: &mut ServiceTables,
    sweep: &mut Sweep,
    used: &Used,
) -> Result<(), DatapathError> {
    if !used.any_moved {
        return Ok(());
    }
    let targets = services.targets()?;
    for (original, number) in services.moved()? {
        let is_there = used.keys.get(&original).is_some_and(|key| {
            targets.get(&number).is_some_and(|target| {
                (target.address, target.port) == (key.endpoint, key.endpoint_port)
            })
        });
        if !is_there {
            services.remove_moved(&original)?;
            sweep.moved += 1;
        }
    }
    Ok(())
}
