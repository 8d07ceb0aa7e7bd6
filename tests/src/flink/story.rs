//! The whole story: a highly available Flink in containers whose names resolve nowhere, truename with one cluster in its
//! configuration on their host, and a client that reaches one address of that host and nothing else.

use std::{
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{containers::Containers, fetch::Flink};
use crate::{scratch::Scratch, timeline::Timeline, truename::Truename, wait::wait_until};

const LONG: Duration = Duration::from_secs(60);
/// Less than a leader may be silent.
const PAUSE: Duration = Duration::from_millis(1500);
/// A leader is known, its names and services too, this soon after it answers.
const SOON: Duration = Duration::from_secs(10);

/// The JobManager that answers the client.
fn answering(containers: &Containers) -> Result<String> {
    let settings = containers.get("/jobmanager/config")?;
    let settings = settings.as_array().context("settings")?;
    let mut settings = settings.iter();
    let name = settings.find(|pair| pair["key"] == "jobmanager.rpc.address");
    let name = name.and_then(|pair| pair["value"].as_str());
    Ok(name.context("no name")?.to_owned())
}

fn wait_answering(containers: &Containers, number: usize) -> Result<()> {
    wait_until(LONG, "the leader at the client", || {
        let (name, wanted) = (answering(containers)?, Containers::manager_name(number));
        ensure!(name == wanted, "{name} answers");
        Ok(())
    })
}

/// Tells it, with a `truename` binary.
///
/// # Errors
/// Something did not hold.
pub fn story(flink: &Flink, binary: PathBuf, timeline: &Timeline) -> Result<()> {
    let mut scratch = Scratch::new("story")?;
    let told = tell(flink, binary, &scratch, timeline);
    if told.is_err() {
        scratch.keep();
    }
    told
}

fn tell(flink: &Flink, binary: PathBuf, scratch: &Scratch, timeline: &Timeline) -> Result<()> {
    let mut containers = Containers::new(flink, 2, 3, scratch)?;
    let file = scratch.write("truename.toml", &containers.configuration())?;
    let arguments = vec!["--config".to_owned(), file.display().to_string()];
    let mut truename = Truename::prepared(binary, containers.host(), scratch, arguments)?;
    let begun = Instant::now();
    truename.start_agent()?;
    timeline
        .heading("truename on the host of the containers, with one cluster in its configuration");
    timeline.say(&format!(
        "ready after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let direct = containers.client().run(|| {
        let inside = (Containers::manager_address(0), 8081);
        TcpStream::connect_timeout(&inside.into(), Duration::from_secs(1)).is_err()
    })?;
    ensure!(direct, "the client reaches a container by itself");

    containers.start_manager(0)?;
    containers.start_task(0)?;
    wait_answering(&containers, 0)?;
    timeline.say("the client sees the leader at the host's address");
    containers.start_manager(1)?;
    containers.start_task(1)?;
    let workers = containers.wait_registered(2)?;
    timeline.say("two TaskManagers are registered, by names that nothing but truename resolves");
    for worker in &workers {
        let id = worker["id"].as_str().context("id")?;
        containers.wait_metric(id)?;
        let log = containers.get(&format!("/taskmanagers/{id}"))?;
        ensure!(
            log["path"]
                .as_str()
                .is_some_and(|path| path.contains("tm-node-")),
            "{log}"
        );
    }
    timeline.say("the JobManager has reached both for metrics");
    let said = containers.run_job()?;
    ensure!(said.contains("has finished"), "{said}");
    timeline.say("a job of Flink's own command line at the client has finished");

    // A pause is no end.
    containers.manager(0)?.pause()?;
    std::thread::sleep(PAUSE);
    containers.manager(0)?.resume()?;
    wait_answering(&containers, 0)?;
    containers.wait_registered(2)?;
    timeline.say("both are registered after the leader was paused");

    let killed = Instant::now();
    containers.kill_manager(0);
    wait_answering(&containers, 1)?;
    timeline.measured(&format!(
        "{:.1} s after the leader was killed the client sees the next one",
        killed.elapsed().as_secs_f64()
    ));
    containers.wait_registered(2)?;
    timeline.measured(&format!(
        "{:.1} s after the leader was killed both TaskManagers are registered at the next one",
        killed.elapsed().as_secs_f64()
    ));
    let later = Instant::now();
    containers.start_task(2)?;
    containers.wait_registered(3)?;
    timeline.measured(&format!(
        "a third TaskManager is registered {:.1} s after its start",
        later.elapsed().as_secs_f64()
    ));
    containers.run_job()?;
    timeline.say("another job has finished");
    wait_until(SOON, "a good status", || {
        let (status, code) = truename.status()?;
        let failing = &status["problems"];
        // The one that was killed does not answer.
        ensure!(code == 0 || code == 3, "{failing}");
        Ok(())
    })?;
    let names = truename.rows("names", &[("how", "said")])?;
    ensure!(!names.is_empty(), "no server said its name");
    Ok(())
}
