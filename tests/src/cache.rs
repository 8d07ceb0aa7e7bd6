//! What is fetched once and kept outside the tree.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// Where everything is kept.
///
/// # Errors
/// The user has no home.
pub fn directory() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(base) if !base.is_empty() => PathBuf::from(base),
        _ => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let directory = base.join("truename");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory)
}

/// The entry with this name. If there is none, `make` gets an empty directory to work in, and answers
/// which path below it becomes the entry. An entry is complete or absent, and is made by one process.
///
/// # Errors
/// It cannot be made.
pub fn entry(name: &str, make: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
    let cache = directory()?;
    let entry = cache.join(name);
    if entry.is_dir() {
        return Ok(entry);
    }
    let lock_path = cache.join(format!("{name}.lock"));
    let lock =
        File::create(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
    lock.lock()
        .with_context(|| format!("wait for another fetch of {name}"))?;
    // The former holder of the lock may have made it.
    if !entry.is_dir() {
        let partial = cache.join(format!("{name}.partial"));
        // Left by a fetch that was interrupted; nobody else works there, the lock is ours.
        let _ = fs::remove_dir_all(&partial);
        let made = fs::create_dir(&partial)
            .with_context(|| format!("create {}", partial.display()))
            .and_then(|()| make(&partial))
            .and_then(|made| Ok(fs::rename(made, &entry)?));
        let _ = fs::remove_dir_all(&partial);
        made.with_context(|| format!("fetch {name}"))?;
    }
    Ok(entry)
}

/// Runs a program in the directory of an entry that is being made.
pub(crate) fn run(directory: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output();
    let output = output.with_context(|| format!("run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(())
}
