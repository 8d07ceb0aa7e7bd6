//! What topology sources are tested with.

mod flink;
mod server;

pub use flink::flink;
pub use server::{Reply, Request, Server};
