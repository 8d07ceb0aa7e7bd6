//! `cargo xtask budget`

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename_tests::{
    budget::{Budget, Measured, measure},
    is_root,
};

use crate::{
    command::{self, cargo, root},
    setup,
    vm::{self, Choice},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write new ceilings, a tenth above what is measured
    #[arg(long)]
    update: bool,
    /// Measure on another kernel, in a virtual machine
    #[arg(long, value_name = "SERIES")]
    kernel: Option<Choice>,
    /// Measure this object instead of the one that is built
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Only measure, and print the costs as JSON
    #[arg(long, conflicts_with_all = ["update", "kernel"])]
    json: bool,
}

/// Prints what the programs cost; fails when one costs more than it may.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(is_root(), "loading BPF programs needs root");
    let object = match &arguments.object {
        Some(object) => object.clone(),
        None => {
            setup::run()?;
            object_path()?
        }
    };
    if arguments.json {
        println!("{}", measure(&read(&object)?)?.to_json());
        return Ok(ExitCode::SUCCESS);
    }
    let mut good = true;
    match arguments.kernel {
        None => good &= judge(&measure(&read(&object)?)?, arguments.update)?,
        Some(choice) => {
            for series in choice.series() {
                good &= judge(&vm::measure(series, &object)?, arguments.update)?;
            }
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints what was measured on one kernel; is it what it may be?
fn judge(measured: &Measured, update: bool) -> Result<bool> {
    let path = root().join("xtask/budget.json");
    let mut budget = Budget::read(&path)?;
    let updated = match update {
        true => budget
            .update(measured)
            .and_then(|()| budget.write(&path))
            .context("the ceilings of this kernel stay as they are"),
        false => Ok(()),
    };
    let report = budget.report(measured)?;
    print!("{report}");
    for (program, refusal) in report.refusals() {
        println!("{program} is refused:\n{refusal}");
    }
    updated?;
    let exceeded = report.exceeded();
    if !exceeded.is_empty() {
        println!(
            "above the ceiling: {}; if that is wanted: cargo xtask budget --update",
            exceeded.join(", ")
        );
    }
    Ok(exceeded.is_empty())
}

fn read(object: &Path) -> Result<Vec<u8>> {
    fs::read(object).with_context(|| format!("read {}", object.display()))
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
