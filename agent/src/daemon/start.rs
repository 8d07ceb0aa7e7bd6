//! Starting: everything that can be refused is checked before the kernel is touched; what is touched is undone if the start fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use tokio::{
    sync::{Notify, broadcast, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Command, Current, RunError,
    agent::{self, Agent},
    attachment::Attachment,
    map_writer::{Keeper, translated_targets},
    pulse::Pulses,
    retry::{Problem, Retry},
    service::{AgentService, Live, Watched},
    tasks::{
        derive::{self, Deriver},
        drift::Checker,
        events,
        gc::{Sweeper, Sweeps},
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

/// Starts an agent. In the runtime that runs its tasks.
pub async fn start(
    sources: Sources,
    config: Config,
    mode: Mode,
    pulses: Pulses,
    unserved: Problem,
) -> Result<Running, RunError> {
    // What can be refused, before anything is changed.
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
    let starting = Arc::clone(&config);
    let in_pins = pins.clone();
    let Attached {
        lock,
        attachment,
        keeper,
        facts,
    } = tokio::task::spawn_blocking(move || attach(&starting, &in_pins, mode)).await??;

    let targets = translated_targets(&config, &facts.roles);
    let (config, current) = watch::channel(config);
    let (events, _) = broadcast::channel(events::BACKLOG);
    let (commands, commanded) = mpsc::channel(4);
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
    let standing = resolver.subscribe();
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
            standing: standing.clone(),
            pulses: pulses.clone(),
            attachment: Arc::clone(&attachment),
            reattached,
            drifted: Arc::clone(&more),
            recent: recent.clone(),
            relays: Arc::clone(&relays),
        },
        live,
        events.clone(),
        commands.clone(),
    ));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let learner = Learner {
        pins: pins.clone(),
        events: events.subscribe(),
        reporter: follower.reporter(learned::id()),
        addressed: follower.reporter(learned::addressed_id()),
        topology: follower.subscribe(),
        pulse: pulses.of("learn"),
    };
    tasks.spawn(learner.run(stop.clone()));
    tasks.spawn(resolver.run(stop.clone()));
    let relay = Relay::new(pins.clone(), current.clone(), events.subscribe(), relays);
    let stopped = stop.clone();
    tasks.spawn(async move {
        relay.run(stopped).await;
        Ok(())
    });
    tasks.spawn(plane.run(stop.clone()));
    let drain = events::Drain {
        config: current.clone(),
        events: events.clone(),
        full: Arc::clone(&full),
        refused,
    };
    // Here, and not in the task: an agent that says that it is ready does not end for want of a descriptor.
    let ring = Tables::events(&pins)?;
    tasks.spawn(drain.run(ring, stop.clone()));
    let sweeper = Sweeper {
        config: current.clone(),
        pins: pins.clone(),
        keeper: Arc::clone(&keeper),
        events,
        full,
        sweeps,
        check: Arc::clone(&check),
        pulse: pulses.of("sweep"),
    };
    tasks.spawn(sweeper.run(stop.clone()));
    tasks.spawn(checker.run(stop.clone()));
    tasks.spawn(recent.run(pins.clone(), stop.clone()));
    tasks.spawn(tell::problems(Arc::clone(&service), stop.clone()));
    let (serving, stopped) = (Arc::clone(&service), stop.clone());
    tasks.spawn(async move {
        let stopped = async move { stopped.cancelled().await };
        server.serve(serving, stopped).await;
        Ok(())
    });
    let (beating, stopped) = (pulses.clone(), stop.clone());
    tasks.spawn(async move {
        stopped.run_until_cancelled(beating.beat()).await;
        Ok(())
    });
    let mut agent = Agent {
        sources,
        config,
        changes,
        file,
        pins,
        lock: Arc::new(lock),
        attachment,
        more,
        keeper,
        service: Arc::clone(&service),
        follower,
        configured,
        standing,
        targets,
        refused: None,
        is_told: false,
        names: BTreeSet::new(),
        routes: None,
        retry,
        check,
        pulse: pulses.of("agent"),
    };
    agent.begin();
    let sentence = agent.sentence();
    log::info!("{sentence}");
    tasks.spawn(agent.run(commanded, stop.clone()));
    Ok(Running {
        tasks,
        commands,
        stop,
        sentence,
        service,
        config: current,
    })
}

/// What is in the kernel when it started.
struct Attached {
    lock: datapath::Lock,
    attachment: Attachment,
    keeper: Keeper,
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
        Ok((attachment, keeper)) => Ok(Attached {
            lock,
            attachment,
            keeper,
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
) -> Result<(Attachment, Keeper), RunError> {
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
    let mut keeper = Keeper::open(Arc::clone(config), pins)?;
    // Until everything is attached, the tables are as an agent before left them: so they stay if something cannot be.
    let mut attachment =
        Attachment::start(programs, Wanted::of(config), agent::xdp(config), inventory)?;
    if !config.services.is_empty() {
        agent::prepare_host(pins, config, facts);
    }
    if let Err(error) = keeper.follow(facts) {
        attachment.undo();
        return Err(error.into());
    }
    attachment.finish(inventory)?;
    // Those that began with the old programs meanwhile.
    datapath::copy_connections(pins, last_s)?;
    datapath::remove_old_versions(pins)?;
    Ok((attachment, keeper))
}
