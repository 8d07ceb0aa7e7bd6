//! `cluster` of `[topology]` and the flag `--cluster`: where a cluster is asked about itself.

use std::{fmt, str::FromStr};

use super::ha::{kubernetes, zookeeper};
use crate::name::{Authority, AuthorityError, NameError, Url};

/// The port of ZooKeeper where none is written.
const ZOOKEEPER_PORT: u16 = 2181;
const SCHEMES: &str = "write http://host:8081, zookeeper://host:2181/flink/cluster-id or kubernetes://namespace/cluster-id";

/// One place where a cluster is asked about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// Flink's REST interface.
    Rest(Url),
    /// Leader records in ZooKeeper.
    Zookeeper(zookeeper::Place),
    /// Leader records in Kubernetes.
    Kubernetes(kubernetes::Place),
}

/// Why a text is no such place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// Another scheme.
    #[error("{SCHEMES}")]
    Scheme,
    /// No URL.
    #[error("{0}; {SCHEMES}")]
    Url(#[from] NameError),
    /// No server of ZooKeeper.
    #[error("{0}; {SCHEMES}")]
    Server(#[from] AuthorityError),
    /// No path in ZooKeeper.
    #[error(transparent)]
    Zookeeper(#[from] zookeeper::PlaceError),
    /// No cluster in Kubernetes.
    #[error("{0}; {SCHEMES}")]
    Kubernetes(#[from] kubernetes::PlaceError),
    /// The client is not built.
    #[error(
        "this truename is built without a client for Kubernetes; build it with --features kubernetes"
    )]
    NoKubernetes,
}

impl FromStr for Cluster {
    type Err = ClusterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(ClusterError::Scheme);
        };
        match scheme {
            "http" | "https" => Ok(Self::Rest(text.parse()?)),
            "zookeeper" => {
                let (servers, path) = rest.split_once('/').unwrap_or((rest, ""));
                let servers = servers.split(',').map(server);
                let servers = servers.collect::<Result<_, _>>()?;
                Ok(Self::Zookeeper(zookeeper::Place::new(servers, path, "")?))
            }
            "kubernetes" if !cfg!(feature = "kubernetes") => Err(ClusterError::NoKubernetes),
            "kubernetes" => {
                let (namespace, id) = match rest.split_once('/') {
                    Some((namespace, id)) => (Some(namespace), id),
                    None => (None, rest),
                };
                Ok(Self::Kubernetes(kubernetes::Place::new(
                    id, namespace, None,
                )?))
            }
            _ => Err(ClusterError::Scheme),
        }
    }
}

fn server(text: &str) -> Result<Authority, AuthorityError> {
    match text.parse() {
        Err(AuthorityError::NoPort) if !text.is_empty() => {
            format!("{text}:{ZOOKEEPER_PORT}").parse()
        }
        parsed => parsed,
    }
}

impl fmt::Display for Cluster {
    /// As it is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest(url) => url.fmt(f),
            Self::Zookeeper(place) => write!(f, "zookeeper://{place}"),
            Self::Kubernetes(place) => write!(f, "kubernetes://{place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_it_is_read() {
        for (text, shown) in [
            ("http://jm:8081", "http://jm:8081"),
            ("https://jm:443/flink", "https://jm:443/flink"),
            (
                "zookeeper://zk1:2182,zk2/flink/default",
                "zookeeper://zk1:2182,zk2:2181/flink/default",
            ),
            ("zookeeper://zk", "zookeeper://zk:2181"),
        ] {
            let cluster: Cluster = text.parse().unwrap();
            assert_eq!(cluster.to_string(), shown);
            assert_eq!(shown.parse(), Ok(cluster));
        }
    }

    #[test]
    fn says_what_to_write() {
        for (text, words) in [
            ("jm:8081", "write http://host:8081"),
            ("ftp://jm", "write http://host:8081"),
            ("http://j m:8081", "the host is no DNS name"),
            ("zookeeper://", "a port is missing"),
            ("zookeeper://zk,/flink", "a port is missing"),
            ("zookeeper://zk/a b", "the path must have at most"),
        ] {
            let error = text.parse::<Cluster>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn reads_a_cluster_in_kubernetes() {
        let cluster: Cluster = "kubernetes://jobs/my-cluster".parse().unwrap();
        assert_eq!(cluster.to_string(), "kubernetes://jobs/my-cluster");
        assert!("kubernetes://jobs/Mine".parse::<Cluster>().is_err());
    }

    #[cfg(not(feature = "kubernetes"))]
    #[test]
    fn a_client_that_is_not_built_is_named() {
        let error = "kubernetes://jobs/my-cluster".parse::<Cluster>();
        assert_eq!(error, Err(ClusterError::NoKubernetes));
    }
}
