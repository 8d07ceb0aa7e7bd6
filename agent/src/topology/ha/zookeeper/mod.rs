//! Leader records in ZooKeeper.
//!
//! Every node that a leader may write is watched, whether it is there or not, so that a new leader
//! is known one round trip after it has written. No node is written.

mod layout;

use std::{convert::Infallible, fmt, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{MissedTickBehavior, interval, sleep};
use zookeeper_client::{Client, Error, OneshotWatcher, SessionState};

use super::{CONFIRM, retries};
use crate::{
    name::Authority,
    topology::{Kind, Reporter, Source, SourceId},
};
use layout::{Node, Nodes};

/// The session of an agent, which owns nothing in ZooKeeper: it only decides how soon a silent
/// server is left for another.
const SESSION: Duration = Duration::from_secs(10);
/// Longest path of a cluster, in bytes.
const PATH_MAX: usize = 512;

/// Where a cluster's records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    quorum: Vec<Authority>,
    path: String,
}

/// Why a place cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// No server.
    #[error("no server is named; write e.g. quorum = [\"zk1:2181\", \"zk2:2181\"]")]
    NoServer,
    /// Not a path.
    #[error(
        "the path must have at most {PATH_MAX} bytes, in elements of visible ASCII characters that are not \".\" or \"..\", e.g. /flink/default"
    )]
    BadPath,
}

impl Place {
    /// Flink's `high-availability.zookeeper.quorum`, `….path.root` and `high-availability.cluster-id`;
    /// the two are joined, with or without slashes at their ends.
    ///
    /// # Errors
    /// When there is no server, or ZooKeeper has no such path.
    pub fn new(quorum: Vec<Authority>, root: &str, cluster_id: &str) -> Result<Self, PlaceError> {
        if quorum.is_empty() {
            return Err(PlaceError::NoServer);
        }
        let path: String = [root, cluster_id]
            .into_iter()
            .map(|part| part.trim_matches('/'))
            .filter(|part| !part.is_empty())
            .flat_map(|part| ["/", part])
            .collect();
        let element = |element: &str| {
            !matches!(element, "" | "." | "..")
                && element.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let good = path.is_empty() || path.split('/').skip(1).all(element);
        if !good || path.len() > PATH_MAX {
            return Err(PlaceError::BadPath);
        }
        Ok(Self { quorum, path })
    }

    fn servers(&self) -> String {
        let servers: Vec<&str> = self.quorum.iter().map(Authority::as_str).collect();
        servers.join(",")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.servers(), self.path)
    }
}

/// Follows the leaders of one cluster.
#[derive(Clone, Debug)]
pub struct Zookeeper {
    place: Place,
}

/// Why the leaders are not known now.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// No session.
    #[error(
        "cannot connect to ZooKeeper at {servers}: {error}; is it up, and is topology.zookeeper.quorum right?"
    )]
    Connect { servers: String, error: Error },
    /// A session that ended.
    #[error("cannot read {path} in ZooKeeper: {error}")]
    Read { path: String, error: Error },
    /// A session that was lost while nothing was read.
    #[error("the session with ZooKeeper at {0} has ended")]
    Ended(String),
}

/// How the watched session changed.
enum Change {
    /// A node was read, because it changed or for the first time.
    Read(Node, Option<Vec<u8>>, OneshotWatcher),
    /// The server was lost or found.
    State(SessionState),
    /// Nothing, for a while.
    Quiet,
}

impl Zookeeper {
    /// For the cluster at this place.
    pub const fn new(place: Place) -> Self {
        Self { place }
    }

    /// Follows for as long as the session lives. `good` is called whenever facts were reported.
    async fn session(
        &self,
        reporter: &Reporter,
        mut good: impl FnMut() + Send,
    ) -> Result<Infallible, Failure> {
        let servers = self.place.servers();
        let client = Client::connector()
            .with_session_timeout(SESSION)
            .with_fail_eagerly()
            .connect(&servers)
            .await
            .map_err(|error| Failure::Connect {
                servers: servers.clone(),
                error,
            })?;
        let mut states = client.state_watcher();
        let mut quiet = interval(CONFIRM);
        quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // All nodes anew: what happened while no server was connected is not known.
            let mut nodes = Nodes::new();
            let mut reads: FuturesUnordered<_> = Node::all()
                .map(|node| self.read(&client, node, None))
                .collect();
            loop {
                let change = tokio::select! {
                    Some(read) = reads.next() => {
                        let (node, data, watcher) = read?;
                        Change::Read(node, data, watcher)
                    }
                    state = states.changed() => Change::State(state),
                    _ = quiet.tick() => Change::Quiet,
                };
                match change {
                    Change::Read(node, data, watcher) => {
                        reads.push(self.read(&client, node, Some(watcher)));
                        nodes.insert(node, data);
                        if nodes.len() == Node::all().count() {
                            reporter.facts(layout::facts(&nodes), Some(CONFIRM));
                            good();
                        }
                    }
                    Change::State(SessionState::SyncConnected) => break,
                    Change::State(SessionState::Disconnected) => {
                        nodes.clear();
                        let why = format_args!(
                            "the connection to ZooKeeper at {servers} is lost; trying all its servers"
                        );
                        reporter.failed(why, None);
                    }
                    Change::State(state) if state.is_terminated() => {
                        return Err(Failure::Ended(servers));
                    }
                    Change::State(_) => {}
                    Change::Quiet if nodes.len() == Node::all().count() => {
                        reporter.unchanged(Some(CONFIRM));
                    }
                    Change::Quiet => {}
                }
            }
        }
    }

    /// Waits for the watcher, if there is one, then reads the node and watches it.
    async fn read(
        &self,
        client: &Client,
        node: Node,
        watcher: Option<OneshotWatcher>,
    ) -> Result<(Node, Option<Vec<u8>>, OneshotWatcher), Failure> {
        if let Some(watcher) = watcher {
            watcher.changed().await;
        }
        let path = format!("{}{}", self.place.path, node.path());
        loop {
            let error = match client.get_and_watch_data(&path).await {
                Ok((data, _, watcher)) => return Ok((node, Some(data), watcher)),
                Err(Error::NoNode) => match client.check_and_watch_stat(&path).await {
                    Ok((None, watcher)) => return Ok((node, None, watcher)),
                    // It was written in between.
                    Ok((Some(_), _)) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            return Err(Failure::Read { path, error });
        }
    }
}

impl Source for Zookeeper {
    fn id(&self) -> SourceId {
        SourceId {
            kind: Kind::Zookeeper,
            place: self.place.to_string(),
        }
    }

    async fn observe(self, reporter: Reporter) {
        let mut times = retries();
        loop {
            let Err(failure) = self.session(&reporter, || times = retries()).await;
            // `retries` has no end.
            let time = times.next().unwrap_or(CONFIRM);
            reporter.failed(failure, Some(time));
            sleep(time).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &str, cluster: &str) -> Result<String, PlaceError> {
        let quorum = ["zk1:2181", "[fd00::1]:2181"].map(|text| text.parse().unwrap());
        Place::new(quorum.into(), root, cluster).map(|place| place.to_string())
    }

    #[test]
    fn joins_paths_as_flink_does() {
        for (root, cluster, path) in [
            ("/flink", "/default", "/flink/default"),
            ("flink/", "default", "/flink/default"),
            ("/", "/default", "/default"),
            ("/a/b", "/c/d", "/a/b/c/d"),
            ("", "", ""),
        ] {
            assert_eq!(
                place(root, cluster),
                Ok(format!("zk1:2181,[fd00::1]:2181{path}"))
            );
        }
    }

    #[test]
    fn refuses_what_is_no_path() {
        let long = "x".repeat(PATH_MAX);
        for (root, cluster) in [
            ("/flink", "a//b"),
            ("/flink", "../other"),
            ("/fl\u{0}ink", "a"),
            ("/flink", "a b"),
            ("/flink", &long),
        ] {
            assert_eq!(place(root, cluster), Err(PlaceError::BadPath));
        }
        assert_eq!(
            Place::new(Vec::new(), "/flink", "/default"),
            Err(PlaceError::NoServer)
        );
    }
}
