//! The agent: it starts the datapath, keeps it attached, and serves the control API.
//!
//! Everything that can be refused is checked before the kernel is touched; what is touched is
//! undone if the start fails. When the agent ends, by a signal or by a crash, translation goes on:
//! only [`crate::api::Request::Detach`] removes it.

mod attachment;
mod collect;
mod events;
mod limit;
mod service;
mod view;

use std::{io, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Server, ServerError},
    config::{Config, ConfigError},
    datapath::{self, DatapathError, Mode, Object, Pins, Programs, Tables, TablesMut},
    doctor::{self, Unmet},
    links::{
        self,
        netlink::{Links, NetlinkError},
    },
    plan, reconcile,
};
use attachment::Attachment;
use service::{AgentService, Live};

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

/// What clients may have the agent do.
enum Control {
    /// Remove every trace and end.
    Detach(oneshot::Sender<Result<usize, String>>),
}

/// Runs the agent until a signal or a request ends it. `ready` is called once, when programs are
/// attached and tables loaded.
///
/// # Errors
/// When it cannot start; then nothing is left half-attached.
pub async fn run(config: Config, mode: Mode, ready: impl FnOnce()) -> Result<(), RunError> {
    for note in &config.notes {
        log::warn!("{note}");
    }
    // What can be refused, before anything is changed.
    config.check_runnable()?;
    Server::check_free(&config.agent.control_socket)?;
    doctor::require()?;
    let pins = Pins::new(&config.agent.bpffs);
    pins.check()?;
    let mut links = Links::open()?;
    let inventory = links.inventory().await?;
    links::check_named(&inventory, &config.datapath.interfaces)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    let server = Server::bind(&config.agent.control_socket)?;

    let existed = pins.exist();
    let lock = pins.prepare()?;
    let started = start(&config, &pins, mode, &inventory);
    let mut attachment = match started {
        Ok(attachment) => attachment,
        Err(error) => {
            if !existed && let Err(error) = datapath::detach(&pins, &inventory, Some(&lock)) {
                log::error!("Cannot undo the start: {error}");
            }
            return Err(error);
        }
    };

    let (events, _) = broadcast::channel(events::BACKLOG);
    let (control, mut controls) = mpsc::channel(4);
    let config = Arc::new(config);
    let live = Live::new(&attachment);
    let service = Arc::new(AgentService::new(
        Arc::clone(&config),
        pins.clone(),
        live,
        events.clone(),
        control,
    ));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(events::drain(
        pins.clone(),
        Arc::clone(&config),
        events,
        stop.clone(),
    ));
    tasks.spawn(collect::collect(pins.clone(), stop.clone()));
    let stopped = stop.clone();
    let serving = tokio::spawn(server.serve(Arc::clone(&service), async move {
        stopped.cancelled().await;
    }));
    log::info!("Translating for {} endpoint(s)", config.endpoints.len());
    ready();

    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            changed = links.changed() => {
                match changed {
                    Ok(()) => {}
                    Err(error) => break Err(RunError::from(error)),
                }
                match links.inventory().await {
                    Ok(inventory) => {
                        attachment.follow(&inventory);
                        service.update(Live::new(&attachment));
                    }
                    Err(error) => log::warn!("{error}"),
                }
            }
            Some(Control::Detach(done)) = controls.recv() => {
                let result = detach(&pins, &links, Some(&lock)).await;
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
    stop.cancel();
    while let Some(task) = tasks.join_next().await {
        if let Ok(Err(error)) = task {
            log::warn!("{error}");
        }
    }
    serving.await?;
    ended
}

/// Loads the programs, fills the tables, and attaches.
fn start(
    config: &Config,
    pins: &Pins,
    mode: Mode,
    inventory: &links::Inventory,
) -> Result<Attachment, RunError> {
    let object = Object::open(pins, config.datapath.max_rpc_flows)?;
    let capacity = Tables::open(pins)?.flow_capacity();
    if capacity != config.datapath.max_rpc_flows {
        log::warn!(
            "The pinned table of RPC flows keeps its {capacity} entries until `truename detach`"
        );
    }
    // The kernel has accepted the programs before anything that is in use is changed.
    let programs = Programs::load(object, pins, mode)?;
    let mut tables = TablesMut::open(pins)?;
    let present = tables.present()?;
    let wanted = plan::plan(config, &present.numbers());
    for change in reconcile::diff(&wanted, &present) {
        tables.apply(&change)?;
    }
    let attachment = Attachment::start(programs, config.datapath.interfaces.clone(), inventory)?;
    datapath::remove_old_versions(pins)?;
    Ok(attachment)
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
    Ok(detached.links)
}
