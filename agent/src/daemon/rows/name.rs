//! Every canonical name that is known, and where it is.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use super::{behind::Behind, endpoint, peer};
use crate::{
    api::{Clock, Conflict, EndpointRow, NameRow, PeerRow},
    config::Config,
    datapath::{Captured, DatapathError, Pins, Tables},
    discovery::{How, Known, Topology, locate, names::dns::Found, ports},
    name::{Authority, Id},
};

/// How many of the other addresses of a name are told.
const ELSEWHERE_TOLD: usize = 3;
/// How many accounts that differ are told of one name.
const CONFLICTS_TOLD: usize = 8;

/// Whose a name is. The order is that in which names are shown and looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    LeaderRpc,
    LeaderRest,
    /// By its name.
    Endpoint(String),
    Worker(Id),
    Member,
    Peer,
    /// Nothing but its address is known.
    Address,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaderRpc => f.write_str("leader rpc"),
            Self::LeaderRest => f.write_str("leader rest"),
            Self::Endpoint(name) => write!(f, "endpoint {name}"),
            Self::Worker(id) => write!(f, "worker {id}"),
            Self::Member => f.write_str("member"),
            Self::Peer => f.write_str("peer"),
            Self::Address => f.write_str("address"),
        }
    }
}

/// All names, and what is known of where they are.
pub struct Names {
    topology: Arc<Topology>,
    known: BTreeMap<Authority, BTreeSet<What>>,
    captured: Captured,
}

impl Names {
    /// Those of the topology, and those in the kernel tables. `captured`: what is answered to containers.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn read(
        pins: &Pins,
        config: &Config,
        topology: Arc<Topology>,
        captured: Captured,
    ) -> Result<Self, DatapathError> {
        let tables = Tables::open(pins)?;
        let endpoints = endpoint::endpoints(config, &tables.names()?, &[]);
        let peers = peer::peers(config, &Clock::read(), &Behind::default(), &tables.peers()?);
        Ok(Self {
            captured,
            ..Self::new(topology, &endpoints, &peers)
        })
    }

    /// A name of a row that is none was refused by the topology, too, which tells it.
    fn new(topology: Arc<Topology>, endpoints: &[EndpointRow], peers: &[PeerRow]) -> Self {
        let mut known: BTreeMap<Authority, BTreeSet<What>> = BTreeMap::new();
        let mut add = |name: &Authority, what| {
            known.entry(name.clone()).or_default().insert(what);
        };
        if let Some(leader) = &topology.leader_rpc {
            add(leader.value.address.authority(), What::LeaderRpc);
        }
        if let Some(leader) = &topology.leader_rest {
            add(leader.value.address.authority(), What::LeaderRest);
        }
        for worker in topology.workers.values().map(|known| &known.value) {
            add(worker.rpc.authority(), What::Worker(worker.id.clone()));
        }
        for member in topology.members.keys() {
            add(member.authority(), What::Member);
        }
        for row in endpoints {
            if let Some(name) = parsed(row.canonical.as_deref()) {
                add(&name, What::Endpoint(row.name.clone()));
            }
        }
        for name in peers
            .iter()
            .filter_map(|row| parsed(row.announced.as_deref()))
        {
            add(&name, What::Peer);
        }
        for name in topology.addresses.keys() {
            let whats = known.entry(name.clone()).or_default();
            if whats.is_empty() {
                whats.insert(What::Address);
            }
        }
        Self {
            topology,
            known,
            captured: Captured::default(),
        }
    }

    /// The host names that have to be looked up, each once, those that matter most first.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts = Vec::new();
        let mut seen = HashSet::new();
        for (name, _) in self.in_order() {
            // What is asked for is what is needed; the answer is of no account yet.
            let _ = locate(name, &self.topology, |host| {
                if seen.insert(host.to_owned()) {
                    hosts.push(host.to_owned());
                }
                Err(String::new())
            });
        }
        hosts
    }

    /// A row for each name. `found` has the answers for [`Self::hosts`].
    pub fn rows(&self, found: &BTreeMap<String, Found>, clock: &Clock) -> Vec<NameRow> {
        let look_up = |host: &str| {
            let open = || Err("it was not looked up".to_owned());
            found.get(host).cloned().unwrap_or_else(open)
        };
        let row = |(name, whats): (&Authority, &BTreeSet<What>)| {
            let (addresses, how, note) = match locate(name, &self.topology, look_up) {
                Ok(location) => {
                    let note = location.failure.or_else(|| seen_at(&location.elsewhere));
                    (location.addresses, Some(location.how), note)
                }
                Err(why) => (Vec::new(), None, Some(why)),
            };
            let (evidence, conflicts) = self.accounts(name, &addresses, clock);
            // Neither an address nor a look-up has a source of the topology.
            let is_told = matches!(how, Some(How::File | How::Said | How::Seen));
            let evidence = evidence.filter(|_| is_told);
            NameRow {
                source: evidence.map(|known| known.source.kind.name().to_owned()),
                last_seen: evidence.and_then(|known| clock.at(known.at.ns())),
                conflicts,
                name: name.to_string(),
                what: whats.iter().map(ToString::to_string).collect(),
                addresses,
                how,
                captured: self
                    .captured
                    .hosts
                    .contains(&name.host().to_ascii_lowercase()),
                note,
            }
        };
        self.in_order().into_iter().map(row).collect()
    }

    /// The best account of where a name is that these addresses follow, and the accounts of others.
    fn accounts(
        &self,
        name: &Authority,
        addresses: &[IpAddr],
        clock: &Clock,
    ) -> (Option<&Known<IpAddr>>, Vec<Conflict>) {
        let exact = self.topology.addresses.get(name).into_iter().flatten();
        let conflicts = exact.filter(|known| !addresses.contains(&known.value));
        let conflicts = conflicts.take(CONFLICTS_TOLD).map(|known| Conflict {
            address: known.value,
            source: known.source.kind.name().to_owned(),
            last_seen: clock.at(known.at.ns()),
        });
        let evidence = ports(name.host(), &self.topology)
            .flat_map(|(_, known)| known)
            .filter(|known| addresses.contains(&known.value))
            .min_by_key(|known| (known.source.kind, Reverse(known.at)));
        let has_address = !addresses.is_empty();
        (evidence, conflicts.filter(|_| has_address).collect())
    }

    fn in_order(&self) -> Vec<(&Authority, &BTreeSet<What>)> {
        let mut names: Vec<_> = self.known.iter().collect();
        names.sort_by_key(|(name, whats)| (whats.first(), *name));
        names
    }
}

/// A text of the kernel tables as a name; escapes are in none.
fn parsed(text: Option<&str>) -> Option<Authority> {
    text.and_then(|text| text.parse().ok())
}

/// That a name was seen at other addresses than it has.
fn seen_at(addresses: &[IpAddr]) -> Option<String> {
    if addresses.is_empty() {
        return None;
    }
    let told = addresses.iter().take(ELSEWHERE_TOLD);
    let told: Vec<_> = told.map(ToString::to_string).collect();
    let more = match addresses.len() - told.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("it was seen at {}{more}", told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Aliases, CanonicalSource},
        clock::Moment,
        discovery::{Claim, Component, Facts, Kind, Member, MemberStatus, SourceId, Worker, merge},
    };

    fn topology(claims: impl IntoIterator<Item = Claim>, kind: Kind) -> Arc<Topology> {
        let place = String::new();
        let (source, mut facts) = (SourceId { kind, place }, Facts::new());
        claims.into_iter().for_each(|claim| facts.add(claim));
        merge([(&source, Moment::from_ns(1), &facts)]).into()
    }

    fn worker(id: &str, host: &str) -> Claim {
        Claim::Worker(Worker {
            id: id.parse().unwrap(),
            rpc: format!("pekko.tcp://flink@{host}:6122").parse().unwrap(),
            data_port: None,
        })
    }

    fn seen(name: &str, address: &str) -> Claim {
        Claim::Address {
            name: name.parse().unwrap(),
            address: address.parse().unwrap(),
        }
    }

    fn endpoint(name: &str, canonical: Option<&str>) -> EndpointRow {
        EndpointRow {
            name: name.to_owned(),
            protocol: "pekko".to_owned(),
            listen: "*:6123".to_owned(),
            address: None,
            canonical: canonical.map(str::to_owned),
            canonical_source: CanonicalSource::Configured,
            system: None,
            aliases: Aliases::Any("any".to_owned()),
            flows: 0,
        }
    }

    fn peer(announced: &str) -> PeerRow {
        PeerRow {
            behind: Vec::new(),
            announced: Some(announced.to_owned()),
            system: None,
            client: "10.0.0.3".to_owned(),
            endpoint: "jm".to_owned(),
            address: "10.0.0.1:6123".to_owned(),
            alias: None,
            last_seen: None,
        }
    }

    /// What this host's name service says.
    fn answers(hosts: &[String]) -> BTreeMap<String, Found> {
        let answer = |host: &String| match host.as_str() {
            "jm" => Ok(vec!["10.0.0.1".parse().unwrap()]),
            "local" => Ok(vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]),
            _ => Err("no such host".to_owned()),
        };
        let answers = hosts.iter().map(|host| (host.clone(), answer(host)));
        answers.collect()
    }

    #[test]
    fn every_name_has_a_row_that_says_whose_it_is_and_where() {
        let leader = Claim::LeaderRpc {
            component: Component::JobManager,
            address: "pekko.tcp://flink@jm:6123".parse().unwrap(),
            session: None,
        };
        let rest = Claim::LeaderRest {
            address: "http://jm:8081".parse().unwrap(),
            session: None,
        };
        let member = Claim::Member(Member {
            address: "pekko://flink@local:1".parse().unwrap(),
            status: MemberStatus::Up,
            reachable: true,
        });
        let claims = [
            seen("old:6122", "10.0.0.9"),
            member,
            worker("tm-2", "tm.invalid"),
            worker("tm-1", "10.0.0.5"),
            worker("tm-1b", "10.0.0.5"),
            seen("tm:6122", "10.0.0.3"),
            seen("jm:6123", "10.9.9.9"),
            rest,
            leader,
        ];
        let endpoints = [
            endpoint("jobs", Some("jm:6123")),
            endpoint("silent", None),
            endpoint("hostile", Some("a\\x1b[2J:1")),
        ];
        let names = Names::new(
            topology(claims, Kind::Learned),
            &endpoints,
            &[peer("tm:6122"), peer("tm\\x0a:6122")],
        );
        let hosts = names.hosts();
        assert_eq!(hosts, ["jm", "tm.invalid", "local", "tm", "old"]);
        let rows: Vec<_> = names
            .rows(&answers(&hosts), &Clock::read())
            .into_iter()
            .map(|row| {
                let addresses: Vec<_> = row.addresses.iter().map(ToString::to_string).collect();
                let (what, addresses) = (row.what.join(", "), addresses.join(" "));
                let note = row.note.unwrap_or_default();
                (row.name, what, addresses, row.how, note)
            })
            .collect();
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, what, addresses, how, note)| {
                (&**name, &**what, &**addresses, *how, &**note)
            })
            .collect();
        let missing = "no such host, and it was not seen at any address";
        assert_eq!(
            rows,
            [
                (
                    "jm:6123",
                    "leader rpc, endpoint jobs",
                    "10.0.0.1",
                    Some(How::Lookup),
                    "it was seen at 10.9.9.9"
                ),
                ("jm:8081", "leader rest", "10.0.0.1", Some(How::Lookup), ""),
                (
                    "10.0.0.5:6122",
                    "worker tm-1, worker tm-1b",
                    "10.0.0.5",
                    Some(How::Address),
                    ""
                ),
                ("tm.invalid:6122", "worker tm-2", "", None, missing),
                ("local:1", "member", "127.0.0.1 ::1", Some(How::Lookup), ""),
                (
                    "tm:6122",
                    "peer",
                    "10.0.0.3",
                    Some(How::Seen),
                    "no such host"
                ),
                (
                    "old:6122",
                    "address",
                    "10.0.0.9",
                    Some(How::Seen),
                    "no such host"
                ),
            ]
        );
    }

    #[test]
    fn what_the_operator_says_is_not_looked_up() {
        let claims = [worker("tm-1", "tm"), seen("tm:6122", "10.0.0.3")];
        let names = Names::new(topology(claims, Kind::File), &[], &[]);
        assert!(names.hosts().is_empty());
        let rows = names.rows(&BTreeMap::new(), &Clock::read());
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].how, Some(How::File));
        assert_eq!(rows[0].source.as_deref(), Some("file"));
        assert_eq!(rows[0].conflicts, []);
        assert_eq!(rows[0].what, ["worker tm-1"]);
    }

    #[test]
    fn accounts_that_differ_are_told() {
        let said = |kind, address: &str| {
            let place = String::new();
            let mut facts = Facts::new();
            facts.add(seen("jm:6123", address));
            (SourceId { kind, place }, facts)
        };
        let all = [
            said(Kind::Learned, "10.0.0.66"),
            said(Kind::Flink, "10.0.0.2"),
        ];
        let at = Moment::now();
        let topology = merge(all.iter().map(|(id, facts)| (id, at, facts)));
        let names = Names::new(topology.into(), &[], &[]);
        let [row] = &names.rows(&BTreeMap::new(), &Clock::read())[..] else {
            panic!("one row")
        };
        assert_eq!(row.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            (row.how, row.source.as_deref()),
            (Some(How::Said), Some("flink"))
        );
        assert!(row.last_seen.is_some());
        let [other] = &row.conflicts[..] else {
            panic!("{row:?}")
        };
        assert_eq!(
            (other.address.to_string(), &*other.source),
            ("10.0.0.66".to_owned(), "learned")
        );
        assert_eq!(row.note.as_deref(), Some("it was seen at 10.0.0.66"));
    }

    #[test]
    fn not_all_of_many_addresses_are_told() {
        let addresses: Vec<IpAddr> = (1..6).map(|last| [10, 0, 0, last].into()).collect();
        assert_eq!(
            seen_at(&addresses).as_deref(),
            Some("it was seen at 10.0.0.1, 10.0.0.2, 10.0.0.3 and 2 more")
        );
        assert_eq!(seen_at(&[]), None);
    }
}
