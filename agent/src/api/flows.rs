//! What the control API tells of flows, and how flows are chosen. Field names are stable.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// What is done with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowState {
    /// No name was seen yet.
    New,
    /// The client uses the canonical name: nothing is to be done.
    Canonical,
    /// An alias is translated.
    Translated,
    /// It is not remoting, or cannot be read: nothing is done.
    LeftAlone,
    /// Both sides have finished, or one has reset.
    Closed,
    /// It goes to no endpoint: only its addresses are translated.
    Forwarded,
    /// The agent relays it, because its alias is longer than the canonical name.
    Relayed,
}

impl FlowState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::New,
        Self::Canonical,
        Self::Translated,
        Self::LeftAlone,
        Self::Closed,
        Self::Forwarded,
        Self::Relayed,
    ];

    /// The word in filters and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Canonical => "canonical",
            Self::Translated => "translated",
            Self::LeftAlone => "left_alone",
            Self::Closed => "closed",
            Self::Forwarded => "forwarded",
            Self::Relayed => "relayed",
        }
    }
}

/// A flow: a connection through a service, to an RPC endpoint, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client's address and port.
    pub client: String,
    /// The alias that the client addresses, of a connection through a service.
    pub via: Option<String>,
    /// What the target sees as the client, if that is another address or port.
    pub source: Option<String>,
    /// The endpoint's or target's address and port.
    pub address: String,
    /// The service's name.
    pub service: Option<String>,
    /// The state of a connection through a service: a label of
    /// [`truename_common::layout::ConntrackState`].
    pub connection: Option<String>,
    /// Whether the client addresses the target itself, and only its port is replaced, because a
    /// connection through an alias has it at the target.
    pub direct: bool,
    /// Bytes from the client, of a connection through a service.
    pub sent: Option<u64>,
    /// Bytes to the client.
    pub received: Option<u64>,
    /// The endpoint's name.
    pub endpoint: String,
    /// What is done with it.
    pub state: FlowState,
    /// Whether it was found in the middle.
    pub adopted: bool,
    /// The alias that the client uses.
    pub alias: Option<String>,
    /// What it is translated to.
    pub canonical: Option<String>,
    /// What the client announced.
    pub announced: Option<String>,
    /// The actor system.
    pub system: Option<String>,
    /// Frames walked towards the endpoint.
    pub frames_in: u64,
    /// Frames walked away from it.
    pub frames_out: u64,
    /// Edits towards the endpoint.
    pub edits_in: u64,
    /// Edits away from it.
    pub edits_out: u64,
    /// When it was seen first.
    pub first_seen: Option<Timestamp>,
    /// When it was seen last.
    pub last_seen: Option<Timestamp>,
    /// In how many seconds it is forgotten if nothing is seen of it. None: it ends with its connection.
    #[serde(default)]
    pub expires_in_s: Option<u64>,
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
