//! The RPC translator: from a packet to a flow to a verdict.

mod direction;
mod handshake;
mod learn;
mod lock;
pub mod payload;
pub mod translate;
