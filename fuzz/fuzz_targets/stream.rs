//! The target of libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| truename_fuzz::play(input));
