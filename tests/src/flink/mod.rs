//! Real Flink clusters: fetched, started in namespaces, driven through REST.

mod cluster;
mod config;
mod fetch;
mod ha;
mod job;
mod jvm;
mod load;
mod node;
mod rest;
mod scenario;

pub use cluster::{Addressing, Cluster};
pub use fetch::{DEFAULT_VERSION, Flink, VERSIONS};
pub use ha::Pair;
pub use load::{Load, Visit};
pub use scenario::{Options, Relay, run, run_canonical};
