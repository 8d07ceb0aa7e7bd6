//! `cargo xtask lint`

use anyhow::Result;

use crate::command::{self, cargo};

/// Fails on a file that is not formatted and on any warning.
pub(crate) fn run() -> Result<()> {
    command::run(cargo(&["fmt", "--all", "--check"]))?;
    command::run(cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}
