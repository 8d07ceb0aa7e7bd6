//! Flink's REST interface.
//!
//! Every JobManager answers `/jobmanager/config` about itself, and since Flink 1.5 everything else
//! on behalf of the leader: which of them leads, REST does not say. So answers that agree name the
//! leader, and answers that contradict each other name none that did not lead before: then a leader
//! record (`ha`) has to decide.
//!
//! A poll costs two small requests. The list of workers, which is long, is read when the number of
//! workers or slots has changed, and every [`LIST_EVERY`] polls for the sake of a worker that was
//! replaced in between. It has all that is asked for, so no worker is asked for by itself.

mod answer;
mod elect;
mod leader;

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use super::poll::Poll;
use crate::{
    discovery::{
        Claim, Component, Facts, Kind, SourceId,
        http::{Client, Document, Tls},
    },
    name::{RpcAddress, Url},
};
use answer::{Overview, Settings, Workers};
use elect::{Ballot, Election};
pub use leader::AtLeader;

/// Polls from one reading of the workers to the next, if nothing seems to have changed.
pub const LIST_EVERY: u32 = 10;
/// How long others are waited for when one has answered.
const GRACE: Duration = Duration::from_millis(500);
/// Limits of the answers, in bytes. Ten thousand workers take 6 MB.
const CONFIG_MAX: usize = 1 << 20;
const OVERVIEW_MAX: usize = 64 << 10;
const WORKERS_MAX: usize = 64 << 20;

/// JobManagers that are asked.
#[derive(Debug)]
pub struct Flink {
    servers: Vec<Server>,
    /// Which cluster it was at the last poll.
    cluster: Option<String>,
    /// Who led at the last poll.
    leader: Option<RpcAddress>,
    listed: Option<Listed>,
}

/// One URL.
#[derive(Debug)]
struct Server {
    url: Url,
    client: Client,
    config: Document<Settings>,
    overview: Document<Overview>,
    workers: Document<Workers>,
}

/// The workers that were read last.
#[derive(Debug)]
struct Listed {
    /// Where, and what the overview said then.
    at: (usize, Overview),
    /// How many polls ago.
    polls: u32,
    facts: Facts,
}

impl Flink {
    /// Asks these URLs, in the order of preference.
    pub fn new(urls: Vec<Url>, tls: &Tls) -> Self {
        let server = |url: Url| Server {
            client: Client::new(tls.clone()),
            config: Document::new(url.below("/jobmanager/config"), CONFIG_MAX),
            overview: Document::new(url.below("/overview"), OVERVIEW_MAX),
            workers: Document::new(url.below("/taskmanagers"), WORKERS_MAX),
            url,
        };
        Self {
            servers: urls.into_iter().map(server).collect(),
            cluster: None,
            leader: None,
            listed: None,
        }
    }

    /// What every server says of itself, and the errors of those that do not say. Whoever takes much
    /// longer than the quickest is left out: a host that is gone does not hold up the rest.
    async fn ballots(&mut self) -> (Vec<Ballot>, Vec<(usize, String)>) {
        let mut asked: FuturesUnordered<_> = self
            .servers
            .iter_mut()
            .enumerate()
            .map(async |(index, server)| (index, server.ballot(index).await))
            .collect();
        let mut missing: BTreeSet<usize> = (0..asked.len()).collect();
        let (mut ballots, mut errors) = (Vec::new(), Vec::new());
        let mut deadline = None;
        loop {
            let next = match deadline {
                None => asked.next().await,
                Some(at) => timeout_at(at, asked.next()).await.unwrap_or(None),
            };
            let Some((index, answer)) = next else { break };
            missing.remove(&index);
            match answer {
                Ok(ballot) => {
                    ballots.push(ballot);
                    deadline.get_or_insert_with(|| Instant::now() + GRACE);
                }
                Err(error) => errors.push((index, error)),
            }
        }
        let late = |index| (index, "it is much slower than the others".to_owned());
        errors.extend(missing.into_iter().map(late));
        // The order of the configuration, not that of the answers.
        ballots.sort_by_key(|ballot| ballot.server);
        errors.sort();
        (ballots, errors)
    }

    /// Reads the workers, or remembers them.
    async fn workers(&mut self, index: usize, overview: &Overview) -> Result<Facts, String> {
        let at = (index, overview.clone());
        if let Some(listed) = &mut self.listed
            && listed.at == at
            && listed.polls + 1 < LIST_EVERY
        {
            listed.polls += 1;
            return Ok(listed.facts.clone());
        }
        let server = &mut self.servers[index];
        let (workers, _) = server.workers.read(&mut server.client).await?;
        let facts = workers.facts();
        self.listed = Some(Listed {
            at,
            polls: 0,
            facts: facts.clone(),
        });
        Ok(facts)
    }
}

impl Server {
    async fn ballot(&mut self, index: usize) -> Result<Ballot, String> {
        let (settings, from) = self.config.read(&mut self.client).await?;
        Ok(Ballot {
            server: index,
            settings: settings.clone(),
            rest: from.named.clone(),
            address: from.address,
        })
    }
}

impl Poll for Flink {
    fn id(&self) -> SourceId {
        let urls: Vec<_> = self.servers.iter().map(|s| s.url.to_string()).collect();
        SourceId {
            kind: Kind::Flink,
            place: urls.join(" "),
        }
    }

    async fn ask(&mut self) -> Result<Facts, String> {
        let (mut ballots, mut errors) = self.ballots().await;
        let mut others = Facts::new();
        let before = self.cluster.as_deref();
        if let Some(now) = elect::of_one_cluster(&mut ballots, before, &mut others)? {
            self.cluster = Some(now);
        }
        let election = Election::of(&ballots, self.leader.as_ref());

        // All answer for the leader; that one itself is asked first.
        let mut known = None;
        for index in election.order(&ballots) {
            let server = &mut self.servers[index];
            match server.overview.read(&mut server.client).await {
                Ok((overview, _)) => {
                    let overview = overview.clone();
                    match self.workers(index, &overview).await {
                        Ok(facts) => {
                            known = Some((overview, facts));
                            break;
                        }
                        Err(error) => errors.push((index, error)),
                    }
                }
                Err(error) => errors.push((index, error)),
            }
        }
        let Some((overview, mut facts)) = known else {
            let errors: Vec<_> = errors.into_iter().map(|(_, error)| error).collect();
            return Err(errors.join("; "));
        };
        for (server, error) in errors {
            facts.refuse("answer", &self.servers[server].url.to_string(), error);
        }
        facts.refuse_as(&others);
        for ballot in &ballots {
            ballot.settings.tell(ballot.address, &mut facts);
        }
        // Where there are records, they say who leads.
        let has_records = |ballot: &Ballot| matches!(ballot.settings.records(), Some(Ok(_)));
        if !ballots.iter().any(has_records) {
            election.report(&ballots, &mut facts);
        }
        self.leader = None;
        if let Some(ballot) = election.leader.map(|index| &ballots[index])
            && let Some(address) = ballot.settings.rpc(&overview, &mut facts)
        {
            facts.add(Claim::LeaderRpc {
                component: Component::JobManager,
                address: address.clone(),
                session: None,
            });
            facts.add(Claim::LeaderRest {
                address: ballot.rest.clone(),
                session: None,
            });
            self.leader = Some(address);
        }
        Ok(facts)
    }
}
