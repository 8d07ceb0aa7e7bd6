//! The agent: it starts the datapath, keeps it attached, and serves the control API.
//!
//! Everything that can be refused is checked before the kernel is touched; what is touched is
//! undone if the start fails. When the agent ends, by a signal or by a crash, translation goes on:
//! only [`crate::api::Request::Detach`] removes it.

mod agent;
mod attachment;
mod expiry;
mod health;
mod limit;
mod map_writer;
mod notify;
mod problems;
mod pulse;
mod retry;
mod rows;
mod service;
mod signals;
mod start;
mod tables;
mod tasks;
mod tell;

pub use tables::KernelTables;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    runtime,
    sync::{oneshot, watch},
    time::timeout,
};

use crate::{
    api::ServiceTarget,
    config::{Config, Sources},
    datapath::{self, Detached, Mode, Pins},
    doctor::Refusal,
    netlink::Requests,
};
use health::Health;
use pulse::Pulses;
use retry::Retry;
use signals::{Signal, Signals};
use start::{Daemon, Running};

/// Why the agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What would keep it from starting, too.
    #[error(transparent)]
    Refused(Refusal),
    /// A detach that could not remove everything.
    #[error("detached, but this is left: {0}")]
    Left(String),
    /// No threads.
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
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

impl<E: Into<Refusal>> From<E> for RunError {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// How long the tasks may take to end when the agent ends.
const GOODBYE: Duration = Duration::from_millis(1000);
/// How long threads are waited for after that. One that hangs in the kernel is left behind: it ends with the process.
const LAST: Duration = Duration::from_millis(300);

/// What the agent is told to do.
pub enum Command {
    /// Read the configuration again.
    Reload,
    /// Have a target take no new connections, or take them again.
    Drain {
        /// Of which service.
        target: ServiceTarget,
        /// Whether it takes none.
        is_drained: bool,
        /// Is told when it is in effect.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Remove every trace and end.
    Detach(oneshot::Sender<Result<usize, String>>),
}

/// The configuration in force. It is replaced as a whole.
type Current = watch::Receiver<Arc<Config>>;

/// Runs the agent until a signal or a request ends it. `sources` are where `config` was read, for when it
/// is read again. `ready` is called once, when programs are attached and tables loaded.
///
/// Signals are heard by a runtime of its own, in which nothing else is waited for: whatever hangs, the agent ends soon after `SIGTERM`.
///
/// # Errors
/// When it cannot start; then nothing is left half-attached.
pub fn run(
    sources: Sources,
    config: Config,
    mode: Mode,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    let workers = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(RunError::Threads)?;
    let own = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Threads)?;
    let pulses = Pulses::watched().map_err(RunError::Threads)?;
    let health = Arc::new(Health::new(pulses.clone(), workers.handle().clone()));
    let retry = Retry::new("metrics and health are not served");
    let (address, wanted) = watch::channel(config.agent.metrics);
    let build = Daemon::build(sources, config, mode, pulses.clone(), retry.problem());
    let starting = async { Ok(build.await?.spawn()) };
    let ended = own.block_on(async {
        let serving = tokio::spawn(Arc::clone(&health).serve(wanted, retry));
        let ended = supervise(workers.handle(), starting, &pulses, &health, address, ready).await;
        serving.abort();
        ended
    });
    workers.shutdown_timeout(LAST);
    ended
}

async fn supervise(
    workers: &runtime::Handle,
    starting: impl Future<Output = Result<Running, RunError>> + Send + 'static,
    pulses: &Pulses,
    health: &Health,
    metrics: watch::Sender<Option<SocketAddr>>,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    let mut signals = Signals::new()?;
    let mut starting = workers.spawn(starting);
    let mut running = loop {
        tokio::select! {
            started = &mut starting => break started??,
            signal = signals.next() => if signal == Signal::End {
                // Half a start is what a killed agent leaves, too: the next one goes on from there.
                return match timeout(GOODBYE, starting).await {
                    Ok(Ok(Err(error))) => Err(error),
                    _ => Ok(()),
                };
            }
        }
    };
    health.started(Arc::clone(&running.service));
    ready();
    notify::ready(&running.sentence);
    let ended = running.wait(&mut signals, pulses, &metrics).await;
    notify::stopping();
    if ended.is_ok() {
        log::info!("Ending; what is attached goes on without the agent");
    }
    running.drain(pulses).await;
    ended
}

/// Removes every trace of an installation. Without a lock takes it, so that it fails with
/// [`datapath::DatapathError::Busy`] while an agent runs.
///
/// # Errors
/// When an agent runs, the kernel refuses, or something is left.
pub fn detach(pins: &Pins, lock: Option<&datapath::Lock>) -> Result<Detached, RunError> {
    let mut requests = Requests::open()?;
    let inventory = requests.inventory()?;
    let detached = datapath::detach(pins, &mut requests, &inventory, lock)?;
    for sentence in &detached.restored {
        log::info!("{sentence}");
    }
    if detached.left.is_empty() {
        Ok(detached)
    } else {
        Err(RunError::Left(detached.left.join("; ")))
    }
}
