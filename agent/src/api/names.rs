//! The rows of `truename names`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::discovery::How;

/// A canonical name: one by which a node announces itself. Field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRow {
    /// `host:port`, as announced; the host is a DNS name, or an address.
    pub name: String,
    /// Whose it is: `leader rpc`, `leader rest`, `endpoint NAME`, `worker ID`, `member`, `peer`, or
    /// `address` if there is nothing to say but where it is.
    pub what: Vec<String>,
    /// Where that is, seen from the agent's host; none if it is not known.
    pub addresses: Vec<IpAddr>,
    /// How the addresses were found: `address` if the name says it, `file` of the operator, `said` by a server that answers there, `lookup` by the
    /// hosts file or DNS of the agent's host, `seen` in a handshake.
    pub how: Option<How>,
    /// The source that says so: the name of a topology source, or none for `address` and `lookup`.
    #[serde(default)]
    pub source: Option<String>,
    /// When that was seen or confirmed last.
    #[serde(default)]
    pub last_seen: Option<Timestamp>,
    /// Other addresses that this very name was said to be at or seen at, the best evidence first.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// Whether DNS questions of containers for the host are answered, whatever server they were sent to.
    #[serde(default)]
    pub captured: bool,
    /// Why there is no address or no better one, or where else the name was seen.
    pub note: Option<String>,
}

/// An address that a name has by another account. Field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// Who says so.
    pub source: String,
    /// When it was seen or confirmed last.
    pub last_seen: Option<Timestamp>,
}
