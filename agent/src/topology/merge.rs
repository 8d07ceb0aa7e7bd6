//! One topology of what all sources say.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use super::{
    Claim, Component, Facts, Id, Member, Moment, RpcAddress, Session, SourceId, WebAddress, Worker,
};
use crate::config::Authority;

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
    /// Where announced names are; of every name the best known address first.
    pub addresses: BTreeMap<Authority, Vec<Known<IpAddr>>>,
}

/// What one source says: who, when it was confirmed, and what.
pub type Said<'a> = (&'a SourceId, Moment, &'a Facts);

/// Merges what sources say. The result depends on nothing but the set of what is said.
///
/// For a leader, a worker or a member the first of these decides: the [`super::Kind`] of the source
/// in its order, the [`Component`] in its order, the later of two, the smaller value. Workers and
/// members are the union of all sources. Addresses of a name are ordered by the same rule.
pub fn merge<'a>(said: impl IntoIterator<Item = Said<'a>>) -> Topology {
    let mut topology = Topology::default();
    for (source, confirmed, facts) in said {
        for (claim, seen) in &facts.claims {
            topology.add(claim, source, seen.unwrap_or(confirmed));
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
fn rank<T: Clone>(known: &Known<T>, within: u8) -> (super::Kind, u8, Reverse<Moment>, T, String) {
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
                if self
                    .leader_rpc
                    .as_ref()
                    .is_none_or(|old| rank(&new, within(&new)) < rank(old, within(old)))
                {
                    self.leader_rpc = Some(new);
                }
            }
            Claim::LeaderRest { address, session } => {
                let new = known(LeaderRest { address, session }, source, at);
                if self
                    .leader_rest
                    .as_ref()
                    .is_none_or(|old| rank(&new, 0) < rank(old, 0))
                {
                    self.leader_rest = Some(new);
                }
            }
            Claim::Worker(worker) => {
                let id = worker.id.clone();
                keep_better(self.workers.entry(id), known(worker, source, at));
            }
            Claim::Member(member) => {
                let address = member.address.clone();
                keep_better(self.members.entry(address), known(member, source, at));
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
