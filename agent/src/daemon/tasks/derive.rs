//! From the topology to what endpoints and services follow from, and to the canonical names at addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    clock::Moment,
    config::{Config, Derivation, KnownPort},
    discovery::{Kind, Known, SourceId, Topology},
    name::{Authority, literal},
    plan::CanonicalNames,
};

/// A port of RPC that nobody tells any more keeps its endpoint for this long: workers are unknown while a leader is
/// elected, and their connections live on.
const KEPT: Duration = Duration::from_secs(600);

/// Remembers what a cluster was last known to be.
pub struct Deriver {
    known: Derivation,
    /// When each port of RPC was told last.
    told: BTreeMap<u16, Moment>,
    /// Where it is written for the agent that comes next.
    path: PathBuf,
}

impl Deriver {
    /// Goes on with what another agent knew of the same cluster.
    pub fn new(config: &Config) -> Self {
        let path = Derivation::path(&config.agent.control_socket);
        let known = Derivation::load(&path, &config.topology.cluster_texts());
        let now = Moment::now();
        Self {
            told: known.rpc.keys().map(|port| (*port, now)).collect(),
            known,
            path,
        }
    }

    /// What is known now.
    pub const fn known(&self) -> &Derivation {
        &self.known
    }

    /// Takes what the topology tells at this time. What it does not tell stays as it was.
    pub fn update(&mut self, config: &Config, topology: &Topology, now: Moment) -> &Derivation {
        let cluster = config.topology.cluster_texts();
        let mut next = self.known.clone();
        if next.cluster != cluster {
            self.told.clear();
            next = Derivation {
                cluster,
                ..Derivation::default()
            };
        }
        let rpc = rpc_ports(topology);
        for (port, source) in &rpc {
            self.told.insert(*port, now);
            next.rpc.insert(*port, source.to_string());
        }
        if !rpc.is_empty() {
            let told = &mut self.told;
            told.retain(|_, at| now.since(*at) < KEPT);
            next.rpc.retain(|port, _| told.contains_key(port));
        }
        let told = |port, source: &SourceId| {
            let source = source.to_string();
            Some(KnownPort { port, source })
        };
        if let Some(rest) = &topology.leader_rest {
            let port = rest.value.address.authority().port();
            next.rest = told(port, &rest.source);
        }
        if let Some(leader) = &topology.leader_rpc {
            let name = leader.value.address.authority();
            next.leader = told(name.port(), &leader.source);
            if let Some(ports) = topology.ports.get(name) {
                let source = &ports.source;
                next.blob = ports.value.blob.and_then(|port| told(port, source));
                let state = ports.value.queryable_state;
                next.queryable_state = state.and_then(|port| told(port, source));
            }
        }
        if next != self.known {
            self.known = next;
            if !self.known.cluster.is_empty()
                && let Err(error) = self.known.store(&self.path)
            {
                log::debug!("Cannot write {}: {error}", self.path.display());
            }
        }
        &self.known
    }
}

/// The ports of RPC that are told, and who tells them.
fn rpc_ports(topology: &Topology) -> BTreeMap<u16, &SourceId> {
    let leader = topology.leader_rpc.iter();
    let leader = leader.map(|known| (known.value.address.authority().port(), &known.source));
    let workers = topology.workers.values();
    let workers = workers.map(|known| (known.value.rpc.authority().port(), &known.source));
    let members = topology.members.values();
    let members = members.map(|known| (known.value.address.authority().port(), &known.source));
    // JobManagers that do not lead.
    let others = topology.addresses.iter().flat_map(|(name, known)| {
        let said = known
            .iter()
            .filter(|known| known.source.kind == Kind::Flink);
        said.map(|known| (name.port(), &known.source))
    });
    let all = leader.chain(workers).chain(members).chain(others);
    all.collect()
}

/// The canonical name of RPC at each address where a server or the operator confirms it. An address at which two
/// names are confirmed has none.
pub fn canonical_names(topology: &Topology) -> CanonicalNames {
    let mut names: BTreeMap<(IpAddr, u16), BTreeSet<&Authority>> = BTreeMap::new();
    for (name, known) in &topology.addresses {
        for address in known.iter().filter(|known| is_confirmed(known)) {
            names
                .entry((address.value, name.port()))
                .or_default()
                .insert(name);
        }
    }
    // A name that is written as an address is there.
    let leader = topology.leader_rpc.iter().map(|known| &known.value.address);
    let workers = topology.workers.values().map(|known| &known.value.rpc);
    for name in leader.chain(workers).map(|address| address.authority()) {
        if let Some(address) = literal(name.host()) {
            names
                .entry((address, name.port()))
                .or_default()
                .insert(name);
        }
    }
    names
        .into_iter()
        .filter_map(
            |(at, names)| match names.into_iter().collect::<Vec<_>>()[..] {
                [name] => Some((at, name.clone())),
                _ => None,
            },
        )
        .collect()
}

/// Whether somebody who can know says so: a handshake could be anyone's.
fn is_confirmed(known: &Known<IpAddr>) -> bool {
    !known.source.kind.is_seen()
}

/// The ports of this host's programs that listen to others, as `/proc` tells; none if it does not.
pub fn listening_ports() -> BTreeSet<u16> {
    let files = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let read = files.map(|path| fs::read_to_string(Path::new(path)).unwrap_or_default());
    read.iter().flat_map(|text| listening(text)).collect()
}

fn listening(text: &str) -> impl Iterator<Item = u16> {
    /// The state of a socket that listens.
    const LISTEN: &str = "0A";
    const LOOPBACK: [&str; 2] = ["00000000000000000000000001000000", "7F"];
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        let state = words.nth(1)?;
        // An IPv4 address is written with its bytes reversed.
        let is_loopback =
            address == LOOPBACK[0] || address.len() == 8 && address.ends_with(LOOPBACK[1]);
        if state != LISTEN || is_loopback {
            return None;
        }
        u16::from_str_radix(port, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{File, Flags},
        discovery::{Claim, Component, Facts, Ports, Worker, merge},
    };

    fn source(kind: Kind) -> SourceId {
        let place = "http://jm:8081".to_owned();
        SourceId { kind, place }
    }

    fn topology(said: &[(Kind, &[Claim])]) -> Topology {
        let said: Vec<_> = said
            .iter()
            .map(|(kind, claims)| {
                let mut facts = Facts::new();
                claims.iter().for_each(|claim| facts.add(claim.clone()));
                (source(*kind), facts)
            })
            .collect();
        let at = Moment::from_ns(1);
        merge(said.iter().map(|(id, facts)| (id, at, facts)))
    }

    fn at(name: &str, address: [u8; 4]) -> Claim {
        Claim::Address {
            name: name.parse().unwrap(),
            address: address.into(),
        }
    }

    fn claims() -> Vec<Claim> {
        vec![
            Claim::LeaderRpc {
                component: Component::JobManager,
                address: "pekko.tcp://flink@jm-1:6123".parse().unwrap(),
                session: None,
            },
            Claim::LeaderRest {
                address: "http://jm-1:8081".parse().unwrap(),
                session: None,
            },
            Claim::Ports(Ports {
                name: "jm-1:6123".parse().unwrap(),
                blob: Some(6124),
                queryable_state: Some(9069),
            }),
            Claim::Worker(Worker {
                id: "tm".parse().unwrap(),
                rpc: "pekko.tcp://flink@tm:6122".parse().unwrap(),
                data_port: None,
            }),
            at("jm-1:6123", [10, 0, 0, 1]),
            at("jm-2:6125", [10, 0, 0, 2]),
        ]
    }

    #[test]
    fn what_is_not_told_stays_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let text = format!(
            "[agent]\ncontrol_socket = \"{}\"\n[topology]\ncluster = [\"http://jm:8081\"]\n",
            socket.display()
        );
        let file = File::parse(Path::new("t.toml"), &text).unwrap();
        let config = Config::new(file, Flags::default()).unwrap();
        let mut deriver = Deriver::new(&config);
        assert_eq!(deriver.known().rpc.len(), 0);
        let all = topology(&[(Kind::Flink, &claims())]);
        let begin = Moment::now();
        let known = deriver.update(&config, &all, begin).clone();
        let ports: Vec<_> = known.rpc.keys().copied().collect();
        assert_eq!(ports, [6122, 6123, 6125]);
        assert_eq!(known.rpc[&6122], "flink http://jm:8081");
        let told = [
            &known.rest,
            &known.leader,
            &known.blob,
            &known.queryable_state,
        ];
        let told = told.map(|told| told.as_ref().map(|told| told.port));
        assert_eq!(told, [8081, 6123, 6124, 9069].map(Some));
        // An election.
        let nothing = deriver.update(&config, &Topology::default(), begin.after(KEPT * 2));
        assert_eq!(*nothing, known);
        // The next agent.
        assert_eq!(*Deriver::new(&config).known(), known);
        // The worker has another port now.
        let mut other = claims();
        other[3] = Claim::Worker(Worker {
            id: "tm".parse().unwrap(),
            rpc: "pekko.tcp://flink@tm:7000".parse().unwrap(),
            data_port: None,
        });
        let other = topology(&[(Kind::Flink, &other)]);
        let ports = |known: &Derivation| known.rpc.keys().copied().collect::<Vec<_>>();
        let soon = deriver.update(&config, &other, begin.after(KEPT / 2));
        assert_eq!(ports(soon), [6122, 6123, 6125, 7000]);
        let late = deriver.update(&config, &other, begin.after(KEPT * 3));
        assert_eq!(ports(late), [6123, 6125, 7000]);
    }

    #[test]
    fn a_name_is_bound_to_where_it_was_confirmed() {
        let said = [
            at("jm-1:6123", [10, 0, 0, 1]),
            at("jm-2:6123", [10, 0, 0, 2]),
            at("other:6123", [10, 0, 0, 2]),
        ];
        // A handshake may claim anything.
        let seen = [
            at("jm-1:6123", [10, 0, 0, 66]),
            at("tm:6122", [10, 0, 0, 5]),
        ];
        let names = canonical_names(&topology(&[(Kind::Flink, &said), (Kind::Learned, &seen)]));
        let only = (([10, 0, 0, 1].into(), 6123), "jm-1:6123".parse().unwrap());
        assert_eq!(names, CanonicalNames::from([only]));
    }

    #[test]
    fn ports_of_programs_are_read() {
        let v4 = "  sl  local_address rem_address   st tx_queue\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
             1: 00000000:1F91 00000000:0000 0A 00000000:00000000\n\
             2: 0100000A:1F92 0200000A:0050 01 00000000:00000000\n";
        let v6 = "  sl  local_address rem_address   st tx_queue\n\
             0: 00000000000000000000000000000000:17EB 00000000000000000000000000000000:0000 0A 0\n\
             1: 00000000000000000000000001000000:17EC 00000000000000000000000000000000:0000 0A 0\n\
             nonsense\n";
        assert_eq!(listening(v4).collect::<Vec<_>>(), [0x1f91]);
        assert_eq!(listening(v6).collect::<Vec<_>>(), [0x17eb]);
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listening_ports().contains(&port));
    }
}
