//! Who leads, as far as answers of several servers tell. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use super::answer::Settings;
use crate::{
    discovery::Facts,
    name::{RpcAddress, WebAddress},
};

/// What one server says of itself.
#[derive(Clone, Debug)]
pub struct Ballot {
    /// Its place in the configuration.
    pub server: usize,
    /// Its settings.
    pub settings: Settings,
    /// Where it answered, redirects followed.
    pub rest: WebAddress,
    /// The address that answered.
    pub address: IpAddr,
}

/// Leaves the ballots of one cluster, of the one that was asked before if it answers, and notes the others, of which
/// nothing is learned. Returns which cluster that is.
///
/// # Errors
/// There are servers of several clusters, and none was asked before: one sentence.
pub fn of_one_cluster(
    ballots: &mut Vec<Ballot>,
    before: Option<&str>,
    facts: &mut Facts,
) -> Result<Option<String>, String> {
    let is_before = |ballot: &&Ballot| ballot.settings.cluster().as_deref() == before;
    let known = ballots.iter().find(is_before);
    let Some(first) = known.or(ballots.first()) else {
        return Ok(None);
    };
    let (cluster, rest) = (first.settings.cluster(), first.rest.clone());
    let is_same = |ballot: &Ballot| ballot.settings.cluster() == cluster;
    if let (None, Some(other)) = (known, ballots.iter().find(|ballot| !is_same(ballot))) {
        return Err(format!(
            "{rest} and {} are servers of two clusters; nothing is learned of either; name the servers of one cluster",
            other.rest
        ));
    }
    ballots.retain(|ballot| {
        let is_same = is_same(ballot);
        if !is_same {
            facts.refuse(
                "cluster",
                &ballot.rest.to_string(),
                format_args!(
                    "it is a server of another cluster than {rest}; name the servers of one cluster"
                ),
            );
        }
        is_same
    });
    Ok(cluster)
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Election {
    /// The ballot of the leader; `None` if answers contradict each other or there is none.
    pub leader: Option<usize>,
}

impl Election {
    /// If all answers name one JobManager, it leads. If not: the one that led before as long as it
    /// answers, else the one that most name, else none.
    pub fn of(ballots: &[Ballot], before: Option<&RpcAddress>) -> Self {
        // The number of answers, and the first of them.
        let mut named: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (index, ballot) in ballots.iter().enumerate() {
            if let Some(name) = ballot.settings.announced() {
                named.entry(name).or_insert((0, index)).0 += 1;
            }
        }
        let before = before.and_then(|leader| named.get(leader.authority().as_str()));
        let most = named.values().map(|(count, _)| *count).max().unwrap_or(0);
        let mut winners = named.values().filter(|(count, _)| *count == most);
        let leader = match (before, winners.next(), winners.next()) {
            (Some((_, index)), ..) | (None, Some((_, index)), None) => Some(*index),
            (None, ..) => None,
        };
        Self { leader }
    }

    /// The servers that answered, the leader first.
    pub fn order(&self, ballots: &[Ballot]) -> Vec<usize> {
        let mut order: Vec<_> = (0..ballots.len()).collect();
        order.sort_by_key(|index| Some(*index) != self.leader);
        order
            .into_iter()
            .map(|index| ballots[index].server)
            .collect()
    }

    /// Notes the answers that contradict the outcome.
    pub fn report(&self, ballots: &[Ballot], facts: &mut Facts) {
        let leader = self
            .leader
            .and_then(|index| ballots[index].settings.announced());
        for ballot in ballots {
            let named = ballot.settings.announced();
            if let Some(name) = named.as_ref().filter(|_| named != leader) {
                let other = leader.as_ref().map_or(
                    "nobody is taken for the leader",
                    |_| "another is taken for the leader",
                );
                facts.refuse(
                    "leader",
                    name,
                    format_args!(
                        "{} says so, others differ; {other}; set ha to be sure",
                        ballot.rest
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballots(names: &[&str]) -> Vec<Ballot> {
        let ballot = |(server, name): (usize, &&str)| Ballot {
            server,
            settings: serde_json::from_value(serde_json::json!([
                {"key": "jobmanager.rpc.address", "value": name}
            ]))
            .unwrap(),
            rest: "http://jm:8081".parse().unwrap(),
            address: [10, 0, 0, 1].into(),
        };
        names.iter().enumerate().map(ballot).collect()
    }

    fn leader(names: &[&str], before: Option<&str>) -> Option<usize> {
        let before = before.map(|name| format!("pekko.tcp://flink@{name}:6123").parse().unwrap());
        Election::of(&ballots(names), before.as_ref()).leader
    }

    #[test]
    fn the_agreeing_win() {
        assert_eq!(leader(&[], None), None);
        assert_eq!(leader(&["a"], None), Some(0));
        assert_eq!(leader(&["b"], Some("a")), Some(0));
        assert_eq!(leader(&["a", "a"], Some("b")), Some(0));
        assert_eq!(leader(&["a", "b", "b"], None), Some(1));
    }

    #[test]
    fn a_contradiction_changes_nothing() {
        assert_eq!(leader(&["a", "b"], None), None);
        assert_eq!(leader(&["a", "b"], Some("b")), Some(1));
        assert_eq!(leader(&["a", "b", "b"], Some("a")), Some(0));
        assert_eq!(leader(&["a", "b"], Some("c")), None);
    }

    #[test]
    fn nothing_is_learned_of_another_cluster() {
        let left = |names: &[&str], before: Option<&str>| {
            let (mut ballots, mut facts) = (ballots(names), Facts::new());
            let cluster = of_one_cluster(&mut ballots, before, &mut facts);
            let servers: Vec<_> = ballots.iter().map(|ballot| ballot.server).collect();
            (cluster, servers, facts)
        };
        let (why, ..) = left(&["a", "b", "a"], None);
        assert!(why.unwrap_err().contains("are servers of two clusters"));
        let (cluster, servers, facts) = left(&["a", "b", "a"], Some("a:6123"));
        assert_eq!(cluster.unwrap().as_deref(), Some("a:6123"));
        assert_eq!(servers, [0, 2]);
        let line = facts.refused()[0].to_string();
        assert!(line.contains("it is a server of another cluster"), "{line}");
        assert_eq!(facts.refused_count(), 1);
        // It is replaced, or nobody answers.
        assert_eq!(left(&["a"], Some("gone:6123")).1, [0]);
        assert_eq!(left(&[], Some("gone:6123")).0, Ok(None));
    }

    #[test]
    fn contradictions_are_told() {
        let ballots = ballots(&["a", "b", "b"]);
        let election = Election::of(&ballots, None);
        assert_eq!(election.order(&ballots), [1, 0, 2]);
        let mut facts = Facts::new();
        election.report(&ballots, &mut facts);
        assert_eq!(facts.refused_count(), 1);
        let line = facts.refused()[0].to_string();
        assert!(
            line.starts_with("leader \"a:6123\": http://jm:8081 says so"),
            "{line}"
        );
        let mut facts = Facts::new();
        Election { leader: None }.report(&ballots, &mut facts);
        assert_eq!(facts.refused_count(), 3);
    }
}
