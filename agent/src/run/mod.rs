//! The agent: it starts the datapath, keeps it attached, and serves the control API.
//!
//! Everything that can be refused is checked before the kernel is touched; what is touched is
//! undone if the start fails. When the agent ends, by a signal or by a crash, translation goes on:
//! only [`crate::api::Request::Detach`] removes it.

mod agent;
mod attachment;
mod check;
mod collect;
mod events;
mod file;
mod flows;
mod keeper;
mod learn;
mod limit;
mod names;
mod notify;
mod retry;
mod roles;
mod service;
mod signals;
mod sweep;
mod tables;
mod view;

pub use tables::KernelTables;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Server, ServerError},
    config::{Config, ConfigError, Sources},
    datapath::{self, DatapathError, Mode, Object, Pins, Programs, ServiceTables, Tables},
    doctor::{self, Unmet},
    links::{
        self,
        netlink::{Links, NetlinkError},
    },
    plan::Facts,
    sysctl,
    topology::{self, Follower, learned},
};
use agent::{Agent, Occasion};
use attachment::Attachment;
use check::Checker;
use file::Watch;
use keeper::{Keeper, translated_targets};
use learn::Learner;
use retry::Retry;
use roles::Resolver;
use service::{AgentService, Live, Watched};
use signals::{Signal, Signals};
use sweep::{Sweeper, Sweeps};

/// Why the agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration contradicts itself or the host.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host lacks something.
    #[error(transparent)]
    Unmet(#[from] Unmet),
    /// The control socket.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The kernel side.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The interfaces.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A detach that could not remove everything.
    #[error("detached, but this is left: {0}")]
    Left(String),
    /// Signals cannot be handled.
    #[error("cannot handle signals: {0}")]
    Signal(io::Error),
    /// The ring buffer cannot be waited for.
    #[error("cannot wait for events of the kernel: {0}")]
    Events(io::Error),
    /// A thread ended unexpectedly.
    #[error("a task of the agent failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// How often it is looked whether another route is taken to a target.
const ROUTES_EVERY: Duration = Duration::from_secs(30);

/// What clients may have the agent do.
enum Control {
    /// Remove every trace and end.
    Detach(oneshot::Sender<Result<usize, String>>),
}

/// The configuration in force. It is replaced as a whole.
type Current = watch::Receiver<Arc<Config>>;

/// Runs the agent until a signal or a request ends it. `sources` are where `config` was read, for when it
/// is read again. `ready` is called once, when programs are attached and tables loaded.
///
/// # Errors
/// When it cannot start; then nothing is left half-attached.
pub async fn run(
    sources: Sources,
    config: Config,
    mode: Mode,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    for note in &config.notes {
        log::warn!("{note}");
    }
    // What can be refused, before anything is changed.
    config.check_runnable()?;
    Server::check_free(&config.agent.control_socket)?;
    doctor::require()?;
    let pins = Pins::new(&config.agent.bpffs);
    pins.check()?;
    let links = Links::open()?;
    let inventory = links.inventory().await?;
    links::check_named(&inventory, &config.datapath.interfaces)?;
    // Nothing is known of the cluster yet: services keep the targets that they have.
    let roles = Arc::default();
    let targets = translated_targets(&config, &roles);
    let facts = links.facts(&inventory, &targets, roles).await?;
    let (config, current) = watch::channel(Arc::new(config));
    let mut signals = Signals::new()?;
    let server = Server::bind(&current.borrow().agent.control_socket)?;
    // A file that is put there from now on is not missed.
    let mut file = Watch::new(sources.directory());

    let existed = pins.exist();
    let lock = pins.prepare()?;
    let started = start(&config.borrow(), &pins, mode, &inventory, &facts);
    let (attachment, keeper) = match started {
        Ok(started) => started,
        Err(error) => {
            if !existed && let Err(error) = datapath::undo(&pins, &inventory, &lock, mode) {
                log::error!("Cannot undo the start: {error}");
            }
            return Err(error);
        }
    };

    let (events, _) = broadcast::channel(events::BACKLOG);
    let (control, mut controls) = mpsc::channel(4);
    let live = Live::new(&attachment, &facts, 0, keeper.left_out());
    let keeper = Arc::new(Mutex::new(keeper));
    let sweeps = Arc::new(Mutex::new(Sweeps::default()));
    let full = Arc::new(Notify::new());
    let refused = Arc::new(Mutex::new(BTreeMap::new()));
    let retry = Retry::new("the tables and interfaces are not up to date");
    let checker = Checker {
        keeper: Arc::clone(&keeper),
        asked: Arc::new(Notify::new()),
        retry: Retry::new("the tables cannot be checked"),
        repaired: Arc::default(),
    };
    let check = Arc::clone(&checker.asked);
    let follower = Follower::configured(&current.borrow().topology);
    let configured = follower.reporter(topology::configured::id());
    configured.facts(topology::configured::facts(&current.borrow()), None);
    let resolver = Resolver::new(current.clone(), follower.subscribe());
    let standing = resolver.subscribe();
    let service = Arc::new(AgentService::new(
        Watched {
            config: current.clone(),
            pins: pins.clone(),
            sweeps: Arc::clone(&sweeps),
            refused: Arc::clone(&refused),
            retried: [retry.problem(), checker.retry.problem()],
            repaired: Arc::clone(&checker.repaired),
            topology: follower.subscribe(),
            standing: standing.clone(),
        },
        live,
        events.clone(),
        control,
    ));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let learner = Learner {
        pins: pins.clone(),
        events: events.subscribe(),
        reporter: follower.reporter(learned::id()),
    };
    tasks.spawn(learner.run(stop.clone()));
    tasks.spawn(resolver.run(stop.clone()));
    let drain = events::Drain {
        config: current.clone(),
        events: events.clone(),
        full: Arc::clone(&full),
        refused,
    };
    tasks.spawn(drain.run(pins.clone(), stop.clone()));
    let sweeper = Sweeper {
        config: current,
        pins: pins.clone(),
        keeper: Arc::clone(&keeper),
        events,
        full,
        sweeps,
        check: Arc::clone(&check),
    };
    tasks.spawn(sweeper.run(stop.clone()));
    tasks.spawn(checker.run(stop.clone()));
    let stopped = stop.clone();
    let serving = tokio::spawn(server.serve(Arc::clone(&service), async move {
        stopped.cancelled().await;
    }));
    let mut agent = Agent {
        sources,
        config,
        links,
        pins,
        lock,
        attachment,
        keeper,
        service,
        follower,
        configured,
        standing,
        targets,
        refused: None,
        retry,
        check,
    };
    agent.note(Ok(()));
    log::info!("{}", agent.sentence());
    ready();
    notify::ready(&agent.sentence());

    let mut ticks = tokio::time::interval(ROUTES_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watchdog = notify::watchdog();
    let ended = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::End => break Ok(()),
                Signal::Reload => agent.reload(Occasion::Signal).await,
            },
            () = file.changed() => agent.reload(Occasion::File).await,
            () = tick(&mut watchdog) => notify::alive(),
            changed = agent.links.changed() => {
                if let Err(error) = changed {
                    break Err(RunError::from(error));
                }
                agent.follow().await;
            }
            Ok(()) = agent.standing.changed() => agent.follow().await,
            () = agent.retry.due() => agent.follow().await,
            // Nothing tells when another route is taken to a target.
            _ = ticks.tick(), if !agent.targets.is_empty() => agent.follow().await,
            Some(Control::Detach(done)) = controls.recv() => {
                let result = agent.detach().await;
                let failed = result.is_err();
                // The client may have hung up; the detach is done all the same.
                let _ = done.send(result.map_err(|error| error.to_string()));
                if !failed {
                    break Ok(());
                }
            }
            Some(task) = tasks.join_next() => match task {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Err(error),
                Err(error) => break Err(error.into()),
            }
        }
    };
    notify::stopping();
    stop.cancel();
    while let Some(task) = tasks.join_next().await {
        if let Ok(Err(error)) = task {
            log::warn!("{error}");
        }
    }
    serving.await?;
    ended
}

/// Waits for the next tick, or for ever.
async fn tick(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

/// Loads the programs, fills the tables, and attaches.
fn start(
    config: &Arc<Config>,
    pins: &Pins,
    mode: Mode,
    inventory: &links::Inventory,
    facts: &Facts,
) -> Result<(Attachment, Keeper), RunError> {
    let sizes = &config.datapath;
    datapath::migrate(pins)?;
    let object = Object::open(pins, sizes)?;
    for (what, wanted, capacity) in [
        (
            "RPC flows",
            sizes.max_rpc_flows,
            Tables::open(pins)?.flow_capacity(),
        ),
        (
            "connections",
            sizes.max_flows,
            ServiceTables::open(pins)?.capacity(),
        ),
    ] {
        if capacity != wanted {
            log::warn!(
                "The pinned table of {what} keeps its {capacity} entries until `truename detach`"
            );
        }
    }
    // The kernel has accepted the programs before anything that is in use is changed.
    let programs = Programs::load(object, pins, mode)?;
    let mut keeper = Keeper::open(Arc::clone(config), pins)?;
    keeper.follow(facts)?;
    if !config.services.is_empty() {
        sysctl::prepare(facts.elsewhere(config));
    }
    let interfaces = config.datapath.interfaces.clone();
    let attachment = Attachment::start(programs, interfaces, agent::xdp(config), inventory)?;
    datapath::remove_old_versions(pins)?;
    Ok((attachment, keeper))
}

/// Removes every trace of an installation; the number of links that were removed. Without a lock
/// takes it, so that it fails with [`DatapathError::Busy`] while an agent runs.
///
/// # Errors
/// When an agent runs, or the kernel refuses.
pub async fn detach(
    pins: &Pins,
    links: &Links,
    lock: Option<&datapath::Lock>,
) -> Result<usize, RunError> {
    let inventory = links.inventory().await?;
    let detached = datapath::detach(pins, &inventory, lock)?;
    links.remove_empty_clsact(&detached.qdiscs).await?;
    if detached.left.is_empty() {
        Ok(detached.links)
    } else {
        Err(RunError::Left(detached.left.join("; ")))
    }
}
