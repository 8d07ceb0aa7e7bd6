//! From the topology to the sockets of the roles that services have targets for.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Current, RunError};
use crate::{
    config::{Config, Place, Role},
    plan::Roles,
    topology::{self, Snapshot, Topology, lookup::Lookup},
};

/// What is known of roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The sockets of each.
    pub roles: Arc<Roles>,
    /// Roles that nobody is found for, and names that cannot be looked up, a sentence each.
    pub problems: Vec<String>,
    /// The generation of the topology that it was made from.
    pub generation: u64,
}

/// Follows the topology.
pub struct Resolver {
    config: Current,
    topology: watch::Receiver<Snapshot>,
    lookup: Lookup,
    standing: watch::Sender<Standing>,
}

/// After something else is known of the cluster, the address of its leader may be known for this long: a
/// leader that was moved keeps its name.
const FRESH: Duration = Duration::from_secs(1);

impl Resolver {
    /// Looks names up by the name service of this host.
    pub fn new(config: Current, topology: watch::Receiver<Snapshot>) -> Self {
        Self {
            config,
            topology,
            lookup: Lookup::of_host(),
            standing: watch::Sender::default(),
        }
    }

    /// What is known, now and when it changes.
    pub fn subscribe(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Follows until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let (mut generation, mut changed) = (0, Instant::now());
        loop {
            let wanted = roles(&self.config.borrow_and_update());
            let snapshot = self.topology.borrow_and_update().clone();
            if snapshot.generation != generation {
                (generation, changed) = (snapshot.generation, Instant::now());
            }
            let refresh = self.lookup.refresh();
            let names = wanted.iter().flat_map(|role| {
                let max_age = match role {
                    Role::LeaderRest | Role::LeaderRpc => refresh.min(changed.elapsed() + FRESH),
                    Role::Workers(_) | Role::Worker(..) => refresh,
                };
                let hosts = topology::hosts(role, &snapshot.topology);
                hosts.map(move |host| (host, max_age))
            });
            self.lookup.want(names);
            self.stand(&wanted, &snapshot);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = another(&mut self.topology, generation) => {}
                Ok(()) = self.config.changed() => {}
                () = self.lookup.answered() => {}
                () = sleep(refresh) => {}
            }
        }
    }

    /// Tells what the roles stand for now, if that is not what was told before.
    fn stand(&self, wanted: &BTreeSet<Role>, snapshot: &Snapshot) {
        let next = stand(
            &self.standing.borrow(),
            wanted,
            &snapshot.topology,
            &self.lookup,
        );
        let next = Standing {
            generation: snapshot.generation,
            ..next
        };
        self.standing.send_if_modified(|standing| {
            let is_new = *standing != next;
            for problem in next
                .problems
                .iter()
                .filter(|p| !standing.problems.contains(p))
            {
                log::warn!("{problem}");
            }
            *standing = next;
            is_new
        });
    }
}

/// Waits for a topology of another generation; for ever if there will be none.
async fn another(topology: &mut watch::Receiver<Snapshot>, generation: u64) {
    let is_other = |snapshot: &Snapshot| snapshot.generation != generation;
    if topology.wait_for(is_other).await.is_err() {
        std::future::pending().await
    }
}

/// The roles that targets have.
fn roles(config: &Config) -> BTreeSet<Role> {
    let targets = config.services.iter().flat_map(|service| &service.targets);
    targets
        .filter_map(|target| match &target.place {
            Place::Role(role) => Some(role.clone()),
            Place::Fixed(_) => None,
        })
        .collect()
}

/// What the roles stand for. One that nobody is found for stands for whom it stood for before: an
/// election takes a while, and a cluster that begins again has no workers at first. One whose names are
/// looked up for the first time waits for all of them.
fn stand(
    before: &Standing,
    wanted: &BTreeSet<Role>,
    topology: &Topology,
    lookup: &Lookup,
) -> Standing {
    let mut roles = Roles::new();
    let mut problems: Vec<_> = lookup.problems().collect();
    for role in wanted {
        let known = before.roles.get(role);
        let is_open = topology::hosts(role, topology).any(|host| lookup.is_open(host));
        if is_open {
            roles.extend(known.map(|known| (role.clone(), known.clone())));
            continue;
        }
        let found = topology::resolve(role, topology, |host| lookup.find(host));
        let (sockets, what) = match known {
            _ if !found.addresses.is_empty() => (Some(found.addresses), "is left out"),
            Some(known) => (Some(known.clone()), "the last one known is kept"),
            None => (None, "there is no target"),
        };
        let unresolved = found.unresolved.into_iter();
        problems.extend(unresolved.map(|why| format!("{why}; {what}")));
        roles.extend(sockets.map(|sockets| (role.clone(), sockets)));
    }
    let roles = if roles == *before.roles {
        Arc::clone(&before.roles)
    } else {
        Arc::new(roles)
    };
    Standing {
        roles,
        problems,
        generation: before.generation,
    }
}
