//! Real Flink clusters: fetched, started in namespaces, driven through REST.

mod cluster;
mod compose;
mod config;
mod containers;
mod fetch;
mod ha;
mod job;
mod jvm;
mod load;
mod node;
mod rest;
mod scenario;
mod story;

pub use cluster::{Addressing, Cluster};
pub use compose::compose;
pub use containers::Containers;
pub use fetch::{DEFAULT_VERSION, Flink, RELAYED_VERSIONS, VERSIONS};
pub use ha::Pair;
pub use load::{Load, Visit};
pub use scenario::{Options, Relay, run, run_canonical};
pub use story::story;
