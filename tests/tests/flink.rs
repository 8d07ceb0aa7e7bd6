//! Real Flink: joins, works and survives through an alias.

use truename_tests::{
    flink::{self, DEFAULT_VERSION, Options},
    timeline::Timeline,
    truename,
};

/// The demo, checked.
#[test]
fn a_task_manager_joins_works_and_survives_through_an_alias() {
    let options = Options {
        flink: DEFAULT_VERSION.to_owned(),
        truename: truename::binary().unwrap(),
        keep: false,
    };
    if let Err(error) = flink::run(&options, &Timeline::new()) {
        panic!("{error:#}");
    }
}
