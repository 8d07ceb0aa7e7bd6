//! `cargo xtask vm`: the tests of the kernel side, on another kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename_tests::{scratch::Scratch, wire::NO_NEAR_MISSES};

use super::{Choice, Image, Job, Kernel, Machine, Series, machine::Ended};
use crate::{
    command::{self, PACKAGES, cargo, find, root},
    count::{Count, line},
    setup,
};

/// The integration tests that are run: what the programs do to packets, and how they come and go.
/// Those whose names begin with [`PROG_RUN`] are, too.
const SUITES: [&str; 6] = [
    "budget",
    "harness",
    "impairment",
    "sockets",
    "takeover",
    "traffic",
];
const PROG_RUN: &str = "prog_run";

/// What `cargo xtask test` runs: a minute or two.
const QUICK: [&str; 7] = [
    "budget",
    "prog_run",
    "prog_run_nat_dnat",
    "prog_run_nat_snat",
    "prog_run_nat_xdp",
    "takeover",
    "traffic",
];

/// Tests that a processor in software is too slow for: where segments are of some hundred bytes and a name is
/// cut in one, or one is lost, senders wait longer than the tests do. `large_messages_over_a_bad_line` and `doubled_packets` are run.
const LEFT_OUT: [&str; 4] = [
    "all_of_it",
    "lost_packets",
    "packets_out_of_order",
    "segments_may_have_every_size",
];

/// A test of the agent's command line, which cargo builds the agent for.
const NEEDS_THE_AGENT: &str = "cli";

/// Programs that the tests call.
const PROGRAMS: [&str; 4] = ["ip", "tc", "ss", "nft"];

/// How long a suite may take. The slowest takes two minutes on 6.1; the verifier of 7.x needs ten times as long.
const TIMEOUT: Duration = Duration::from_secs(1800);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The kernel
    #[arg(long, value_name = "SERIES", default_value = "6.1")]
    kernel: Choice,
    /// Run only suites, or else only tests, whose names contain this
    #[arg(long, value_name = "FILTER")]
    test: Option<String>,
    /// Run only what `cargo xtask test` runs
    #[arg(long, conflicts_with = "test")]
    quick: bool,
    /// Build and test this checkout instead of the one that this program is from
    #[arg(long, value_name = "DIRECTORY")]
    root: Option<PathBuf>,
}

/// Runs the tests on one kernel or several; the last line is the sum.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::run()?;
    let root = match &arguments.root {
        Some(root) => root
            .canonicalize()
            .with_context(|| format!("find {}", root.display()))?,
        None => root(),
    };
    let choice = match &arguments.test {
        Some(filter) => Choose::Named(filter),
        None if arguments.quick => Choose::Quick,
        None => Choose::All,
    };
    let kernels = Kernels::new(&root, choice)?;
    let mut total = Count::default();
    let mut broken = Vec::new();
    for series in arguments.kernel.series() {
        let mut show = |line: &str| println!("           {line}");
        let (count, failed) = kernels.run(series, &mut show);
        total.add(count);
        broken.extend(failed);
    }
    if total == Count::default() {
        println!("no test ran");
    }
    if !broken.is_empty() {
        println!("failed: {}", broken.join(", "));
    }
    println!("{total}");
    Ok(if total.passed > 0 && total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Which tests are run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choose<'f> {
    All,
    Quick,
    /// Suites, or else tests, whose names contain this.
    Named(&'f str),
}

impl Choose<'_> {
    /// The suites, and the tests in them if not all are run.
    fn suites(self, topics: &[String]) -> (Vec<String>, Option<String>) {
        let mut suites: Vec<String> = topics
            .iter()
            .filter(|name| SUITES.contains(&name.as_str()) || name.starts_with(PROG_RUN))
            .cloned()
            .collect();
        match self {
            Self::All => {}
            Self::Quick => suites.retain(|name| QUICK.contains(&name.as_str())),
            Self::Named(filter) if suites.iter().any(|name| name.contains(filter)) => {
                suites.retain(|name| name.contains(filter));
            }
            Self::Named(filter) => return (suites, Some(filter.to_owned())),
        }
        (suites, None)
    }
}

/// The tests, ready to be run on any kernel.
#[derive(Debug)]
pub(crate) struct Kernels {
    image: Image,
    jobs: Vec<Job>,
    scratch: Scratch,
}

impl Kernels {
    /// Builds the tests of a checkout and puts them into a root file system.
    pub(crate) fn new(root: &Path, choice: Choose<'_>) -> Result<Self> {
        let (suites, filter) = choice.suites(&topics(root)?);
        let build = Instant::now();
        let mut arguments = vec!["test", "--no-run"];
        arguments.extend(PACKAGES);
        arguments.extend(["--test", NEEDS_THE_AGENT]);
        arguments.extend(suites.iter().flat_map(|suite| ["--test", suite]));
        let programs = executables(root, &arguments)?;
        line(build.elapsed(), "building the tests");

        let pack = Instant::now();
        let scratch = Scratch::new("vm")?;
        let mut image = Image::new(&scratch.path().join("root"))?;
        for program in PROGRAMS {
            let path = find(program).with_context(|| format!("there is no program {program}"))?;
            image.program(&path, &Path::new("/usr/bin").join(program))?;
        }
        let built = |name: &str| {
            let found = programs.iter().find(|(program, _)| program == name);
            let (_, path) = found.with_context(|| format!("cargo did not build {name}"))?;
            anyhow::Ok(path)
        };
        image.program(built("truename")?, Path::new("/usr/bin/truename"))?;
        // What the tests read when they run.
        image.directory(&root.join("tests/fixtures"))?;
        let budget = root.join("xtask/budget.json");
        image.copy(&budget, &budget)?;
        let mut jobs = Vec::new();
        for suite in suites {
            image.program(built(&suite)?, &Path::new("/tests").join(&suite))?;
            jobs.push(job(root, &suite, filter.as_deref())?);
        }
        line(pack.elapsed(), "packing them");
        Ok(Self {
            image,
            jobs,
            scratch,
        })
    }

    /// Runs the tests on a kernel; answers how they ended, and the suites that failed.
    pub(crate) fn run(&self, series: Series, show: &mut dyn FnMut(&str)) -> (Count, Vec<String>) {
        let mut total = Count::default();
        let mut broken = Vec::new();
        if let Err(error) = self.run_suites(series, show, &mut total, &mut broken) {
            println!("Linux {}: {error:#}", series.name());
            total.failed += 1;
            broken.push(format!("Linux {}", series.name()));
        }
        (total, broken)
    }

    fn run_suites(
        &self,
        series: Series,
        show: &mut dyn FnMut(&str),
        total: &mut Count,
        broken: &mut Vec<String>,
    ) -> Result<()> {
        let kernel = Kernel::fetch(series)?;
        let boot = Instant::now();
        let (mut machine, release) =
            Machine::boot(&kernel, &self.image, &self.jobs, self.scratch.path())?;
        line(boot.elapsed(), &format!("Linux {release} is up"));
        for job in &self.jobs {
            let start = Instant::now();
            let ended = machine.wait_job(job, |line| {
                if is_news(line) {
                    show(line);
                }
            })?;
            let count = count(&ended);
            total.add(count);
            let name = format!("Linux {}, {}", series.name(), job.name);
            line(start.elapsed(), &format!("{name}: {count}"));
            if count.failed > 0 {
                broken.push(name);
            }
        }
        Ok(())
    }
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

fn job(root: &Path, suite: &str, filter: Option<&str>) -> Result<Job> {
    let mut script = format!(
        "cd {}/tests && TRUENAME_BIN=/usr/bin/truename {NO_NEAR_MISSES}=1 exec /tests/{suite} --color never",
        root.display()
    );
    for name in LEFT_OUT {
        script.push_str(&format!(" --skip {name}"));
    }
    if let Some(filter) = filter {
        script.push_str(&format!(" {filter}"));
    }
    // It goes through two shells.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " /.,:_=&+-".contains(c);
    ensure!(
        script.chars().all(is_plain),
        "{} or the filter has characters that a shell may change",
        root.display()
    );
    Ok(Job {
        name: suite.to_owned(),
        script,
        timeout: TIMEOUT,
    })
}

/// How the tests of a job ended. What ends in another way than tests do is one failure.
fn count(ended: &Ended) -> Count {
    let mut count = summary(&ended.output);
    if ended.status != 0 && count.failed == 0 {
        count.failed = 1;
    }
    count
}

/// What a test program said at its end. In the machine there is nothing but the programs.
fn summary(output: &str) -> Count {
    let mut count = Count::default();
    let summaries = output.lines();
    for summary in summaries.filter_map(|line| line.strip_prefix("test result: ")) {
        // "ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
        let words: Vec<&str> = summary.split([' ', ';']).collect();
        for pair in words.windows(2) {
            let number = pair[0].parse().unwrap_or(0);
            match pair[1] {
                "passed" => count.passed += number,
                "failed" => count.failed += number,
                "ignored" => count.skipped += number,
                _ => {}
            }
        }
    }
    count
}

/// Is this line of a test program worth showing?
fn is_news(line: &str) -> bool {
    let noise = ["running ", "test result: ok"];
    !line.is_empty() && !noise.iter().any(|start| line.starts_with(start))
}

/// Runs cargo in a checkout; answers the programs it built, by name.
fn executables(root: &Path, arguments: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut build = cargo(arguments);
    build
        .args(["--quiet", "--message-format", "json-render-diagnostics"])
        .current_dir(root)
        .stderr(Stdio::inherit());
    let messages = command::output(build).context("build the tests")?;
    Ok(messages.lines().filter_map(executable).collect())
}

/// The program that this message of cargo tells of, if it tells of one.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let name = message["target"]["name"].as_str()?.to_owned();
    Some((name, PathBuf::from(message["executable"].as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Vec<String> {
        ["flink", "prog_run", "prog_run_nat_rpc", "traffic"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn a_filter_chooses_suites_or_else_tests() {
        let all = ["prog_run", "prog_run_nat_rpc", "traffic"].map(str::to_owned);
        assert_eq!(Choose::All.suites(&topics()), (all.to_vec(), None));
        let quick = vec!["prog_run".to_owned(), "traffic".to_owned()];
        assert_eq!(Choose::Quick.suites(&topics()), (quick, None));
        let chosen = vec!["prog_run_nat_rpc".to_owned()];
        assert_eq!(Choose::Named("rpc").suites(&topics()), (chosen, None));
        let test = Some("wrap".to_owned());
        assert_eq!(
            Choose::Named("wrap").suites(&topics()),
            (all.to_vec(), test)
        );
    }

    #[test]
    fn what_ends_without_a_summary_has_failed() {
        let ended = |output: &str, status| Ended {
            output: output.to_owned(),
            status,
        };
        let summary =
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 5 filtered out";
        let expected = Count {
            passed: 3,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(count(&ended(summary, 101)), expected);
        assert_eq!(count(&ended("Killed", 137)).failed, 1);
    }

    #[test]
    fn programs_are_read_from_what_cargo_says() {
        let message = r#"{"reason":"compiler-artifact","target":{"name":"traffic"},"executable":"/t/traffic-1"}"#;
        let expected = ("traffic".to_owned(), PathBuf::from("/t/traffic-1"));
        assert_eq!(executable(message), Some(expected));
        let library = r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("no json"), None);
    }
}
