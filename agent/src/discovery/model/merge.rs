//! One topology of what all sources say.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use crate::{
    clock::Moment,
    discovery::{Claim, Component, Facts, Member, Ports, SourceId, Worker},
    name::{Authority, Id, RpcAddress, Session, WebAddress},
};

/// Something known: by whom, and since when it has not been confirmed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known<T> {
    /// What.
    pub value: T,
    /// Who says so.
    pub source: SourceId,
    /// When it was seen or confirmed last.
    pub at: Moment,
}

/// Who leads, as RPC names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaderRpc {
    /// What it leads as.
    pub component: Component,
    /// Where it announces itself.
    pub address: RpcAddress,
    /// Its term.
    pub session: Option<Session>,
}

/// Where the leader's REST server is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaderRest {
    /// Where it announces itself.
    pub address: WebAddress,
    /// Its term.
    pub session: Option<Session>,
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Who leads, as RPC names it.
    pub leader_rpc: Option<Known<LeaderRpc>>,
    /// Where the leader's REST server is.
    pub leader_rest: Option<Known<LeaderRest>>,
    /// The workers.
    pub workers: BTreeMap<Id, Known<Worker>>,
    /// The members of the actor cluster.
    pub members: BTreeMap<RpcAddress, Known<Member>>,
    /// Where the cluster keeps its leader records, by its own account.
    pub records: Option<Known<String>>,
    /// Other ports of JobManagers, by the name of their RPC.
    pub ports: BTreeMap<Authority, Known<Ports>>,
    /// Where announced names are; of every name the best known address first.
    pub addresses: BTreeMap<Authority, Vec<Known<IpAddr>>>,
}

/// What one source says: who, when it was confirmed, and what.
pub type Said<'a> = (&'a SourceId, Moment, &'a Facts);

/// Merges what sources say. The result depends on nothing but the set of what is said.
///
/// For a leader, a worker or a member the first of these decides: the [`crate::discovery::Kind`] of the source
/// in its order, the [`Component`] in its order, the later of two, the smaller value. Workers and
/// members are the union of all sources. Addresses of a name are ordered by the same rule.
pub fn merge<'a>(said: impl IntoIterator<Item = Said<'a>>) -> Topology {
    let mut topology = Topology::default();
    for (source, confirmed, facts) in said {
        for (claim, at) in facts.seen(confirmed) {
            topology.add(claim, source, at);
        }
    }
    for known in topology.addresses.values_mut() {
        known.sort_by_cached_key(|known| rank(known, 0));
        // Of one address the best evidence is kept, which is the first now.
        let mut kept: Vec<IpAddr> = Vec::new();
        known.retain(|known| {
            let new = !kept.contains(&known.value);
            kept.push(known.value);
            new
        });
    }
    topology
}

/// What decides between two; the smaller is better.
fn rank<T: Clone>(
    known: &Known<T>,
    within: u8,
) -> (crate::discovery::Kind, u8, Reverse<Moment>, T, String) {
    (
        known.source.kind,
        within,
        Reverse(known.at),
        known.value.clone(),
        known.source.place.clone(),
    )
}

impl Topology {
    fn add(&mut self, claim: &Claim, source: &SourceId, at: Moment) {
        match claim.clone() {
            Claim::LeaderRpc {
                component,
                address,
                session,
            } => {
                let value = LeaderRpc {
                    component,
                    address,
                    session,
                };
                let new = known(value, source, at);
                let within = |leader: &Known<LeaderRpc>| leader.value.component as u8;
                keep_better_within(&mut self.leader_rpc, new, within);
            }
            Claim::LeaderRest { address, session } => {
                let new = known(LeaderRest { address, session }, source, at);
                keep_better_within(&mut self.leader_rest, new, |_| 0);
            }
            Claim::Worker(worker) => {
                let id = worker.id.clone();
                keep_better(self.workers.entry(id), known(worker, source, at));
            }
            Claim::Member(member) => {
                let address = member.address.clone();
                keep_better(self.members.entry(address), known(member, source, at));
            }
            Claim::Records(records) => {
                let new = known(records, source, at);
                keep_better_within(&mut self.records, new, |_| 0);
            }
            Claim::Ports(ports) => {
                let name = ports.name.clone();
                keep_better(self.ports.entry(name), known(ports, source, at));
            }
            Claim::Address { name, address } => {
                let list = self.addresses.entry(name).or_default();
                list.push(known(address, source, at));
            }
        }
    }
}

fn known<T>(value: T, source: &SourceId, at: Moment) -> Known<T> {
    Known {
        value,
        source: source.clone(),
        at,
    }
}

fn keep_better<K: Ord, T: Clone + Ord>(entry: Entry<'_, K, Known<T>>, new: Known<T>) {
    match entry {
        Entry::Vacant(vacant) => {
            vacant.insert(new);
        }
        Entry::Occupied(mut occupied) => {
            if rank(&new, 0) < rank(occupied.get(), 0) {
                occupied.insert(new);
            }
        }
    }
}

/// The same for what there is one of. `within` ranks what one kind of source says.
fn keep_better_within<T: Clone + Ord>(
    place: &mut Option<Known<T>>,
    new: Known<T>,
    within: impl Fn(&Known<T>) -> u8,
) {
    if place
        .as_ref()
        .is_none_or(|old| rank(&new, within(&new)) < rank(old, within(old)))
    {
        *place = Some(new);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::discovery::{Kind, MemberStatus};

    const KINDS: [Kind; 8] = [
        Kind::Configured,
        Kind::File,
        Kind::Zookeeper,
        Kind::Kubernetes,
        Kind::Management,
        Kind::Flink,
        Kind::Learned,
        Kind::Addressed,
    ];

    /// Few names, so that claims meet.
    fn rpc() -> impl Strategy<Value = RpcAddress> {
        (0..3u8).prop_map(|n| format!("pekko.tcp://flink@n{n}:6123").parse().unwrap())
    }

    fn session() -> impl Strategy<Value = Option<Session>> {
        prop::option::of((0..2u128).prop_map(Session::new))
    }

    fn claim() -> impl Strategy<Value = Claim> {
        let component = select(vec![
            Component::ResourceManager,
            Component::Dispatcher,
            Component::JobManager,
            Component::Cluster,
        ]);
        prop_oneof![
            (component, rpc(), session()).prop_map(|(component, address, session)| {
                Claim::LeaderRpc {
                    component,
                    address,
                    session,
                }
            }),
            (0..3u8, session()).prop_map(|(n, session)| Claim::LeaderRest {
                address: format!("http://n{n}:8081").parse().unwrap(),
                session,
            }),
            (0..3u8, rpc(), prop::option::of(1..3u16)).prop_map(|(n, rpc, data_port)| {
                Claim::Worker(Worker {
                    id: format!("tm-{n}").parse().unwrap(),
                    rpc,
                    data_port,
                })
            }),
            (rpc(), select(MemberStatus::ALL.to_vec()), any::<bool>()).prop_map(
                |(address, status, reachable)| Claim::Member(Member {
                    address,
                    status,
                    reachable,
                })
            ),
            (rpc(), 1..4u8).prop_map(|(rpc, last)| Claim::Address {
                name: rpc.authority().clone(),
                address: [10, 0, 0, last].into(),
            }),
        ]
    }

    fn said() -> impl Strategy<Value = Vec<(SourceId, Moment, Facts)>> {
        let claims = prop::collection::vec((claim(), prop::option::of(0..4u64)), 0..12);
        let one = (select(KINDS.to_vec()), 0..2u8, 0..4u64, claims).prop_map(
            |(kind, place, confirmed, claims)| {
                let mut facts = Facts::new();
                for (claim, seen) in claims {
                    match seen {
                        Some(ns) => facts.add_seen(claim, Moment::from_ns(ns)),
                        None => facts.add(claim),
                    }
                }
                let place = place.to_string();
                (SourceId { kind, place }, Moment::from_ns(confirmed), facts)
            },
        );
        prop::collection::vec(one, 0..6)
    }

    fn merged(said: &[(SourceId, Moment, Facts)]) -> Topology {
        merge(said.iter().map(|(id, at, facts)| (id, *at, facts)))
    }

    proptest! {
        #[test]
        fn the_order_is_of_no_account(
            (said, shuffled) in said().prop_flat_map(|said| (Just(said.clone()), Just(said).prop_shuffle()))
        ) {
            prop_assert_eq!(merged(&said), merged(&shuffled));
        }

        #[test]
        fn to_say_it_twice_changes_nothing(said in said()) {
            let twice: Vec<_> = said.iter().chain(&said).cloned().collect();
            prop_assert_eq!(merged(&said), merged(&twice));
        }

        #[test]
        fn nothing_is_invented_and_no_lower_source_wins(said in said()) {
            let topology = merged(&said);
            let leaders = said.iter().filter(|(_, _, facts)| {
                facts.claims().any(|claim| matches!(claim, Claim::LeaderRpc { .. }))
            });
            let best = leaders.map(|(id, ..)| id.kind).min();
            prop_assert_eq!(topology.leader_rpc.map(|known| known.source.kind), best);
            for (id, known) in &topology.workers {
                prop_assert_eq!(id, &known.value.id);
                let claim = Claim::Worker(known.value.clone());
                let sayers = said.iter().filter(|(_, _, facts)| facts.claims().any(|c| *c == claim));
                prop_assert!(sayers.into_iter().any(|(source, ..)| *source == known.source));
            }
            for list in topology.addresses.values() {
                let mut addresses: Vec<_> = list.iter().map(|known| known.value).collect();
                prop_assert!(list.is_sorted_by_key(|known| known.source.kind));
                addresses.sort();
                let count = addresses.len();
                addresses.dedup();
                prop_assert_eq!(addresses.len(), count);
            }
        }
    }

    #[test]
    fn a_leader_record_beats_an_answer_and_the_newer_of_two_wins() {
        let leader = |component, name: &str| {
            let mut facts = Facts::new();
            facts.add(Claim::LeaderRpc {
                component,
                address: format!("pekko.tcp://flink@{name}:6123").parse().unwrap(),
                session: None,
            });
            facts
        };
        let source = |kind, place: &str| SourceId {
            kind,
            place: place.to_owned(),
        };
        let (old, new) = (Moment::from_ns(1), Moment::from_ns(2));
        let record = (
            source(Kind::Zookeeper, ""),
            old,
            leader(Component::Dispatcher, "record"),
        );
        let early = (
            source(Kind::Flink, "a"),
            old,
            leader(Component::JobManager, "early"),
        );
        let late = (
            source(Kind::Flink, "b"),
            new,
            leader(Component::JobManager, "late"),
        );
        let name = |said: &[(SourceId, Moment, Facts)]| {
            let leader = merged(said).leader_rpc.unwrap();
            leader.value.address.authority().host().to_owned()
        };
        assert_eq!(name(&[early.clone(), late.clone()]), "late");
        assert_eq!(name(&[early, late, record]), "record");
    }
}
