//! What Flink's REST interface answers, as far as it matters. The same in 1.9 to 2.3.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{
    name::{Authority, RpcAddress, Scheme},
    topology::{Claim, Facts, Worker},
};

/// The actor system of every Flink process.
const SYSTEM: &str = "flink";
/// Flink's default of `jobmanager.rpc.port`.
const RPC_PORT: &str = "6123";
const ADDRESS: &str = "jobmanager.rpc.address";
const PORT: &str = "jobmanager.rpc.port";
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
        let wanted = |key: &str| [ADDRESS, PORT].contains(&key) || TLS.contains(&key);
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
