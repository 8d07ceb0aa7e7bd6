//! What a source says.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::{
    clock::Moment,
    name::{Authority, Id, NameError, RpcAddress, Session, WebAddress, shown},
};

/// The most claims that are taken from one source: as many as there can be targets. A cluster is smaller, a
/// mistake or an attack is not.
pub const CLAIMS_MAX: usize = truename_common::layout::TARGETS_MAX as usize;
/// How many refusals are kept to be shown; all are counted.
const REFUSED_KEPT: usize = 16;

/// One thing that a source says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// Who leads, as RPC names it.
    LeaderRpc {
        /// What it leads as.
        component: Component,
        /// Where it announces itself.
        address: RpcAddress,
        /// Its term, where the source knows one.
        session: Option<Session>,
    },
    /// Where the leader's REST server is.
    LeaderRest {
        /// Where it announces itself.
        address: WebAddress,
        /// Its term, where the source knows one.
        session: Option<Session>,
    },
    /// A worker; Flink's TaskManager.
    Worker(Worker),
    /// A member of an actor cluster.
    Member(Member),
    /// Other ports of a JobManager.
    Ports(Ports),
    /// Where the cluster keeps its leader records, as [`crate::config::Cluster`] writes it.
    Records(String),
    /// The announced name is at this address.
    Address {
        /// As announced.
        name: Authority,
        /// Where it was seen, or is said to be.
        address: IpAddr,
    },
}

/// What a process leads as. Flink before 1.15 elects each by itself. The order is the precedence:
/// workers register with the resource manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// Where workers register.
    ResourceManager,
    /// Where jobs are submitted.
    Dispatcher,
    /// The process as a whole.
    JobManager,
    /// The leader of an actor cluster.
    Cluster,
}

impl Component {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ResourceManager => "resource manager",
            Self::Dispatcher => "dispatcher",
            Self::JobManager => "job manager",
            Self::Cluster => "cluster",
        }
    }
}

/// Ports that a JobManager tells of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// The name by which its RPC goes.
    pub name: Authority,
    /// Of its blob server.
    pub blob: Option<u16>,
    /// Where its workers answer questions about their state, if they do.
    pub queryable_state: Option<u16>,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worker {
    /// Unique in the cluster.
    pub id: Id,
    /// Where it announces itself.
    pub rpc: RpcAddress,
    /// Where other workers fetch data; absent if it is not known.
    pub data_port: Option<u16>,
}

/// A member of an actor cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// Where it announces itself.
    pub address: RpcAddress,
    /// Where it is in its life.
    pub status: MemberStatus,
    /// Whether the others reach it.
    pub reachable: bool,
}

/// Where a member is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemberStatus {
    /// It joins.
    Joining,
    /// It joins, and has not been confirmed by all.
    WeaklyUp,
    /// It works.
    Up,
    /// It asked to leave.
    Leaving,
    /// It leaves.
    Exiting,
    /// It is thought dead.
    Down,
    /// It is gone.
    Removed,
}

impl MemberStatus {
    /// All, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Joining,
        Self::WeaklyUp,
        Self::Up,
        Self::Leaving,
        Self::Exiting,
        Self::Down,
        Self::Removed,
    ];

    /// As Akka and Pekko write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "Joining",
            Self::WeaklyUp => "WeaklyUp",
            Self::Up => "Up",
            Self::Leaving => "Leaving",
            Self::Exiting => "Exiting",
            Self::Down => "Down",
            Self::Removed => "Removed",
        }
    }
}

/// Something from outside that is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    what: &'static str,
    text: String,
    reason: String,
}

impl fmt::Display for Refused {
    /// One line without control characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\": {}", self.what, self.text, self.reason)
    }
}

/// All that a source knows at one time, and what it heard and did not believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// With the time of each that was seen at a time of its own.
    pub(in crate::discovery) claims: BTreeMap<Claim, Option<Moment>>,
    refused: Vec<Refused>,
    refused_count: usize,
    beyond: usize,
}

impl Facts {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a claim that is as fresh as the report it is in.
    pub fn add(&mut self, claim: Claim) {
        self.insert(claim, None);
    }

    /// Adds a claim that was seen at a time of its own; the latest counts.
    pub fn add_seen(&mut self, claim: Claim, seen: Moment) {
        self.insert(claim, Some(seen));
    }

    /// Parses a text from outside: a value, or a refusal that is counted. `what` says in a word or
    /// two what it was to be, such as "worker".
    pub fn check<T: std::str::FromStr<Err = NameError>>(
        &mut self,
        what: &'static str,
        text: &str,
    ) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(what, text, error);
                None
            }
        }
    }

    /// Notes something that is not believed. `text` may be anything: it is escaped and cut.
    pub fn refuse(&mut self, what: &'static str, text: &str, reason: impl fmt::Display) {
        self.refused_count += 1;
        if self.refused.len() < REFUSED_KEPT {
            self.refused.push(Refused {
                what,
                text: shown(text),
                reason: reason.to_string(),
            });
        }
    }

    /// Adds what others claim.
    pub fn extend(&mut self, other: Self) {
        for (claim, seen) in other.claims {
            self.insert(claim, seen);
        }
    }

    /// Notes what others refused.
    pub fn refuse_as(&mut self, other: &Self) {
        self.refused_count += other.refused_count;
        let room = REFUSED_KEPT.saturating_sub(self.refused.len());
        self.refused
            .extend(other.refused.iter().take(room).cloned());
    }

    /// The claims.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.claims.keys()
    }

    /// The claims, and when each was seen; those without a time of their own at `confirmed`.
    pub fn seen(&self, confirmed: Moment) -> impl Iterator<Item = (&Claim, Moment)> {
        self.claims
            .iter()
            .map(move |(claim, seen)| (claim, seen.unwrap_or(confirmed)))
    }

    /// Some of what was refused.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// How much was refused.
    pub const fn refused_count(&self) -> usize {
        self.refused_count
    }

    /// How much was left out because it was more than is taken.
    pub const fn beyond(&self) -> usize {
        self.beyond
    }

    /// Whether both say the same, whenever they were seen.
    pub fn same_claims(&self, other: &Self) -> bool {
        self.claims.len() == other.claims.len() && self.claims().eq(other.claims())
    }

    fn insert(&mut self, claim: Claim, seen: Option<Moment>) {
        if self.claims.len() >= CLAIMS_MAX && !self.claims.contains_key(&claim) {
            self.beyond += 1;
            self.refuse(
                "fact",
                "one more",
                format_args!("more than {CLAIMS_MAX} are not taken from one source"),
            );
            return;
        }
        let entry = self.claims.entry(claim).or_insert(seen);
        *entry = seen.max(*entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(number: usize) -> Claim {
        Claim::Worker(Worker {
            id: format!("tm-{number}").parse().unwrap(),
            rpc: "pekko.tcp://flink@tm:6122".parse().unwrap(),
            data_port: None,
        })
    }

    #[test]
    fn refusals_are_counted_escaped_and_bounded() {
        let mut facts = Facts::new();
        for _ in 0..100 {
            assert_eq!(facts.check::<Id>("worker", "\u{1b}[2J"), None);
        }
        assert_eq!(
            facts.check::<Id>("worker", "tm-1").unwrap().as_str(),
            "tm-1"
        );
        assert_eq!(facts.refused_count(), 100);
        assert_eq!(facts.refused().len(), REFUSED_KEPT);
        let line = facts.refused()[0].to_string();
        assert!(
            line.starts_with("worker \"\\u{1b}[2J\": an identifier"),
            "{line}"
        );
    }

    #[test]
    fn there_is_an_end_to_what_one_source_may_say() {
        let mut facts = Facts::new();
        for number in 0..CLAIMS_MAX + 3 {
            facts.add(worker(number));
        }
        facts.add(worker(0));
        assert_eq!(facts.claims().count(), CLAIMS_MAX);
        assert_eq!(facts.refused_count(), 3);
    }

    #[test]
    fn the_latest_sight_counts() {
        let (early, late) = (Moment::from_ns(1), Moment::from_ns(2));
        let mut facts = Facts::new();
        facts.add_seen(worker(1), late);
        facts.add_seen(worker(1), early);
        assert_eq!(facts.claims[&worker(1)], Some(late));
        let mut other = Facts::new();
        other.add(worker(1));
        assert!(facts.same_claims(&other));
    }
}
