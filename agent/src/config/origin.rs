//! Where a value of the configuration was written, for messages.

use std::{fmt, path::PathBuf, sync::Arc};

/// The place of a value: a line of a file, a flag, or the built-in default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A flag of the command line, as it was given.
    Flag(String),
    /// What this source tells of the cluster.
    Cluster(String),
    /// A line of a file, counted from 1.
    File {
        /// The file.
        path: Arc<PathBuf>,
        /// The line.
        line: usize,
    },
}

impl Origin {
    /// Whether it follows from what is known of a cluster.
    pub const fn is_derived(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "the built-in default"),
            Self::Cluster(source) => write!(f, "the cluster, by {source}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}
