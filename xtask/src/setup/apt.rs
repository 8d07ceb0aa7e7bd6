//! Packages of Debian and Ubuntu.

use std::sync::Once;

use anyhow::{Context as _, Result};

use super::require_root;
use crate::command::{self, command, find, output, succeeds};

/// Is this a system with apt?
pub(super) fn is_here() -> bool {
    find("apt-get").is_some() && find("apt-cache").is_some()
}

/// Can all of `packages` be installed?
pub(super) fn has(packages: &[&str]) -> Result<bool> {
    if available(packages)? {
        return Ok(true);
    }
    update()?;
    available(packages)
}

/// Installs packages.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let line = format!(
        "apt-get install --yes --no-install-recommends {}",
        packages.join(" ")
    );
    require_root(&line)?;
    if !available(packages)? {
        update()?;
    }
    println!("setup: {line}");
    let arguments: Vec<&str> = line.split(' ').skip(1).collect();
    let attempt = || {
        let mut install = command("apt-get", &["-qq", "-o", "DPkg::Lock::Timeout=600"]);
        install
            .args(["-o", "Dpkg::Use-Pty=0"])
            .args(&arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        command::run_quietly(install)
    };
    if attempt().is_ok() {
        return Ok(());
    }
    // The list of packages may be older than the mirror's files.
    update()?;
    attempt().with_context(|| format!("install {}", packages.join(", ")))
}

fn available(packages: &[&str]) -> Result<bool> {
    let mut known = 0;
    for package in packages {
        let policy = output(command("apt-cache", &["policy", package]))?;
        let candidate = policy
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "));
        known += usize::from(candidate.is_some_and(|candidate| candidate != "(none)"));
    }
    Ok(known == packages.len())
}

/// Reads the lists of packages anew, once.
fn update() -> Result<()> {
    static ONCE: Once = Once::new();
    require_root("apt-get update")?;
    ONCE.call_once(|| {
        println!("setup: apt-get update");
        if !succeeds(command("apt-get", &["-qq", "update"])) {
            println!("setup: apt-get update failed; going on with the lists that are here");
        }
    });
    Ok(())
}
