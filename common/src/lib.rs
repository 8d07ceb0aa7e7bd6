//! What the kernel program and the agent share.
//!
//! * [`layout`]: keys and values of the kernel tables, counters, events, names and versions;
//! * [`nat`]: which target and which source port a connection gets, and the states of TCP;
//! * [`wire`]: pure walkers of the translated protocols. The *same* code runs in the kernel
//!   program, in the agent's `decode`, and in the tests.
//!
//! Nothing here allocates, does I/O or can panic: the kernel's verifier rejects a program with a
//! reachable panic, and a parser that sits in the path of a packet has no business having one.
//! `wire::relay`, which is for user space only, allocates.
#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![cfg_attr(not(test), warn(unused_crate_dependencies))]
#![deny(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "the kernel's verifier rejects a program with a reachable panic"
)]

pub mod insertion;
pub mod layout;
pub mod nat;
pub mod wire;
