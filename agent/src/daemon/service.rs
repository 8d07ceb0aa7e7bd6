//! The answers of the control API.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use truename_common::layout::{
    Conntrack, ConntrackState, Counter, FiveTuple, RpcFlow, VERSION, bytes,
};

use super::{
    Command, Current,
    attachment::Attachment,
    problems::{self, History},
    pulse::Pulses,
    retry::Problem,
    rows::{
        alias,
        attempts::{self, Attempts},
        behind::Behind,
        endpoint, flow,
        name::Names,
        peer, service,
    },
    tables::KernelTables,
    tasks::{
        gc::{self, Sweeps},
        recent::{self, Recent},
        resolve::ResolvedRoles,
    },
};
use crate::{
    api::{
        self, CapturedRow, Clock, Code, EventRow, Finding, FlowFilter, FlowState, InterfaceRow,
        ProgramRow, RelayRow, Request, Response, Service, ServiceRow, ServiceTarget, State, Status,
        Timestamp,
    },
    config::{self, Config},
    datapath::{Captured, DatapathError, Pins, ServiceTables, Steering, Tables},
    discovery::{Snapshot, locate, names::inquiry::Inquiry},
    dns::Counters,
    doctor,
    explain::{Asked, Explanation, Found, Host, Question, explain},
    name::{Authority, shown},
    netlink::Requests,
    plan::{self, Facts},
    relay::{self, Relays},
};

/// What changes while the agent runs.
pub struct Live {
    interfaces: Vec<InterfaceRow>,
    missing: Vec<String>,
    programs: Vec<ProgramRow>,
    /// What of the configuration is left out.
    left_out: Vec<String>,
    mode: &'static str,
    facts: Facts,
    /// The generation of the topology that the tables are made from.
    generation: u64,
}

/// What others count while the agent runs, and where the tables are.
pub struct Watched {
    pub config: Current,
    pub pins: Pins,
    pub sweeps: Arc<Mutex<Sweeps>>,
    /// Connections that were refused, by service.
    pub refused: Arc<Mutex<BTreeMap<String, u64>>>,
    /// What is tried again.
    pub retried: [Problem; 5],
    /// Questions for names.
    pub questions: Arc<Counters>,
    /// Entries of tables that somebody else changed and that were repaired.
    pub repaired: Arc<AtomicU64>,
    /// What is known of the cluster.
    pub topology: watch::Receiver<Snapshot>,
    /// What is known of the roles that targets have.
    pub resolved: watch::Receiver<ResolvedRoles>,
    /// Which tasks hang.
    pub pulses: Pulses,
    /// What is attached.
    pub attachment: Arc<Mutex<Attachment>>,
    /// How much that somebody else took off was brought back.
    pub reattached: Arc<AtomicU64>,
    /// Is told when somebody else took off what is attached.
    pub drifted: Arc<Notify>,
    /// What was counted lately.
    pub recent: Recent,
    /// What is relayed.
    pub relays: Arc<Relays>,
}

/// Reads the kernel tables for clients.
pub struct AgentService {
    inner: Arc<Inner>,
    inquiry: Inquiry,
    events: broadcast::Sender<EventRow>,
    commands: mpsc::Sender<Command>,
}

struct Inner {
    watched: Watched,
    started: Timestamp,
    live: Mutex<Live>,
    /// Why the configuration that was read last is not in force.
    refused: Mutex<Option<String>>,
    /// When problems came and went.
    history: Mutex<History>,
}

impl Live {
    /// The state of an attachment, of the host and of the plan.
    pub fn new(
        attachment: &Attachment,
        facts: &Facts,
        generation: u64,
        left_out: &[String],
    ) -> Self {
        Self {
            interfaces: attachment.rows(),
            missing: attachment.missing(),
            programs: attachment.programs(),
            left_out: left_out.to_vec(),
            mode: attachment.mode().name(),
            facts: facts.clone(),
            generation,
        }
    }

    /// Takes on what is attached now.
    fn attached(&mut self, attachment: &Attachment) {
        self.interfaces = attachment.rows();
        self.missing = attachment.missing();
        self.programs = attachment.programs();
    }
}

impl AgentService {
    pub fn new(
        watched: Watched,
        live: Live,
        events: broadcast::Sender<EventRow>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let inner = Inner {
            watched,
            started: Timestamp::now(),
            live: Mutex::new(live),
            refused: Mutex::default(),
            history: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
            inquiry: Inquiry::of_host(),
            events,
            commands,
        }
    }

    /// What is wrong with the sources of the topology, without a look into the tables.
    pub fn source_problems(&self) -> Vec<Finding> {
        let topology = self.inner.watched.topology.borrow();
        api::topology::problems(&topology, &Clock::read())
    }

    /// Tells of changed attachments.
    pub fn update(&self, live: Live) {
        *self.inner.live.lock() = live;
    }

    /// Tells why the configuration that was read last is not in force, if it is not.
    pub fn refuse(&self, reason: Option<String>) {
        let mut refused = self.inner.refused.lock();
        *refused = reason;
    }

    /// Reads tables where that may take its time.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Inner) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, String> {
        let inner = Arc::clone(&self.inner);
        let read = tokio::task::spawn_blocking(move || read(&inner)).await;
        read.map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    async fn names(&self) -> Result<Response, String> {
        let names = self.blocking(Inner::names).await?;
        let found = self.inquiry.all(names.hosts()).await;
        Ok(Response::Names(names.rows(&found, &Clock::read())))
    }

    /// Resolves the names of a question, and answers it.
    async fn explain(&self, asked: Asked) -> Result<Response, String> {
        let topology = Arc::clone(&self.inner.watched.topology.borrow().topology);
        let sides = [
            (&asked.from, asked.sender()?),
            (&asked.to.host, asked.receiver()?),
        ];
        let mut hosts = Vec::new();
        for name in sides.iter().filter_map(|(_, name)| name.as_ref()) {
            // Only what is not known otherwise is looked up.
            let _ = locate(name, &topology, |host| {
                hosts.push(host.to_owned());
                Err(String::new())
            });
        }
        let answers = self.inquiry.all(hosts).await;
        let find = |(host, name): &(&Host, Option<Authority>)| {
            let name = match (host, name) {
                (Host::Address(address), _) => {
                    return Ok(Found {
                        addresses: vec![*address],
                        how: None,
                    });
                }
                (Host::Name(_), None) => return Err("it is no name".to_owned()),
                (Host::Name(_), Some(name)) => name,
            };
            let look_up = |host: &str| {
                let open = || Err("it was not looked up".to_owned());
                answers.get(host).cloned().unwrap_or_else(open)
            };
            let location = locate(name, &topology, look_up);
            let location = location.map_err(|why| format!("{host} cannot be found: {why}"))?;
            Ok(Found {
                addresses: location.addresses,
                how: Some(location.how.word().to_owned()),
            })
        };
        let (question, names) = asked.question(&find(&sides[0])?, &find(&sides[1])?)?;
        let [_, (_, alias)] = sides;
        let read = move |inner: &Inner| {
            let tables = Tables::open(&inner.watched.pins)?;
            inner.explain(&tables, &question)
        };
        let mut explanation = self.blocking(read).await?;
        let endpoint = explanation.target().map_or(explanation.to, |(_, at)| at);
        let is_relayed = self.inner.watched.relays.serves(relay::socket(endpoint));
        explanation.name(names, alias.as_ref().map(Authority::as_str), is_relayed);
        Ok(Response::Explanation(Box::new(explanation)))
    }

    /// Has a target drained or resumed, and answers what it is like then.
    async fn drain(&self, target: ServiceTarget, is_drained: bool) -> Result<Response, String> {
        let (done, answer) = oneshot::channel();
        let (asked, stopping) = (target.clone(), || "the agent is stopping".to_owned());
        let command = Command::Drain {
            target,
            is_drained,
            done,
        };
        self.commands.send(command).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())??;
        let rows = self.blocking(Inner::services).await?;
        let address = asked.target.to_string();
        let row = rows.into_iter().find(|row| row.name == asked.service);
        let mut targets = row.into_iter().flat_map(|row| row.targets);
        targets
            .find(|target| target.address.as_ref() == Some(&address))
            .map(Response::Target)
            .ok_or_else(|| format!("the target {address} is gone"))
    }

    async fn detach(&self) -> Response {
        let (done, answer) = oneshot::channel();
        if self.commands.send(Command::Detach(done)).await.is_err() {
            return Response::Error("the agent is stopping".to_owned());
        }
        match answer.await {
            Ok(Ok(links)) => Response::Detached(links),
            Ok(Err(error)) => Response::Error(error),
            Err(_) => Response::Error("the agent is stopping".to_owned()),
        }
    }
}

impl Service for AgentService {
    async fn answer(&self, request: Request) -> Response {
        let answer = match request {
            Request::Detach => return self.detach().await,
            Request::Names => self.names().await,
            Request::Drain(target) => self.drain(target, true).await,
            Request::Resume(target) => self.drain(target, false).await,
            Request::Explain(asked) => self.explain(asked).await,
            request => self.blocking(move |inner| inner.read(&request)).await,
        };
        answer.unwrap_or_else(Response::Error)
    }

    fn subscribe(&self) -> broadcast::Receiver<EventRow> {
        self.events.subscribe()
    }
}

impl Inner {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock()
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.watched.config.borrow())
    }

    fn read(&self, request: &Request) -> Result<Response, DatapathError> {
        // Before the tables are opened: what is lost is brought back then.
        let drift = match request {
            Request::Status => self.drift()?,
            _ => Vec::new(),
        };
        let tables = Tables::open(&self.watched.pins)?;
        let config = &*self.config();
        if let Request::Flows(filter) | Request::Flush(filter) = request
            && let Some(why) = unknown(config, filter)
        {
            return Ok(Response::Error(why));
        }
        let clock = Clock::read();
        Ok(match request {
            Request::Status => Response::Status(Box::new(self.status(&tables, drift)?)),
            Request::Endpoints => Response::Endpoints(endpoint::endpoints(
                config,
                &tables.names()?,
                &tables.flow_keys()?,
            )),
            Request::Aliases => {
                let aliases = tables.aliases()?;
                let steered = Steering::open(&self.watched.pins)?.clients()?;
                let steered = steered.into_iter().collect();
                let behind = self.behind()?;
                let mut rows = alias::relayed_aliases(config, &clock, &self.watched.relays.rows());
                rows.extend(alias::aliases(config, &clock, &behind, &aliases, &steered));
                Response::Aliases(rows)
            }
            Request::Services => Response::Services(self.services()?),
            Request::Flows(filter) => {
                let services = ServiceTables::open(&self.watched.pins)?;
                let connections = connections(&services)?;
                let relayed = self.watched.relays.rows();
                let settings = services.settings()?;
                let flows = tables.flows()?;
                let mut rows = flow::flows(config, &clock, &settings, &connections, &flows);
                rows.splice(0..0, flow::relayed(config, &clock, &relayed));
                rows.retain(|row| filter.admits(row));
                rows.truncate(filter.limit.unwrap_or(usize::MAX));
                Response::Flows(rows)
            }
            Request::Flush(filter) => Response::Flushed(self.flush(tables, filter)?),
            Request::Peers => {
                let peers = tables.peers()?;
                Response::Peers(peer::peers(config, &clock, &self.behind()?, &peers))
            }
            Request::Topology => {
                let snapshot = self.watched.topology.borrow().clone();
                Response::Topology(api::topology::rows(&snapshot, &clock))
            }
            Request::Configuration => match config::to_toml(config) {
                Ok(toml) => Response::Configuration(toml),
                Err(error) => Response::Error(error.to_string()),
            },
            Request::Explain(_)
            | Request::Drain(_)
            | Request::Resume(_)
            | Request::Names
            | Request::Monitor
            | Request::Detach => Response::Error("this is no question about tables".to_owned()),
        })
    }

    /// The clients that targets do not see.
    fn behind(&self) -> Result<Behind, DatapathError> {
        let mut behind = Behind::default();
        let services = ServiceTables::open(&self.watched.pins)?;
        services.visit_connections(|key, entry| behind.note(&key, &entry))?;
        Ok(behind)
    }

    fn names(&self) -> Result<Names, DatapathError> {
        let topology = Arc::clone(&self.watched.topology.borrow().topology);
        let (pins, config) = (&self.watched.pins, self.config());
        let captured = self.captured(&config)?.unwrap_or_default();
        Names::read(pins, &config, topology, captured)
    }

    /// What is answered to containers, if that is wanted.
    fn captured(&self, config: &Config) -> Result<Option<Captured>, DatapathError> {
        let captured = || Captured::read(&self.watched.pins);
        config.captures_names().then(captured).transpose()
    }

    fn services(&self) -> Result<Vec<ServiceRow>, DatapathError> {
        let services = ServiceTables::open(&self.watched.pins)?;
        // Reading all connections takes a while; the task that counts refusals must not wait for it.
        let refused = &self.watched.refused;
        let refused = refused.lock();
        let refused = refused.clone();
        let config = &*self.config();
        let connections = connections(&services)?;
        let mut attempts = Attempts::new(config, &Clock::read());
        for (key, entry) in &connections {
            attempts.note(key, entry);
        }
        let known = service::Known {
            services: &services.services()?,
            targets: &services.targets()?,
            connections: &connections,
            attempts: &attempts,
            refused: &refused,
            facts: &self.live().facts.clone(),
        };
        Ok(service::services(config, &known))
    }

    /// Forgets flows; how many there were.
    fn flush(&self, mut tables: Tables, filter: &FlowFilter) -> Result<usize, DatapathError> {
        let (config, clock) = (&*self.config(), Clock::read());
        let mut services = ServiceTables::open(&self.watched.pins)?;
        let (settings, connections) = (services.settings()?, connections(&services)?);
        let by_frontend = config::index::Services::new(config);
        let is_meant = |key: &FiveTuple, entry: Option<&Conntrack>, flow: Option<&RpcFlow>| {
            let row = flow::row(config, &by_frontend, &clock, &settings, key, entry, flow);
            filter.admits(&row)
        };
        let mut count = 0;
        for key in tables.flow_keys()? {
            let flow = tables.flow(&key)?;
            if !connections.contains_key(&key)
                && is_meant(&key, None, flow.as_ref())
                && tables.remove_flow(&key)?
            {
                count += 1;
            }
        }
        for (key, entry) in &connections {
            let flow = tables.flow(key)?;
            if is_meant(key, Some(entry), flow.as_ref()) {
                gc::forget(&mut services, &mut tables, key)?;
                count += 1;
            }
        }
        log::info!("Forgot {count} flow(s) on request");
        Ok(count)
    }

    fn explain(&self, tables: &Tables, question: &Question) -> Result<Explanation, DatapathError> {
        let services = ServiceTables::open(&self.watched.pins)?;
        let config = &*self.config();
        let source = KernelTables {
            config,
            tables,
            services: &services,
        };
        let mut explanation = explain(&source, question, |address| {
            self.live().facts.is_local(address)
        });
        let leaves = self.live().facts.is_local(question.from.to_canonical());
        // As the host's routes are: who sends may have others.
        let other_end = if leaves {
            question.to.ip()
        } else {
            question.from
        };
        let mut requests = Requests::open()?;
        if let Some(index) = requests.interface_to(other_end.to_canonical())? {
            let inventory = requests.inventory()?;
            let interface = inventory.interfaces.get(&index);
            let name = interface.map_or_else(|| index.to_string(), |known| known.name.clone());
            let live = self.live();
            let mut rows = live.interfaces.iter();
            let attached = rows.any(|row| row.index == index && row.program.is_some());
            explanation.arrive(name, leaves, attached);
        }
        explanation.notes = self.doubts(config, &explanation, &services, &mut requests)?;
        explanation.notes.extend(self.relayed(tables, question)?);
        Ok(explanation)
    }

    /// Why a packet may come to nothing although the tables translate it.
    fn doubts(
        &self,
        config: &Config,
        explanation: &Explanation,
        services: &ServiceTables,
        requests: &mut Requests,
    ) -> Result<Vec<String>, DatapathError> {
        let Some(service) = explanation.service() else {
            return Ok(Vec::new());
        };
        let live = self.live();
        let mut doubts = plan::unencrypted(config, &live.facts);
        doubts.extend(live.left_out.iter().cloned());
        let its = format!("the service \"{service}\"");
        doubts.retain(|doubt| doubt.contains(&its));
        let Some((_, target)) = explanation.target() else {
            return Ok(doubts);
        };
        let (mut used, mut attempts) = (0, Attempts::new(config, &Clock::read()));
        services.visit_connections(|key, entry| {
            used += 1;
            attempts.note(&key, &entry);
        })?;
        if used >= services.capacity() {
            doubts.push("the connection table is full: a new connection waits for room".to_owned());
        }
        let alias = explanation.to.ip();
        doubts.extend(attempts::unassigned(service, alias, &live.facts, requests)?);
        let address = bytes(target.ip());
        let problem = attempts.problem(service, address, target.port(), requests)?;
        let is_told = problem.is_some();
        doubts.extend(problem.map(|found| found.sentence));
        if live.facts.is_local(target.ip()) {
            return Ok(doubts);
        }
        doubts.extend(attempts::unfollowed(&requests.unfollowed_rules()?));
        if !is_told && requests.is_unreachable(target.ip())? {
            doubts.push(format!("{target}: {}", attempts::UNHEARD));
        }
        if let Some(index) = requests.interface_to(target.ip())? {
            let mut rows = live.interfaces.iter();
            if !rows.any(|row| row.index == index && row.program.is_some()) {
                doubts.push(format!(
                    "answers of {target} come in by interface {index}, which is not attached: they are not translated back"
                ));
            }
        }
        Ok(doubts)
    }

    /// What the relay has to do with a client.
    fn relayed(&self, tables: &Tables, question: &Question) -> Result<Vec<String>, DatapathError> {
        let aliases = tables.aliases()?;
        let (client, endpoint) = (bytes(question.from), bytes(question.to.ip()));
        let of_client = aliases.iter().filter(|(key, stat)| {
            let is_asked = key.client == client && key.endpoint.address == endpoint;
            is_asked && key.endpoint.port == question.to.port() && stat.no_fit != 0
        });
        let notes = of_client.map(|(key, stat)| {
            let done = if self.watched.relays.serves(key.endpoint) {
                RELAYED
            } else {
                problems::TOO_LONG
            };
            too_long(stat.alias, done)
        });
        // The kernel program does not see the names of relayed connections.
        let rows = self
            .watched
            .relays
            .rows()
            .into_iter()
            .filter(|row| (row.client.ip(), row.endpoint) == (question.from, question.to));
        let relayed = rows.filter_map(|row| {
            let alias = row.alias?;
            Some(if alias.len > row.canonical.len {
                too_long(alias, RELAYED)
            } else {
                format!(
                    "the alias {alias} fits: the client's first connection is relayed, and later ones are translated in place"
                )
            })
        });
        let notes: BTreeSet<String> = notes.chain(relayed).collect();
        Ok(notes.into_iter().collect())
    }

    /// What somebody else took away or replaced, and what is not attached yet.
    fn drift(&self) -> Result<Vec<Finding>, DatapathError> {
        let Some(attachment) = self.try_attachment() else {
            let sentence = "programs are being attached or removed";
            return Ok(vec![Finding::new(Code::Attaching, sentence)]);
        };
        // What is shown is as new as what is told.
        self.live().attached(&attachment);
        let inventory = Requests::open()?.inventory()?;
        let mut drift = attachment.drift(&inventory)?;
        if !drift.is_empty() {
            self.watched.drifted.notify_one();
        }
        let unsteered = self.watched.relays.lost(&self.watched.pins)?;
        if !unsteered.is_empty() {
            self.watched.relays.look();
        }
        drift.extend(unsteered);
        let lost = drift
            .iter()
            .map(|lost| format!("somebody else removed or replaced {lost}; it is brought back"));
        let mut found: Vec<_> = Finding::all(Code::Removed, lost).collect();
        if attachment.pending() > 0 {
            let pending = attachment.pending();
            let sentence = format!("{pending} interface(s) are not attached yet");
            found.push(Finding::new(Code::Attaching, sentence));
        }
        Ok(found)
    }

    /// The attachment, unless it is in use for long.
    fn try_attachment(&self) -> Option<MutexGuard<'_, Attachment>> {
        /// Longer than a slice of attaching, as a rule.
        const PATIENCE: Duration = Duration::from_secs(1);
        self.watched.attachment.try_lock_for(PATIENCE)
    }

    fn status(&self, tables: &Tables, drift: Vec<Finding>) -> Result<Status, DatapathError> {
        let clock = Clock::read();
        let counters = tables.counters()?;
        let services = ServiceTables::open(&self.watched.pins)?;
        let config = &*self.config();
        let (mut connections, mut attempts) = (0, Attempts::new(config, &clock));
        services.visit_connections(|key, entry| {
            connections += 1;
            attempts.note(&key, &entry);
        })?;
        // The kernel is asked before anything is locked.
        let mut requests = Requests::open()?;
        let mut unanswered = attempts.problems(&mut requests)?;
        let recent = self.watched.recent.since(&counters);
        let dropped = problems::count(&recent, Counter::NatNoRoute);
        let facts = self.live().facts.clone();
        unanswered.extend(attempts::unreachable(
            config,
            &facts,
            dropped,
            &mut requests,
        )?);
        let mut notes = attempts.notes(config, &facts, &mut requests)?;
        match requests.unanswered(config.aliases()) {
            Ok(aliases) => notes.extend(doctor::unanswered(&aliases)),
            Err(error) => log::debug!("{error}"),
        }
        notes.extend(problems::too_long(&tables.aliases()?, &self.watched.relays));
        let topology = Arc::clone(&self.watched.topology.borrow().topology);
        notes.extend(api::topology::claimed(&topology));
        let captured = self.captured(config)?;
        let sweeps = self.watched.sweeps.lock().clone();
        let live = self.live();
        let (used, capacity) = (connections, services.capacity());
        let hanging = self.watched.pulses.hanging();
        let mut found = problems::of_interfaces(&live.interfaces, &live.missing);
        found.extend(problems::of_names(config, &recent));
        found.extend(problems::of_relays(config, &recent, &self.watched.relays));
        found.extend(sweeps.mistaken);
        found.extend(Finding::all(Code::LeftOut, live.left_out.iter().cloned()));
        found.extend(drift);
        let refused = self.refused.lock();
        let refused = refused.iter();
        let refused = refused.map(|error| format!("a new configuration is not used: {error}"));
        found.extend(Finding::all(Code::ConfigurationRefused, refused));
        found.extend(Finding::all(Code::TaskHangs, hanging.iter().cloned()));
        let retried = self.watched.retried.iter().filter_map(Problem::sentence);
        found.extend(Finding::all(Code::TriedAgain, retried));
        let topology = self.watched.topology.borrow();
        found.extend(api::topology::problems(&topology, &clock));
        drop(topology);
        let resolved = self.watched.resolved.borrow().problems.clone();
        found.extend(Finding::all(Code::RoleUnknown, resolved));
        found.extend(problems::of_services(
            config,
            &live.facts,
            &recent,
            used,
            capacity,
        ));
        found.extend(unanswered);
        let mut history = self.history.lock();
        let details = history.note(&found, Timestamp::now());
        let problems: Vec<_> = found.into_iter().map(|found| found.sentence).collect();
        Ok(Status {
            state: if problems.is_empty() {
                State::Ok
            } else {
                State::Degraded
            },
            problems,
            problem_details: details,
            past_problems: history.past(),
            notes,
            hanging,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            table_version: VERSION,
            pid: std::process::id(),
            started: self.started,
            config: config.file.clone(),
            control_socket: config.agent.control_socket.clone(),
            bpffs: config.agent.bpffs.clone(),
            attach_mode: live.mode.to_owned(),
            interfaces: live.interfaces.clone(),
            programs: live.programs.clone(),
            endpoints: config.endpoints.len(),
            services: config.services.len(),
            connections,
            connection_capacity: services.capacity(),
            evicted: sweeps.evicted,
            repaired: self.watched.repaired.load(Ordering::Relaxed),
            reattached: self.watched.reattached.load(Ordering::Relaxed),
            port_tries: services.tries()?,
            sweep: sweeps.last,
            topology: api::topology::cluster(
                &self.watched.topology.borrow(),
                live.generation,
                &clock,
            ),
            flows: tables.flow_keys()?.len(),
            flow_capacity: tables.flow_capacity(),
            relay: config.relays().then(|| relay_row(&self.watched.relays)),
            questions: self.watched.questions.read(),
            captured: captured.map(|captured| captured_row(captured, &live.interfaces, &counters)),
            counters: counters
                .into_iter()
                .map(|(counter, value)| (counter.label().to_owned(), value))
                .collect(),
        })
    }
}

/// What is done with connections whose alias is too long, where there is a relay.
const RELAYED: &str = "its connections are relayed";

/// Says that an alias is too long, and what is done.
fn too_long(alias: impl std::fmt::Display, done: &str) -> String {
    format!("the alias {alias} is longer than the canonical name: {done}")
}

fn relay_row(relays: &Relays) -> RelayRow {
    let totals = relays.totals();
    RelayRow {
        endpoints: relays.endpoints(),
        connections: totals.open,
        capacity: totals.limit,
        relayed: totals.accepted,
        refused: totals.refused,
        failed: totals.failed,
        silent: totals.silent,
        unchanged: totals.unchanged,
    }
}

fn captured_row(
    captured: Captured,
    interfaces: &[InterfaceRow],
    counters: &recent::Counters,
) -> CapturedRow {
    let attached = interfaces.iter().filter(|row| row.program.is_some());
    let behind = attached.filter(|row| captured.interfaces.contains(&row.index));
    CapturedRow {
        interfaces: behind.map(|row| row.name.clone()).collect(),
        hosts: captured.hosts.into_iter().collect(),
        answered: problems::count(counters, Counter::NamesCaptured),
        passed: problems::count(counters, Counter::NamesPassed),
    }
}

/// Why a filter means nothing, if it names nothing that there is.
fn unknown(config: &Config, filter: &FlowFilter) -> Option<String> {
    let services = config.services.iter().map(|service| &service.name);
    let endpoints = config.endpoints.iter().map(|endpoint| &endpoint.name);
    let mut names = services.chain(endpoints);
    if let Some(name) = &filter.service
        && !names.any(|known| known == name)
    {
        let name = shown(name);
        return Some(format!("there is no service or endpoint \"{name}\""));
    }
    let states = FlowState::ALL.iter().map(|state| state.label());
    let mut states = states.chain(ConntrackState::ALL.iter().map(|state| state.label()));
    if let Some(state) = &filter.state
        && !states.any(|known| known == state)
    {
        let state = shown(state);
        return Some(format!("there is no state \"{state}\""));
    }
    None
}

fn connections(services: &ServiceTables) -> Result<BTreeMap<FiveTuple, Conntrack>, DatapathError> {
    let mut connections = BTreeMap::new();
    services.visit_connections(|key, entry| {
        connections.insert(key, entry);
    })?;
    Ok(connections)
}
