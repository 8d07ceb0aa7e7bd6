//! Real Flink clusters: fetched, started in namespaces, driven through REST.

mod cluster;
mod config;
mod fetch;
mod job;
mod rest;
mod scenario;

pub use cluster::{Addressing, Cluster};
pub use fetch::{DEFAULT_VERSION, Flink, VERSIONS};
pub use scenario::{Options, run, run_canonical};
