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

pub mod configured;
pub mod dns;
pub mod fact;
pub mod file;
pub mod flink;
pub mod follow;
pub mod ha;
pub mod http;
pub mod inquiry;
pub mod learned;
pub mod lookup;
pub mod management;
pub mod merge;
pub mod poll;
pub mod resolve;
pub mod snapshot;
pub mod source;

pub use fact::{Claim, Component, Facts, Member, MemberStatus, Ports, Refused, Worker};
pub use follow::Follower;
pub use merge::{Known, Topology, merge};
pub use resolve::{How, Location, Resolution, hosts, literal, locate, ports, resolve};
pub use snapshot::Snapshot;
pub use source::{Health, Kind, Report, Reporter, Source, SourceId, State};
