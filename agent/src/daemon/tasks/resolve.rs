//! From the topology to the sockets of the roles that services have targets for.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::derive::{Deriver, canonical_names};
use crate::{
    clock::Moment,
    config::{Config, Derivation, Role},
    daemon::{Current, RunError},
    discovery::{self, Kind, Snapshot, SourceId, Topology, names::lookup::Lookup},
    name::literal,
    plan::{CanonicalNames, Roles},
};

/// What is known of roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedRoles {
    /// The sockets of each.
    pub roles: Arc<Roles>,
    /// What endpoints and services follow from.
    pub known: Arc<Derivation>,
    /// The canonical names that are confirmed at addresses.
    pub names: Arc<CanonicalNames>,
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
    deriver: Deriver,
    resolved: watch::Sender<ResolvedRoles>,
}

/// After something else is known of the cluster, the address of its leader may be known for this long: a
/// leader that was moved keeps its name.
const FRESH: Duration = Duration::from_secs(1);

/// Problems that are told one by one.
const PROBLEMS_MAX: usize = 16;

impl Resolver {
    /// Looks names up by the name service of this host.
    pub fn new(config: Current, topology: watch::Receiver<Snapshot>, deriver: Deriver) -> Self {
        let resolved = ResolvedRoles {
            known: Arc::new(deriver.known().clone()),
            ..ResolvedRoles::default()
        };
        Self {
            config,
            topology,
            lookup: Lookup::of_host(),
            deriver,
            resolved: watch::Sender::new(resolved),
        }
    }

    /// What is known, now and when it changes.
    pub fn subscribe(&self) -> watch::Receiver<ResolvedRoles> {
        self.resolved.subscribe()
    }

    /// Follows until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let (mut generation, mut changed) = (0, Instant::now());
        loop {
            let config = Arc::clone(&self.config.borrow_and_update());
            let wanted = roles(&config);
            let (now, topology, sources) = {
                let snapshot = self.topology.borrow_and_update();
                let sources: Vec<_> = snapshot.reports.keys().cloned().collect();
                (snapshot.generation, Arc::clone(&snapshot.topology), sources)
            };
            if now != generation {
                (generation, changed) = (now, Instant::now());
            }
            let refresh = self.lookup.refresh();
            let names = wanted.iter().flat_map(|role| {
                let max_age = match role {
                    Role::LeaderRest | Role::LeaderRpc | Role::LeaderBlob => {
                        refresh.min(changed.elapsed() + FRESH)
                    }
                    Role::Workers(_) | Role::Worker(..) | Role::Host(_) => refresh,
                };
                let hosts = discovery::hosts(role, &topology);
                hosts.map(move |host| (host, max_age))
            });
            let sources = sources.iter().flat_map(SourceId::hosts);
            let sources = sources.filter(|host| literal(host).is_none());
            let sources = sources.map(|host| (host, refresh));
            self.lookup.want(sources.chain(names));
            self.deriver.update(&config, &topology, Moment::now());
            self.stand(&wanted, &topology, generation);
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
    fn stand(&self, wanted: &BTreeSet<Role>, topology: &Topology, generation: u64) {
        let next = stand(&self.resolved.borrow(), wanted, topology, &self.lookup);
        let next = ResolvedRoles {
            generation,
            known: Arc::new(self.deriver.known().clone()),
            names: Arc::new(canonical_names(topology)),
            ..next
        };
        self.resolved.send_if_modified(|resolved| {
            let is_new = *resolved != next;
            for problem in next
                .problems
                .iter()
                .filter(|p| !resolved.problems.contains(p))
            {
                log::warn!("{problem}");
            }
            for sentence in changes(&resolved.roles, &next.roles) {
                log::info!("{sentence}");
            }
            *resolved = next;
            is_new
        });
    }
}

/// What is another than before, a sentence for each role.
fn changes(before: &Roles, after: &Roles) -> Vec<String> {
    /// Sockets that are named; of more, their number is told.
    const FEW: usize = 4;
    let other = |(role, _): &(&Role, _)| before.get(*role) != after.get(*role);
    let sentence = |(role, sockets): (&Role, &Vec<SocketAddr>)| match &sockets[..] {
        few @ [_, ..] if few.len() <= FEW => {
            let few: Vec<_> = few.iter().map(ToString::to_string).collect();
            format!("{role} is {}", few.join(", "))
        }
        many => format!("{role} is {} sockets", many.len()),
    };
    after.iter().filter(other).map(sentence).collect()
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
        .filter_map(|target| target.place.role().cloned())
        .collect()
}

/// What the roles stand for. One that nobody is found for stands for whom it stood for before: an
/// election takes a while, and a cluster that begins again has no workers at first. One whose names are
/// looked up for the first time waits for all of them.
fn stand(
    before: &ResolvedRoles,
    wanted: &BTreeSet<Role>,
    topology: &Topology,
    lookup: &Lookup,
) -> ResolvedRoles {
    let mut roles = Roles::new();
    let mut problems: Vec<_> = lookup.problems().collect();
    for role in wanted {
        let known = before.roles.get(role);
        let is_open = discovery::hosts(role, topology).any(|host| lookup.is_open(host));
        if is_open {
            roles.extend(known.map(|known| (role.clone(), known.clone())));
            continue;
        }
        let found = discovery::resolve(
            role,
            topology,
            |host| lookup.find(host),
            |source| is_here(source, lookup),
        );
        let (sockets, what) = match known {
            _ if !found.addresses.is_empty() => (Some(found.addresses), "is left out"),
            Some(known) => (Some(known.clone()), "the last one known is kept"),
            None => (None, "there is no target"),
        };
        let unresolved = found.unresolved.into_iter();
        problems.extend(unresolved.map(|why| format!("{why}; {what}")));
        roles.extend(sockets.map(|sockets| (role.clone(), sockets)));
    }
    let more = problems.len().saturating_sub(PROBLEMS_MAX);
    if more > 0 {
        problems.truncate(PROBLEMS_MAX);
        problems.push(format!(
            "{more} more names or roles are not resolved; `truename names` has all"
        ));
    }
    let roles = if roles == *before.roles {
        Arc::clone(&before.roles)
    } else {
        Arc::new(roles)
    };
    ResolvedRoles {
        roles,
        problems,
        generation: before.generation,
        ..ResolvedRoles::default()
    }
}

/// Whether all servers of a source are on this host.
fn is_here(source: &SourceId, lookup: &Lookup) -> bool {
    let is_own = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    let is_host_here = |host: &str| match literal(host) {
        Some(address) => is_own(address),
        None => lookup
            .find(host)
            .is_ok_and(|all| all.into_iter().all(is_own)),
    };
    match source.kind {
        // Nobody but this host says so.
        Kind::Configured | Kind::File | Kind::Learned | Kind::Addressed => true,
        Kind::Kubernetes => false,
        Kind::Zookeeper | Kind::Management | Kind::Flink => {
            let mut hosts = source.hosts().peekable();
            hosts.peek().is_some() && hosts.all(is_host_here)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{Claim, Component, Facts, Worker, merge};

    fn topology(claims: &[Claim]) -> Topology {
        let id = SourceId {
            kind: Kind::Flink,
            place: "http://127.0.0.1:8081".to_owned(),
        };
        let mut facts = Facts::new();
        claims.iter().for_each(|claim| facts.add(claim.clone()));
        merge([(&id, Moment::from_ns(1), &facts)])
    }

    fn leader(host: &str) -> Claim {
        Claim::LeaderRpc {
            component: Component::JobManager,
            address: format!("pekko.tcp://flink@{host}:6123").parse().unwrap(),
            session: None,
        }
    }

    fn worker(host: &str) -> Claim {
        Claim::Worker(Worker {
            id: host.parse().unwrap(),
            rpc: format!("pekko.tcp://flink@{host}:6122").parse().unwrap(),
            data_port: None,
        })
    }

    fn sockets(resolved: &ResolvedRoles, role: &str) -> Vec<String> {
        let sockets = resolved.roles.get(&role.parse::<Role>().unwrap());
        let sockets = sockets.map(Vec::as_slice).unwrap_or_default();
        sockets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_election_and_a_start_leave_the_last_ones() {
        let lookup = Lookup::of_host();
        let wanted = ["leader:rpc", "workers:80"].map(|role| role.parse().unwrap());
        let wanted = wanted.into();
        let stand = |before: &ResolvedRoles, claims: &[Claim]| {
            stand(before, &wanted, &topology(claims), &lookup)
        };
        let nobody = stand(&ResolvedRoles::default(), &[]);
        assert!(nobody.roles.is_empty(), "nobody was ever known");
        assert_eq!(
            nobody.problems,
            [
                "leader:rpc: no source says who leads; there is no target",
                "workers:80: no worker is known; there is no target"
            ]
        );
        let claims = [leader("10.0.0.1"), worker("10.0.0.5"), worker("10.0.0.6")];
        let all = stand(&nobody, &claims);
        assert_eq!(sockets(&all, "leader:rpc"), ["10.0.0.1:6123"]);
        assert_eq!(sockets(&all, "workers:80"), ["10.0.0.5:80", "10.0.0.6:80"]);
        assert_eq!(all.problems, [""; 0]);
        assert_eq!(
            changes(&nobody.roles, &all.roles),
            [
                "leader:rpc is 10.0.0.1:6123",
                "workers:80 is 10.0.0.5:80, 10.0.0.6:80"
            ]
        );
        let gap = stand(&all, &[]);
        assert!(Arc::ptr_eq(&gap.roles, &all.roles), "nothing is done anew");
        assert_eq!(
            gap.problems[0],
            "leader:rpc: no source says who leads; the last one known is kept"
        );
        let next = stand(&gap, &[leader("10.0.0.2"), worker("10.0.0.6")]);
        assert_eq!(sockets(&next, "leader:rpc"), ["10.0.0.2:6123"]);
        assert_eq!(sockets(&next, "workers:80"), ["10.0.0.6:80"]);
        assert_eq!(next.problems, [""; 0]);

        let many: Vec<_> = (1..100).map(|n| worker(&format!("224.0.0.{n}"))).collect();
        let lost = stand(&next, &many);
        assert_eq!(sockets(&lost, "workers:80"), ["10.0.0.6:80"]);
        assert_eq!(lost.problems.len(), PROBLEMS_MAX + 1);
        assert!(
            lost.problems[PROBLEMS_MAX].starts_with("84 more names"),
            "{lost:?}"
        );
    }

    #[tokio::test]
    async fn names_that_are_looked_up_for_the_first_time_are_waited_for() {
        let mut lookup = Lookup::of_host();
        let wanted = ["workers:80".parse().unwrap()].into();
        let both = topology(&[worker("localhost"), worker("nowhere.invalid")]);
        let names = || ["localhost", "nowhere.invalid"].map(|name| (name, Duration::MAX));
        lookup.want(names().into_iter());
        let open = stand(&ResolvedRoles::default(), &wanted, &both, &lookup);
        assert_eq!(open, ResolvedRoles::default());
        while names().iter().any(|(name, _)| lookup.is_open(name)) {
            lookup.answered().await;
        }
        let resolved = stand(&open, &wanted, &both, &lookup);
        assert!(sockets(&resolved, "workers:80").contains(&"127.0.0.1:80".to_owned()));
        let [problem] = &resolved.problems[..] else {
            panic!("{resolved:?}")
        };
        assert!(
            problem.starts_with("workers:80: nowhere.invalid:6122: it cannot be looked up")
                && problem.ends_with("is left out"),
            "{problem}"
        );
    }
}
