//! `cargo xtask torture`

use anyhow::{Result, ensure};
use truename_tests::is_root;

use crate::{
    build,
    command::{run as run_command, test_program},
};

/// Builds everything optimised and runs the torture.
pub(crate) fn run() -> Result<()> {
    ensure!(
        is_root(),
        "the torture makes network namespaces and loads BPF programs: run it as root"
    );
    build::release()?;
    run_command(test_program("truename-torture"))
}
