//! Services follow the leader of a real Flink, under load: two JobManagers elect it on a real ZooKeeper.

mod place;
mod services;
mod visits;
#[path = "../zookeeper/mod.rs"]
mod zookeeper;

use std::{sync::Mutex, time::Duration};

use anyhow::{Result, ensure};
use truename_tests::{flink::Pair, wait::wait_until};

use place::Place;
use services::SERVICES;

/// Clusters have deadlines: they get the machine for themselves, one after the other.
static MACHINE: Mutex<()> = Mutex::new(());
/// The longest wait for anything.
const LONG: Duration = Duration::from_secs(60);
/// What takes no more than some round trips is done by then, on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// Clients that keep their connections, in each of two places.
const KEEPING: usize = 4;

/// The leader is killed, then the next one paused for longer than its session.
fn follow(place: &mut Place) -> Result<()> {
    place.load(0)?;
    place.moves((0, 1), "killed", true, |pair| {
        pair.kill(0);
        Ok(())
    })?;
    place.pair.start(0)?;
    place.say(&format!(
        "{} is back, as the other's substitute",
        Pair::name(0)
    ));
    place.check_targets(1)?;
    place.moves((1, 0), "paused", false, |pair| pair.manager(1)?.pause())?;

    let paused = place.pair.manager(1)?;
    let mark = paused.mark();
    paused.resume()?;
    paused.wait_line(mark, &["revoked leadership"], LONG)?;
    place.check_targets(0)?;
    place.say("the paused leader goes on, and leads no more");
    Ok(())
}

/// Nobody leads: the last leader stays, and it is told.
fn endure(place: &mut Place) -> Result<()> {
    place.loads.clear();
    place.pair.kill(1);
    place.pair.kill(0);
    wait_until(LONG, "the end of the records", || {
        for service in SERVICES {
            place.check_targets(0)?;
            ensure!(
                place.records.find(service.part)?.is_none(),
                "{} is there",
                service.part
            );
        }
        Ok(())
    })?;
    let told = wait_until(LONG, "that nobody leads", || {
        place.check_targets(0)?;
        let (status, code) = place.truename.status()?;
        let problems = status["problems"].to_string();
        let leader = &status["topology"]["leader_rpc"];
        ensure!(code == 3 && leader.is_null(), "{problems}, {leader}");
        for service in SERVICES {
            ensure!(problems.contains(service.name), "{problems}");
        }
        ensure!(
            problems.contains("the last one known is kept"),
            "{problems}"
        );
        Ok(problems)
    })?;
    place.say(&format!("nobody leads, the targets stay; degraded: {told}"));
    place.changes((0, 1), "nobody led", |pair| pair.spawn(1))?;
    place.wait_status(1)
}

fn check(version: &str, steps: &[fn(&mut Place) -> Result<()>]) {
    let _machine = MACHINE.lock().unwrap_or_else(|poison| poison.into_inner());
    let outcome = Place::new(version).and_then(|mut place| {
        let outcome = steps.iter().try_for_each(|step| step(&mut place));
        if outcome.is_err() {
            place.scratch.keep();
        }
        outcome
    });
    if let Err(error) = outcome {
        panic!("Flink {version}: {error:#}");
    }
}

#[test]
fn connections_follow_the_leader_of_flink_1_20() {
    check("1.20.5", &[follow, endure]);
}

#[test]
fn connections_follow_the_leader_of_flink_1_13() {
    check("1.13.6", &[follow]);
}
