//! Plays the inputs in the repository: those that failed once, and those that cover the engine.

use std::{fs, panic, path::Path};

/// Plays all inputs of a directory; those that fail are named.
fn play(directory: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut inputs: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("list {}: {error}", directory.display()))
        .map(|input| input.unwrap().path())
        .filter(|input| input.extension().is_none_or(|extension| extension != "md"))
        .collect();
    inputs.sort();
    let failed: Vec<_> = inputs
        .iter()
        .filter(|input| {
            let bytes = fs::read(input).unwrap();
            panic::catch_unwind(|| truename_fuzz::play(&bytes)).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "these inputs fail: {failed:#?}");
}

#[test]
fn inputs_that_failed_pass() {
    play("regressions/stream");
}

#[test]
fn inputs_that_cover_the_engine_pass() {
    play("corpus/stream");
}
