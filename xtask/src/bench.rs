//! `cargo xtask bench`

use anyhow::{Context as _, Result, ensure};
use truename_tests::is_root;

use crate::{
    budget, build,
    command::{cargo, run as run_command},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Five rounds of one second instead of eleven of five
    #[arg(long)]
    quick: bool,
}

/// Builds everything optimised and measures.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        is_root(),
        "the benchmark makes network namespaces and loads BPF programs: run it as root"
    );
    build::release()?;
    let mut bench = cargo(&[
        "run",
        "--quiet",
        "--release",
        "--package",
        "truename-tests",
        "--bin",
        "truename-bench",
        "--",
    ]);
    bench.arg(budget::object_path()?);
    if arguments.quick {
        bench.arg("--quick");
    }
    run_command(bench).context("run the benchmark")?;
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
