//! Keeps sources running and what they said last.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
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

    /// A source begins, or begins again: then what it said counts, and it has to be heard of.
    fn begin(&mut self, id: SourceId, patience: Duration, now: Moment) {
        let report = self.reports.entry(id).or_insert_with(|| Report {
            facts: Facts::new(),
            health: Health::new(now, patience),
        });
        report.health.patience = patience;
        report.health.next = report.health.success.map(|_| now);
    }

    /// A source is gone, and what it said with it.
    fn end(&mut self, id: &SourceId) {
        if self
            .reports
            .remove(id)
            .is_some_and(|report| report.health.success.is_some())
        {
            self.generation += 1;
            self.merge();
        }
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
    /// Those of the configuration.
    configured: Vec<(Part, Running)>,
    /// Those that were added.
    added: Vec<Running>,
}

/// A part of the configuration that makes a source.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Source(config::Source),
    Ha(Ha),
}

/// A source at work.
#[derive(Debug)]
struct Running {
    id: SourceId,
    /// The only one of its set.
    task: JoinSet<()>,
}

impl Follower {
    /// Without sources.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(watch::Sender::new(Snapshot::default())),
            configured: Vec::new(),
            added: Vec::new(),
        }
    }

    /// With the sources of a configuration; in a Tokio runtime.
    pub fn configured(config: &config::Topology) -> Self {
        let mut follower = Self::new();
        parts(config).for_each(|part| follower.start(part));
        follower
    }

    /// Goes on with another configuration. A source whose part of it is the same is not disturbed. One that
    /// looks at the same place in another way keeps its facts until it has others; those of all others that
    /// end are forgotten.
    pub async fn follow(&mut self, config: &config::Topology) {
        let wanted: Vec<_> = parts(config).collect();
        let (kept, ended): (Vec<_>, Vec<_>) = self
            .configured
            .drain(..)
            .partition(|(part, _)| wanted.contains(part));
        self.configured = kept;
        let mut places = Vec::new();
        for (_, mut running) in ended {
            // It says nothing any more that could be taken for another's word.
            running.task.shutdown().await;
            places.push(running.id);
        }
        for part in wanted {
            if !self.configured.iter().any(|(known, _)| *known == part) {
                self.start(part);
            }
        }
        for id in places {
            if !self.configured.iter().any(|(_, running)| running.id == id) {
                self.shared.send_modify(|snapshot| snapshot.end(&id));
            }
        }
    }

    /// Starts a source; in a Tokio runtime.
    pub fn add(&mut self, source: impl Source) {
        let running = self.run(source);
        self.added.push(running);
    }

    /// A reporter for facts that nobody has to wait for, such as those learned by the kernel program.
    pub fn reporter(&self, id: SourceId) -> Reporter {
        self.reporter_with(id, PATIENCE)
    }

    /// What is known, now and when it changes.
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.shared.subscribe()
    }

    fn start(&mut self, part: Part) {
        let running = match &part {
            Part::Source(config::Source::None) | Part::Ha(Ha::None) => return,
            Part::Source(config::Source::File { path }) => self.run(File::new(path.clone())),
            Part::Source(config::Source::Flink(servers)) => {
                let flink = Flink::new(servers.urls.clone(), &Tls::of_host());
                self.run(Polled::new(flink, servers.poll))
            }
            Part::Source(config::Source::Management(servers)) => {
                let management = Management::new(servers.urls.clone(), &Tls::of_host());
                self.run(Polled::new(management, servers.poll))
            }
            Part::Ha(Ha::Zookeeper(place)) => self.run(Zookeeper::new(place.clone())),
            #[cfg(feature = "kubernetes")]
            Part::Ha(Ha::Kubernetes(place)) => self.run(Kubernetes::new(place.clone())),
            // A configuration with it is refused.
            #[cfg(not(feature = "kubernetes"))]
            Part::Ha(Ha::Kubernetes(_)) => return,
        };
        self.configured.push((part, running));
    }

    fn run(&self, source: impl Source) -> Running {
        let id = source.id();
        let reporter = self.reporter_with(id.clone(), source.patience());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let observing = AssertUnwindSafe(source.observe(reporter.clone()));
            // Whoever is told to stop does not come back from here.
            let _ = observing.catch_unwind().await;
            reporter.failed(
                "the source has stopped; restart the agent and report this as a bug",
                None,
            );
        });
        Running { id, task }
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

fn parts(config: &config::Topology) -> impl Iterator<Item = Part> {
    let source = Part::Source(config.source.clone());
    [source, Part::Ha(config.ha.clone())].into_iter()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use tokio::time::timeout;

    use super::*;
    use crate::{config, topology::Kind};

    const WORKER: &str = "[[worker]]\nid = \"tm-1\"\nrpc = \"pekko.tcp://flink@tm:6122\"\n";

    fn topology(text: &str) -> super::config::Topology {
        let text = format!("[topology]\n{text}");
        let file = config::File::parse(Path::new("t.toml"), &text).unwrap();
        file.topology
    }

    fn file(path: &Path) -> String {
        format!("source = \"file\"\npath = \"{}\"\n", path.display())
    }

    /// Nobody listens there.
    fn zookeeper() -> &'static str {
        "ha = \"zookeeper\"\n[topology.zookeeper]\nquorum = [\"127.0.0.1:1\"]\n"
    }

    fn kinds(snapshot: &Snapshot) -> Vec<Kind> {
        snapshot.reports.keys().map(|id| id.kind).collect()
    }

    #[tokio::test]
    async fn goes_on_with_another_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        fs::write(&paths[0], WORKER).unwrap();
        fs::write(&paths[1], WORKER.replace("tm-1", "tm-2")).unwrap();
        let mut follower = Follower::configured(&topology(&file(&paths[0])));
        let mut seen = follower.subscribe();
        let mut worker = async |id: &str| {
            let id = id.parse().unwrap();
            let known = seen.wait_for(|s| s.topology.workers.contains_key(&id));
            let waited = timeout(Duration::from_secs(10), known).await;
            waited.unwrap().unwrap().clone()
        };
        let first = worker("tm-1").await;
        assert_eq!(kinds(&first), [Kind::File]);

        // The file is the same.
        follower
            .follow(&topology(&format!("{}{}", file(&paths[0]), zookeeper())))
            .await;
        let both = worker("tm-1").await;
        assert_eq!(kinds(&both), [Kind::File, Kind::Zookeeper]);
        let started = |snapshot: &Snapshot| {
            let reports = snapshot.reports.values().next();
            reports.map(|report| report.health.started)
        };
        assert_eq!(started(&first), started(&both));
        assert_eq!(first.generation, both.generation);

        // The store is gone, and the file is another one.
        follower.follow(&topology(&file(&paths[1]))).await;
        let other = worker("tm-2").await;
        assert_eq!(kinds(&other), [Kind::File]);
        assert_eq!(other.topology.workers.len(), 1);
        assert!(other.generation > both.generation);

        follower.follow(&topology("")).await;
        let none = follower.subscribe().borrow().clone();
        assert_eq!(
            (none.reports.len(), &*none.topology),
            (0, &Topology::default())
        );
        assert!(none.generation > other.generation);
    }

    #[test]
    fn who_begins_again_keeps_its_facts_and_has_to_be_heard_of() {
        let (short, long) = (PATIENCE, PATIENCE * 2);
        let id = SourceId {
            kind: Kind::Flink,
            place: "http://a:1".to_owned(),
        };
        let mut snapshot = Snapshot::default();
        let begun = Moment::from_ns(1);
        snapshot.begin(id.clone(), short, begun);
        snapshot.succeed(&id, Some(Facts::new()), begun, None);
        let again = begun.after(Duration::from_secs(100));
        snapshot.begin(id.clone(), long, again);
        let health = &snapshot.reports[&id].health;
        assert_eq!((health.success, health.patience), (Some(begun), long));
        assert_eq!(health.state(again.after(long)), State::Good);
        let late = again.after(long + Duration::from_secs(1));
        assert_eq!(health.state(late), State::Degraded);
        assert_eq!(snapshot.generation, 1);
        snapshot.end(&id);
        assert_eq!((snapshot.reports.len(), snapshot.generation), (0, 2));
    }
}
