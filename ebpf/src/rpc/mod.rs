//! The RPC translator: from a packet to a flow to a verdict.

mod direction;
mod learn;
mod lock;
pub mod stages;
mod translate;

pub use direction::Found;
