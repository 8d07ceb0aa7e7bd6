//! The target of libFuzzer for the relay's recoder.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| truename_fuzz::relay::play(input));
