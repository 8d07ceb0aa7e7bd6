//! Leader records in Kubernetes ConfigMaps.
//!
//! The records are read in every build; following them needs the feature `kubernetes`.

#[cfg_attr(
    not(any(feature = "kubernetes", test)),
    expect(
        dead_code,
        reason = "only the source reads records, and it is not built"
    )
)]
mod records;
#[cfg(feature = "kubernetes")]
mod watch;

use std::{fmt, path::PathBuf};

#[cfg(feature = "kubernetes")]
pub use watch::Kubernetes;

/// Longest name of a ConfigMap, and so of a cluster; Flink allows 45 characters.
const NAME_MAX: usize = 253;
/// Longest name of a namespace.
const NAMESPACE_MAX: usize = 63;

/// Where a cluster's records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    cluster_id: String,
    namespace: Option<String>,
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
