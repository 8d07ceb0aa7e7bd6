//! Runs tests with cargo-nextest, a process for each, and counts them by the events that it writes.
//!
//! `.config/nextest.toml` says which tests run beside others, and for how long one may run.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use crate::{
    command::{self, cargo, output},
    count::{Count, line},
};

/// The version that is installed where there is none, or an older one.
pub(crate) const VERSION: &str = "0.9.143";
/// The events are an interface that nextest calls experimental.
const EVENTS: (&str, &str) = ("NEXTEST_EXPERIMENTAL_LIBTEST_JSON", "1");

/// Is a version on the path that is new enough?
pub(crate) fn is_installed() -> bool {
    output(cargo(&["nextest", "--version"])).is_ok_and(|text| is_new_enough(&text))
}

fn is_new_enough(said: &str) -> bool {
    let numbers = |version: &str| -> Option<Vec<u32>> {
        version
            .split('.')
            .map(|number| number.parse().ok())
            .collect()
    };
    let found = said.split_whitespace().nth(1).and_then(numbers);
    found.is_some() && found >= numbers(VERSION)
}

/// Builds and installs it.
pub(crate) fn install() -> Result<()> {
    println!("setup: cargo install cargo-nextest {VERSION} (some minutes)");
    let mut install = cargo(&["install", "cargo-nextest", "--version", VERSION]);
    install
        .args(["--locked", "--force"])
        // It is not part of this project's build.
        .env_remove("CARGO_TARGET_DIR");
    command::run(install)
}

/// How tests ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) count: Count,
    /// The names of those that failed.
    pub(crate) failed: Vec<String>,
}

/// Runs the tests that `arguments` choose. nextest shows those that fail, with what they printed.
pub(crate) fn run(arguments: &[String], environment: &[(&str, PathBuf)]) -> Result<Ran> {
    let mut nextest = command(&["run"]);
    nextest
        .args(arguments)
        .args(["--message-format", "libtest-json-plus"])
        .args(["--no-tests", "pass"])
        .envs(environment.iter().cloned())
        .env(EVENTS.0, EVENTS.1)
        .stdout(Stdio::piped());
    let mut child = nextest.spawn().context("start cargo nextest")?;
    let events = child.stdout.take().context("the output of cargo nextest")?;
    let mut tests = Tests::default();
    for event in BufReader::new(events).lines() {
        tests.add(&event.context("read the events of cargo nextest")?)?;
    }
    let status = child.wait().context("wait for cargo nextest")?;
    let mut ran = tests.ran();
    if !status.success() && ran.failed.is_empty() {
        ran.count.failed += 1;
        ran.failed
            .push(format!("cargo nextest ended with {status}"));
    }
    Ok(ran)
}

/// Builds the tests that `arguments` choose.
pub(crate) fn build(arguments: &[String]) -> Result<()> {
    let mut build = command(&["run", "--no-run"]);
    build.args(arguments);
    command::run(build).context("build the tests")
}

fn command(arguments: &[&str]) -> Command {
    let mut nextest = cargo(&["nextest"]);
    nextest.args(arguments);
    nextest
}

/// What the events tell so far.
#[derive(Debug, Default)]
struct Tests {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    /// Tests that are not run, by suite.
    skipped: BTreeMap<String, u64>,
}

impl Tests {
    /// Reads an event, and prints how a suite ended.
    fn add(&mut self, event: &str) -> Result<()> {
        let event: Value =
            serde_json::from_str(event).with_context(|| format!("an event of nextest: {event}"))?;
        let outcome = event["event"].as_str().unwrap_or_default();
        match (event["type"].as_str().unwrap_or_default(), outcome) {
            ("test", "ok") => drop(self.passed.insert(name(&event)?)),
            ("test", "failed") => drop(self.failed.insert(name(&event)?)),
            ("test" | "suite", "started") | ("test", "ignored") => {}
            // A suite of which a test is not run tells of its end twice.
            ("suite", "ok" | "failed") => {
                let (suite, count) = suite(&event)?;
                self.skipped.insert(suite.clone(), count.skipped);
                if count.passed + count.failed > 0 {
                    let time = event["exec_time"].as_f64().unwrap_or_default();
                    line(Duration::from_secs_f64(time), &format!("{suite}: {count}"));
                }
            }
            _ => return Err(anyhow!("an event of nextest that is unknown: {event}")),
        }
        Ok(())
    }

    fn ran(self) -> Ran {
        let number = |tests: &BTreeSet<String>| tests.len() as u64;
        Ran {
            count: Count {
                passed: number(&self.passed),
                failed: number(&self.failed),
                skipped: self.skipped.values().sum(),
            },
            failed: self.failed.into_iter().collect(),
        }
    }
}

/// The name of a test, with its suite.
fn name(event: &Value) -> Result<String> {
    let name = event["name"].as_str();
    Ok(name.context("an event of nextest has no name")?.to_owned())
}

/// The suite that an event is about, and how its tests ended.
fn suite(event: &Value) -> Result<(String, Count)> {
    let named = |field: &str| {
        let text = event["nextest"][field].as_str();
        text.with_context(|| format!("an event of nextest has no {field}"))
    };
    let (package, binary) = (named("crate")?, named("test_binary")?);
    let suite = match named("kind")? {
        "test" if package == "truename-tests" => binary.to_owned(),
        "test" => format!("{package}, {binary}"),
        kind => format!("{package}, {kind}"),
    };
    let number = |field: &str| event[field].as_u64().unwrap_or_default();
    let count = Count {
        passed: number("passed"),
        failed: number("failed"),
        skipped: number("ignored"),
    };
    Ok((suite, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = r#"{"type":"suite","event":"started","test_count":3,"nextest":{"crate":"truename-tests","test_binary":"flink","kind":"test"}}
{"type":"suite","event":"ok","passed":0,"failed":0,"ignored":1,"exec_time":0,"nextest":{"crate":"truename-tests","test_binary":"flink","kind":"test"}}
{"type":"test","event":"started","name":"truename-tests::flink$a"}
{"type":"test","event":"started","name":"truename-tests::flink$b"}
{"type":"test","event":"ok","name":"truename-tests::flink$a","exec_time":5.7}
{"type":"test","event":"failed","name":"truename-tests::flink$b","exec_time":7.9,"stdout":"Error"}
{"type":"suite","event":"failed","passed":1,"failed":1,"ignored":1,"exec_time":13.6,"nextest":{"crate":"truename-tests","test_binary":"flink","kind":"test"}}"#;

    #[test]
    fn tests_are_counted_once() {
        let mut tests = Tests::default();
        for event in EVENTS.lines() {
            tests.add(event).unwrap();
        }
        let expected = Ran {
            count: Count {
                passed: 1,
                failed: 1,
                skipped: 1,
            },
            failed: vec!["truename-tests::flink$b".to_owned()],
        };
        assert_eq!(tests.ran(), expected);
    }

    #[test]
    fn events_that_are_unknown_are_refused() {
        for event in [
            "no json",
            r#"{"type":"test","event":"vanished","name":"a"}"#,
        ] {
            assert!(Tests::default().add(event).is_err(), "{event}");
        }
    }

    #[test]
    fn an_older_version_is_replaced() {
        for (said, expected) in [
            (
                "cargo-nextest 0.9.143 (60fa45f63 2026-08-04)\nrelease: 0.9.143",
                true,
            ),
            ("cargo-nextest 0.10.0", true),
            ("cargo-nextest 0.9.99", false),
            ("cargo-nextest", false),
            ("", false),
        ] {
            assert_eq!(is_new_enough(said), expected, "{said}");
        }
    }
}
