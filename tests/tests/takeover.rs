//! The agent ends, is replaced, and goes: the kernel side stays, stays, and goes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use truename_tests::{
    timeline::Timeline,
    traffic::{Connection, Dial, Lab, Pace},
    wire::{Names, Spec},
};

const CANONICAL_AUTHORITY: &str = "jobmanager:6123";

fn names() -> Names {
    Names::flink("jobmanager", "jm")
}

fn exchange(connection: &Connection, spec: &Spec, what: &str) {
    if let Err(error) = connection.exchange(&spec.script(), Pace::default()) {
        panic!("{what}: {error:#}");
    }
}

#[test]
fn translation_outlives_a_killed_agent_and_a_new_one_takes_over_without_a_gap() {
    let lab = Lab::direct().unwrap();
    let mut truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let old = lab.connect(Dial::default()).unwrap();
    exchange(&old, &Spec::mixed(&names(), 0, 20), "before");

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Never silent while the agents change.
        let traffic = scope.spawn(|| {
            let mut rounds = 1;
            while !over.load(Ordering::Relaxed) {
                let spec = Spec::mixed(&names(), rounds, 20).continued(rounds);
                exchange(&old, &spec, "while agents change");
                rounds += 1;
            }
            rounds
        });
        truename.kill_agent();
        let new = lab.connect(Dial::default()).unwrap();
        exchange(&new, &Spec::mixed(&names(), 5, 20), "without an agent");
        for _ in 0..3 {
            truename.start_agent().unwrap();
            truename.kill_agent();
        }
        truename.start_agent().unwrap();
        over.store(true, Ordering::Relaxed);
        let rounds = traffic.join().unwrap();
        assert!(rounds > 3, "{rounds} rounds only");
        exchange(&new, &Spec::mixed(&names(), 6, 20).continued(6), "after");
    });
    exchange(&old, &Spec::mixed(&names(), 7, 20).continued(7), "after");
}

/// The flows of an agent that kept them in another layout are adopted at their next message, and its maps go.
#[test]
fn flows_of_another_layout_are_adopted() {
    let lab = Lab::direct().unwrap();
    let mut truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    exchange(&connection, &Spec::mixed(&names(), 0, 20), "before");
    truename.kill_agent();
    let maps = truename.bpffs().join("v3/maps");
    let pins = ["RPC_FLOWS", "ONE_SIDED_FLOWS"].map(|name| {
        let (now, before) = (maps.join(format!("{name}_2")), maps.join(name));
        std::fs::rename(&now, &before).unwrap();
        (now, before)
    });
    truename.start_agent().unwrap();
    for (now, before) in pins {
        assert!(now.exists(), "{}", now.display());
        assert!(!before.exists(), "{}", before.display());
    }
    let next = Spec::mixed(&names(), 1, 20).continued(1);
    exchange(&connection, &next, "after");
    let (status, _) = truename.status().unwrap();
    assert_eq!(status["counters"]["adopted"], 1, "{status}");
}

#[test]
fn detach_removes_every_trace() {
    let lab = Lab::direct().unwrap();
    let begin = Instant::now();
    let mut truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let first = begin.elapsed().as_secs_f64();
    truename.kill_agent();
    let begin = Instant::now();
    truename.start_agent().unwrap();
    let next = begin.elapsed().as_secs_f64();
    Timeline::new().measured(&format!(
        "from start to ready: {first:.2} s, taking over: {next:.2} s (with debug assertions)"
    ));
    let connection = lab.connect(Dial::default()).unwrap();
    exchange(&connection, &Spec::mixed(&names(), 1, 20), "before");
    truename.detach().unwrap();
    let left = std::fs::read_dir(truename.bpffs()).map_or(0, Iterator::count);
    assert_eq!(left, 0, "pins are left in {}", truename.bpffs().display());
    // Untranslated from now on, which is what a stream to the canonical name wants.
    let same = Names::flink("jobmanager", "jobmanager");
    let plain = lab.connect(Dial::default()).unwrap();
    exchange(&plain, &Spec::mixed(&same, 2, 20), "afterwards");
    let aliased = lab.connect(Dial::default()).unwrap();
    let script = Spec::mixed(&names(), 3, 20).script();
    let error = aliased.exchange(&script, Pace::default()).unwrap_err();
    assert!(format!("{error:#}").contains("wrong"), "{error:#}");
}
