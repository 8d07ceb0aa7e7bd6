//! Removing what an earlier run, or an interrupted one, left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{sys, wait::wait_until};

/// Where `ip netns` keeps its names.
pub(crate) const NETNS_DIR: &str = "/run/netns";
/// Where BPF objects are pinned.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// Where control groups are: of all controllers together, or below a directory for each.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where scratch directories are made.
pub(crate) const SCRATCH_ROOT: &str = "/tmp";

/// A name nothing else on the machine has: `tn<pid>-<number><label>`.
pub(crate) fn unique_name(label: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("tn{}-{number}{label}", std::process::id())
}

/// Removes namespaces, scratch directories and pins of processes that are gone. Done once per process.
pub fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| remove_where(|pid| !Path::new("/proc").join(pid.to_string()).exists()));
}

/// On SIGINT or SIGTERM removes what this process made, then ends it; its children die with it.
/// To be called first in `main`, before other threads exist.
///
/// # Errors
/// The signals cannot be blocked or the thread cannot be started.
pub fn on_interrupt() -> Result<()> {
    sys::block_interrupts().context("block SIGINT and SIGTERM")?;
    std::thread::Builder::new()
        .name("interrupt".into())
        .spawn(|| {
            if let Ok(signal) = sys::wait_interrupt() {
                eprintln!("interrupted, removing namespaces");
                remove_where(|pid| pid == std::process::id());
                std::process::exit(128 + signal);
            }
        })
        .context("start the signal thread")?;
    Ok(())
}

fn remove_where(condition: impl Fn(u32) -> bool) {
    for name in ours_in(NETNS_DIR, &condition) {
        // Nothing to do when it fails: somebody else swept at the same time.
        let _ = Command::new("ip").args(["netns", "delete", &name]).output();
    }
    for root in cgroup_roots() {
        for name in ours_in(&root, &condition) {
            remove_directories(&Path::new(&root).join(name));
        }
    }
    for directory in [BPFFS, SCRATCH_ROOT] {
        for name in ours_in(directory, &condition) {
            let _ = fs::remove_dir_all(Path::new(directory).join(name));
        }
    }
}

/// Removes a control group, as soon as its processes have ended.
pub(crate) fn remove_cgroups(name: &str) {
    for path in cgroup_roots().into_iter().map(|root| root.join(name)) {
        // What stays is swept by the next run.
        let _ = wait_until(Duration::from_secs(5), "an empty control group", || {
            remove_directories(&path);
            ensure!(!path.exists(), "{} is in use", path.display());
            Ok(())
        });
    }
}

fn cgroup_roots() -> Vec<PathBuf> {
    let controllers = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    let controllers = controllers.map(|entry| entry.path());
    controllers.chain([PathBuf::from(CGROUPS)]).collect()
}

/// Removes a directory and those below. Files of a control group go with it, and cannot be removed.
fn remove_directories(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_directories(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

fn ours_in(directory: impl AsRef<Path>, condition: impl Fn(u32) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(&condition))
        .collect()
}

/// The process that made a name of [`unique_name`].
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("tn")?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_recognised() {
        assert_eq!(owner("tn12-0jm"), Some(12));
        assert_eq!(owner(&unique_name("x")), Some(std::process::id()));
        for foreign in ["tn-0", "tnx-1", "blue", "tn12", "cni-12-0"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
