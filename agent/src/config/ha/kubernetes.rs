//! `[topology.kubernetes]`: where a cluster's leader records are in Kubernetes.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::config::{
    ConfigError,
    reader::{Section, read_path},
};

/// The keys of the section.
pub const KEYS: &[&str] = &["cluster_id", "namespace", "kubeconfig"];
/// Longest name of a ConfigMap, and so of a cluster; Flink allows 45 characters.
const NAME_MAX: usize = 253;
/// Longest name of a namespace.
const NAMESPACE_MAX: usize = 63;

/// Where a cluster's records are. Shown as `my-namespace/my-cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    cluster_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubeconfig: Option<PathBuf>,
}

/// Why a place cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// No name of a cluster.
    #[error(
        "the cluster's name must have 1 to {NAME_MAX} small letters, digits and hyphens, as Flink's kubernetes.cluster-id"
    )]
    BadCluster,
    /// No name of a namespace.
    #[error("the namespace must have 1 to {NAMESPACE_MAX} small letters, digits and hyphens")]
    BadNamespace,
}

impl Place {
    /// Flink's `kubernetes.cluster-id`, and its namespace: without one, that of the agent's pod or of
    /// the kubeconfig's context. `kubeconfig` names a file; without one, the pod's service account or
    /// the file that `kubectl` would use is taken.
    ///
    /// # Errors
    /// When Kubernetes has no such names.
    pub fn new(
        cluster_id: &str,
        namespace: Option<&str>,
        kubeconfig: Option<PathBuf>,
    ) -> Result<Self, PlaceError> {
        if !is_name(cluster_id, NAME_MAX) {
            return Err(PlaceError::BadCluster);
        }
        if namespace.is_some_and(|namespace| !is_name(namespace, NAMESPACE_MAX)) {
            return Err(PlaceError::BadNamespace);
        }
        Ok(Self {
            cluster_id: cluster_id.to_owned(),
            namespace: namespace.map(str::to_owned),
            kubeconfig,
        })
    }

    /// The cluster's name.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Its namespace, if it is named.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The file that says where the API is, if it is named.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig.as_deref()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.cluster_id)
    }
}

fn is_name(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Reads the section.
///
/// # Errors
/// When it says something invalid.
pub(super) fn read(section: &Section<'_>) -> Result<Place, ConfigError> {
    let cluster = section.need("cluster_id", "\"my-cluster\"")?;
    let cluster_id = cluster.string()?;
    let entry = section.get("namespace");
    let namespace = entry.as_ref().map(|entry| entry.string()).transpose()?;
    let kubeconfig = section
        .get("kubeconfig")
        .map(|entry| read_path(&entry))
        .transpose()?;
    Place::new(cluster_id, namespace, kubeconfig).map_err(|error| match (error, &entry) {
        (PlaceError::BadNamespace, Some(entry)) => {
            entry.bad(namespace.unwrap_or_default(), &error.to_string())
        }
        _ => cluster.bad(cluster_id, &error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_names_of_kubernetes() {
        let place =
            |cluster, namespace| Place::new(cluster, namespace, None).map(|p| p.to_string());
        assert_eq!(place("my-flink", None), Ok("my-flink".to_owned()));
        assert_eq!(
            place("my-flink", Some("jobs")),
            Ok("jobs/my-flink".to_owned())
        );
        let long = "x".repeat(NAME_MAX + 1);
        for cluster in ["", "a,b", "A", "a/b", "a=b", &long] {
            assert_eq!(place(cluster, None), Err(PlaceError::BadCluster));
        }
        for namespace in ["", "../x", &long] {
            assert_eq!(place("a", Some(namespace)), Err(PlaceError::BadNamespace));
        }
    }
}
