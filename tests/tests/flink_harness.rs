//! The Flink harness itself: a cluster that needs no translation. When this fails, the machine or the
//! harness is at fault, not truename.

use truename_tests::{
    flink::{self, DEFAULT_VERSION, VERSIONS},
    timeline::Timeline,
};

#[test]
fn a_cluster_without_alias_works_without_truename() {
    check(DEFAULT_VERSION);
}

/// Fetches 1.5 GB when nothing is cached.
#[test]
#[ignore = "fetches every release; run by hand"]
fn every_release_works_without_alias() {
    for version in VERSIONS {
        check(version);
    }
}

fn check(version: &str) {
    if let Err(error) = flink::run_canonical(version, &Timeline::new()) {
        panic!("Flink {version}: {error:#}");
    }
}
