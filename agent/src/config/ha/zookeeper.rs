//! `[topology.zookeeper]`: where a cluster's leader records are in ZooKeeper.

use std::fmt;

use serde::Serialize;

use crate::{
    config::{
        ConfigError,
        reader::{Section, bad, read_list},
    },
    name::Authority,
};

/// The keys of the section.
pub const KEYS: &[&str] = &["quorum", "root", "cluster_id"];
/// What Flink takes without configuration.
const ROOT: &str = "/flink";
const CLUSTER_ID: &str = "/default";
/// Longest path of a cluster, in bytes.
const PATH_MAX: usize = 512;

/// Where a cluster's records are. Shown as `zk1:2181,zk2:2181/flink/default`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    #[serde(serialize_with = "as_texts")]
    quorum: Vec<Authority>,
    root: String,
    cluster_id: String,
}

/// Why a place cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// No server.
    #[error("no server is named; write e.g. quorum = [\"zk1:2181\", \"zk2:2181\"]")]
    NoServer,
    /// Not a path.
    #[error(
        "the path must have at most {PATH_MAX} bytes, in elements of visible ASCII characters that are not \".\" or \"..\", e.g. /flink/default"
    )]
    BadPath,
}

impl Place {
    /// Flink's `high-availability.zookeeper.quorum`, `….path.root` and `high-availability.cluster-id`;
    /// the two are joined, with or without slashes at their ends.
    ///
    /// # Errors
    /// When there is no server, or ZooKeeper has no such path.
    pub fn new(quorum: Vec<Authority>, root: &str, cluster_id: &str) -> Result<Self, PlaceError> {
        if quorum.is_empty() {
            return Err(PlaceError::NoServer);
        }
        check(&join(root, cluster_id))?;
        Ok(Self {
            quorum,
            root: root.to_owned(),
            cluster_id: cluster_id.to_owned(),
        })
    }

    /// The servers.
    pub fn quorum(&self) -> &[Authority] {
        &self.quorum
    }

    /// The servers in one line, with commas.
    pub fn servers(&self) -> String {
        let servers: Vec<&str> = self.quorum.iter().map(Authority::as_str).collect();
        servers.join(",")
    }

    /// The cluster's node. It begins with a slash, or is empty for the root of all nodes.
    pub fn path(&self) -> String {
        join(&self.root, &self.cluster_id)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.servers(), self.path())
    }
}

fn join(root: &str, cluster_id: &str) -> String {
    [root, cluster_id]
        .into_iter()
        .map(|part| part.trim_matches('/'))
        .filter(|part| !part.is_empty())
        .flat_map(|part| ["/", part])
        .collect()
}

/// That ZooKeeper can have a node there.
fn check(path: &str) -> Result<(), PlaceError> {
    let element = |element: &str| {
        !matches!(element, "" | "." | "..") && element.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let good = path.is_empty() || path.split('/').skip(1).all(element);
    if good && path.len() <= PATH_MAX {
        Ok(())
    } else {
        Err(PlaceError::BadPath)
    }
}

fn as_texts<S: serde::Serializer>(quorum: &[Authority], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(quorum.iter().map(Authority::as_str))
}

/// Reads the section.
///
/// # Errors
/// When it says something invalid.
pub(super) fn read(section: &Section<'_>) -> Result<Place, ConfigError> {
    let example = "[\"zk1:2181\", \"zk2:2181\"]";
    let entry = section.need("quorum", example)?;
    let quorum = read_list(&entry, ["server", "servers"], example)?;
    let root = read_part(section, "root", ROOT)?;
    let cluster_id = read_part(section, "cluster_id", CLUSTER_ID)?;
    Place::new(quorum, &root, &cluster_id).map_err(|error| {
        let path = join(&root, &cluster_id);
        bad(section.origin(), "path", &path, &error.to_string())
    })
}

/// A part of the path, which must be one by itself.
fn read_part(section: &Section<'_>, key: &str, default: &str) -> Result<String, ConfigError> {
    let Some(entry) = section.get(key) else {
        return Ok(default.to_owned());
    };
    let part = entry.string()?;
    check(&join(part, "")).map_err(|error| entry.bad(part, &error.to_string()))?;
    Ok(part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &str, cluster: &str) -> Result<String, PlaceError> {
        let quorum = ["zk1:2181", "[fd00::1]:2181"].map(|text| text.parse().unwrap());
        Place::new(quorum.into(), root, cluster).map(|place| place.to_string())
    }

    #[test]
    fn joins_paths_as_flink_does() {
        for (root, cluster, path) in [
            ("/flink", "/default", "/flink/default"),
            ("flink/", "default", "/flink/default"),
            ("/", "/default", "/default"),
            ("/a/b", "/c/d", "/a/b/c/d"),
            ("", "", ""),
        ] {
            assert_eq!(
                place(root, cluster),
                Ok(format!("zk1:2181,[fd00::1]:2181{path}"))
            );
        }
    }

    #[test]
    fn refuses_what_is_no_path() {
        let long = "x".repeat(PATH_MAX);
        for (root, cluster) in [
            ("/flink", "a//b"),
            ("/flink", "../other"),
            ("/fl\u{0}ink", "a"),
            ("/flink", "a b"),
            ("/flink", &long),
        ] {
            assert_eq!(place(root, cluster), Err(PlaceError::BadPath));
        }
        assert_eq!(
            Place::new(Vec::new(), "/flink", "/default"),
            Err(PlaceError::NoServer)
        );
    }
}
