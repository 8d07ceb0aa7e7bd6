//! Where leader records are in ConfigMaps, and what they say.

use std::collections::BTreeMap;

use crate::{
    discovery::{Facts, sources::ha::Part},
    name::Session,
};

/// The key of a part's record in the one ConfigMap of Flink 1.15 and later is this and the part.
const PREFIX: &str = "org.apache.flink.k8s.leader.";

/// A ConfigMap that leaders write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Map {
    /// From Flink 1.15 on: all parts.
    Shared,
    /// Up to Flink 1.14: one part.
    Single(Part),
}

/// What is stored, of every ConfigMap that is there.
pub(super) type Maps = BTreeMap<Map, BTreeMap<String, String>>;

impl Map {
    /// Which it is by its name. Those of jobs name no other leaders and are not looked at.
    pub(super) fn named(cluster_id: &str, name: &str) -> Option<Self> {
        match name.strip_prefix(cluster_id)?.strip_prefix('-')? {
            "cluster-config-map" => Some(Self::Shared),
            rest => {
                let word = rest.strip_suffix("-leader")?;
                let part = Part::ALL.into_iter().find(|part| part.word() == word)?;
                Some(Self::Single(part))
            }
        }
    }
}

impl Part {
    const fn word(self) -> &'static str {
        match self {
            Self::ResourceManager => "resourcemanager",
            Self::Dispatcher => "dispatcher",
            Self::RestServer => "restserver",
        }
    }
}

/// What the leaders say. A key that is absent or empty means that nobody leads. If a part has records
/// of both layouts, as when a cluster is upgraded, that of the newer counts.
pub(super) fn facts(maps: &Maps) -> Facts {
    let mut facts = Facts::new();
    for part in Part::ALL {
        let shared = value(maps, Map::Shared, &format!("{PREFIX}{}", part.word()));
        let (session, address) = match shared {
            Some(record) => match record.split_once(',') {
                Some(both) => both,
                None => {
                    facts.refuse(part.leader(), record, "it is not SESSION,ADDRESS");
                    continue;
                }
            },
            None => {
                let single = |key| value(maps, Map::Single(part), key);
                let Some(address) = single("address") else {
                    continue;
                };
                (single("sessionId").unwrap_or_default(), address)
            }
        };
        if let Some(session) = facts.check::<Session>(part.leader(), session) {
            part.claim(address, session, &mut facts);
        }
    }
    facts
}

fn value<'m>(maps: &'m Maps, map: Map, key: &str) -> Option<&'m str> {
    let value = maps.get(&map)?.get(key)?;
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::discovery::sources::ha::said;

    const SESSION: &str = "158812b7-2660-42c4-9340-67f792684dfb";

    /// What a real cluster wrote.
    fn recorded(version: &str) -> Maps {
        let directory = format!(
            "{}/../tests/fixtures/kubernetes/flink-{version}",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| {
                let text = std::fs::read(entry.unwrap().path()).unwrap();
                let object: serde_json::Value = serde_json::from_slice(&text).unwrap();
                let name = object["metadata"]["name"].as_str().unwrap();
                let data = serde_json::from_value(object["data"].clone()).unwrap();
                (Map::named("flink-one", name).unwrap(), data)
            })
            .collect()
    }

    #[test]
    fn reads_what_real_clusters_wrote() {
        for (version, maps, scheme) in [("1.13.6", 3, "akka.tcp"), ("1.20.5", 1, "pekko.tcp")] {
            let recorded = recorded(version);
            assert_eq!(recorded.len(), maps, "{version}");
            let facts = facts(&recorded);
            assert_eq!(facts.refused(), [], "{version}");
            assert_eq!(
                said(&facts),
                [
                    format!("resource manager {scheme}://flink@localhost:6123"),
                    format!("dispatcher {scheme}://flink@localhost:6123"),
                    "REST http://localhost:8081".to_owned(),
                ],
                "{version}"
            );
        }
    }

    #[test]
    fn knows_its_maps_by_name() {
        for (name, map) in [
            ("a-b-cluster-config-map", Some(Map::Shared)),
            ("a-b-dispatcher-leader", Some(Map::Single(Part::Dispatcher))),
            ("a-b-0123456789abcdef-jobmanager-leader", None),
            ("a-b-0123456789abcdef-config-map", None),
            ("a-bc-cluster-config-map", None),
            ("a-cluster-config-map", None),
            ("a-b-leader", None),
            ("a-b", None),
        ] {
            assert_eq!(Map::named("a-b", name), map, "{name}");
        }
    }

    #[test]
    fn the_newer_layout_counts_and_empty_is_nobody() {
        let mut maps = recorded("1.13.6");
        let shared =
            |value: &str| BTreeMap::from([(format!("{PREFIX}dispatcher"), value.to_owned())]);
        maps.insert(
            Map::Shared,
            shared(&format!(
                "{SESSION},pekko.tcp://flink@new:6123/user/rpc/dispatcher_1"
            )),
        );
        assert_eq!(
            said(&facts(&maps))[1],
            "dispatcher pekko.tcp://flink@new:6123"
        );
        maps.insert(Map::Shared, shared(""));
        assert_eq!(
            said(&facts(&maps))[1],
            "dispatcher akka.tcp://flink@localhost:6123"
        );
        maps.get_mut(&Map::Single(Part::Dispatcher))
            .unwrap()
            .clear();
        assert_eq!(said(&facts(&maps)).len(), 2);
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for (value, reason) in [
            ("http://jm:8081".to_owned(), "SESSION,ADDRESS"),
            ("1,http://jm:8081".to_owned(), "UUID"),
            (format!("{SESSION},jm:8081"), "begin with"),
            (format!("{SESSION},http://j\u{1b}m:8081"), "DNS name"),
        ] {
            let data = BTreeMap::from([(format!("{PREFIX}restserver"), value)]);
            let facts = facts(&[(Map::Shared, data)].into());
            assert_eq!(facts.claims().count(), 0);
            let line = facts.refused()[0].to_string();
            assert!(line.contains(reason) && !line.contains('\u{1b}'), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(value in ".{0,200}", address in ".{0,200}", session in ".{0,50}") {
            let shared = BTreeMap::from([(format!("{PREFIX}dispatcher"), value)]);
            let single = BTreeMap::from([
                ("address".to_owned(), address),
                ("sessionId".to_owned(), session),
            ]);
            let maps = [(Map::Shared, shared), (Map::Single(Part::RestServer), single)].into();
            prop_assert!(facts(&maps).claims().count() <= 2);
        }
    }
}
