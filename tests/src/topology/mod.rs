//! What topology sources are tested with.

mod server;

pub use server::{Reply, Request, Server};
