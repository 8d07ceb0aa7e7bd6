//! What Flink's REST interface answers, as far as it matters. The same in 1.9 to 2.3.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{
    config::{Cluster, ClusterError},
    discovery::{Claim, Facts, Ports, Worker},
    name::{Authority, RpcAddress, Scheme, literal},
};

/// The actor system of every Flink process.
const SYSTEM: &str = "flink";
/// Flink's default of `jobmanager.rpc.port`.
const RPC_PORT: &str = "6123";
const ADDRESS: &str = "jobmanager.rpc.address";
const PORT: &str = "jobmanager.rpc.port";
const BLOB_PORT: &str = "blob.server.port";
const STATE: &str = "queryable-state.enable";
const STATE_PORTS: &str = "queryable-state.proxy.ports";
/// Flink's default of [`STATE_PORTS`].
const STATE_PORT: u16 = 9069;
/// What tells a cluster with leader records from another.
const RECORDS: [&str; 5] = [
    "high-availability",
    "high-availability.type",
    "high-availability.cluster-id",
    "high-availability.zookeeper.quorum",
    "high-availability.zookeeper.path.root",
];
const TLS: [&str; 2] = ["security.ssl.internal.enabled", "security.ssl.enabled"];
/// The first release with Pekko instead of Akka.
const PEKKO_SINCE: (u32, u32) = (1, 18);

/// An element of a list that may be anything.
#[derive(Deserialize)]
#[serde(untagged)]
enum Element<T> {
    Good(T),
    Bad(IgnoredAny),
}

/// `/jobmanager/config`: the settings of the process that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

#[derive(Deserialize)]
struct Pair {
    key: String,
    value: String,
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Vec::<Element<Pair>>::deserialize(deserializer)?;
        let wanted = |key: &str| {
            [ADDRESS, PORT, BLOB_PORT, STATE, STATE_PORTS].contains(&key)
                || TLS.contains(&key)
                || RECORDS.contains(&key)
        };
        let pairs = pairs.into_iter().filter_map(|pair| match pair {
            Element::Good(pair) if wanted(&pair.key) => Some((pair.key, pair.value)),
            Element::Good(_) | Element::Bad(_) => None,
        });
        Ok(Self(pairs.collect()))
    }
}

impl Settings {
    /// The `host:port` that the process announces, not checked; `None` if it does not say.
    pub fn announced(&self) -> Option<String> {
        let host = self.0.get(ADDRESS)?;
        let port = self.0.get(PORT).map_or(RPC_PORT, String::as_str);
        // Flink itself puts the brackets into its address, and the small letters.
        let host = host.trim().to_lowercase();
        let host = match host.parse::<std::net::Ipv6Addr>() {
            Ok(_) => format!("[{host}]"),
            Err(_) => host,
        };
        Some(format!("{host}:{port}"))
    }

    /// What tells the cluster from others: where its leader records are; without records its only JobManager.
    pub fn cluster(&self) -> Option<String> {
        let value = |key: &str| self.0.get(key).map_or("", |value| value.trim());
        let has_records = RECORDS[..2].iter().any(|key| {
            let value = value(key);
            !value.is_empty() && !value.eq_ignore_ascii_case("none")
        });
        if has_records {
            let told: Vec<_> = RECORDS[2..].iter().map(|key| value(key)).collect();
            return Some(format!("records {}", told.join(" ")));
        }
        self.announced()
    }

    /// Where the leader records are, if they are in ZooKeeper.
    pub fn records(&self) -> Option<Result<Cluster, (String, ClusterError)>> {
        let value = |key: &str| self.0.get(key).map(|value| value.trim());
        let mut kinds = RECORDS[..2].iter().filter_map(|key| value(key));
        if !kinds.any(|kind| kind.eq_ignore_ascii_case("zookeeper")) {
            return None;
        }
        let quorum = value(RECORDS[3]).unwrap_or_default().replace(' ', "");
        let id = value(RECORDS[2]).unwrap_or("/default").trim_matches('/');
        let root = value(RECORDS[4]).unwrap_or("/flink").trim_matches('/');
        let text = format!("zookeeper://{}/{root}/{id}", quorum.trim_end_matches('/'));
        Some(text.parse().map_err(|error| (text, error)))
    }

    /// What the process that answered at this address tells of itself.
    pub fn tell(&self, address: IpAddr, facts: &mut Facts) {
        let Some(Ok(name)) = self.announced().map(|text| text.parse::<Authority>()) else {
            return;
        };
        match self.records() {
            None => {}
            Some(Ok(records)) => facts.add(Claim::Records(records.to_string())),
            Some(Err((text, error))) => facts.refuse("leader records", &text, error),
        }
        let number = |key: &str| self.0.get(key).and_then(|port| first_port(port));
        let has_state = self.0.get(STATE).is_some_and(|value| value == "true");
        let ports = Ports {
            blob: number(BLOB_PORT),
            queryable_state: has_state.then(|| number(STATE_PORTS).unwrap_or(STATE_PORT)),
            name: name.clone(),
        };
        if ports.blob.is_some() || ports.queryable_state.is_some() {
            facts.add(Claim::Ports(ports));
        }
        let written = literal(name.host());
        if name.host() == "localhost"
            || written.is_some_and(|ip| ip.is_loopback() || ip.is_unspecified())
        {
            if !address.is_loopback() {
                facts.refuse(
                    "name",
                    name.as_str(),
                    format_args!("the JobManager at {address} calls itself so, and so does every host; set jobmanager.rpc.address"),
                );
            }
        } else if written.is_none() {
            facts.add(Claim::Address { name, address });
        }
    }

    /// Where the process announces itself. What is no address is refused.
    pub fn rpc(&self, overview: &Overview, facts: &mut Facts) -> Option<RpcAddress> {
        let text = self.announced()?;
        let authority = match text.parse::<Authority>() {
            Ok(authority) => authority,
            Err(error) => {
                facts.refuse("leader", &text, error);
                return None;
            }
        };
        let tls = TLS
            .iter()
            .any(|key| self.0.get(*key).is_some_and(|v| v == "true"));
        let scheme = match (overview.speaks_pekko(), tls) {
            (true, false) => Scheme::PekkoTcp,
            (true, true) => Scheme::PekkoSslTcp,
            (false, false) => Scheme::AkkaTcp,
            (false, true) => Scheme::AkkaSslTcp,
        };
        RpcAddress::new(scheme, SYSTEM, authority).ok()
    }
}

/// The first port of a list of ports and ranges, as Flink writes it; 0 is none.
fn first_port(text: &str) -> Option<u16> {
    let end = text.find([',', '-']).unwrap_or(text.len());
    text[..end].trim().parse().ok().filter(|port| *port > 0)
}

/// `/overview`: what changes when workers come and go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Overview {
    taskmanagers: u64,
    #[serde(rename = "slots-total")]
    slots: u64,
    #[serde(rename = "flink-version", default)]
    version: String,
}

impl Overview {
    /// Whether this release speaks Pekko; one that does not say which it is, is a new one.
    fn speaks_pekko(&self) -> bool {
        let mut numbers = self.version.split('.').map(|part| {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            part[..digits].parse::<u32>().ok()
        });
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) => (major, minor) >= PEKKO_SINCE,
            _ => true,
        }
    }
}

/// `/taskmanagers`.
#[derive(Deserialize)]
pub struct Workers {
    taskmanagers: Vec<Element<Listed>>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} workers", self.taskmanagers.len())
    }
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    path: String,
    #[serde(rename = "dataPort", default)]
    data_port: i64,
}

impl Workers {
    /// The workers that can be believed.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        for element in &self.taskmanagers {
            let Element::Good(listed) = element else {
                facts.refuse("worker", "", "it has no id and path");
                continue;
            };
            if let Some(id) = facts.check("worker", &listed.id)
                && let Some(rpc) = facts.check("worker", &listed.path)
            {
                facts.add(Claim::Worker(Worker {
                    id,
                    rpc,
                    // Zero or less: none.
                    data_port: u16::try_from(listed.data_port)
                        .ok()
                        .filter(|port| *port > 0),
                }));
            }
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview(version: &str) -> Overview {
        let text = format!(
            r#"{{"taskmanagers":1,"slots-total":2,"slots-available":2,"flink-version":"{version}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn leader(config: &str, version: &str) -> (Option<String>, usize) {
        let settings: Settings = serde_json::from_str(config).unwrap();
        let mut facts = Facts::new();
        let address = settings.rpc(&overview(version), &mut facts);
        (
            address.map(|address| address.to_string()),
            facts.refused_count(),
        )
    }

    #[test]
    fn names_the_leader() {
        let config = r#"[{"key":"jobmanager.rpc.address","value":"JobManager"},
            {"key":"jobmanager.rpc.port","value":"6124"}, {"key":"x","value":7}, 5]"#;
        for (version, scheme) in [
            ("1.9.3", "akka.tcp"),
            ("1.17.2", "akka.tcp"),
            ("1.18.0-SNAPSHOT", "pekko.tcp"),
            ("1.20.5", "pekko.tcp"),
            ("2.3-SNAPSHOT", "pekko.tcp"),
            ("<unknown>", "pekko.tcp"),
        ] {
            let (address, _) = leader(config, version);
            assert_eq!(address, Some(format!("{scheme}://flink@jobmanager:6124")));
        }
        let with = |more: &str| format!(r#"[{{"key":"jobmanager.rpc.address","value":{more}]"#);
        let (address, _) = leader(&with(r#""fd00::1"}"#), "2.3.0");
        assert_eq!(address.unwrap(), "pekko.tcp://flink@[fd00::1]:6123");
        let tls = with(r#""jm"},{"key":"security.ssl.internal.enabled","value":"true"}"#);
        let (address, _) = leader(&tls, "1.17.0");
        assert_eq!(address.unwrap(), "akka.ssl.tcp://flink@jm:6123");
        assert_eq!(leader(&with(r#""j\u001bm"}"#), "2.3.0"), (None, 1));
        assert_eq!(leader("[]", "2.3.0"), (None, 0));
    }

    #[test]
    fn believes_the_workers_that_can_be() {
        let text = r#"{"taskmanagers":[
            {"id":"10.0.0.3:6122-a1","path":"pekko.tcp://flink@taskmanager:6122/user/rpc/taskmanager_0",
             "dataPort":41111,"jmxPort":-1,"freeSlots":2},
            {"id":"tm-2","path":"pekko.tcp://flink@tm2:6122","dataPort":-1},
            {"id":"tm-3","path":"pekko.tcp://flink@tm\u001b[2J:6122"},
            {"id":"tm 4","path":"pekko.tcp://flink@tm4:6122"},
            {"id":5,"path":"pekko.tcp://flink@tm5:6122"}, null, "x", [[]]]}"#;
        let facts = serde_json::from_str::<Workers>(text).unwrap().facts();
        let workers: Vec<_> = facts
            .claims()
            .map(|claim| match claim {
                Claim::Worker(worker) => (worker.id.as_str(), worker.data_port),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(workers, [("10.0.0.3:6122-a1", Some(41111)), ("tm-2", None)]);
        assert_eq!(facts.refused_count(), 6);
    }

    /// What a server at this address tells of itself.
    fn told(pairs: &[(&str, &str)], address: [u8; 4]) -> (Vec<Claim>, usize) {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(key, value)| serde_json::json!({"key": key, "value": value}))
            .collect();
        let settings: Settings = serde_json::from_value(pairs.into()).unwrap();
        let mut facts = Facts::new();
        settings.tell(address.into(), &mut facts);
        (facts.claims().cloned().collect(), facts.refused_count())
    }

    #[test]
    fn a_server_says_where_its_name_is() {
        let at = Claim::Address {
            name: "jm-1:6123".parse().unwrap(),
            address: [10, 0, 0, 1].into(),
        };
        let ports = |blob, queryable_state| {
            Claim::Ports(Ports {
                name: "jm-1:6123".parse().unwrap(),
                blob,
                queryable_state,
            })
        };
        let named = [(ADDRESS, "jm-1"), (BLOB_PORT, "50100-50200,0")];
        let (claims, _) = told(&named, [10, 0, 0, 1]);
        assert_eq!(claims, [ports(Some(50100), None), at.clone()]);
        let state = [(ADDRESS, "JM-1"), (BLOB_PORT, "0"), (STATE, "true")];
        let (claims, _) = told(&state, [10, 0, 0, 1]);
        assert_eq!(claims, [ports(None, Some(STATE_PORT)), at]);
        // Every host calls itself so, and an address needs nobody to say where it is.
        for (name, refused) in [("localhost", 1), ("0.0.0.0", 1), ("10.0.0.1", 0), ("-", 0)] {
            let told = told(&[(ADDRESS, name)], [10, 0, 0, 1]);
            assert_eq!(told, (Vec::new(), refused), "{name}");
        }
        assert_eq!(told(&[], [10, 0, 0, 1]), (Vec::new(), 0));
    }

    #[test]
    fn a_cluster_says_where_its_leader_records_are() {
        let records = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let told = Settings(pairs.collect()).records();
            told.map(|told| told.map_or_else(|(text, _)| text, |cluster| cluster.to_string()))
        };
        assert_eq!(records(&[(RECORDS[1], "NONE"), (RECORDS[3], "zk")]), None);
        assert_eq!(records(&[(RECORDS[1], "kubernetes")]), None);
        let all = [
            (RECORDS[0], "ZooKeeper"),
            (RECORDS[2], "/pair"),
            (RECORDS[3], "zk1:2181, zk2/chroot"),
            (RECORDS[4], "/jobs/"),
        ];
        let told = records(&all).unwrap();
        assert_eq!(told, "zookeeper://zk1:2181,zk2:2181/chroot/jobs/pair");
        let few = records(&[(RECORDS[1], "zookeeper"), (RECORDS[3], "zk")]);
        assert_eq!(few.unwrap(), "zookeeper://zk:2181/flink/default");
        let none = told_of(&[(ADDRESS, "jm"), (RECORDS[1], "zookeeper")]);
        assert_eq!(none.refused_count(), 1);
    }

    fn told_of(pairs: &[(&str, &str)]) -> Facts {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut facts = Facts::new();
        Settings(pairs.collect()).tell([10, 0, 0, 1].into(), &mut facts);
        facts
    }

    #[test]
    fn a_cluster_is_told_from_another() {
        let cluster = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Settings(pairs.collect()).cluster()
        };
        let alone = cluster(&[(ADDRESS, "jm"), (RECORDS[1], "NONE")]);
        assert_eq!(alone.as_deref(), Some("jm:6123"));
        let one = cluster(&[
            (ADDRESS, "a"),
            (RECORDS[0], "zookeeper"),
            (RECORDS[2], "/x"),
        ]);
        let two = cluster(&[
            (ADDRESS, "b"),
            (RECORDS[1], "zookeeper"),
            (RECORDS[2], "/x"),
        ]);
        let other = cluster(&[
            (ADDRESS, "b"),
            (RECORDS[1], "zookeeper"),
            (RECORDS[2], "/y"),
        ]);
        assert_eq!(one, two);
        assert_ne!(one, other);
    }

    #[test]
    fn another_answer_is_none() {
        for text in [
            "{}",
            "[]",
            "null",
            r#"{"taskmanagers":{}}"#,
            r#"{"taskmanagers":7}"#,
        ] {
            assert!(serde_json::from_str::<Workers>(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Settings>(r#"{"errors":["no"]}"#).is_err());
        assert!(serde_json::from_str::<Overview>(r#"{"taskmanagers":"1"}"#).is_err());
        // Nesting that would take a stack.
        assert!(serde_json::from_str::<Workers>(&"[".repeat(1 << 20)).is_err());
    }
}
