//! The agent at work: it follows the host and the configuration.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    Command, RunError,
    attachment::Attachment,
    detach,
    map_writer::{MapWriter, translated_targets},
    notify,
    pulse::Pulse,
    retry::Retry,
    service::{AgentService, Live},
    tasks::{derive::listening_ports, resolve::ResolvedRoles},
};
use crate::{
    api::ServiceTarget,
    config::{self, Config, ConfigError, OnChange, Sources},
    datapath::{DatapathError, Lock, Pins},
    discovery::{Follower, Reporter, sources::configured},
    doctor, logging,
    name::shown,
    netlink::{self, Changes, Inventory, Requests, Routes, Wanted},
    plan::{Facts, Roles, roles},
    sysctl,
    watch::FileWatch,
};

/// Why the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Somebody asked for it.
    Signal,
    /// A file of its directory is another one.
    File,
}

/// How far attaching got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// All that is wanted is attached.
    Complete,
    /// The turn of some has not come.
    Partial,
    /// Some could not be attached.
    Failed,
}

/// All that changes while the agent runs.
pub struct Agent {
    pub sources: Sources,
    /// The configuration in force.
    pub config: watch::Sender<Arc<Config>>,
    /// Tells when links, addresses or filters of this host have changed.
    pub changes: Changes,
    /// Tells when the configuration file has changed.
    pub file: FileWatch,
    pub pins: Pins,
    pub lock: Arc<Lock>,
    pub attachment: Arc<Mutex<Attachment>>,
    pub map_writer: Arc<Mutex<MapWriter>>,
    pub service: Arc<AgentService>,
    /// The sources of the topology; they end when it is dropped.
    pub follower: Follower,
    /// Tells what the configuration says of the cluster.
    pub configured: Reporter,
    /// What is known of the roles that targets have.
    pub resolved: watch::Receiver<ResolvedRoles>,
    /// Is told when attaching goes on, or somebody else took something off.
    pub more: Arc<Notify>,
    /// The targets whose packets get another source address.
    pub targets: BTreeSet<IpAddr>,
    /// Why the configuration that was read last is not in force.
    pub refused: Option<String>,
    /// Somebody wants the configuration to be read, which is done when its file rests.
    pub is_told: bool,
    /// The names of the interfaces when it was looked last.
    pub names: BTreeSet<String>,
    /// The targets that somebody has drained, by service.
    pub drained: BTreeSet<(String, SocketAddr)>,
    /// What is known of the host's routes. None: they are to be read. The kernel does not tell of routes that go with
    /// an interface or an address, so that these are known for up to [`EVERY`].
    pub routes: Option<Routes>,
    /// When [`Self::follow`] is tried again.
    pub retry: Retry,
    /// Is told when the tables shall be checked.
    pub check: Arc<Notify>,
    pub pulse: Pulse,
}

/// How often it is looked whether another route is taken to a target, and whether the programs are still attached.
const EVERY: Duration = Duration::from_secs(30);

impl Agent {
    /// To be called when it has started.
    pub fn begin(&mut self) {
        let progress = match self.lock_attachment().is_incomplete() {
            true => Progress::Failed,
            false => Progress::Complete,
        };
        self.note(Ok(progress));
    }

    /// Follows until it is told to stop, or to detach; then everything ends.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Result<(), RunError> {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(command) = commands.recv() => match command {
                    Command::Reload => {
                        self.is_told = true;
                        self.file.ask();
                    }
                    Command::Drain { target, is_drained, done } => {
                        // The client may have hung up; it is done all the same.
                        let _ = done.send(self.drain(target, is_drained).await);
                    }
                    Command::Detach(done) => {
                        let result = self.detach().await;
                        // Whether or not somebody else's things are left: ours are gone.
                        let is_done = matches!(result, Ok(_) | Err(RunError::Left(_)));
                        // The client may have hung up; the detach is done all the same.
                        let _ = done.send(result.map_err(|error| error.to_string()));
                        if is_done {
                            stop.cancel();
                            return Ok(());
                        }
                    }
                },
                () = self.file.changed() => {
                    let is_told = std::mem::take(&mut self.is_told);
                    self.reload(if is_told { Occasion::Signal } else { Occasion::File }).await;
                }
                changed = self.changes.changed() => {
                    if changed.routes {
                        self.routes = None;
                    }
                    self.follow().await;
                }
                Ok(()) = self.resolved.changed() => self.follow().await,
                () = self.retry.due() => self.follow().await,
                () = self.more.notified() => self.follow().await,
                // Nothing tells when another route is taken to a target, or a link is removed.
                _ = ticks.tick() => {
                    self.routes = None;
                    self.follow().await;
                }
            }
        }
    }

    /// Brings attachments and tables to what the host is like now. What fails is told, and tried again.
    async fn follow(&mut self) {
        let brought = self.bring().await;
        self.note(brought);
    }

    /// Has a target take no new connections, or take them again.
    async fn drain(&mut self, asked: ServiceTarget, is_drained: bool) -> Result<(), String> {
        let (service, target) = (asked.service.clone(), asked.target);
        // What was drained can be resumed, whatever the configuration says of it now.
        if is_drained || !self.drained.contains(&(service.clone(), target)) {
            let roles = Arc::clone(&self.resolved.borrow().roles);
            check_drain(&self.config.borrow(), &roles, &asked)?;
        }
        let is_new = if is_drained {
            self.drained.insert((service, target))
        } else {
            self.drained.remove(&(service, target))
        };
        if !is_new {
            return Ok(());
        }
        let done = if is_drained { "Draining" } else { "Resuming" };
        log::info!(
            "{done} the target {target} of the service \"{}\"",
            asked.service
        );
        let brought = self.bring().await;
        let failed = brought.as_ref().err().map(ToString::to_string);
        self.note(brought);
        match failed {
            Some(error) => Err(format!("it is tried again, because it failed: {error}")),
            None => Ok(()),
        }
    }

    /// Has what failed tried again.
    fn note(&mut self, brought: Result<Progress, RunError>) {
        match brought {
            Err(error) => self.retry.failed(Some(error.to_string())),
            // The interfaces tell themselves why.
            Ok(Progress::Failed) => self.retry.failed(None),
            Ok(Progress::Partial) => self.more.notify_one(),
            Ok(Progress::Complete) => self.retry.succeeded(),
        }
    }

    async fn bring(&mut self) -> Result<Progress, RunError> {
        let resolved = self.resolved.borrow_and_update().clone();
        let current = Arc::clone(&self.config.borrow());
        let next = self.derived(&current, &resolved).await?;
        if next != *current {
            log::info!(
                "The cluster makes {} endpoint(s) and {} service(s)",
                next.endpoints
                    .iter()
                    .filter(|it| it.origin.is_derived())
                    .count(),
                next.services
                    .iter()
                    .filter(|it| it.origin.is_derived())
                    .count()
            );
            for sentence in &next.not_derived {
                log::info!("{sentence}");
            }
            return self.change(&current, next).await;
        }
        self.targets = translated_targets(&self.config.borrow(), &resolved.roles);
        let (inventory, facts) = self.look(self.targets.clone(), &resolved).await?;
        let names = inventory.names();
        if self.refused.is_some() && names != self.names {
            // It may name an interface that is there now.
            self.file.ask();
        }
        self.names = names;
        let progress = self
            .attach(move |attachment| attach_more(attachment, &inventory))
            .await?;
        let wanted = facts.clone();
        let left_out = self
            .keep(move |map_writer| map_writer.follow(&wanted))
            .await?;
        self.show(&facts, resolved.generation, &left_out);
        Ok(progress)
    }

    /// What the host is like.
    async fn look(
        &mut self,
        targets: BTreeSet<IpAddr>,
        resolved: &ResolvedRoles,
    ) -> Result<(Inventory, Facts), RunError> {
        let _busy = self
            .pulse
            .busy("the kernel's interfaces, addresses and routes");
        let (roles, names) = (Arc::clone(&resolved.roles), Arc::clone(&resolved.names));
        let (known, drained) = (self.routes.take(), self.drained.clone());
        let looked = spawn_blocking(move || {
            let mut requests = Requests::open()?;
            let mut inventory = requests.inventory()?;
            inventory.routes = match known {
                Some(known) => known,
                None => requests.routes()?,
            };
            let mut facts = requests.facts(&inventory, &targets, roles)?;
            facts.names = names;
            facts.drained = drained;
            Ok::<_, RunError>((inventory, facts))
        });
        let (inventory, facts) = looked.await??;
        self.routes = Some(inventory.routes.clone());
        Ok((inventory, facts))
    }

    /// Has attachments changed, where that may take its time.
    async fn attach<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Attachment) -> T + Send + 'static,
    ) -> Result<T, RunError> {
        let _busy = self.pulse.busy("programs to be attached or removed");
        let attachment = Arc::clone(&self.attachment);
        let changed = spawn_blocking(move || change(&mut attachment.lock()));
        Ok(changed.await?)
    }

    fn lock_attachment(&self) -> MutexGuard<'_, Attachment> {
        self.attachment.lock()
    }

    /// Reads the configuration again. A bad one is told, and leaves the one before in force.
    async fn reload(&mut self, occasion: Occasion) {
        if occasion == Occasion::Signal {
            self.check.notify_one();
            self.more.notify_one();
        }
        let read = match self.read().await {
            Ok(read) => read,
            Err(error) => {
                log::error!("{error}");
                return;
            }
        };
        if !self.file.is_as_told() {
            // It was written while it was read.
            self.is_told |= occasion == Occasion::Signal;
            self.file.ask();
            return;
        }
        let current = Arc::clone(&self.config.borrow());
        if read
            .as_ref()
            .is_ok_and(|config| *config == current.written())
            && self.refused.is_none()
        {
            if occasion == Occasion::Signal {
                log::info!("The configuration is as it was");
                notify::reloading();
                notify::ready(&self.sentence());
            }
            return;
        }
        notify::reloading();
        let changed = match read {
            Ok(config) => {
                let resolved = self.resolved.borrow().clone();
                let changed = match self.derived(&config, &resolved).await {
                    Ok(config) => self.change(&current, config).await,
                    Err(error) => Err(error),
                };
                changed.map(|progress| self.note(Ok(progress)))
            }
            Err(error) => Err(error.into()),
        };
        match changed {
            Ok(()) => {
                self.refused = None;
                log::info!("Reloaded: {}", self.sentence());
            }
            Err(error) => {
                let error = error.to_string();
                let known = self.refused.as_ref() == Some(&error);
                if !known || occasion == Occasion::Signal {
                    log::error!("The new configuration is not used: {error}");
                }
                self.refused = Some(error);
            }
        }
        self.service.refuse(self.refused.clone());
        notify::ready(&self.sentence());
    }

    /// Reads the configuration, which takes its time where a file system hangs.
    async fn read(&self) -> Result<Result<Config, ConfigError>, RunError> {
        let _busy = self.pulse.busy("the configuration file to be read");
        let sources = self.sources.clone();
        Ok(spawn_blocking(move || sources.read(sysctl::timeouts())).await?)
    }

    /// Takes on a configuration: attaches first, then changes the tables, then leaves interfaces. What can
    /// fail does so before anything is taken away.
    async fn change(&mut self, current: &Config, next: Config) -> Result<Progress, RunError> {
        current.check_followed_by(&next)?;
        let resolved = self.resolved.borrow().clone();
        let targets = translated_targets(&next, &resolved.roles);
        let (inventory, facts) = self.look(targets.clone(), &resolved).await?;
        let known = &current.datapath.interfaces;
        let interfaces = next.datapath.interfaces.iter();
        let new: Vec<_> = interfaces
            .filter(|wanted| !known.iter().any(|known| known.selector == wanted.selector))
            .cloned()
            .collect();
        netlink::check_named(&inventory, &new)?;
        let (inventory, next) = (Arc::new(inventory), Arc::new(next));
        let (wanted, present) = (Wanted::of(&next), Arc::clone(&inventory));
        self.attach(move |attachment| attachment.prepare(&wanted, &present))
            .await??;
        if !next.services.is_empty() {
            prepare_host(&self.pins, &next, &facts);
        }
        let (config, wanted) = (Arc::clone(&next), facts.clone());
        let kept = self
            .keep(move |map_writer| map_writer.change(config, &wanted))
            .await;
        let left_out = match kept {
            Ok(left_out) => left_out,
            Err(error) => {
                // Leaves what was just attached.
                self.attach(move |attachment| attach_more(attachment, &inventory))
                    .await?;
                return Err(error);
            }
        };
        let (wanted, xdp) = (Wanted::of(&next), xdp(&next));
        let progress = self
            .attach(move |attachment| {
                attachment.select(wanted, xdp);
                attach_more(attachment, &inventory)
            })
            .await?;
        logging::follow(next.agent.log);
        self.targets = targets;
        self.follower.follow(&next.topology).await;
        self.configured.facts(configured::facts(&next), None);
        self.config.send_replace(next);
        self.show(&facts, resolved.generation, &left_out);
        Ok(progress)
    }

    /// A configuration with what follows from the cluster.
    async fn derived(&self, config: &Config, resolved: &ResolvedRoles) -> Result<Config, RunError> {
        // What another cluster was known to be makes nothing of this one.
        if resolved.known.cluster != config.topology.cluster_texts() {
            return Ok(config.written());
        }
        let taken = match config.frontend.addresses.is_empty() {
            true => BTreeSet::new(),
            // As long as the host's list of sockets is.
            false => spawn_blocking(listening_ports).await?,
        };
        Ok(config.derive(&resolved.known, |port| taken.contains(&port)))
    }

    /// Removes every trace; the number of links that were removed.
    async fn detach(&self) -> Result<usize, RunError> {
        let _busy = self.pulse.busy("every trace to be removed");
        let (pins, lock) = (self.pins.clone(), Arc::clone(&self.lock));
        let detached = spawn_blocking(move || detach(&pins, Some(&lock)));
        Ok(detached.await??.links)
    }

    /// What it does, for people.
    pub fn sentence(&self) -> String {
        if let Some(error) = &self.refused {
            return format!("An earlier configuration is in force: {error}");
        }
        let config = self.config.borrow();
        format!(
            "Translating for {} endpoint(s) and {} service(s)",
            config.endpoints.len(),
            config.services.len()
        )
    }

    /// Has the tables changed, and returns what of the configuration is left out.
    async fn keep(
        &self,
        change: impl FnOnce(&mut MapWriter) -> Result<(), DatapathError> + Send + 'static,
    ) -> Result<Vec<String>, RunError> {
        let _busy = self.pulse.busy("tables to be written");
        let map_writer = Arc::clone(&self.map_writer);
        let left_out = spawn_blocking(move || {
            let mut map_writer = map_writer.lock();
            change(&mut map_writer).map(|()| map_writer.left_out().to_vec())
        });
        Ok(left_out.await??)
    }

    fn show(&self, facts: &Facts, generation: u64, left_out: &[String]) {
        self.service.update(Live::new(
            &self.lock_attachment(),
            facts,
            generation,
            left_out,
        ));
    }
}

/// Why a target cannot be drained or resumed.
fn check_drain(config: &Config, roles: &Roles, asked: &ServiceTarget) -> Result<(), String> {
    let name = shown(&asked.service);
    let mut services = config.services.iter();
    let service = services
        .find(|service| service.name == asked.service)
        .ok_or_else(|| format!("there is no service \"{name}\""))?;
    if service.on_change == OnChange::Reset {
        return Err(format!(
            "the service \"{name}\" resets connections to a target that takes no new ones; set on_change = \"drain\" first"
        ));
    }
    let targets = roles::targets(service, roles);
    if !targets.iter().any(|wanted| wanted.socket == asked.target) {
        let known: Vec<_> = targets.iter().map(|it| it.socket.to_string()).collect();
        let known = match &known[..] {
            [] => "none that is known".to_owned(),
            known => known.join(", "),
        };
        return Err(format!(
            "the service \"{name}\" has no target {}; it has {known}",
            asked.target
        ));
    }
    match roles::unknown(service, roles).next() {
        Some(role) => Err(format!(
            "the service \"{name}\" stays as it is while its target {role} is not known"
        )),
        None => Ok(()),
    }
}

/// Goes on attaching.
fn attach_more(attachment: &mut Attachment, inventory: &Inventory) -> Progress {
    match (attachment.follow(inventory), attachment.is_incomplete()) {
        (false, _) => Progress::Partial,
        (true, true) => Progress::Failed,
        (true, false) => Progress::Complete,
    }
}

/// Sets the sysctls that services need, and remembers their old values, so that `detach` can restore them. Says what else they
/// need of the host.
pub fn prepare_host(pins: &Pins, config: &Config, facts: &Facts) {
    let unanswered = Requests::open().and_then(|mut host| host.unanswered(config.aliases()));
    match unanswered {
        Ok(aliases) => {
            if let Some(sentence) = doctor::unanswered(&aliases) {
                log::warn!("{sentence}");
            }
        }
        Err(error) => log::debug!("{error}"),
    }
    sysctl::prepare(facts.elsewhere(config), |switch, before| {
        if let Err(error) = pins.mark_switch(switch, before) {
            log::warn!("{error}");
        }
    });
}

/// Where XDP forwards: without a service there is nothing to forward.
pub fn xdp(config: &Config) -> config::Xdp {
    if config.services.is_empty() {
        config::Xdp::Off
    } else {
        config.datapath.xdp
    }
}
