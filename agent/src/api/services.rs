//! What the control API tells of services, and how flows are chosen. Field names are stable.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{FlowRow, Timestamp};

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

/// Which flows are meant; nothing stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowFilter {
    /// Those of this service or endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Those of this client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Those in this state: of the connection, or of its translation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Those to this target or endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<IpAddr>,
    /// Those to this port: the one that the client addresses, or the target's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Those whose client names the endpoint so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// So many of them at the most, the latest. Only to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
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

impl FlowFilter {
    /// The fields of a filter.
    pub const FIELDS: &[&str] = &[
        "service", "client", "state", "target", "port", "alias", "limit",
    ];
    /// Those of a filter of what is forgotten.
    pub const FIELDS_OF_FLUSH: &[&str] = &["service", "client", "state", "target", "port", "alias"];

    /// Whether a flow is meant.
    pub fn admits(&self, row: &FlowRow) -> bool {
        let is_of = |name: &String| row.service.as_ref() == Some(name) || row.endpoint == *name;
        let at = |text: &str| text.parse::<SocketAddr>().ok();
        let has = |text: &str, wanted: &IpAddr| {
            at(text).is_some_and(|at| at.ip() == wanted.to_canonical())
        };
        let addressed = [Some(&row.address), row.via.as_ref()];
        let is_at = |port: &u16| {
            let mut addressed = addressed.iter().flatten();
            addressed.any(|text| at(text).is_some_and(|at| at.port() == *port))
        };
        let is_called = |alias: &String| row.alias.as_ref() == Some(alias);
        let is_in =
            |state: &String| row.connection.as_ref() == Some(state) || row.state.label() == state;
        self.service.as_ref().is_none_or(is_of)
            && self.client.is_none_or(|client| has(&row.client, &client))
            && self.target.is_none_or(|target| has(&row.address, &target))
            && self.port.as_ref().is_none_or(is_at)
            && self.alias.as_ref().is_none_or(is_called)
            && self.state.as_ref().is_none_or(is_in)
    }
}
