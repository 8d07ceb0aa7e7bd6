//! What a running agent is asked, and answers.

use std::{
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Truename;
use crate::wait::wait_until;

/// How long the relay may take to have its endpoints.
const RELAY: Duration = Duration::from_secs(30);

impl Truename {
    /// Asks a verb of the running agent, for people.
    ///
    /// # Errors
    /// The verb failed.
    pub fn text(&self, verb: &str) -> Result<String> {
        self.words(&[verb])
    }

    /// The same for a verb with flags.
    ///
    /// # Errors
    /// The verb failed.
    pub fn words(&self, arguments: &[&str]) -> Result<String> {
        let output = self.ask(arguments)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks a verb of the running agent, for programs.
    ///
    /// # Errors
    /// The verb failed or did not answer in JSON.
    pub fn json(&self, verb: &str) -> Result<Value> {
        self.answer(&[verb, "-o", "json"])
    }

    /// Has the agent forget all connections and flows; how many.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn flush(&self) -> Result<u64> {
        let answer = self.answer(&["flows", "flush", "--yes", "-o", "json"])?;
        let count = answer["flushed"].as_u64();
        count.with_context(|| format!("no number in {answer}"))
    }

    /// The rows of a verb in which all of these fields have these values.
    ///
    /// # Errors
    /// There are none, or the agent does not answer.
    pub fn rows(&self, verb: &str, wanted: &[(&str, &str)]) -> Result<Vec<Value>> {
        let rows = self.json(verb)?;
        let rows = rows.as_array().context("no rows")?.iter().cloned();
        let rows: Vec<_> = rows
            .filter(|row| wanted.iter().all(|(field, value)| row[*field] == *value))
            .collect();
        ensure!(!rows.is_empty(), "no row with {wanted:?}");
        Ok(rows)
    }

    /// A counter of the kernel program, by its label.
    ///
    /// # Errors
    /// The agent does not answer, or has no such counter.
    pub fn counter(&self, label: &str) -> Result<u64> {
        self.json("status")?["counters"][label]
            .as_u64()
            .with_context(|| format!("there is no counter {label}"))
    }

    /// The answer of `status`, and its exit code: 0, or 3 if something is degraded.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn status(&self) -> Result<(Value, i32)> {
        let output = self.ask(&["status", "-o", "json"])?;
        let status = serde_json::from_slice(&output.stdout).context("status is not JSON")?;
        Ok((status, output.status.code().unwrap_or(-1)))
    }

    /// Waits until so many endpoints have a relay.
    ///
    /// # Errors
    /// They have none in time.
    pub fn wait_relay(&self, endpoints: usize) -> Result<()> {
        wait_until(RELAY, "the relay", || {
            let (status, _) = self.status()?;
            ensure!(status["relay"]["endpoints"] == endpoints, "{status}");
            Ok(())
        })
    }

    /// The program with these arguments, to ask the agent.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.namespace.command(&self.binary, &[])?;
        command
            .arg("--control-socket")
            .arg(&self.socket)
            .args(arguments);
        Ok(command)
    }

    fn answer(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.ask(arguments)?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let answer = String::from_utf8_lossy(&output.stdout);
            format!("{arguments:?} answered {answer}")
        })
    }

    fn ask(&self, arguments: &[&str]) -> Result<Output> {
        run(self.command(arguments)?)
    }
}

/// Runs a verb that is carried out.
pub(super) fn run(mut command: Command) -> Result<Output> {
    /// The exit code of a verb that was carried out while something does not work.
    const DEGRADED: i32 = 3;
    let output = command.output().context("run truename")?;
    if !matches!(output.status.code(), Some(0 | DEGRADED)) {
        bail!(
            "truename {:?} ended with {}: {}",
            command.get_args().collect::<Vec<_>>(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output)
}
