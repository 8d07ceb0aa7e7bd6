//! Real Flink: joins, works and survives through an alias.

use std::sync::Mutex;

use truename_tests::{
    flink::{self, DEFAULT_VERSION, Options, Relay},
    timeline::Timeline,
    truename,
};

/// A name of a Service in Kubernetes.
const LONG: &str = "flink-jobmanager.prod.svc.cluster.example.org";

/// Clusters have deadlines: they get the machine for themselves, one after the other.
static MACHINE: Mutex<()> = Mutex::new(());

fn run(version: &str, learn: bool, relay: Option<Relay>) {
    let _machine = MACHINE.lock().unwrap_or_else(|poison| poison.into_inner());
    let options = Options {
        flink: version.to_owned(),
        truename: truename::binary().unwrap(),
        learn,
        keep: false,
        relay,
    };
    if let Err(error) = flink::run(&options, &Timeline::new()) {
        panic!("{error:#}");
    }
}

/// The demo, checked: nothing is restarted for truename's sake.
#[test]
fn a_running_task_manager_joins_works_and_survives_through_an_alias() {
    run(DEFAULT_VERSION, false, None);
}

/// The same without telling truename the canonical name.
#[test]
fn the_canonical_name_is_learned() {
    run(DEFAULT_VERSION, true, None);
}

/// The JobManager calls itself by its address. One TaskManager is relayed, the other one translated in place.
#[test]
fn two_task_managers_by_two_aliases_one_of_which_is_too_long() {
    let relay = Relay {
        canonical: "10.61.23.1",
        aliases: &[LONG, "jm"],
    };
    run(DEFAULT_VERSION, true, Some(relay));
}

/// Another release, whose JobManager calls itself by a name that no TaskManager can look up.
#[test]
fn a_task_manager_by_a_long_alias_of_a_short_name_that_resolves_nowhere() {
    let relay = Relay {
        canonical: "jm",
        aliases: &[LONG],
    };
    run("2.3.0", true, Some(relay));
}
