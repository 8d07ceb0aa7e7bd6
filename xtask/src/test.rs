//! `cargo xtask test`

use std::{
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{is_root, timeline::MEASURED};

use crate::{
    build,
    command::{self, cargo, root},
    count::Count,
    fuzz, lint,
    vm::{Choose, Kernels, Series},
};

/// The tests of what the agent has a feature for, which is built for them alone.
const NEEDS_KUBERNETES: &str = "topology_kubernetes";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only tests whose names contain this
    filter: Option<String>,
}

/// Tests that are run by one call of `cargo test`.
#[derive(Debug)]
struct Suite {
    name: String,
    arguments: Vec<String>,
}

impl Suite {
    fn new(name: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
        }
    }
}

/// Runs everything; the last line is the sum. A lint that fails counts as one failed test.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        is_root(),
        "the tests make network namespaces and load BPF programs: run them as root"
    );
    let start = Instant::now();
    let binary = build::debug()?;
    let mut total = Count::default();
    let mut broken = Vec::new();
    let lint = Instant::now();
    if let Err(error) = lint::run() {
        println!("{error:#}");
        total.failed += 1;
        broken.push("formatting and lints".to_owned());
    }
    line(lint.elapsed(), "formatting and lints");
    let build = Instant::now();
    command::run(cargo(&[
        "test",
        "--quiet",
        "--workspace",
        "--exclude",
        "truename-ebpf",
        "--no-run",
    ]))
    .context("build the tests")?;
    line(build.elapsed(), "building the tests");

    let mut ran = 0;
    for suite in suites()? {
        let (count, good) = run_suite(&suite, arguments.filter.as_deref(), &binary)?;
        ran += count.passed + count.failed;
        total.add(count);
        if !good {
            broken.push(suite.name);
        }
    }
    if arguments.filter.is_none() {
        for (count, failed) in [fuzz::short()?, other_kernel()?] {
            total.add(count);
            broken.extend(failed);
        }
    }
    println!("{:>7.1} s  in all", start.elapsed().as_secs_f64());
    if ran == 0 {
        println!("no test ran");
    }
    if !broken.is_empty() {
        println!("failed: {}", broken.join(", "));
    }
    println!("{total}");
    Ok(if ran > 0 && total.failed == 0 && broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the kernel side on the oldest kernel that truename supports; its lines are shown if one fails.
fn other_kernel() -> Result<(Count, Vec<String>)> {
    let mut lines = Vec::new();
    let ran = Kernels::new(&root(), Choose::Quick)?
        .run(Series::Linux6_1, &mut |line| lines.push(line.to_owned()));
    if ran.0.failed > 0 {
        println!("{}", lines.join("\n"));
    }
    Ok(ran)
}

/// Unit tests first, then one suite per file, or directory, of integration tests, real Flink last.
fn suites() -> Result<Vec<Suite>> {
    let mut suites = vec![
        Suite::new(
            "common",
            &["--package", "truename-common", "--features", "user"],
        ),
        Suite::new("fuzz", &["--package", "truename-fuzz"]),
        Suite::new("agent", &["--package", "truename"]),
        Suite::new("xtask", &["--package", "xtask"]),
        Suite::new("test support", &["--package", "truename-tests", "--lib"]),
    ];
    let mut topics = topics(&root())?;
    topics.sort_by_key(|name| (name.starts_with("flink"), name.clone()));
    suites.extend(topics.iter().map(|name| {
        let arguments = ["--package", "truename-tests", "--test", name];
        let mut suite = Suite::new(name, &arguments);
        if name == NEEDS_KUBERNETES {
            suite
                .arguments
                .extend(["--features", "kubernetes"].map(str::to_owned));
        }
        suite
    }));
    Ok(suites)
}

/// The names of the integration tests of a repository: one for each file, or directory.
pub(crate) fn topics(root: &Path) -> Result<Vec<String>> {
    let directory = root.join("tests/tests");
    let named = || format!("list {}", directory.display());
    let mut topics = Vec::new();
    for entry in fs::read_dir(&directory).with_context(named)? {
        let path = entry.with_context(named)?.path();
        let is_file = path.extension().is_some_and(|extension| extension == "rs");
        if (is_file || path.join("main.rs").is_file())
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            topics.push(name.to_owned());
        }
    }
    topics.sort();
    Ok(topics)
}

/// Runs a suite; answers its counts and whether `cargo test` was content.
fn run_suite(suite: &Suite, filter: Option<&str>, binary: &Path) -> Result<(Count, bool)> {
    let start = Instant::now();
    let mut test = cargo(&["test", "--no-fail-fast"]);
    test.args(&suite.arguments)
        .args(filter)
        .args(["--", "--show-output"])
        .env("TRUENAME_BIN", binary);
    let output = test
        .output()
        .with_context(|| format!("run the suite {}", suite.name))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let count = Count::parse(&text);
    let good = output.status.success();
    if good {
        for measured in text.lines().filter_map(|line| line.strip_prefix(MEASURED)) {
            println!("           {measured}");
        }
    } else {
        print!("{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    line(
        start.elapsed(),
        &format!(
            "{}: {} passed, {} failed{}",
            suite.name,
            count.passed,
            count.failed,
            if good { "" } else { "  FAILED" }
        ),
    );
    Ok((count, good))
}

pub(crate) fn line(time: Duration, text: &str) {
    println!("{:>7.1} s  {text}", time.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flink_runs_last() {
        let names: Vec<String> = suites()
            .unwrap()
            .into_iter()
            .map(|suite| suite.name)
            .collect();
        let flink = names.iter().position(|name| name == "flink").unwrap();
        assert!(names[flink..].iter().all(|name| name.starts_with("flink")));
    }
}
