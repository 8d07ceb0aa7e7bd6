//! What BPF has and `core` does not: helpers, loops, atomic changes and a clock.

pub mod atomic;
pub mod clock;
pub mod global;
pub mod helper;
pub mod repeat;
