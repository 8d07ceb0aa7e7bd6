//! Plays the inputs in the repository: those that failed once, and those that cover the code; for the relay's recoder
//! also random ones, which are always the same.

use std::{fs, panic, path::Path};

use truename_tests::random::Random;

/// Random inputs for the recoder.
const RANDOM: usize = 4000;

/// Plays all inputs of a directory; those that fail are named.
fn play(directory: &str, target: fn(&[u8])) {
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
            panic::catch_unwind(|| target(&bytes)).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "these inputs fail: {failed:#?}");
}

#[test]
fn inputs_that_failed_pass() {
    play("regressions/stream", truename_fuzz::play);
    play("regressions/relay", truename_fuzz::relay::play);
}

#[test]
fn inputs_that_cover_the_engine_pass() {
    play("corpus/stream", truename_fuzz::play);
}

#[test]
fn inputs_that_cover_the_recoder_pass() {
    play("corpus/relay", truename_fuzz::relay::play);
}

#[test]
fn random_streams_are_recoded_as_the_oracle_does() {
    let mut random = Random::new(13);
    for number in 0..RANDOM {
        let mut input = vec![0; 100 + random.below(3000)];
        random.fill(&mut input);
        let played = panic::catch_unwind(|| truename_fuzz::relay::play(&input));
        assert!(played.is_ok(), "random input {number} fails");
    }
}
