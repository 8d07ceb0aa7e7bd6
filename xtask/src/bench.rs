//! `cargo xtask bench`

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    bench::{Options, Part},
    is_root,
};

use crate::{
    budget, build,
    command::{cargo, run as run_command, test_program},
};

/// Builds everything optimised and measures.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        is_root(),
        "the benchmark makes network namespaces and loads BPF programs: run it as root"
    );
    build::release()?;
    let mut bench = test_program("truename-bench");
    if options.has(Part::Packets) {
        bench.arg("--object").arg(budget::object_path()?);
    }
    run_command(bench).context("run the benchmark")?;
    if !options.has(Part::Agent) {
        return Ok(());
    }
    let cluster = [
        "bench",
        "--quiet",
        "--package",
        "truename",
        "--bench",
        "cluster",
    ];
    run_command(cargo(&cluster)).context("run the benchmark of the agent")
}
