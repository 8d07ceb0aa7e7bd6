//! The REST interface of the leader that records name: records tell of no workers.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::Flink;
use crate::{
    discovery::{
        Kind, Reporter, Snapshot, Source, SourceId,
        http::Tls,
        locate,
        names::dns::look_up,
        sources::poll::{Poll as _, jittered},
    },
    name::{Url, WebAddress, literal},
};

/// Asks the JobManager that leads now.
#[derive(Debug)]
pub struct AtLeader {
    seen: watch::Receiver<Snapshot>,
    records: String,
    poll: Duration,
}

impl AtLeader {
    /// Follows the leader that the records at this URL name, and asks it at most `poll` apart.
    pub const fn new(seen: watch::Receiver<Snapshot>, records: String, poll: Duration) -> Self {
        Self {
            seen,
            records,
            poll,
        }
    }

    /// The leader's REST server, as records name it.
    fn leader(&mut self) -> Option<WebAddress> {
        let snapshot = self.seen.borrow_and_update();
        let leader = snapshot.topology.leader_rest.as_ref()?;
        let is_record = matches!(leader.source.kind, Kind::Zookeeper | Kind::Kubernetes);
        is_record.then(|| leader.value.address.clone())
    }

    /// The server by an address that is known without DNS, else by its name.
    async fn server(&self, leader: &WebAddress) -> Result<Url, String> {
        let name = leader.authority();
        let by_name = || {
            leader
                .to_string()
                .parse()
                .map_err(|error| format!("{leader}: {error}"))
        };
        // A certificate is for the name.
        if leader.tls() || literal(name.host()).is_some() {
            return by_name();
        }
        let known = {
            let snapshot = self.seen.borrow();
            locate(name, &snapshot.topology, |_| Err(String::new())).ok()
        };
        let known = known.and_then(|location| location.addresses.into_iter().next());
        match known {
            Some(address) => {
                let socket = std::net::SocketAddr::new(address, name.port());
                format!("http://{socket}")
                    .parse()
                    .map_err(|error| format!("{leader} at {socket}: {error}"))
            }
            None => look_up(name.host())
                .await
                .map_err(|why| {
                    format!("the leader's REST server {leader} is not found: {why}; name the URL of each JobManager in cluster, too")
                })
                .and_then(|_| by_name()),
        }
    }
}

impl Source for AtLeader {
    fn id(&self) -> SourceId {
        SourceId {
            kind: Kind::Flink,
            place: self.records.clone(),
        }
    }

    async fn observe(mut self, reporter: Reporter) {
        let mut asked: Option<(Url, Flink)> = None;
        loop {
            let pause = jittered(self.poll);
            let leader = self.leader();
            let server = match &leader {
                Some(leader) => self.server(leader).await,
                None => Err("no record names the leader's REST server".to_owned()),
            };
            match server {
                Ok(url) => {
                    let (_, flink) = match asked.take() {
                        Some(same) if same.0 == url => asked.insert(same),
                        _ => {
                            let flink = Flink::new(vec![url.clone()], &Tls::of_host());
                            asked.insert((url, flink))
                        }
                    };
                    reporter.waits("an answer");
                    match flink.ask().await {
                        Ok(facts) => reporter.facts(facts, Some(pause)),
                        Err(why) => reporter.failed(why, Some(pause)),
                    }
                }
                Err(why) => reporter.failed(why, Some(pause)),
            }
            // Another leader is asked at once.
            let changed = async {
                loop {
                    if self.seen.changed().await.is_err() {
                        sleep(pause).await;
                    }
                    if self.leader() != leader {
                        return;
                    }
                }
            };
            let _ = timeout(pause, changed).await;
        }
    }
}
