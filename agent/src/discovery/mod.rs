//! What the agent knows of the cluster: who leads, who works, which name is at which address.
//!
//! ```text
//! Source (flink, zookeeper, kubernetes, pekko-management, file)  ─┐
//! learned (kernel tables, a pure function)                       ─┴→ Reporter → Snapshot { reports, merged Topology }
//! ```
//!
//! A [`Source`] reports whole sets of [`Facts`]; [`merge`] makes one [`Topology`] of them, a pure
//! function with a stated precedence ([`Kind`]); [`resolve`] turns a [`Role`](crate::config::Role) and a topology into
//! socket addresses. A source that cannot be reached keeps its last good facts; their age and its
//! [`Health`] tell. Nothing from outside gets in unless it passed a parser of [`crate::name`].

pub mod follow;
pub mod http;
pub mod model;
pub mod names;
pub mod sources;

pub use follow::Follower;
pub use model::{
    fact::{Claim, Component, Facts, Member, MemberStatus, Ports, Refused, Worker},
    merge::{Known, Topology, merge},
    snapshot::Snapshot,
    source::{Health, Kind, Report, Reporter, Source, SourceId, State},
};
pub use names::resolve::{How, Location, Resolution, hosts, locate, ports, resolve};
