//! What the control API tells. Field names are stable: scripts rely on them.
//!
//! Texts that came from the network are escaped: every byte that is not printable ASCII is
//! written as `\x1b`.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{ClusterRow, ProblemRow, SweepRow, Timestamp};

/// Whether everything works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything works.
    Ok,
    /// Something that is wanted does not; `problems` says what.
    Degraded,
}

/// The agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether everything works.
    pub state: State,
    /// One sentence each.
    pub problems: Vec<String>,
    /// The same with codes and times, in the same order.
    pub problem_details: Vec<ProblemRow>,
    /// The last problems that are over, the latest first.
    pub past_problems: Vec<ProblemRow>,
    /// What may be meant so and looks wrong, a sentence each.
    pub notes: Vec<String>,
    /// Tasks of the agent that have not come round for five seconds, and what they wait for, a sentence each; they are
    /// among the problems.
    pub hanging: Vec<String>,
    /// Version of the program.
    pub version: String,
    /// Version of the kernel tables.
    pub table_version: u32,
    /// Process number.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Where it listens.
    pub control_socket: PathBuf,
    /// Where it pins.
    pub bpffs: PathBuf,
    /// `tcx` or `clsact`.
    pub attach_mode: String,
    /// Where the programs hang.
    pub interfaces: Vec<InterfaceRow>,
    /// The loaded programs that are attached.
    pub programs: Vec<ProgramRow>,
    /// Number of endpoints.
    pub endpoints: usize,
    /// Number of services.
    pub services: usize,
    /// Number of connections through services.
    pub connections: usize,
    /// Connections that fit.
    pub connection_capacity: u32,
    /// Connections that were evicted since the agent started.
    pub evicted: u64,
    /// Entries of tables that somebody else changed and that were repaired since the agent started.
    pub repaired: u64,
    /// Programs and pins that somebody else took away or replaced and that were brought back since the agent started.
    pub reattached: u64,
    /// Connections by the tries that finding a source port took, from 1; the last counts those that
    /// got none.
    pub port_tries: Vec<u64>,
    /// The last sweep for connections that are over.
    pub sweep: Option<SweepRow>,
    /// What is known of the cluster.
    pub topology: ClusterRow,
    /// Number of flows.
    pub flows: usize,
    /// Flows that fit.
    pub flow_capacity: u32,
    /// The relay, if it is enabled.
    pub relay: Option<RelayRow>,
    /// What happened to the questions that the names plane got: `answered` from what is known of the cluster, `forwarded`
    /// to a name server of this host and answered, `unanswered` by any, `refused`, `malformed`, `overflow`.
    #[serde(default)]
    pub questions: BTreeMap<String, u64>,
    /// What is answered to DNS questions of containers whatever server they were sent to, if anything.
    #[serde(default)]
    pub captured: Option<CapturedRow>,
    /// Every counter, by its label.
    pub counters: BTreeMap<String, u64>,
}

/// A loaded program. Field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramRow {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// How often it ran, and for how long, in nanoseconds, while the kernel counted it (`kernel.bpf_stats_enabled`).
    pub runs: u64,
    pub run_time_ns: u64,
}

/// An interface that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRow {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// The program that hangs there; none if attaching failed.
    pub program: Option<String>,
    /// How XDP forwards there: `native` or `generic`; none if it does not.
    pub xdp: Option<String>,
    /// Whether it was attached before this agent started, and taken over.
    pub adopted: bool,
    /// Why attaching failed.
    pub error: Option<String>,
}

/// Where a canonical authority comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanonicalSource {
    /// The configuration.
    Configured,
    /// What is known of the cluster.
    Topology,
    /// The node announced it.
    Learned,
    /// The node has not announced it yet.
    Unknown,
}

/// The aliases that an endpoint answers to: `"any"` or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Aliases {
    /// The word `any`.
    Any(String),
    /// A list.
    Listed(Vec<String>),
}

/// An endpoint, or an instance of one that listens on any address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub protocol: String,
    /// As configured.
    pub listen: String,
    /// The address at which the names were learned.
    pub address: Option<String>,
    /// The authority by which the node knows itself.
    pub canonical: Option<String>,
    /// Where that comes from.
    pub canonical_source: CanonicalSource,
    /// The actor system.
    pub system: Option<String>,
    /// What it answers to.
    pub aliases: Aliases,
    /// Number of flows.
    pub flows: usize,
}

/// An alias as one client uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRow {
    /// The alias.
    pub alias: String,
    /// The endpoint's name.
    pub endpoint: String,
    /// The endpoint's address.
    pub address: String,
    /// The client's address, as the endpoint sees it.
    pub client: String,
    /// The clients for which it stands now, if that is an address of truename's (SNAT); some of them, if they are many.
    pub behind: Vec<String>,
    /// Translations towards the endpoint.
    pub inbound: u64,
    /// Translations away from it.
    pub outbound: u64,
    /// When it was seen first.
    pub first_seen: Option<Timestamp>,
    /// When it was seen last.
    pub last_seen: Option<Timestamp>,
    /// Whether it is longer than the canonical name: connections are relayed or left alone.
    pub no_fit: bool,
    /// Whether connections of this client are relayed.
    pub relayed: bool,
}

/// The relay. Counts are since the agent started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRow {
    /// Endpoints that have a relay.
    pub endpoints: usize,
    /// Connections that are open.
    pub connections: u64,
    /// As many as may be open.
    pub capacity: u64,
    /// Connections that were relayed.
    pub relayed: u64,
    /// Connections that were reset because there were too many.
    pub refused: u64,
    /// Connections that were reset because the endpoint did not answer.
    pub failed: u64,
    /// Connections that were reset because the client sent no message in time.
    pub silent: u64,
    /// Frames that passed unchanged because they could not be translated with certainty.
    pub unchanged: u64,
}

/// What is answered to DNS questions of containers. Counts are since the tables were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedRow {
    /// The hosts of the cluster that are answered for.
    pub hosts: Vec<String>,
    /// The interfaces that questions come in by.
    pub interfaces: Vec<String>,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that went on to the server that they were sent to: for other names, or not plain ones.
    pub passed: u64,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// The authority that it announced.
    pub announced: Option<String>,
    /// Its actor system.
    pub system: Option<String>,
    /// The address that it was seen at, as the endpoint sees it.
    pub client: String,
    /// The clients for which it stands now, if that is an address of truename's (SNAT); some of them, if they are many.
    pub behind: Vec<String>,
    /// The name of the endpoint that it talks to.
    pub endpoint: String,
    /// The endpoint's address.
    pub address: String,
    /// The alias that it used last.
    pub alias: Option<String>,
    /// When it was seen last.
    pub last_seen: Option<Timestamp>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// When.
    pub time: Option<Timestamp>,
    /// What: a label of [`truename_common::layout::EventKind`].
    pub kind: String,
    /// The client's address and port.
    pub client: String,
    /// The endpoint's address and port.
    pub address: String,
    /// The endpoint's name.
    pub endpoint: String,
    /// The name it is about.
    pub name: Option<String>,
    /// Why a flow was left alone: the label of a counter; or the direction, `inbound` or `outbound`.
    pub detail: Option<String>,
}
