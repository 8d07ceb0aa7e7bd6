//! What the control API tells of services. Field names are stable.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A target of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTarget {
    /// The service's name.
    pub service: String,
    /// The address and port of the target.
    pub target: SocketAddr,
}

impl ServiceTarget {
    /// The fields of a request about it.
    pub const FIELDS: &[&str] = &["service", "target"];
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// As configured.
    pub listen: String,
    /// The aliases that the kernel knows.
    pub aliases: Vec<String>,
    /// What it stands for.
    pub targets: Vec<TargetRow>,
    /// Connections that are known.
    pub connections: usize,
    /// How many of them are in which state: labels of [`truename_common::layout::ConntrackState`].
    pub states: BTreeMap<String, usize>,
    /// Those of them whose target has not answered: connections that are opening, attempts that are not given up yet, and
    /// streams over UDP that go one way only.
    pub opening: usize,
    /// Attempts that were refused since the agent started, as far as events tell: a client that tries again counts again.
    pub refused: u64,
    /// `ok`, `changing` while connections are looked for that stay, `no target`, `left out`, or `no answer` if a target has
    /// answered none of its connections of the last minute.
    pub state: String,
}

/// A target of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRow {
    /// Its address and port; absent while nobody is known who has the role.
    pub address: Option<String>,
    /// The role by which it is configured.
    pub role: Option<String>,
    /// Its share of new connections; 0 for one that is not configured any more.
    pub weight: u32,
    /// Whether it takes no new connections because somebody asked for that.
    #[serde(default)]
    pub draining: bool,
    /// Whether it is this host.
    pub local: bool,
    /// The address that it sees instead of the client's.
    pub source: Option<String>,
    /// Connections that go to it.
    pub connections: usize,
    /// Those of the last minute that it has answered; over TCP, as the next two.
    pub answered: usize,
    /// Those of the last minute that it has not answered within three seconds.
    pub unanswered: usize,
    /// Those of the last minute that it has refused by a reset.
    pub reset: usize,
}

/// What a sweep for connections that are over did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepRow {
    /// When it ended.
    pub time: Timestamp,
    /// Connections and flows that were looked at.
    pub scanned: usize,
    /// Those that were forgotten.
    pub removed: usize,
    /// How long it took, in microseconds.
    pub took_us: u64,
}
