//! The life of an agent: [`Daemon::build`], [`Daemon::spawn`], [`Running::wait`], [`Running::drain`].
//!
//! Everything that can be refused is checked before the kernel is touched; what is touched is undone if the start fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use aya::maps::{MapData, RingBuf};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, broadcast, mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Command, Current, GOODBYE, RunError,
    agent::{self, Agent},
    attachment::Attachment,
    map_writer::{MapWriter, translated_targets},
    notify,
    pulse::Pulses,
    retry::{Problem, Retry},
    service::{AgentService, Live, Watched},
    signals::{Signal, Signals},
    tasks::{
        derive::{self, Deriver},
        drift::Checker,
        events,
        gc::{Gc, Sweeps},
        learn::Learner,
        names::Plane,
        recent::Recent,
        resolve::Resolver,
    },
    tell,
};
use crate::{
    api::Server,
    config::{Config, Sources},
    datapath::{self, Mode, Object, Pins, Programs, ServiceTables, Tables},
    discovery::{self, Follower, sources::learned},
    doctor,
    netlink::{self, Changes, Inventory, Requests, Wanted},
    plan::Facts,
    relay::{Relay, Relays},
    watch::FileWatch,
};

/// An agent that is built: what it needs is attached and loaded, and nothing runs yet.
pub struct Daemon {
    agent: Agent,
    service: Arc<AgentService>,
    server: Server,
    learner: Learner,
    resolver: Resolver,
    relay: Relay,
    plane: Plane,
    events: events::EventReader,
    ring: RingBuf<MapData>,
    gc: Gc,
    checker: Checker,
    recent: Recent,
    pulses: Pulses,
    pins: Pins,
    config: Current,
    commands: mpsc::Sender<Command>,
    commanded: mpsc::Receiver<Command>,
}

/// An agent at work.
pub struct Running {
    /// They end when one fails, or when they are told to stop.
    pub tasks: JoinSet<Result<(), RunError>>,
    pub commands: mpsc::Sender<Command>,
    pub stop: CancellationToken,
    /// What it does, for people.
    pub sentence: String,
    pub service: Arc<AgentService>,
    pub config: Current,
}

/// What is watched from the first moment on, and what an agent before left behind.
struct Begun {
    pins: Pins,
    changes: Changes,
    file: FileWatch,
    server: Server,
    deriver: Deriver,
    config: Arc<Config>,
}

/// Checks what can be refused, before anything is changed, and begins to watch.
fn begin(sources: &Sources, config: Config) -> Result<Begun, RunError> {
    if let Some(refusal) = doctor::refusals(&config).into_iter().next() {
        return Err(refusal.into());
    }
    let pins = Pins::new(&config.agent.bpffs);
    // Nothing that changes from now on is missed.
    let changes = Changes::subscribe()?;
    let file = FileWatch::new(sources.path());
    let server = Server::bind(&config.agent.control_socket)?;
    // What another agent knew of the cluster counts until this one knows.
    let deriver = Deriver::new(&config);
    let taken = derive::listening_ports();
    let config = Arc::new(config.derive(deriver.known(), |port| taken.contains(&port)));
    Ok(Begun {
        pins,
        changes,
        file,
        server,
        deriver,
        config,
    })
}

impl Daemon {
    /// Attaches the programs, fills the tables, and makes the parts of an agent.
    ///
    /// # Errors
    /// What would keep it from starting. What was attached is undone.
    pub async fn build(
        sources: Sources,
        config: Config,
        mode: Mode,
        pulses: Pulses,
        unserved: Problem,
    ) -> Result<Self, RunError> {
        let Begun {
            pins,
            changes,
            file,
            server,
            deriver,
            config,
        } = begin(&sources, config)?;
        let (starting, in_pins) = (Arc::clone(&config), pins.clone());
        let Attached {
            lock,
            attachment,
            map_writer,
            facts,
        } = tokio::task::spawn_blocking(move || attach(&starting, &in_pins, mode)).await??;

        let targets = translated_targets(&config, &facts.roles);
        let (config, current) = watch::channel(config);
        let (events, _) = broadcast::channel(events::BACKLOG);
        let (commands, commanded) = mpsc::channel(4);
        let live = Live::new(&attachment, &facts, 0, map_writer.left_out());
        let map_writer = Arc::new(Mutex::new(map_writer));
        let sweeps = Arc::new(Mutex::new(Sweeps::default()));
        let full = Arc::new(Notify::new());
        let refused = Arc::new(Mutex::new(BTreeMap::new()));
        let retry = Retry::new("the tables and interfaces are not up to date");
        let checker = Checker {
            map_writer: Arc::clone(&map_writer),
            asked: Arc::new(Notify::new()),
            retry: Retry::new("the tables cannot be checked"),
            repaired: Arc::default(),
            pulse: pulses.of("check"),
        };
        let check = Arc::clone(&checker.asked);
        let follower = Follower::configured(&current.borrow().topology);
        let configured = follower.reporter(discovery::sources::configured::id());
        configured.facts(
            discovery::sources::configured::facts(&current.borrow()),
            None,
        );
        let resolver = Resolver::new(current.clone(), follower.subscribe(), deriver);
        let resolved = resolver.subscribe();
        let plane = Plane::new(current.clone(), follower.subscribe(), pins.clone());
        let [served, captured] = plane.problems();
        let reattached = Arc::clone(&attachment.repaired);
        let attachment = Arc::new(Mutex::new(attachment));
        let more = Arc::new(Notify::new());
        let recent = Recent::default();
        let relays = Arc::new(Relays::default());
        let service = Arc::new(AgentService::new(
            Watched {
                config: current.clone(),
                pins: pins.clone(),
                sweeps: Arc::clone(&sweeps),
                refused: Arc::clone(&refused),
                retried: [
                    retry.problem(),
                    checker.retry.problem(),
                    unserved,
                    served,
                    captured,
                ],
                questions: plane.counters(),
                repaired: Arc::clone(&checker.repaired),
                topology: follower.subscribe(),
                resolved: resolved.clone(),
                pulses: pulses.clone(),
                attachment: Arc::clone(&attachment),
                reattached: Arc::clone(&reattached),
                drifted: Arc::clone(&more),
                recent: recent.clone(),
                relays: Arc::clone(&relays),
            },
            live,
            events.clone(),
            commands.clone(),
        ));
        let learner = Learner {
            pins: pins.clone(),
            events: events.subscribe(),
            reporter: follower.reporter(learned::id()),
            addressed: follower.reporter(learned::addressed_id()),
            topology: follower.subscribe(),
            pulse: pulses.of("learn"),
        };
        let relay = Relay::new(
            pins.clone(),
            current.clone(),
            events.subscribe(),
            relays,
            Arc::clone(&reattached),
        );
        let event_reader = events::EventReader {
            config: current.clone(),
            events: events.clone(),
            full: Arc::clone(&full),
            refused,
        };
        // Here, and not in the task: an agent that says that it is ready does not end for want of a descriptor.
        let ring = Tables::events(&pins)?;
        let gc = Gc {
            config: current.clone(),
            pins: pins.clone(),
            map_writer: Arc::clone(&map_writer),
            events,
            full,
            sweeps,
            check: Arc::clone(&check),
            pulse: pulses.of("sweep"),
        };
        let agent = Agent {
            sources,
            config,
            changes,
            file,
            pins: pins.clone(),
            lock: Arc::new(lock),
            attachment,
            more,
            map_writer,
            service: Arc::clone(&service),
            follower,
            configured,
            resolved,
            targets,
            refused: None,
            is_told: false,
            names: BTreeSet::new(),
            drained: BTreeSet::new(),
            routes: None,
            retry,
            check,
            pulse: pulses.of("agent"),
        };
        Ok(Self {
            agent,
            service,
            server,
            learner,
            resolver,
            relay,
            plane,
            events: event_reader,
            ring,
            gc,
            checker,
            recent,
            pulses,
            pins,
            config: current,
            commands,
            commanded,
        })
    }

    /// Starts its tasks. In the runtime that runs them.
    pub fn spawn(mut self) -> Running {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.learner.run(stop.clone()));
        tasks.spawn(self.resolver.run(stop.clone()));
        let (relay, stopped) = (self.relay, stop.clone());
        tasks.spawn(async move {
            relay.run(stopped).await;
            Ok(())
        });
        tasks.spawn(self.plane.run(stop.clone()));
        tasks.spawn(self.events.run(self.ring, stop.clone()));
        tasks.spawn(self.gc.run(stop.clone()));
        tasks.spawn(self.checker.run(stop.clone()));
        tasks.spawn(self.recent.run(self.pins, stop.clone()));
        tasks.spawn(tell::problems(Arc::clone(&self.service), stop.clone()));
        let (server, serving, stopped) = (self.server, Arc::clone(&self.service), stop.clone());
        tasks.spawn(async move {
            let stopped = async move { stopped.cancelled().await };
            server.serve(serving, stopped).await;
            Ok(())
        });
        let (beating, stopped) = (self.pulses, stop.clone());
        tasks.spawn(async move {
            stopped.run_until_cancelled(beating.beat()).await;
            Ok(())
        });
        self.agent.begin();
        let sentence = self.agent.sentence();
        log::info!("{sentence}");
        tasks.spawn(self.agent.run(self.commanded, stop.clone()));
        Running {
            tasks,
            commands: self.commands,
            stop,
            sentence,
            service: self.service,
            config: self.config,
        }
    }
}

impl Running {
    /// Waits until it is to end: by a signal, by a detach, or because a task has failed.
    ///
    /// # Errors
    /// What has failed.
    pub async fn wait(
        &mut self,
        signals: &mut Signals,
        pulses: &Pulses,
        metrics: &watch::Sender<Option<SocketAddr>>,
    ) -> Result<(), RunError> {
        let mut watchdog = notify::watchdog();
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::End => return Ok(()),
                    // If there is no room, it is going to be read anyway.
                    Signal::Reload => drop(self.commands.try_send(Command::Reload)),
                },
                () = tick(&mut watchdog) => if pulses.hanging().is_empty() {
                    notify::alive();
                },
                () = self.stop.cancelled() => return Ok(()),
                Ok(()) = self.config.changed() => {
                    let wanted = self.config.borrow_and_update().agent.metrics;
                    metrics.send_if_modified(|address| std::mem::replace(address, wanted) != wanted);
                }
                Some(task) = self.tasks.join_next() => task??,
            }
        }
    }

    /// Tells its tasks to stop, and waits until they have, for [`GOODBYE`] at the most.
    pub async fn drain(mut self, pulses: &Pulses) {
        self.stop.cancel();
        let ending = async {
            while let Some(task) = self.tasks.join_next().await {
                if let Ok(Err(error)) = task {
                    log::warn!("{error}");
                }
            }
        };
        if timeout(GOODBYE, ending).await.is_err() {
            let hanging = pulses.hanging();
            log::warn!("Not everything ended in time; {}", hanging.join("; "));
        }
    }
}

/// Waits for the next tick, or for ever.
async fn tick(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

/// What is in the kernel when it started.
struct Attached {
    lock: datapath::Lock,
    attachment: Attachment,
    map_writer: MapWriter,
    facts: Facts,
}

fn attach(config: &Arc<Config>, pins: &Pins, mode: Mode) -> Result<Attached, RunError> {
    let mut requests = Requests::open()?;
    let mut inventory = requests.inventory()?;
    inventory.routes = requests.routes()?;
    netlink::check_named(&inventory, &config.datapath.interfaces)?;
    // Nothing is known of the cluster yet: services keep the targets that they have.
    let roles = Arc::default();
    let targets = translated_targets(config, &roles);
    let facts = requests.facts(&inventory, &targets, roles)?;
    let existed = pins.exist();
    let lock = pins.prepare()?;
    match load(config, pins, mode, &inventory, &facts) {
        Ok((attachment, map_writer)) => Ok(Attached {
            lock,
            attachment,
            map_writer,
            facts,
        }),
        Err(error) => {
            if !existed
                && let Err(error) = datapath::undo(pins, &mut requests, &inventory, &lock, mode)
            {
                log::error!("Cannot undo the start: {error}");
            }
            Err(error)
        }
    }
}

/// Loads the programs, fills the tables, and attaches.
fn load(
    config: &Arc<Config>,
    pins: &Pins,
    mode: Mode,
    inventory: &Inventory,
    facts: &Facts,
) -> Result<(Attachment, MapWriter), RunError> {
    let sizes = &config.datapath;
    datapath::migrate(pins, sizes)?;
    let object = Object::open(pins, sizes)?;
    let last_s = datapath::copy_tables(pins)?;
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
    let mut map_writer = MapWriter::open(Arc::clone(config), pins)?;
    // Until everything is attached, the tables are as an agent before left them: so they stay if something cannot be.
    let mut attachment =
        Attachment::start(programs, Wanted::of(config), agent::xdp(config), inventory)?;
    if !config.services.is_empty() {
        agent::prepare_host(pins, config, facts);
    }
    if let Err(error) = map_writer.follow(facts) {
        attachment.undo();
        return Err(error.into());
    }
    attachment.finish(inventory)?;
    // Those that began with the old programs meanwhile.
    datapath::copy_connections(pins, last_s)?;
    datapath::remove_old_versions(pins)?;
    Ok((attachment, map_writer))
}
