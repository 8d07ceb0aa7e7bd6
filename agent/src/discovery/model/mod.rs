//! The facts that sources report, and the topology that is made of them.

pub mod fact;
pub mod merge;
pub mod snapshot;
pub mod source;
