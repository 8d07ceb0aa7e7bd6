//! Leader records in ZooKeeper.
//!
//! Every node that a leader may write is watched, whether it is there or not, so that a new leader
//! is known one round trip after it has written. No node is written.

mod layout;

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{MissedTickBehavior, interval, sleep};
use zookeeper_client::{Client, Error, OneshotWatcher, SessionState};

use super::{CONFIRM, retries};
pub use crate::config::ha::zookeeper::{Place, PlaceError};
use crate::{
    discovery::{Kind, Reporter, Source, SourceId, names::inquiry::Inquiry},
    name::{Authority, literal},
};
use layout::{Node, Nodes};

/// The session of an agent, which owns nothing in ZooKeeper: it only decides how soon a silent
/// server is left for another.
const SESSION: Duration = Duration::from_secs(10);

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
    /// No server has an address.
    #[error("the servers of ZooKeeper are not found: {0}")]
    Resolve(String),
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
        reporter.waits("the addresses of its servers");
        let addresses = self.addresses().await?;
        reporter.waits("a server to take the connection");
        let client = Client::connector()
            .with_session_timeout(SESSION)
            .with_fail_eagerly()
            .connect(&addresses)
            .await
            .map_err(|error| Failure::Connect {
                servers: servers.clone(),
                error,
            })?;
        let mut states = client.state_watcher();
        let mut quiet = interval(CONFIRM);
        quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            reporter.waits("the records to be read");
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

    /// The servers by their addresses. Left to the client, each name would be looked up by a thread that waits.
    async fn addresses(&self) -> Result<String, Failure> {
        let quorum = self.place.quorum();
        let names = quorum.iter().map(Authority::host);
        let names = names.filter(|host| literal(host).is_none());
        let names = names.map(str::to_owned).collect();
        let found = Inquiry::of_host().all(names).await;
        let mut sockets = Vec::new();
        let mut failures = Vec::new();
        for server in quorum {
            let host = server.host();
            let addresses = match (literal(host), found.get(host)) {
                (Some(address), _) => vec![address],
                (None, Some(Ok(addresses))) => addresses.clone(),
                (None, Some(Err(why))) => {
                    failures.push(format!("{host}: {why}"));
                    continue;
                }
                (None, None) => continue,
            };
            let addresses = addresses.into_iter();
            sockets.extend(
                addresses.map(|address| SocketAddr::new(address, server.port()).to_string()),
            );
        }
        if sockets.is_empty() {
            return Err(Failure::Resolve(failures.join("; ")));
        }
        Ok(sockets.join(","))
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
        let path = format!("{}{}", self.place.path(), node.path());
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
