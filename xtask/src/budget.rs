//! `cargo xtask budget`

use std::{
    fs,
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename_tests::{
    budget::{Budget, kernel, measure},
    is_root,
};

use crate::{
    command::{self, cargo, root},
    setup,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write new ceilings, a tenth above what is measured
    #[arg(long)]
    update: bool,
}

/// Prints what the programs cost; fails when one costs more than it may.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(is_root(), "loading BPF programs needs root");
    setup::run()?;
    let costs = measure(&object()?)?;
    let path = root().join("xtask/budget.json");
    if arguments.update {
        let (_, series) = kernel()?;
        Budget::of(&costs, &series)?.write(&path)?;
    }
    let report = Budget::read(&path)?.report(&costs)?;
    print!("{report}");
    let exceeded = report.exceeded();
    if exceeded.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "above the ceiling: {}; if that is wanted: cargo xtask budget --update",
        exceeded.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

fn object() -> Result<Vec<u8>> {
    let path = object_path()?;
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}

/// The kernel program, as the agent's build script made it.
pub(crate) fn object_path() -> Result<PathBuf> {
    let mut build = cargo(&[
        "build",
        "--release",
        "--package",
        "truename",
        "--message-format",
        "json-render-diagnostics",
    ]);
    build.stderr(Stdio::inherit());
    let messages = command::output(build).context("build the agent")?;
    let directory = messages
        .lines()
        .filter_map(out_directory)
        .next_back()
        .context("cargo does not say where the kernel program is")?;
    Ok(directory.join("truename"))
}

/// The directory that the agent's build script writes to, if this message of cargo tells it.
fn out_directory(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_agent = message["package_id"]
        .as_str()?
        .split_once('#')?
        .1
        .starts_with("truename@");
    (message["reason"] == "build-script-executed" && is_agent)
        .then(|| message["out_dir"].as_str().map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_script_of_the_agent_is_recognised() {
        let message = |reason: &str, package: &str| {
            format!(r#"{{"reason":"{reason}","package_id":"{package}","out_dir":"/o"}}"#)
        };
        let agent = "path+file:///x/agent#truename@0.1.0";
        assert_eq!(
            out_directory(&message("build-script-executed", agent)),
            Some(PathBuf::from("/o"))
        );
        assert_eq!(out_directory(&message("compiler-artifact", agent)), None);
        let other = "registry+https://x/y#libc@0.2.0";
        assert_eq!(
            out_directory(&message("build-script-executed", other)),
            None
        );
        assert_eq!(out_directory("no json"), None);
    }
}
