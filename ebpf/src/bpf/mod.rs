//! What BPF has and `core` does not: helpers, loops and atomic changes.

pub mod atomic;
pub mod global;
pub mod helper;
pub mod repeat;
