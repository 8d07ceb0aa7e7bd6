//! `cargo xtask torture`

use anyhow::{Result, ensure};
use truename_tests::is_root;

use crate::{
    build,
    command::{cargo, run as run_command},
};

/// Builds everything optimised and runs the torture.
pub(crate) fn run() -> Result<()> {
    ensure!(
        is_root(),
        "the torture makes network namespaces and loads BPF programs: run it as root"
    );
    build::release()?;
    let mut torture = cargo(&[
        "run",
        "--quiet",
        "--release",
        "--package",
        "truename-tests",
        "--bin",
        "truename-torture",
        "--",
    ]);
    // It has the same options: they pass as they are, behind the verb.
    torture.args(std::env::args_os().skip(2));
    run_command(torture)
}
