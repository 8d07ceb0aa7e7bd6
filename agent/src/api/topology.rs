//! The rows of `truename topology`: every fact, its source and its age, and how the sources fare.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Clock, Code, Finding, Timestamp};
use crate::{
    clock::Moment,
    discovery::{
        Claim, Kind, Known, Report, Snapshot, SourceId, State, Topology, model::fact::CLAIMS_MAX,
    },
};

/// A fact, or a source. Field names are stable. The texts were validated or escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyRow {
    /// `leader-rpc`, `leader-rest`, `worker`, `member`, `ports`, `records`, `address`, `source` or `refused`.
    pub kind: String,
    /// What it is about: an identifier, a name, what somebody leads as.
    pub name: String,
    /// Where that is.
    pub address: Option<String>,
    /// Who says so.
    pub source: String,
    /// When it was seen or confirmed last.
    pub last_seen: Option<Timestamp>,
    /// What else there is to say.
    pub note: Option<String>,
}

/// What is known of the cluster, in short. Field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    /// Grows whenever a source says something else than before.
    pub generation: u64,
    /// The generation that the kernel tables were made from.
    pub applied: u64,
    /// Who leads, as RPC names it.
    pub leader_rpc: Option<LeaderRow>,
    /// Where the leader's REST server is.
    pub leader_rest: Option<LeaderRow>,
    /// Workers that are known.
    pub workers: usize,
    /// Members of an actor cluster that are known.
    pub members: usize,
    /// Who is asked, in the order of precedence.
    pub sources: Vec<SourceRow>,
}

/// A leader. Field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRow {
    /// Where it announces itself.
    pub address: String,
    /// Who says so.
    pub source: String,
    /// When that was confirmed last.
    pub last_seen: Option<Timestamp>,
}

/// A source. Field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// What and where it is.
    pub name: String,
    /// `starting`, `good`, `failing`, `hanging` or `degraded`.
    pub state: String,
    /// When its facts were confirmed last.
    pub last_seen: Option<Timestamp>,
    /// Why it fails.
    pub error: Option<String>,
}

/// The cluster in short. `applied` is the generation that the kernel tables were made from.
pub fn cluster(snapshot: &Snapshot, applied: u64, clock: &Clock) -> ClusterRow {
    fn leader<T>(known: &Known<T>, address: impl ToString, clock: &Clock) -> LeaderRow {
        LeaderRow {
            address: address.to_string(),
            source: known.source.kind.name().to_owned(),
            last_seen: clock.at(known.at.ns()),
        }
    }
    let now = Moment::from_ns(clock.monotonic_ns());
    let topology = &snapshot.topology;
    let (rpc, rest) = (&topology.leader_rpc, &topology.leader_rest);
    ClusterRow {
        generation: snapshot.generation,
        applied,
        leader_rpc: rpc.as_ref().map(|k| leader(k, &k.value.address, clock)),
        leader_rest: rest.as_ref().map(|k| leader(k, &k.value.address, clock)),
        workers: topology.workers.len(),
        members: topology.members.len(),
        sources: snapshot
            .reports
            .iter()
            .filter(|(id, _)| is_asked(id, topology))
            .map(|(id, Report { health, .. })| SourceRow {
                name: id.to_string(),
                state: health.state(now).name().to_owned(),
                last_seen: health.success.and_then(|at| clock.at(at.ns())),
                error: health.failure.as_ref().map(|(_, why)| why.clone()),
            })
            .collect(),
    }
}

/// Whether there is anything to ask a source for. The one that follows the records of which JobManagers tell has no place of
/// its own, and nothing to do without such records.
fn is_asked(id: &SourceId, topology: &Topology) -> bool {
    id.kind != Kind::Zookeeper || !id.place.is_empty() || topology.records.is_some()
}

/// All rows: the facts that count before those that do not, then the sources.
pub fn rows(snapshot: &Snapshot, clock: &Clock) -> Vec<TopologyRow> {
    let now = Moment::from_ns(clock.monotonic_ns());
    let mut facts = Vec::new();
    for (id, report) in &snapshot.reports {
        for (claim, at) in report.facts.seen(report.health.success.unwrap_or_default()) {
            let better = better(&snapshot.topology, claim, id);
            let row = fact(claim, id, clock.at(at.ns()), better);
            facts.push((kind_order(claim), better.is_some(), row));
        }
    }
    // Within a kind the order of the reports stays, which is that of precedence.
    facts.sort_by(|a, b| (a.0, &a.2.name, a.1).cmp(&(b.0, &b.2.name, b.1)));
    let facts = facts.into_iter().map(|(_, _, row)| row);
    let sources = snapshot
        .reports
        .iter()
        .filter(|(id, _)| is_asked(id, &snapshot.topology))
        .flat_map(|(id, report)| source(id, report, clock, now));
    facts.chain(sources).collect()
}

fn kind_order(claim: &Claim) -> u8 {
    match claim {
        Claim::LeaderRpc { .. } => 0,
        Claim::LeaderRest { .. } => 1,
        Claim::Worker(_) => 2,
        Claim::Member(_) => 3,
        Claim::Ports(_) => 4,
        Claim::Records(_) => 5,
        Claim::Address { .. } => 6,
    }
}

/// The source that this one is overruled by.
fn better<'a>(topology: &'a Topology, claim: &Claim, by: &SourceId) -> Option<&'a SourceId> {
    fn other<'a, T>(
        known: Option<&'a Known<T>>,
        same: impl Fn(&T) -> bool,
        by: &SourceId,
    ) -> Option<&'a SourceId> {
        let known = known?;
        (known.source != *by || !same(&known.value)).then_some(&known.source)
    }
    match claim {
        Claim::LeaderRpc {
            component,
            address,
            session,
        } => other(
            topology.leader_rpc.as_ref(),
            |v| (v.component, &v.address, &v.session) == (*component, address, session),
            by,
        ),
        Claim::LeaderRest { address, session } => other(
            topology.leader_rest.as_ref(),
            |v| (&v.address, &v.session) == (address, session),
            by,
        ),
        Claim::Worker(worker) => other(topology.workers.get(&worker.id), |v| v == worker, by),
        Claim::Member(member) => other(topology.members.get(&member.address), |v| v == member, by),
        Claim::Records(records) => other(topology.records.as_ref(), |v| v == records, by),
        Claim::Ports(ports) => other(topology.ports.get(&ports.name), |v| v == ports, by),
        Claim::Address { name, address } => {
            let best = topology.addresses.get(name).and_then(|known| known.first());
            other(best, |v| v == address, by)
        }
    }
}

fn fact(
    claim: &Claim,
    source: &SourceId,
    last_seen: Option<Timestamp>,
    better: Option<&SourceId>,
) -> TopologyRow {
    let (kind, name, address, mut notes) = match claim {
        Claim::LeaderRpc {
            component,
            address,
            session,
        } => (
            "leader-rpc",
            component.name().to_owned(),
            address.to_string(),
            session.map(|session| format!("session {session}")),
        ),
        Claim::LeaderRest { address, session } => (
            "leader-rest",
            "rest".to_owned(),
            address.to_string(),
            session.map(|session| format!("session {session}")),
        ),
        Claim::Worker(worker) => (
            "worker",
            worker.id.to_string(),
            worker.rpc.to_string(),
            worker.data_port.map(|port| format!("data port {port}")),
        ),
        Claim::Member(member) => {
            let unreachable = if member.reachable {
                ""
            } else {
                ", unreachable"
            };
            (
                "member",
                member.address.authority().to_string(),
                member.address.to_string(),
                Some(format!("{}{unreachable}", member.status.name())),
            )
        }
        Claim::Records(records) => ("records", "leaders".to_owned(), records.clone(), None),
        Claim::Ports(ports) => {
            let blob = ports.blob.map(|port| format!("blob {port}"));
            let state = ports.queryable_state;
            let state = state.map(|port| format!("queryable state {port}"));
            let told: Vec<_> = blob.into_iter().chain(state).collect();
            let name = ports.name.to_string();
            ("ports", name.clone(), name, Some(told.join(", ")))
        }
        Claim::Address { name, address } => {
            ("address", name.to_string(), address.to_string(), None)
        }
    };
    if let Some(better) = better {
        let second = format!("{} comes first", better.kind.name());
        notes = Some(notes.map_or(second.clone(), |first| format!("{first}; {second}")));
    }
    TopologyRow {
        kind: kind.to_owned(),
        name,
        address: Some(address),
        source: source.kind.name().to_owned(),
        last_seen,
        note: notes,
    }
}

/// How a source fares, and what it said that is not believed.
fn source(id: &SourceId, report: &Report, clock: &Clock, now: Moment) -> Vec<TopologyRow> {
    let health = &report.health;
    let state = health.state(now).name();
    let row = |kind: &str, name: &str, note| TopologyRow {
        kind: kind.to_owned(),
        name: name.to_owned(),
        address: (!id.place.is_empty()).then(|| id.place.clone()),
        source: id.kind.name().to_owned(),
        last_seen: health.success.and_then(|at| clock.at(at.ns())),
        note,
    };
    let note = health.failure.as_ref().map(|(_, why)| why.clone());
    let mut rows = vec![row("source", state, note)];
    let refused = &report.facts;
    rows.extend(
        refused
            .refused()
            .iter()
            .map(|refused| row("refused", "", Some(refused.to_string()))),
    );
    let more = refused.refused_count() - refused.refused().len();
    if more > 0 {
        rows.push(row("refused", "", Some(format!("{more} more"))));
    }
    rows
}

/// Sentences about names that somebody claimed elsewhere than where they are confirmed, for `status`.
pub fn claimed(topology: &Topology) -> impl Iterator<Item = String> {
    /// Names that are told.
    const FEW: usize = 8;
    let names = topology.addresses.iter().filter_map(|(name, known)| {
        let confirmed = known.first()?;
        let is_seen = |known: &&Known<IpAddr>| known.source.kind.is_seen();
        let other = known.iter().find(is_seen)?;
        (!is_seen(&confirmed)).then(|| {
            format!(
                "{name} was announced from {}, but it is at {} by {}: the announcement is not believed",
                other.value,
                confirmed.value,
                confirmed.source.kind.name()
            )
        })
    });
    names.take(FEW)
}

/// Sentences about sources that are degraded, for `status`.
pub fn problems(snapshot: &Snapshot, clock: &Clock) -> Vec<Finding> {
    let now = Moment::from_ns(clock.monotonic_ns());
    let too_much = snapshot.reports.iter().filter_map(|(id, report)| {
        let beyond = report.facts.beyond();
        (beyond > 0).then(|| {
            format!(
                "the topology source {id} says more than {CLAIMS_MAX} things: {beyond} are left out"
            )
        })
    });
    let failed = snapshot.degraded(now).map(|(id, health)| {
        let why = health.failure.as_ref().map(|(_, why)| why.as_str());
        let kept = match health.success {
            Some(_) => "what it said last is kept",
            None => "it has said nothing yet",
        };
        if let (State::Hanging, Some(waiting)) = (health.state(now), health.waiting) {
            let (since, what) = (now.since(waiting.since).as_secs(), waiting.what);
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            return format!(
                "the topology source {id} hangs: it has waited {since}s for {what}, {kept}{why}"
            );
        }
        let since = now
            .since(health.success.unwrap_or(health.started))
            .as_secs();
        let why = why.unwrap_or("no answer");
        format!("the topology source {id} has failed for {since}s, {kept}: {why}")
    });
    Finding::all(Code::Source, failed.chain(too_much)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::discovery::{Component, Facts, Follower, merge};

    fn id(kind: Kind, place: &str) -> SourceId {
        SourceId {
            kind,
            place: place.to_owned(),
        }
    }

    fn leader(name: &str) -> Claim {
        Claim::LeaderRpc {
            component: Component::JobManager,
            address: format!("pekko.tcp://flink@{name}:6123").parse().unwrap(),
            session: None,
        }
    }

    #[test]
    fn a_name_that_somebody_else_claims_is_told() {
        let said = |kind, address: [u8; 4]| {
            let mut facts = Facts::new();
            for name in ["jm:6123", "alone:1"] {
                facts.add(Claim::Address {
                    name: name.parse().unwrap(),
                    address: address.into(),
                });
            }
            (id(kind, ""), facts)
        };
        let told = |all: &[(SourceId, Facts)]| {
            let said = all
                .iter()
                .map(|(id, facts)| (id, Moment::from_ns(1), facts));
            claimed(&merge(said)).collect::<Vec<_>>()
        };
        let (flink, seen) = (
            said(Kind::Flink, [10, 0, 0, 1]),
            said(Kind::Learned, [10, 0, 0, 66]),
        );
        let both = told(&[flink.clone(), seen.clone()]);
        assert_eq!(
            both[1],
            "jm:6123 was announced from 10.0.0.66, but it is at 10.0.0.1 by flink: the announcement is not believed"
        );
        assert_eq!(told(&[flink]), [""; 0]);
        assert_eq!(told(&[seen]), [""; 0]);
    }

    #[test]
    fn every_fact_has_a_row_and_the_best_is_first() {
        let follower = Follower::new();
        let record = follower.reporter(id(Kind::Zookeeper, "zk:2181"));
        let rest = follower.reporter(id(Kind::Flink, "http://jm:8081"));
        let mut facts = Facts::new();
        facts.add(leader("old"));
        facts.check::<crate::name::Id>("worker", "\u{1b}[2J");
        rest.facts(facts, None);
        let mut facts = Facts::new();
        facts.add(leader("new"));
        record.facts(facts, None);
        rest.failed("GET http://jm:8081/overview: cannot connect", None);
        let snapshot = follower.subscribe().borrow().clone();
        let shown: Vec<_> = rows(&snapshot, &Clock::read())
            .into_iter()
            .map(|row| {
                assert!(row.last_seen.is_some());
                let note = row.note.unwrap_or_default();
                format!(
                    "{} {} {} {} {note}",
                    row.kind,
                    row.name,
                    row.address.unwrap(),
                    row.source
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "leader-rpc job manager pekko.tcp://flink@new:6123 zookeeper ",
                "leader-rpc job manager pekko.tcp://flink@old:6123 flink zookeeper comes first",
                "source good zk:2181 zookeeper ",
                "source failing http://jm:8081 flink GET http://jm:8081/overview: cannot connect",
                "refused  http://jm:8081 flink worker \"\\u{1b}[2J\": an identifier has 1 to 255 printable ASCII characters and no space",
            ]
        );
        assert!(problems(&snapshot, &Clock::read()).is_empty());
    }

    #[test]
    fn the_cluster_in_short() {
        let follower = Follower::new();
        let source = follower.reporter(id(Kind::Zookeeper, "zk:2181"));
        let mut facts = Facts::new();
        facts.add(leader("jm"));
        source.facts(facts, None);
        source.failed("the session has ended", None);
        let row = cluster(&follower.subscribe().borrow(), 0, &Clock::read());
        assert_eq!((row.generation, row.applied, row.workers), (1, 0, 0));
        let leader = row.leader_rpc.unwrap();
        assert_eq!(leader.address, "pekko.tcp://flink@jm:6123");
        assert_eq!(leader.source, "zookeeper");
        assert!(leader.last_seen.is_some() && row.leader_rest.is_none());
        let [source] = &row.sources[..] else {
            panic!("one source")
        };
        assert_eq!(
            (&*source.name, &*source.state),
            ("zookeeper zk:2181", "failing")
        );
        assert_eq!(source.error.as_deref(), Some("the session has ended"));
    }

    #[test]
    fn a_degraded_source_is_a_problem() {
        let follower = Follower::new();
        let source = follower.reporter(id(Kind::Flink, "http://jm:8081"));
        source.facts(Facts::new(), None);
        source.failed("GET http://jm:8081/overview: cannot connect", None);
        let mut snapshot = follower.subscribe().borrow().clone();
        for report in snapshot.reports.values_mut() {
            report.health.patience = Duration::ZERO;
        }
        let problems = problems(&snapshot, &Clock::read());
        assert_eq!(
            problems
                .iter()
                .map(|found| &found.sentence)
                .collect::<Vec<_>>(),
            [
                "the topology source flink http://jm:8081 has failed for 0s, what it said last is kept: GET http://jm:8081/overview: cannot connect"
            ]
        );
    }
}
