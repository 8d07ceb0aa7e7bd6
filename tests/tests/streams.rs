//! Streams in one direction beside the same streams untouched: they arrive whole, every name is translated
//! once, and TCP does not have to repair what it would not have to repair by itself.

use std::time::Duration;

use truename_tests::{
    bench::{Cell, Streams, streams},
    truename,
};

/// Runs rows of the benchmark; `judge` gets the untouched and the translated cell of each.
fn run(rows: &[&str], judge: impl Fn(&Cell, &Cell)) {
    let what = Streams {
        rows: rows.iter().map(|row| row.parse().unwrap()).collect(),
        binaries: vec![("tested".to_owned(), truename::binary().unwrap())],
        columns: vec!["translated".to_owned()],
        rounds: 1,
        time: Duration::from_millis(400),
    };
    let mut failures = Vec::new();
    streams(&what, |cells| {
        let [untouched, translated] = cells else {
            panic!("{} columns", cells.len());
        };
        match &translated.fault {
            Some(fault) => failures.push(format!(
                "{}: {fault} ({})",
                translated.row,
                translated.drops()
            )),
            None => judge(untouched, translated),
        }
        Ok(())
    })
    .unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The retransmission timer does not run out more often than it does by itself.
fn no_timeouts(untouched: &Cell, translated: &Cell) {
    let (by_itself, with) = (untouched.repetitions.1, translated.repetitions.1);
    assert!(
        with <= by_itself * 2 + 2,
        "{}: {with} timeouts, untouched {by_itself} ({})",
        translated.row,
        translated.drops()
    );
}

/// Over a line that loses nothing, next to nothing is sent again.
fn nothing_again(untouched: &Cell, translated: &Cell) {
    no_timeouts(untouched, translated);
    let (by_itself, with) = (untouched.repetitions.0, translated.repetitions.0);
    assert!(
        with <= by_itself * 2 + 16,
        "{}: {with} segments sent again, untouched {by_itself} ({})",
        translated.row,
        translated.drops()
    );
}

#[test]
fn small_and_large_frames_arrive_without_timeouts() {
    run(
        &[
            "in-0",
            "in-60",
            "in-4k",
            "in-60k",
            "in-1m",
            "out-0",
            "out-60",
            "out-4k",
            "out-60k",
            "out-1m",
            "in-190-x8",
            "out-190-x8",
        ],
        no_timeouts,
    );
}

#[test]
fn any_amount_may_be_in_flight() {
    run(
        &[
            "in-60-rtt40",
            "in-190-rtt40",
            "in-4k-rtt40",
            "out-60-rtt40",
            "out-190-rtt40",
            "out-4k-rtt40",
        ],
        nothing_again,
    );
}

#[test]
fn lost_segments_are_repaired_without_timeouts() {
    run(
        &[
            "in-190-rtt10-loss0.1",
            "in-4k-rtt10-loss0.1",
            "out-190-rtt10-loss0.1",
            "out-4k-rtt10-loss0.1",
        ],
        no_timeouts,
    );
}

#[test]
fn acknowledgements_may_take_a_path_that_truename_does_not_see() {
    run(&["in-60-apart", "in-4k-apart"], no_timeouts);
}
