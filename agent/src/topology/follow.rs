//! Keeps sources running and what they said last.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet};

#[cfg(feature = "kubernetes")]
use super::ha::kubernetes::Kubernetes;
use super::{
    Facts, Health, Moment, Report, Reporter, Source, SourceId, State, Topology, file::File,
    flink::Flink, ha::zookeeper::Zookeeper, http::Tls, management::Management, merge, poll::Polled,
    source::PATIENCE,
};
use crate::config::{ha::Ha, topology as config};

/// What is known at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What every source said last.
    pub reports: BTreeMap<SourceId, Report>,
    /// The sum of it.
    pub topology: Arc<Topology>,
    /// Grows whenever a source says something else than before, not when it confirms.
    pub generation: u64,
}

impl Snapshot {
    /// The sources that are degraded at this time.
    pub fn degraded(&self, now: Moment) -> impl Iterator<Item = (&SourceId, &Health)> {
        self.reports
            .iter()
            .map(|(id, report)| (id, &report.health))
            .filter(move |(_, health)| health.state(now) == State::Degraded)
    }

    fn begin(&mut self, id: SourceId, patience: Duration, now: Moment) {
        self.reports.entry(id).or_insert_with(|| Report {
            facts: Facts::new(),
            health: Health::new(now, patience),
        });
    }

    pub(super) fn succeed(
        &mut self,
        id: &SourceId,
        facts: Option<Facts>,
        now: Moment,
        next: Option<Moment>,
    ) {
        let Some(report) = self.reports.get_mut(id) else {
            return;
        };
        let first = report.health.success.is_none();
        report.health.success = Some(now);
        report.health.failure = None;
        report.health.next = next;
        if let Some(facts) = facts {
            if first || !facts.same_claims(&report.facts) {
                self.generation += 1;
            }
            report.facts = facts;
        }
        self.merge();
    }

    pub(super) fn fail(&mut self, id: &SourceId, why: String, now: Moment, next: Option<Moment>) {
        if let Some(report) = self.reports.get_mut(id) {
            report.health.failure = Some((now, why));
            report.health.next = next;
        }
    }

    fn merge(&mut self) {
        let said = self.reports.iter().filter_map(|(id, report)| {
            let confirmed = report.health.success?;
            Some((id, confirmed, &report.facts))
        });
        self.topology = Arc::new(merge(said));
    }
}

/// Runs sources and publishes what they say. To drop it stops them.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<watch::Sender<Snapshot>>,
    tasks: JoinSet<()>,
}

impl Follower {
    /// Without sources.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(watch::Sender::new(Snapshot::default())),
            tasks: JoinSet::new(),
        }
    }

    /// With the sources of a configuration; in a Tokio runtime.
    pub fn configured(config: &config::Topology) -> Self {
        let mut follower = Self::new();
        match &config.source {
            config::Source::None => {}
            config::Source::File { path } => follower.add(File::new(path.clone())),
            config::Source::Flink(servers) => {
                let flink = Flink::new(servers.urls.clone(), &Tls::of_host());
                follower.add(Polled::new(flink, servers.poll));
            }
            config::Source::Management(servers) => {
                let management = Management::new(servers.urls.clone(), &Tls::of_host());
                follower.add(Polled::new(management, servers.poll));
            }
        }
        match &config.ha {
            Ha::None => {}
            Ha::Zookeeper(place) => follower.add(Zookeeper::new(place.clone())),
            #[cfg(feature = "kubernetes")]
            Ha::Kubernetes(place) => follower.add(Kubernetes::new(place.clone())),
            // A configuration with it is refused.
            #[cfg(not(feature = "kubernetes"))]
            Ha::Kubernetes(_) => {}
        }
        follower
    }

    /// Starts a source; in a Tokio runtime.
    pub fn add(&mut self, source: impl Source) {
        let reporter = self.reporter_with(source.id(), source.patience());
        let guard = Guard(reporter.clone());
        self.tasks.spawn(async move {
            let _guard = guard;
            source.observe(reporter).await;
        });
    }

    /// A reporter for facts that nobody has to wait for, such as those learned by the kernel program.
    pub fn reporter(&self, id: SourceId) -> Reporter {
        self.reporter_with(id, PATIENCE)
    }

    /// What is known, now and when it changes.
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.shared.subscribe()
    }

    fn reporter_with(&self, id: SourceId, patience: Duration) -> Reporter {
        let now = Moment::now();
        self.shared
            .send_modify(|snapshot| snapshot.begin(id.clone(), patience, now));
        Reporter::new(id, Arc::clone(&self.shared))
    }
}

impl Default for Follower {
    fn default() -> Self {
        Self::new()
    }
}

/// Tells that a source has ended, by whatever way.
struct Guard(Reporter);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.failed(
            "the source has stopped; restart the agent and report this as a bug",
            None,
        );
    }
}
