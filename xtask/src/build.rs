//! `cargo xtask build`

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{
    command::{cargo, run as run_command, target_directory},
    setup,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Optimised; what the demo and the benchmark use
    #[arg(long)]
    release: bool,
}

/// Installs what is missing and builds; answers where the program is.
pub(crate) fn run(arguments: &Arguments) -> Result<PathBuf> {
    setup::run()?;
    let mut command = cargo(&["build", "--package", "truename"]);
    let profile = if arguments.release {
        command.arg("--release");
        "release"
    } else {
        "debug"
    };
    run_command(command).context("build the agent")?;
    let binary = target_directory().join(profile).join("truename");
    println!("built {}", binary.display());
    Ok(binary)
}

/// The program for the tests, whose own build has nearly all of it.
pub(crate) fn debug() -> Result<PathBuf> {
    run(&Arguments { release: false })
}

/// The optimised program.
pub(crate) fn release() -> Result<PathBuf> {
    run(&Arguments { release: true })
}
