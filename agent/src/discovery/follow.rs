//! Keeps sources running, as a configuration wants them.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{sync::watch, task::JoinSet};

#[cfg(feature = "kubernetes")]
use super::sources::ha::kubernetes::Kubernetes;
use super::{
    Reporter, Snapshot, Source, SourceId,
    http::Tls,
    model::source::PATIENCE,
    sources::{
        file::File,
        flink::{AtLeader, Flink},
        ha::{Told, zookeeper::Zookeeper},
        management::Management,
        poll::Polled,
    },
};
use crate::{
    clock::Moment,
    config::{ha::Ha, topology as config},
};

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
    /// The leader of these records.
    AtLeader(Ha),
    /// The records that JobManagers tell of.
    Told,
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
            Part::AtLeader(Ha::None) => return,
            Part::Told => self.run(Told::new(self.subscribe())),
            Part::AtLeader(Ha::Zookeeper(place)) => {
                self.run_at_leader(format!("zookeeper://{place}"))
            }
            Part::AtLeader(Ha::Kubernetes(place)) => {
                self.run_at_leader(format!("kubernetes://{place}"))
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

    fn run_at_leader(&self, records: String) -> Running {
        self.run(AtLeader::new(self.subscribe(), records, config::POLL))
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

/// The parts, each once.
fn parts(config: &config::Topology) -> impl Iterator<Item = Part> {
    let source = Part::Source(config.source.clone());
    let mut parts = vec![source, Part::Ha(config.ha.clone())];
    let (urls, stores) = config.cluster_sources();
    let poll = config::POLL;
    let has_rest = !urls.is_empty();
    let rest = Part::Source(config::Source::Flink(config::Servers { urls, poll }));
    let rest = has_rest.then_some(rest);
    let is_told = has_rest && stores.is_empty() && config.ha == Ha::None;
    let told = is_told.then_some(Part::Told);
    // Without the servers of all JobManagers, the one that leads is asked.
    let leaders: Vec<_> = stores.iter().cloned().map(Part::AtLeader).collect();
    let leaders = leaders.into_iter().filter(|_| !has_rest);
    for part in stores
        .into_iter()
        .map(Part::Ha)
        .chain(leaders)
        .chain(rest)
        .chain(told)
    {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.into_iter()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use tokio::time::timeout;

    use super::*;
    use crate::{
        config,
        discovery::{Kind, Topology},
    };

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
}
