//! What the demo shows and the end-to-end test checks: a cluster that refuses an alias starts to work,
//! and keeps working when the JobManager is paused and when it is replaced.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    cluster::{self, Addressing, Cluster},
    config::{HEARTBEAT_TIMEOUT, RPC_PORT},
    fetch::Flink,
    job,
};
use crate::{
    scratch::Scratch,
    timeline::Timeline,
    truename::{Endpoint, Truename},
    wait::wait_until,
};

/// What the JobManager says when it drops a message.
const DROPPED: [&str; 2] = ["dropping message", "non-local recipient"];
/// What the TaskManager says when it has joined.
const REGISTERED: &str = "Successful registration at resource manager";
/// A lost TaskManager must be back this soon.
const RECOVERY: Duration = Duration::from_secs(10);
/// A TaskManager that was refused has asked again by then: it waits for an answer for 10 s at a time.
const RETRY: Duration = Duration::from_secs(40);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Flink release.
    pub flink: String,
    /// The `truename` binary.
    pub truename: PathBuf,
    /// Do not tell truename the canonical name: it learns it from the next handshake, which is why a
    /// TaskManager that is connected already has to be restarted.
    pub learn: bool,
    /// Leave logs and configuration behind.
    pub keep: bool,
    /// The JobManager calls itself by its address, or by another short name, and TaskManagers call it so: truename has to
    /// relay.
    pub relay: Option<Relay>,
}

/// Names that need a relay.
#[derive(Clone, Copy, Debug)]
pub struct Relay {
    /// What the JobManager calls itself.
    pub canonical: &'static str,
    /// What TaskManagers call it, one after the other. The first one is longer than the canonical name.
    pub aliases: &'static [&'static str],
}

/// Runs all of it.
///
/// # Errors
/// Something did not hold.
pub fn run(options: &Options, timeline: &Timeline) -> Result<()> {
    let flink = Flink::fetch(&options.flink, timeline)?;
    let mut scratch = Scratch::new("flink")?;
    if options.keep {
        scratch.keep();
    }
    let outcome = steps(&flink, options, &scratch, timeline);
    if outcome.is_err() {
        scratch.keep();
    }
    outcome
}

/// Runs a cluster whose TaskManager uses the JobManager's own name, without truename.
///
/// # Errors
/// The harness or the machine is not in order.
pub fn run_canonical(version: &str, timeline: &Timeline) -> Result<()> {
    let flink = Flink::fetch(version, timeline)?;
    let mut scratch = Scratch::new("flink")?;
    let outcome = canonical_steps(&flink, &scratch, timeline);
    if outcome.is_err() {
        scratch.keep();
    }
    outcome
}

fn canonical_steps(flink: &Flink, scratch: &Scratch, timeline: &Timeline) -> Result<()> {
    let jar = job::build(flink, scratch)?;
    timeline.heading(&format!("Flink {}, no alias, no truename", flink.version()));
    let mut cluster = Cluster::new(flink, Addressing::Canonical, 1, scratch)?;
    cluster.start_job_manager()?;
    timeline.say("JobManager is up");
    cluster.start_task_manager(0)?;
    joins(&cluster, timeline)?;
    finishes_a_job(&cluster, &jar, timeline)?;
    shows_metrics(&cluster, timeline)?;
    has_one_connection(&cluster, timeline)?;
    survives_pause(&cluster, 1, timeline)?;
    finishes_a_job(&cluster, &jar, timeline)?;
    survives_restart(&mut cluster, 1, timeline)?;
    finishes_a_job(&cluster, &jar, timeline)
}

fn steps(flink: &Flink, options: &Options, scratch: &Scratch, timeline: &Timeline) -> Result<()> {
    let jar = job::build(flink, scratch)?;
    if let Some(relay) = options.relay {
        return relay_steps(flink, options, relay, &jar, scratch, timeline);
    }
    let mut cluster = Cluster::new(flink, Addressing::Alias, 1, scratch)?;

    timeline.heading(&format!("Without truename (Flink {})", flink.version()));
    refused(&mut cluster, timeline)?;

    timeline.heading("With truename");
    let endpoint = Endpoint {
        listen: Cluster::rpc_address(),
        canonical: (!options.learn).then(|| format!("{}:{RPC_PORT}", cluster::CANONICAL)),
    };
    let argument = endpoint.argument();
    let truename = Truename::start_binary(
        options.truename.clone(),
        cluster.job_space(),
        scratch,
        &[cluster::JOB_INTERFACE],
        &[endpoint],
    )?;
    timeline.say(&format!(
        "truename run --interface {} --endpoint {argument}: ready",
        cluster::JOB_INTERFACE
    ));
    if options.learn {
        cluster.start_task_manager(0)?;
        timeline.say("TaskManager restarted, so that the handshake is seen");
    }
    joins(&cluster, timeline)?;
    finishes_a_job(&cluster, &jar, timeline)?;
    shows_metrics(&cluster, timeline)?;
    has_one_connection(&cluster, timeline)?;

    timeline.heading("JobManager paused for longer than heartbeat.timeout");
    survives_pause(&cluster, 1, timeline)?;
    finishes_a_job(&cluster, &jar, timeline)?;
    has_one_connection(&cluster, timeline)?;

    timeline.heading("JobManager killed and replaced");
    survives_restart(&mut cluster, 1, timeline)?;
    finishes_a_job(&cluster, &jar, timeline)?;
    has_one_connection(&cluster, timeline)?;

    for verb in ["aliases", "flows"] {
        timeline.heading(&format!("truename {verb}"));
        let text = truename.text(verb)?;
        timeline.quote(&text);
        if verb == "aliases" {
            let alias = format!("{}:", cluster::ALIAS);
            ensure!(text.contains(&alias), "the alias is not listed:\n{text}");
        }
    }
    Ok(())
}

fn relay_steps(
    flink: &Flink,
    options: &Options,
    relay: Relay,
    jar: &Path,
    scratch: &Scratch,
    timeline: &Timeline,
) -> Result<()> {
    let addressing = Addressing::Names(relay.canonical, relay.aliases);
    let workers = relay.aliases.len();
    let mut cluster = Cluster::new(flink, addressing, workers, scratch)?;
    timeline.heading(&format!("A relay (Flink {})", flink.version()));
    let endpoint = Endpoint {
        listen: Cluster::rpc_address(),
        canonical: None,
    };
    let arguments = [
        "--interface",
        cluster::JOB_INTERFACE,
        "--endpoint",
        &endpoint.argument(),
        "--relay",
    ];
    let arguments: Vec<_> = arguments.map(str::to_owned).into();
    let shown = arguments.join(" ");
    let mut truename = Truename::prepared(
        options.truename.clone(),
        cluster.job_space(),
        scratch,
        arguments,
    )?;
    truename.start_agent()?;
    timeline.say(&format!("truename run {shown}: ready"));
    cluster.start_job_manager()?;
    timeline.say(&format!(
        "JobManager is up; it calls itself {}:{RPC_PORT}",
        relay.canonical
    ));
    for (number, alias) in relay.aliases.iter().enumerate() {
        cluster.start_task_manager(number)?;
        timeline.say(&format!(
            "TaskManager started; it knows the JobManager as {alias}:{RPC_PORT} only"
        ));
        cluster
            .task_manager(number)?
            .wait_line(0, &[REGISTERED], RETRY)
            .context("the TaskManager did not join")?;
        timeline.say("TaskManager registered");
    }
    cluster.rest().wait_task_managers(workers, RECOVERY)?;
    finishes_a_job(&cluster, jar, timeline)?;
    has_connections(&cluster, workers, timeline)?;

    timeline.heading("JobManager paused for longer than heartbeat.timeout");
    survives_pause(&cluster, workers, timeline)?;
    finishes_a_job(&cluster, jar, timeline)?;
    has_connections(&cluster, workers, timeline)?;

    timeline.heading("JobManager killed and replaced");
    survives_restart(&mut cluster, workers, timeline)?;
    finishes_a_job(&cluster, jar, timeline)?;
    has_connections(&cluster, workers, timeline)?;

    for verb in ["aliases", "flows"] {
        timeline.heading(&format!("truename {verb}"));
        timeline.quote(&truename.text(verb)?);
    }
    let alias = format!("{}:{RPC_PORT}", relay.aliases[0]);
    truename.rows("flows", &[("alias", &alias), ("state", "relayed")])?;
    // It was relayed before the JobManager was replaced: until its alias was known to fit.
    for alias in &relay.aliases[1..] {
        let alias = format!("{alias}:{RPC_PORT}");
        truename.rows("flows", &[("alias", &alias), ("state", "translated")])?;
    }
    Ok(())
}

fn refused(cluster: &mut Cluster, timeline: &Timeline) -> Result<()> {
    cluster.start_job_manager()?;
    timeline.say("JobManager is up; it calls itself jobmanager:6123");
    cluster.check_separation()?;
    cluster.start_task_manager(0)?;
    timeline.say("TaskManager started; it knows the JobManager as jm:6123 only");
    timeline.quote(
        "(jobmanager resolves there too, because the blob server's host is sent as a bare name,",
    );
    timeline.quote("but to an address at which nothing but the blob port answers)");
    let line = cluster
        .job_manager()?
        .wait_line(0, &DROPPED, cluster::JVM)
        .context("the JobManager was expected to refuse the alias")?;
    timeline.say("JobManager refuses it:");
    timeline.quote(&line);
    let registered = cluster.rest().task_managers()?.len();
    ensure!(registered == 0, "{registered} TaskManagers are registered");
    timeline.say("REST shows 0 TaskManagers");
    Ok(())
}

fn joins(cluster: &Cluster, timeline: &Timeline) -> Result<()> {
    let start = Instant::now();
    cluster
        .task_manager(0)?
        .wait_line(0, &[REGISTERED], RETRY)
        .context("the TaskManager did not join")?;
    timeline.say(&format!(
        "TaskManager registered after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    let list = cluster.rest().wait_task_managers(1, RECOVERY)?;
    timeline.say(&format!(
        "REST shows 1 TaskManager: {}",
        list[0]["path"].as_str().unwrap_or("?")
    ));
    Ok(())
}

fn finishes_a_job(cluster: &Cluster, jar: &Path, timeline: &Timeline) -> Result<()> {
    let duration = cluster.rest().run_job(jar, job::CLASS, cluster::JVM)?;
    timeline.say(&format!(
        "a job of the user's jar, shipped through the blob server, FINISHED in {:.1} s",
        duration.as_secs_f64()
    ));
    Ok(())
}

fn shows_metrics(cluster: &Cluster, timeline: &Timeline) -> Result<()> {
    const METRIC: &str = "Status.JVM.Memory.Heap.Used";
    let list = cluster.rest().wait_task_managers(1, RECOVERY)?;
    let id = list[0]["id"].as_str().context("a TaskManager without id")?;
    let value = cluster.rest().wait_metric(id, METRIC, cluster::JVM)?;
    timeline.say(&format!(
        "REST shows the TaskManager's metrics: {METRIC} = {value}"
    ));
    Ok(())
}

fn has_one_connection(cluster: &Cluster, timeline: &Timeline) -> Result<()> {
    has_connections(cluster, 1, timeline)
}

fn has_connections(cluster: &Cluster, count: usize, timeline: &Timeline) -> Result<()> {
    let what = format!("exactly {count} RPC connection(s)");
    let connections = wait_until(RECOVERY, &what, || {
        let connections = cluster.rpc_connections()?;
        ensure!(connections.len() == count, "there are {connections:#?}");
        Ok(connections)
    })?;
    timeline.say(&format!("{what}: {}", connections.join(", ")));
    Ok(())
}

fn survives_pause(cluster: &Cluster, workers: usize, timeline: &Timeline) -> Result<()> {
    let (job, task) = (cluster.job_manager()?, cluster.task_manager(0)?);
    let mark = task.mark();
    let paused = Instant::now();
    job.pause()?;
    timeline.say("JobManager paused (SIGSTOP)");
    let lost = task.wait_line(
        mark,
        &["ResourceManager", "timed out"],
        4 * HEARTBEAT_TIMEOUT,
    );
    // The pause itself has to be longer than the timeout, so that both sides miss each other.
    std::thread::sleep(
        (HEARTBEAT_TIMEOUT + HEARTBEAT_TIMEOUT / 2).saturating_sub(paused.elapsed()),
    );
    job.resume()?;
    lost.context("the TaskManager was expected to miss the JobManager")?;
    let mark = task.mark();
    let resumed = Instant::now();
    timeline.say(&format!(
        "TaskManager missed it; continued (SIGCONT) after {:.1} s",
        paused.elapsed().as_secs_f64()
    ));
    task.wait_line(mark, &[REGISTERED], RECOVERY)
        .context("the TaskManager did not come back")?;
    cluster.rest().wait_task_managers(workers, 2 * RECOVERY)?;
    timeline.say(&format!(
        "TaskManager is back after {:.1} s",
        resumed.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn survives_restart(cluster: &mut Cluster, workers: usize, timeline: &Timeline) -> Result<()> {
    let mark = cluster.task_manager(0)?.mark();
    cluster.kill_job_manager();
    timeline.say("JobManager killed (SIGKILL)");
    cluster.restart_job_manager()?;
    let up = Instant::now();
    timeline.say("another JobManager is up");
    cluster
        .task_manager(0)?
        .wait_line(mark, &[REGISTERED], cluster::JVM)
        .context("the TaskManager did not come back")?;
    cluster.rest().wait_task_managers(workers, 2 * RECOVERY)?;
    timeline.say(&format!(
        "TaskManager is back after {:.1} s",
        up.elapsed().as_secs_f64()
    ));
    Ok(())
}
