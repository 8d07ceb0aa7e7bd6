//! A process of a cluster and the namespace that it runs in.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{fetch::Flink, jvm};
use crate::{namespace::Namespace, process::Process};

/// Where a process runs, if it does.
#[derive(Debug)]
pub(crate) struct Node {
    // Dropped before its namespace.
    process: Option<Process>,
    /// Where.
    pub(crate) space: Namespace,
    /// The name that it has for itself.
    pub(crate) name: String,
    /// Its configuration directory.
    pub(crate) home: PathBuf,
    /// What stands in the place of others: `(private file, path it stands for)`.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
}

impl Node {
    /// One that does not run yet.
    pub(crate) fn new(
        name: String,
        space: Namespace,
        home: PathBuf,
        files: Vec<(PathBuf, PathBuf)>,
    ) -> Self {
        Self {
            process: None,
            space,
            name,
            home,
            files,
        }
    }

    /// Runs a class of a release in the place of what runs now.
    pub(crate) fn start(&mut self, flink: &Flink, class: &str, logs: &Path) -> Result<()> {
        self.process = None;
        let java = jvm::java(&self.space, &self.files, flink, &self.home, class)?;
        self.process = Some(Process::spawn(&self.name, java, logs)?);
        Ok(())
    }

    /// What runs.
    pub(crate) fn running(&self) -> Result<&Process> {
        let process = self.process.as_ref();
        process.with_context(|| format!("{} does not run", self.name))
    }

    /// Kills what runs (SIGKILL).
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }
}
