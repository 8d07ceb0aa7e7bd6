//! Support for the integration tests and the demo: namespaces, processes and events with deadlines,
//! the `truename` command line, traffic with an independent oracle, and real Flink.
#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod bench;
pub mod budget;
pub mod cache;
pub mod cleanup;
pub mod container;
pub mod flink;
pub mod helm;
pub mod http;
pub mod hub;
pub mod kubernetes_mock;
pub mod namespace;
pub mod nat;
pub mod pinned;
pub mod place;
pub mod process;
pub mod prog_run;
pub mod prometheus;
pub mod random;
pub mod scratch;
mod socket;
mod sys;
pub mod timeline;
pub mod topology;
pub mod torture;
pub mod traffic;
pub mod truename;
pub mod wait;
pub mod wire;
pub mod zookeeper;

pub use sys::is_root;
