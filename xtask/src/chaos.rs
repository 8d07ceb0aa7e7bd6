//! `cargo xtask chaos`

use anyhow::{Result, ensure};
use truename_tests::is_root;

use crate::{
    build,
    command::{self, cargo},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long it lasts, in seconds
    #[arg(long, value_name = "N", default_value_t = 600)]
    seconds: u64,
    /// By which numbers: the same ones do the same things
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Builds, then does everything to an agent that the test in the suite does for a short time.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        is_root(),
        "the test makes network namespaces and loads BPF programs: run it as root"
    );
    let binary = build::debug()?;
    let mut test = cargo(&[
        "test",
        "--package",
        "truename-tests",
        "--test",
        "chaos",
        "--",
        "--nocapture",
    ]);
    test.env("TRUENAME_BIN", binary)
        .env("TRUENAME_CHAOS_SECONDS", arguments.seconds.to_string())
        .env("TRUENAME_CHAOS_SEED", arguments.seed.to_string());
    command::run(test)
}
