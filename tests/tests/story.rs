//! The whole story: a highly available Flink in containers whose names resolve nowhere, used from outside.

use truename_tests::{
    flink::{DEFAULT_VERSION, Flink, story},
    timeline::Timeline,
    truename,
};

#[test]
fn a_cluster_whose_names_resolve_nowhere_is_used_from_outside() {
    let timeline = Timeline::new();
    let flink = Flink::fetch(DEFAULT_VERSION, &timeline).unwrap();
    let told = story(&flink, truename::binary().unwrap(), &timeline);
    told.unwrap_or_else(|error| panic!("{error:#}"));
}
