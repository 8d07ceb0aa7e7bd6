//! Where leader records are in ZooKeeper, and what they say.

use std::collections::BTreeMap;

use crate::discovery::{
    Facts,
    sources::ha::{Part, java},
};

/// How the nodes are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layout {
    /// From Flink 1.15 on: `leader/dispatcher/connection_info`.
    Shared,
    /// Up to Flink 1.14: `leader/dispatcher_lock`.
    Single,
}

/// A node that a leader may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    part: Part,
    // Behind the part: of two layouts, the newer comes first.
    layout: Layout,
}

/// What is stored, of every node that was read.
pub(super) type Nodes = BTreeMap<Node, Option<Vec<u8>>>;

impl Node {
    /// All that there may be.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let layouts = [Layout::Shared, Layout::Single];
        Part::ALL
            .into_iter()
            .flat_map(move |part| layouts.map(|layout| Self { part, layout }))
    }

    /// Its path below the cluster's root.
    pub(super) const fn path(self) -> &'static str {
        match (self.layout, self.part) {
            (Layout::Shared, Part::ResourceManager) => "/leader/resource_manager/connection_info",
            (Layout::Shared, Part::Dispatcher) => "/leader/dispatcher/connection_info",
            (Layout::Shared, Part::RestServer) => "/leader/rest_server/connection_info",
            (Layout::Single, Part::ResourceManager) => "/leader/resource_manager_lock",
            (Layout::Single, Part::Dispatcher) => "/leader/dispatcher_lock",
            (Layout::Single, Part::RestServer) => "/leader/rest_server_lock",
        }
    }
}

/// What the leaders say. A node that is absent or empty means that nobody leads. If a part has
/// records of both layouts, as when a cluster is upgraded, that of the newer counts.
pub(super) fn facts(nodes: &Nodes) -> Facts {
    let mut facts = Facts::new();
    let mut known = None;
    for (node, data) in nodes {
        let Some(data) = data.as_ref().filter(|data| !data.is_empty()) else {
            continue;
        };
        match java::decode(data) {
            Ok(_) if known == Some(node.part) => {}
            Ok((address, session)) => {
                known = Some(node.part);
                node.part.claim(&address, session, &mut facts);
            }
            Err(error) => facts.refuse(node.part.leader(), node.path(), error),
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::sources::ha::{java::tests::encode, said};

    /// Records of real clusters on one host.
    const RECORDED: [(&str, Layout, &str); 5] = [
        ("1.9.3", Layout::Single, "akka.tcp"),
        ("1.13.6", Layout::Single, "akka.tcp"),
        ("1.17.2", Layout::Shared, "akka.tcp"),
        ("1.20.5", Layout::Shared, "pekko.tcp"),
        ("2.3.0", Layout::Shared, "pekko.tcp"),
    ];

    fn node(part: Part, layout: Layout) -> Node {
        Node { part, layout }
    }

    fn recorded(version: &str, file: &str) -> Vec<u8> {
        let path = format!(
            "{}/../tests/fixtures/zookeeper/flink-{version}/{file}.bin",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    #[test]
    fn reads_what_real_clusters_wrote() {
        for (version, layout, scheme) in RECORDED {
            let nodes = [
                (Part::ResourceManager, "resource_manager"),
                (Part::Dispatcher, "dispatcher"),
                (Part::RestServer, "rest_server"),
            ]
            .into_iter()
            .map(|(part, file)| (node(part, layout), Some(recorded(version, file))))
            .collect();
            let facts = facts(&nodes);
            assert_eq!(facts.refused(), [], "{version}");
            let said = said(&facts);
            let rpc = format!("{scheme}://flink@localhost:6123");
            assert_eq!(
                said,
                [
                    format!("resource manager {rpc}"),
                    format!("dispatcher {rpc}"),
                    "REST http://localhost:8081".to_owned(),
                ],
                "{version}"
            );
        }
    }

    #[test]
    fn the_newer_layout_counts_and_empty_is_nobody() {
        let record = |host: &str| Some(encode(&format!("akka.tcp://flink@{host}:6123/x"), 1, 1024));
        let mut nodes: Nodes = Node::all().map(|node| (node, None)).collect();
        assert_eq!(facts(&nodes), Facts::new());
        let (new, old) = (
            node(Part::Dispatcher, Layout::Shared),
            node(Part::Dispatcher, Layout::Single),
        );
        nodes.insert(old, record("old"));
        nodes.insert(new, record("new"));
        let leader = |nodes: &Nodes| {
            let facts = facts(nodes);
            assert_eq!(facts.refused(), []);
            said(&facts)
        };
        assert_eq!(leader(&nodes), ["dispatcher akka.tcp://flink@new:6123"]);
        nodes.insert(new, Some(Vec::new()));
        assert_eq!(leader(&nodes), ["dispatcher akka.tcp://flink@old:6123"]);
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for (address, reason) in [
            ("pekko://flink/user/rpc/dispatcher_1", "it has no host"),
            ("pekko.tcp://flink@jm\u{1b}[2J:6123/x", "DNS name"),
            ("ftp://jm:21", "begin with"),
        ] {
            let data = encode(address, 1, 1024);
            let nodes = [(node(Part::Dispatcher, Layout::Shared), Some(data))].into();
            let facts = facts(&nodes);
            assert_eq!(facts.claims().count(), 0, "{address}");
            let line = facts.refused()[0].to_string();
            assert!(line.contains(reason) && !line.contains('\u{1b}'), "{line}");
        }
        let nodes = [(node(Part::RestServer, Layout::Single), Some(b"{}".to_vec()))].into();
        let line = facts(&nodes).refused()[0].to_string();
        assert!(
            line.starts_with(
                "leader of the REST server \"/leader/rest_server_lock\": it is no Java"
            ),
            "{line}"
        );
    }
}
