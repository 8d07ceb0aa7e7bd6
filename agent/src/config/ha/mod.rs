//! `ha` of `[topology]`: the store of Flink's high-availability services, in which leaders write who
//! they are.

pub mod kubernetes;
pub mod zookeeper;

use super::{
    ConfigError,
    reader::{Section, bad},
};

/// The store, and where a cluster's records are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ha {
    /// There is none, or it is not read.
    #[default]
    None,
    /// ZooKeeper.
    Zookeeper(zookeeper::Place),
    /// ConfigMaps.
    Kubernetes(kubernetes::Place),
}

impl Ha {
    /// The words in the configuration, which are the names of the sections too.
    const NAMES: [&str; 3] = ["none", "zookeeper", "kubernetes"];

    /// The word in the configuration.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => Self::NAMES[0],
            Self::Zookeeper(_) => Self::NAMES[1],
            Self::Kubernetes(_) => Self::NAMES[2],
        }
    }
}

/// Reads `ha` and the section that it needs.
///
/// # Errors
/// When one says something invalid, or they do not go together.
pub(super) fn read(topology: &Section<'_>) -> Result<Ha, ConfigError> {
    let entry = topology.get("ha");
    let name = entry.as_ref().map_or(Ok("none"), |entry| entry.string())?;
    let refuse = |reason: &str| {
        let origin = entry
            .as_ref()
            .map_or_else(|| topology.origin(), |entry| entry.origin.clone());
        Err(bad(origin, "ha", name, reason))
    };
    if !Ha::NAMES.contains(&name) {
        return refuse(&format!("write one of {}", Ha::NAMES.join(", ")));
    }
    if name == "kubernetes" && !cfg!(feature = "kubernetes") {
        return refuse(
            "this truename is built without a client for Kubernetes; build it with --features kubernetes",
        );
    }
    let mut needed = None;
    for (table, keys) in [
        ("zookeeper", zookeeper::KEYS),
        ("kubernetes", kubernetes::KEYS),
    ] {
        match topology.table(table, keys)? {
            Some(section) if table == name => needed = Some(section),
            Some(section) => {
                let reason = format!(
                    "it has no use for the section [topology.{table}]; write ha = \"{table}\", or leave the section out"
                );
                return Err(bad(section.origin(), "ha", name, &reason));
            }
            None => {}
        }
    }
    match (name, needed) {
        ("zookeeper", Some(section)) => zookeeper::read(&section).map(Ha::Zookeeper),
        ("kubernetes", Some(section)) => kubernetes::read(&section).map(Ha::Kubernetes),
        ("none", _) => Ok(Ha::None),
        _ => refuse(&format!(
            "it needs the section [topology.{name}], which says where the records are"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{reader::Source, topology};

    fn parse(text: &str) -> Result<Ha, String> {
        let text = format!("[topology]\n{text}");
        let source = Source::new(Path::new("t.toml").to_owned(), &text);
        let document = source.parse().unwrap();
        let root = Section::new(&source, "the file", document.get_ref(), 0..0, &["topology"]);
        let section = root.unwrap().table("topology", topology::KEYS);
        section
            .and_then(|section| read(&section.unwrap()))
            .map_err(|error| error.to_string())
    }

    const ZOOKEEPER: &str = "ha = \"zookeeper\"\n[topology.zookeeper]\n";

    #[test]
    fn reads_where_the_records_are() {
        assert_eq!(parse("").unwrap(), Ha::None);
        assert_eq!(parse("ha = \"none\"").unwrap(), Ha::None);
        let Ha::Zookeeper(place) =
            parse(&format!("{ZOOKEEPER}quorum = [\"zk1:2181\", \"zk2:2181\"]")).unwrap()
        else {
            panic!("zookeeper")
        };
        assert_eq!(place.to_string(), "zk1:2181,zk2:2181/flink/default");
        let other = format!("{ZOOKEEPER}quorum = [\"zk:1\"]\nroot = \"/a\"\ncluster_id = \"b\"");
        let Ha::Zookeeper(place) = parse(&other).unwrap() else {
            panic!("zookeeper")
        };
        assert_eq!(place.to_string(), "zk:1/a/b");
    }

    #[test]
    fn says_what_is_wrong() {
        let long = "x".repeat(500);
        let too_long =
            format!("{ZOOKEEPER}quorum = [\"zk:1\"]\nroot = \"/{long}\"\ncluster_id = \"{long}\"");
        let path = "the path must have at most 512 bytes, in elements of visible ASCII characters that are not \".\" or \"..\", e.g. /flink/default";
        for (text, message) in [
            (
                "ha = \"zookeper\"",
                "t.toml:2: ha \"zookeper\": write one of none, zookeeper, kubernetes".to_owned(),
            ),
            (
                "ha = \"zookeeper\"",
                "t.toml:2: ha \"zookeeper\": it needs the section [topology.zookeeper], which says where the records are".to_owned(),
            ),
            (
                "[topology.zookeeper]\nquorum = [\"zk:1\"]",
                "t.toml:2: ha \"none\": it has no use for the section [topology.zookeeper]; write ha = \"zookeeper\", or leave the section out".to_owned(),
            ),
            (
                &format!("{ZOOKEEPER}quorum = [\"zk:1\"]\n[topology.kubernetes]\ncluster_id = \"a\""),
                "t.toml:5: ha \"zookeeper\": it has no use for the section [topology.kubernetes]; write ha = \"kubernetes\", or leave the section out".to_owned(),
            ),
            (
                ZOOKEEPER,
                "t.toml:3: [topology.zookeeper] needs the key \"quorum\", e.g. [\"zk1:2181\", \"zk2:2181\"]".to_owned(),
            ),
            (
                &format!("{ZOOKEEPER}quorum = []"),
                "t.toml:4: quorum \"0 servers\": name 1 to 16 servers, e.g. [\"zk1:2181\", \"zk2:2181\"]".to_owned(),
            ),
            (
                &format!("{ZOOKEEPER}quorum = [\"zk:1\",\n\"zk\"]"),
                "t.toml:5: server \"zk\": a port is missing; write host:port, e.g. jobmanager:6123".to_owned(),
            ),
            (
                &format!("{ZOOKEEPER}quorum = [\"zk:1\", \"zk:1\"]"),
                "t.toml:4: server \"zk:1\": it is there already; leave one out".to_owned(),
            ),
            (
                &format!("{ZOOKEEPER}quorum = [\"zk:1\"]\nroot = \"/a b\""),
                format!("t.toml:5: root \"/a b\": {path}"),
            ),
            (
                &format!("{ZOOKEEPER}quorum = [\"zk:1\"]\nroot = \"/a\"\ncluster_id = \"..\""),
                format!("t.toml:6: cluster_id \"..\": {path}"),
            ),
            (
                &too_long,
                format!("t.toml:3: path \"/{long}/{long}\": {path}"),
            ),
            (
                &format!("{ZOOKEEPER}path = \"/flink\""),
                "t.toml:4: unknown key \"path\" in [topology.zookeeper]; valid are quorum, root, cluster_id".to_owned(),
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), message);
        }
    }

    #[cfg(not(feature = "kubernetes"))]
    #[test]
    fn a_client_that_is_not_built_is_named() {
        let text = "ha = \"kubernetes\"\n[topology.kubernetes]\ncluster_id = \"a\"";
        assert_eq!(
            parse(text).unwrap_err(),
            "t.toml:2: ha \"kubernetes\": this truename is built without a client for Kubernetes; build it with --features kubernetes"
        );
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn reads_the_section_of_kubernetes() {
        let text = |rest: &str| format!("ha = \"kubernetes\"\n[topology.kubernetes]\n{rest}");
        let all = "cluster_id = \"a\"\nnamespace = \"jobs\"\nkubeconfig = \"/etc/k\"";
        let Ha::Kubernetes(place) = parse(&text(all)).unwrap() else {
            panic!("kubernetes")
        };
        assert_eq!(place.to_string(), "jobs/a");
        assert_eq!(place.kubeconfig(), Some(Path::new("/etc/k")));
        assert!(parse(&text("cluster_id = \"a\"")).is_ok());
        for (rest, message) in [
            (
                "",
                "t.toml:3: [topology.kubernetes] needs the key \"cluster_id\", e.g. \"my-cluster\"",
            ),
            (
                "cluster_id = \"A\"",
                "t.toml:4: cluster_id \"A\": the cluster's name must have 1 to 253 small letters, digits and hyphens, as Flink's kubernetes.cluster-id",
            ),
            (
                "cluster_id = \"a\"\nnamespace = \"b/c\"",
                "t.toml:5: namespace \"b/c\": the namespace must have 1 to 63 small letters, digits and hyphens",
            ),
            (
                "cluster_id = \"a\"\nkubeconfig = \"k\"",
                "t.toml:5: kubeconfig \"k\": the path must be absolute",
            ),
        ] {
            assert_eq!(parse(&text(rest)).unwrap_err(), message);
        }
    }
}
