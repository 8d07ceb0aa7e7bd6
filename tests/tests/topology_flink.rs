//! Topology from a real Flink: a standalone cluster whose worker and whose JobManager come and go.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::watch;
use truename::{
    clock::Moment,
    config::Role,
    discovery::{
        Follower, Snapshot, State,
        http::Tls,
        resolve,
        sources::{flink::Flink as Source, poll::Polled},
    },
};
use truename_tests::{
    flink::{Addressing, Cluster, Flink},
    scratch::Scratch,
    timeline::Timeline,
};

/// Clusters have deadlines: they get the machine for themselves, one after the other.
static MACHINE: Mutex<()> = Mutex::new(());

const POLL: Duration = Duration::from_millis(500);
/// A JVM starts, or a heartbeat is missed, within this time.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn flink_1_20() {
    check("1.20.5");
}

#[test]
fn flink_2_3() {
    check("2.3.0");
}

fn check(version: &str) {
    let _machine = MACHINE.lock().unwrap_or_else(|poison| poison.into_inner());
    if let Err(error) = follow(version) {
        panic!("Flink {version}: {error:#}");
    }
}

fn follow(version: &str) -> Result<()> {
    let timeline = Timeline::new();
    let flink = Flink::fetch(version, &timeline)?;
    let mut scratch = Scratch::new("topology")?;
    let mut cluster = Cluster::new(&flink, Addressing::Canonical, 1, &scratch)?;
    let space = cluster.job_space().clone();
    // The runtime's threads are made inside the namespace, and stay there.
    let outcome = space.run(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.block_on(steps(&mut cluster, &timeline))
    })?;
    if outcome.is_err() {
        scratch.keep();
    }
    outcome
}

async fn steps(cluster: &mut Cluster, timeline: &Timeline) -> Result<()> {
    let url = format!("http://{}", Cluster::rest_address());
    let mut follower = Follower::new();
    let mut seen = follower.subscribe();
    let source = Source::new(vec![url.parse()?], &Tls::of_host());
    follower.add(Polled::new(source, POLL));

    let nobody = wait(&mut seen, "an error", |s| state(s) != State::Starting).await?;
    ensure!(nobody.topology.leader_rpc.is_none());

    cluster.start_job_manager()?;
    let known = wait(&mut seen, "the leader", |s| s.topology.leader_rpc.is_some()).await?;
    let leader = known.topology.leader_rpc.as_ref().context("no leader")?;
    ensure!(leader.value.address.to_string() == "pekko.tcp://flink@jobmanager:6123");
    let rest = known.topology.leader_rest.as_ref().context("no REST")?;
    ensure!(
        rest.value.address.to_string() == url,
        "{}",
        rest.value.address
    );
    timeline.say(&format!("leader {} at {url}", leader.value.address));

    cluster.start_task_manager(0)?;
    let known = wait(&mut seen, "the worker", |s| s.topology.workers.len() == 1).await?;
    let (first, worker) = known.topology.workers.first_key_value().context("none")?;
    ensure!(worker.value.rpc.to_string() == "pekko.tcp://flink@taskmanager:6122");
    ensure!(worker.value.data_port.is_some());
    timeline.say(&format!("worker {first} at {}", worker.value.rpc));
    let workers: Role = "workers:9069".parse()?;
    let look_up = |host: &str| match host {
        "taskmanager" => Ok(vec![[10, 61, 23, 3].into()]),
        other => Err(format!("{other} is not in the hosts file")),
    };
    let resolution = resolve(&workers, &known.topology, look_up, |_| false);
    ensure!(
        resolution.addresses == ["10.61.23.3:9069".parse()?],
        "{resolution:?}"
    );

    let start = Instant::now();
    cluster.kill_task_manager(0);
    wait(&mut seen, "no worker", |s| s.topology.workers.is_empty()).await?;
    timeline.say(&format!(
        "the worker is gone {:.1} s after SIGKILL",
        start.elapsed().as_secs_f64()
    ));

    cluster.start_task_manager(0)?;
    let known = wait(&mut seen, "another worker", |s| {
        s.topology.workers.len() == 1
    })
    .await?;
    ensure!(known.topology.workers.keys().all(|id| id != first));

    cluster.kill_job_manager();
    let kept = wait(&mut seen, "a failure", |s| state(s) == State::Failing).await?;
    ensure!(kept.topology.workers.len() == 1 && kept.topology.leader_rpc.is_some());
    let why = kept
        .reports
        .values()
        .find_map(|report| report.health.failure.clone());
    timeline.say(&format!(
        "JobManager killed: {}",
        why.context("no reason")?.1
    ));
    cluster.restart_job_manager()?;
    wait(&mut seen, "the worker's return", |s| {
        state(s) == State::Good && s.topology.workers.len() == 1 && at(s) > at(&kept)
    })
    .await?;
    timeline.say("JobManager replaced, and the worker is back");
    Ok(())
}

fn state(snapshot: &Snapshot) -> State {
    let now = Moment::now();
    let report = snapshot.reports.values().next();
    report.map_or(State::Starting, |report| report.health.state(now))
}

fn at(snapshot: &Snapshot) -> Option<Moment> {
    snapshot
        .topology
        .workers
        .values()
        .map(|known| known.at)
        .max()
}

async fn wait(
    seen: &mut watch::Receiver<Snapshot>,
    what: &str,
    condition: impl FnMut(&Snapshot) -> bool,
) -> Result<Snapshot> {
    let waited = tokio::time::timeout(PATIENCE, seen.wait_for(condition)).await;
    Ok(waited
        .with_context(|| format!("{what}: not within {PATIENCE:?}"))?
        .context("the follower has ended")?
        .clone())
}
