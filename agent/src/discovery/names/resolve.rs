//! From an announced name to addresses, and from a role such as `leader:rest` to sockets. Pure: whoever
//! calls says how names are looked up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Bound,
};

use serde::{Deserialize, Serialize};

use crate::{
    config::Role,
    discovery::{Kind, Known, SourceId, Topology},
    name::{Authority, literal},
};

/// What a role is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// In a stable order, each once.
    pub addresses: Vec<SocketAddr>,
    /// What could not be resolved: one sentence each.
    pub unresolved: Vec<String>,
}

/// How the addresses of a name were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Its host is written as an address.
    Address,
    /// The operator says so, in the topology file or by an endpoint with a canonical name.
    File,
    /// A server answers there and says that this is its name.
    Said,
    /// This host's name service says so: its hosts file, or DNS.
    Lookup,
    /// A handshake came from there.
    Seen,
}

impl How {
    /// The word for it, for people and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::File => "file",
            Self::Said => "said",
            Self::Lookup => "lookup",
            Self::Seen => "seen",
        }
    }
}

/// Where the host of an announced name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Never empty.
    pub addresses: Vec<IpAddr>,
    /// How they were found.
    pub how: How,
    /// Why it had to be [`How::Seen`]: one sentence.
    pub failure: Option<String>,
    /// Other addresses that the name was seen at. Not of [`How::Seen`]: where it was before, it may be no
    /// longer.
    pub elsewhere: Vec<IpAddr>,
}

/// Resolves a role by [`locate`]. `look_up` finds the addresses of a host name, by hosts file or DNS; its
/// error says why there are none.
///
/// A node that calls itself `localhost` is on the same host as whoever says so, and on no other. `is_here`
/// tells whether a source is on this host.
pub fn resolve(
    role: &Role,
    topology: &Topology,
    mut look_up: impl FnMut(&str) -> Result<Vec<IpAddr>, String>,
    is_here: impl Fn(&SourceId) -> bool,
) -> Resolution {
    let mut out = Resolution::default();
    let mut seen = BTreeSet::new();
    match names(role, topology) {
        Ok(names) => {
            for (name, port, source) in names {
                let located = locate(name, topology, &mut look_up);
                match located.and_then(|location| elsewhere_than_here(location, source, &is_here)) {
                    Ok(addresses) => {
                        let addresses = addresses.into_iter();
                        let sockets = addresses.map(|ip| SocketAddr::new(ip, port));
                        out.addresses
                            .extend(sockets.filter(|socket| seen.insert(*socket)));
                    }
                    Err(why) => out.unresolved.push(format!("{role}: {name}: {why}")),
                }
            }
        }
        Err(why) => out.unresolved.push(format!("{role}: {why}")),
    }
    out
}

/// The addresses of a location, without this host's loopback addresses if the source is on another host.
fn elsewhere_than_here(
    location: Location,
    source: &SourceId,
    is_here: impl Fn(&SourceId) -> bool,
) -> Result<Vec<IpAddr>, String> {
    let mut addresses = location.addresses;
    if !matches!(location.how, How::Address | How::Lookup)
        || !addresses.iter().any(IpAddr::is_loopback)
        || is_here(source)
    {
        return Ok(addresses);
    }
    addresses.retain(|address| !address.is_loopback());
    if addresses.is_empty() {
        addresses.extend(location.elsewhere.first());
    }
    if addresses.is_empty() {
        return Err(format!(
            "it is this host by its name, but {source} is not on this host, and it was not seen at any address; have the node announce a name that other hosts know"
        ));
    }
    Ok(addresses)
}

/// The host names that [`resolve`] looks up for a role.
pub fn hosts<'a>(role: &'a Role, topology: &'a Topology) -> impl Iterator<Item = &'a str> {
    let names = names(role, topology).unwrap_or_default();
    let hosts = names.into_iter().map(|(name, ..)| name.host());
    hosts.filter(|host| literal(host).is_none())
}

/// An announced name, the port that is meant, and who says so.
type Said<'a> = (&'a Authority, u16, &'a SourceId);

/// Who says that a service's target has a name.
static OPERATOR: SourceId = SourceId {
    kind: Kind::Configured,
    place: String::new(),
};

/// The announced names that a role stands for; or why there are none.
fn names<'a>(role: &'a Role, topology: &'a Topology) -> Result<Vec<Said<'a>>, &'static str> {
    let whole = |name: &'a Authority, source| vec![(name, name.port(), source)];
    match role {
        Role::LeaderRest => match &topology.leader_rest {
            Some(known) => Ok(whole(known.value.address.authority(), &known.source)),
            None => Err("no source says where the leader's REST server is"),
        },
        Role::LeaderRpc => match &topology.leader_rpc {
            Some(known) => Ok(whole(known.value.address.authority(), &known.source)),
            None => Err("no source says who leads"),
        },
        Role::LeaderBlob => {
            let leader = topology.leader_rpc.as_ref();
            let leader = leader.ok_or("no source says who leads")?;
            let name = leader.value.address.authority();
            let known = topology.ports.get(name);
            let known = known.and_then(|known| Some((known.value.blob?, &known.source)));
            let (port, source) = known.ok_or("no source says where the leader's blob server is")?;
            Ok(vec![(name, port, source)])
        }
        Role::Workers(port) => {
            // Workers on one host share its port.
            let workers = topology.workers.values();
            let names: BTreeMap<_, _> = workers
                .map(|known| (known.value.rpc.authority(), &known.source))
                .collect();
            if names.is_empty() {
                return Err("no worker is known");
            }
            let names = names.into_iter();
            Ok(names.map(|(name, source)| (name, *port, source)).collect())
        }
        Role::Worker(id, port) => match topology.workers.get(id) {
            Some(known) => Ok(vec![(known.value.rpc.authority(), *port, &known.source)]),
            None => Err("no worker with this identifier is known"),
        },
        Role::Host(name) => Ok(whole(name, &OPERATOR)),
    }
}

/// Finds the host of an announced name, which is, in this order: an address itself; what the operator
/// says; the address at which a server says the name of itself, with this or another port; what `look_up` finds; where
/// the name, or another port of its host, was seen. Names that lead nowhere by themselves are the reason for the last.
///
/// # Errors
/// It is nowhere to be found: one sentence.
pub fn locate(
    name: &Authority,
    topology: &Topology,
    look_up: impl FnOnce(&str) -> Result<Vec<IpAddr>, String>,
) -> Result<Location, String> {
    let host = name.host();
    let found = |addresses: Vec<IpAddr>, how| Location {
        elsewhere: elsewhere(name, topology, &addresses),
        addresses,
        how,
        failure: None,
    };
    if let Some(address) = literal(host) {
        return connectable(address)
            .then(|| found(vec![address], How::Address))
            .ok_or_else(|| "nobody can be reached at this address".to_owned());
    }
    let known = known(name, topology);
    let stated: Vec<_> = known
        .iter()
        .filter(|(kind, _)| kind.is_stated())
        .map(|(_, address)| *address)
        .collect();
    if !stated.is_empty() {
        return Ok(found(stated, How::File));
    }
    // One that answers: of several, the best evidence.
    let mut said = known
        .iter()
        .filter(|(kind, _)| !kind.is_seen())
        .map(|(_, address)| *address);
    if let Some(address) = said.next() {
        return Ok(found(vec![address], How::Said));
    }
    let why = match look_up(host) {
        Ok(mut addresses) => {
            addresses.retain(|address| connectable(*address));
            if !addresses.is_empty() {
                return Ok(found(addresses, How::Lookup));
            }
            "it resolves to no address that can be reached".to_owned()
        }
        Err(why) => why,
    };
    match known.first() {
        // The best evidence only.
        Some((_, address)) => Ok(Location {
            addresses: vec![*address],
            how: How::Seen,
            failure: Some(why),
            elsewhere: Vec::new(),
        }),
        None => Err(format!("{why}, and it was not seen at any address")),
    }
}

/// Addresses at which a name was seen, other than these.
fn elsewhere(name: &Authority, topology: &Topology, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let known = topology.addresses.get(name).into_iter().flatten();
    let seen = known.filter(|known| !known.source.kind.is_stated() && connectable(known.value));
    let seen = seen.map(|known| known.value);
    seen.filter(|address| !addresses.contains(address))
        .collect()
}

/// Where a name is known to be, the best evidence first; of one kind the name itself, then the host with other
/// ports.
fn known(name: &Authority, topology: &Topology) -> Vec<(Kind, IpAddr)> {
    let exact = topology.addresses.get(name).into_iter().flatten();
    let others = ports(name.host(), topology).filter(|(other, _)| *other != name);
    let mut all: Vec<_> = exact
        .chain(others.flat_map(|(_, known)| known))
        .filter(|known| connectable(known.value))
        .map(|known| (known.source.kind, known.value))
        .collect();
    // Of one address the best evidence.
    all.sort_by_key(|(kind, _)| *kind);
    let mut seen = BTreeSet::new();
    all.retain(|(_, address)| seen.insert(*address));
    all
}

/// The names with this host.
pub fn ports<'a>(
    host: &str,
    topology: &'a Topology,
) -> impl Iterator<Item = (&'a Authority, &'a Vec<Known<IpAddr>>)> {
    let prefix = format!("{host}:");
    let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
    let names = topology.addresses.range::<str, _>(from);
    names.take_while(move |(name, _)| name.as_str().starts_with(&prefix))
}

/// Whether one host can be meant by it.
fn connectable(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Moment,
        discovery::{Claim, Component, Facts, SourceId, Worker, model::merge::merge},
    };

    fn name(text: &str) -> Authority {
        text.parse().unwrap()
    }

    fn worker(id: &str, host: &str) -> Claim {
        Claim::Worker(Worker {
            id: id.parse().unwrap(),
            rpc: format!("pekko.tcp://flink@{host}:6122").parse().unwrap(),
            data_port: None,
        })
    }

    fn at(text: &str, address: &str) -> Claim {
        Claim::Address {
            name: name(text),
            address: address.parse().unwrap(),
        }
    }

    fn topology(said: &[(Kind, &[Claim])]) -> Topology {
        let said: Vec<_> = said
            .iter()
            .map(|(kind, claims)| {
                let id = SourceId {
                    kind: *kind,
                    place: String::new(),
                };
                let mut facts = Facts::new();
                claims.iter().for_each(|claim| facts.add(claim.clone()));
                (id, facts)
            })
            .collect();
        merge(
            said.iter()
                .map(|(id, facts)| (id, Moment::from_ns(1), facts)),
        )
    }

    fn hosts(host: &str) -> Result<Vec<IpAddr>, String> {
        match host {
            "jm" => Ok(vec!["10.0.0.1".parse().unwrap()]),
            "two" => Ok(vec![
                "10.0.0.8".parse().unwrap(),
                "fd00::8".parse().unwrap(),
            ]),
            "void" => Ok(vec![
                "0.0.0.0".parse().unwrap(),
                "224.0.0.1".parse().unwrap(),
            ]),
            _ => Err("no such host".to_owned()),
        }
    }

    fn addresses(target: &str, topology: &Topology) -> (Vec<String>, Vec<String>) {
        let resolution = resolve(&target.parse().unwrap(), topology, hosts, |_| false);
        let addresses = resolution.addresses.iter().map(ToString::to_string);
        (addresses.collect(), resolution.unresolved)
    }

    #[test]
    fn it_is_told_how_a_name_was_found() {
        let learned = [
            at("seen:6122", "10.0.0.6"),
            at("jm:6123", "10.9.9.9"),
            at("stated:6122", "10.0.0.7"),
            at("stated:6122", "10.9.9.9"),
            at("10.0.0.5:6122", "10.9.9.9"),
            at("seen-too:1", "10.9.9.9"),
        ];
        let stated = [at("stated:1", "10.0.0.7")];
        let said = [at("said:6123", "10.0.0.8"), at("stated:6122", "10.9.9.9")];
        let topology = topology(&[
            (Kind::Learned, &learned),
            (Kind::File, &stated),
            (Kind::Flink, &said),
        ]);
        for (text, address, how, failure, elsewhere) in [
            ("10.0.0.5:6122", "10.0.0.5", How::Address, None, true),
            ("stated:6122", "10.0.0.7", How::File, None, true),
            ("stated:1", "10.0.0.7", How::File, None, false),
            ("said:8081", "10.0.0.8", How::Said, None, false),
            ("jm:6123", "10.0.0.1", How::Lookup, None, true),
            ("jm:8081", "10.0.0.1", How::Lookup, None, false),
            ("seen:1", "10.0.0.6", How::Seen, Some("no such host"), false),
        ] {
            let location = locate(&name(text), &topology, hosts).unwrap();
            assert_eq!(location.addresses, [address.parse::<IpAddr>().unwrap()]);
            assert_eq!(location.how, how, "{text}");
            assert_eq!(location.failure.as_deref(), failure, "{text}");
            let other: &[IpAddr] = &["10.9.9.9".parse().unwrap()];
            let other = if elsewhere { other } else { &[] };
            assert_eq!(location.elsewhere, other, "{text}");
        }
        assert_eq!(
            locate(&name("lost:1"), &topology, hosts),
            Err("no such host, and it was not seen at any address".to_owned())
        );
    }

    #[test]
    fn the_leader_by_name() {
        let leader = Claim::LeaderRpc {
            component: Component::JobManager,
            address: "pekko.tcp://flink@jm:6123".parse().unwrap(),
            session: None,
        };
        let rest = Claim::LeaderRest {
            address: "http://[fd00::1]:8081".parse().unwrap(),
            session: None,
        };
        let topology = topology(&[(Kind::Flink, &[leader, rest])]);
        assert_eq!(addresses("leader:rpc", &topology).0, ["10.0.0.1:6123"]);
        assert_eq!(addresses("leader:rest", &topology).0, ["[fd00::1]:8081"]);
        let (none, why) = addresses("leader:rest", &Topology::default());
        assert!(none.is_empty());
        assert_eq!(
            why,
            ["leader:rest: no source says where the leader's REST server is"]
        );
    }

    #[test]
    fn the_blob_server_of_the_leader_and_a_name() {
        let leader = Claim::LeaderRpc {
            component: Component::JobManager,
            address: "pekko.tcp://flink@jm:6123".parse().unwrap(),
            session: None,
        };
        let ports = |name: &str, blob| {
            Claim::Ports(crate::discovery::Ports {
                name: name.parse().unwrap(),
                blob: Some(blob),
                queryable_state: None,
            })
        };
        let claims = [leader, ports("jm:6123", 6124), ports("other:6123", 6125)];
        let topology = topology(&[(Kind::Flink, &claims)]);
        assert_eq!(addresses("leader:blob", &topology).0, ["10.0.0.1:6124"]);
        let (_, why) = addresses("leader:blob", &Topology::default());
        assert_eq!(why, ["leader:blob: no source says who leads"]);
        let two = Role::Host("two:80".parse().unwrap());
        assert_eq!(super::hosts(&two, &topology).collect::<Vec<_>>(), ["two"]);
        let found = resolve(&two, &topology, hosts, |_| true).addresses;
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.8:80", "[fd00::8]:80"]);
    }

    #[test]
    fn localhost_is_where_it_was_said() {
        let here = worker("a", "localhost");
        let alone = topology(&[(Kind::Flink, std::slice::from_ref(&here))]);
        let role = "workers:80".parse().unwrap();
        let local = |_: &str| Ok(vec![[127, 0, 0, 1].into()]);
        let on_this_host = resolve(&role, &alone, local, |_| true);
        assert_eq!(on_this_host.addresses, ["127.0.0.1:80".parse().unwrap()]);
        let elsewhere = resolve(&role, &alone, local, |_| false);
        assert_eq!(elsewhere.addresses, []);
        assert!(
            elsewhere.unresolved[0]
                .starts_with("workers:80: localhost:6122: it is this host by its name, but flink"),
            "{elsewhere:?}"
        );
        let seen = topology(&[
            (Kind::Flink, &[here]),
            (Kind::Learned, &[at("localhost:6122", "10.0.0.6")]),
        ]);
        let seen = resolve(&role, &seen, local, |_| false);
        assert_eq!(seen.addresses, ["10.0.0.6:80".parse().unwrap()]);
    }

    #[test]
    fn workers_by_every_way_to_an_address() {
        let workers = [
            worker("a", "10.0.0.5"),
            worker("b", "two"),
            worker("c", "seen"),
            worker("c-again", "seen"),
            worker("d", "stated"),
            worker("e", "lost"),
            worker("f", "void"),
            worker("g", "0.0.0.0"),
        ];
        let learned = [
            at("seen:6122", "10.0.0.6"),
            at("two:6122", "10.9.9.9"),
            at("stated:6122", "10.9.9.9"),
            at("void:7", "10.0.0.9"),
        ];
        let stated = [at("stated:6122", "10.0.0.7")];
        let topology = topology(&[
            (Kind::Flink, &workers),
            (Kind::Learned, &learned),
            (Kind::File, &stated),
        ]);
        let (found, why) = addresses("workers:9069", &topology);
        assert_eq!(
            found,
            [
                "10.0.0.5:9069",
                "10.0.0.6:9069",
                "10.0.0.7:9069",
                "10.0.0.8:9069",
                "[fd00::8]:9069",
                "10.0.0.9:9069"
            ]
        );
        assert_eq!(
            why,
            [
                "workers:9069: 0.0.0.0:6122: nobody can be reached at this address",
                "workers:9069: lost:6122: no such host, and it was not seen at any address",
            ]
        );
        assert_eq!(addresses("worker:c:1", &topology).0, ["10.0.0.6:1"]);
        assert_eq!(
            addresses("worker:x:1", &topology).1,
            ["worker:x:1: no worker with this identifier is known"]
        );
    }
}
