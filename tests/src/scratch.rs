//! A directory for the files of one test, removed at its end.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::cleanup;

/// Removed on drop unless kept, or unless the thread panics (its logs are then wanted).
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes a new, empty directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        cleanup::sweep();
        let path = Path::new(cleanup::SCRATCH_ROOT).join(cleanup::unique_name(label));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path, keep: false })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory behind, until a later run of another process sweeps it.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Writes a file and gives back its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep || std::thread::panicking() {
            eprintln!("files are left in {}", self.path.display());
        } else {
            // A left-over directory is swept by the next run.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
