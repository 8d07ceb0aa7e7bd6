//! The control API: JSON lines over a Unix socket.
//!
//! A client sends one [`Request`] a line and reads one [`Response`] a line; after
//! [`Request::Monitor`] the agent sends [`Response::Event`] lines until the client hangs up. Both
//! carry the version of the API. Field names are stable.

mod client;
mod flows;
mod names;
mod problem;
mod rows;
mod server;
mod services;
pub mod time;
pub mod topology;

use serde::{Deserialize, Serialize};

use crate::explain::{Asked, Explanation};

pub use client::{Client, ClientError, Events};
pub use flows::{FlowFilter, FlowRow, FlowState};
pub use names::{Conflict, NameRow};
pub use problem::{Code, Finding, ProblemRow};
pub use rows::{
    AliasRow, Aliases, CanonicalSource, CapturedRow, EndpointRow, EventRow, InterfaceRow, PeerRow,
    ProgramRow, RelayRow, State, Status,
};
pub use server::{Server, ServerError, Service};
pub use services::{ServiceRow, ServiceTarget, SweepRow, TargetRow};
pub use time::{Clock, Timestamp};
pub use topology::{ClusterRow, LeaderRow, SourceRow, TopologyRow};

/// Version of requests and responses.
pub const API_VERSION: u32 = 1;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// The agent and its counters.
    Status,
    /// The endpoints and their names.
    Endpoints,
    /// The aliases in use.
    Aliases,
    /// The services.
    Services,
    /// The flows.
    Flows(FlowFilter),
    /// Forget these flows.
    Flush(FlowFilter),
    /// Give a target no new connections, until it is resumed or the agent ends.
    Drain(ServiceTarget),
    /// Give it new connections again.
    Resume(ServiceTarget),
    /// What happens to a packet.
    Explain(Asked),
    /// The clients.
    Peers,
    /// What is known of the cluster.
    Topology,
    /// The canonical names, and what they resolve to.
    Names,
    /// The configuration in force.
    Configuration,
    /// Events from now on.
    Monitor,
    /// Remove every trace and exit.
    Detach,
}

impl Request {
    /// The fields that a request may have besides its name.
    const fn fields(&self) -> &'static [&'static str] {
        match self {
            Self::Flows(_) => FlowFilter::FIELDS,
            Self::Flush(_) => FlowFilter::FIELDS_OF_FLUSH,
            Self::Drain(_) | Self::Resume(_) => ServiceTarget::FIELDS,
            Self::Explain(_) => Asked::FIELDS,
            Self::Status
            | Self::Endpoints
            | Self::Aliases
            | Self::Services
            | Self::Peers
            | Self::Topology
            | Self::Names
            | Self::Configuration
            | Self::Monitor
            | Self::Detach => &[],
        }
    }
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", content = "data", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Endpoints`].
    Endpoints(Vec<EndpointRow>),
    /// To [`Request::Aliases`].
    Aliases(Vec<AliasRow>),
    /// To [`Request::Services`].
    Services(Vec<ServiceRow>),
    /// To [`Request::Flows`].
    Flows(Vec<FlowRow>),
    /// To [`Request::Flush`]: how many there were.
    Flushed(usize),
    /// To [`Request::Drain`] and [`Request::Resume`]: the target as it is now.
    Target(TargetRow),
    /// To [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// To [`Request::Peers`].
    Peers(Vec<PeerRow>),
    /// To [`Request::Topology`].
    Topology(Vec<TopologyRow>),
    /// To [`Request::Names`].
    Names(Vec<NameRow>),
    /// To [`Request::Configuration`]: a file that says the same.
    Configuration(String),
    /// After [`Request::Monitor`].
    Event(EventRow),
    /// After [`Request::Monitor`]: the client was too slow for this many events.
    Missed(u64),
    /// To [`Request::Detach`], when it is done; the number of links that were removed.
    Detached(usize),
    /// The request was refused or failed.
    Error(String),
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line<T> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

impl<T> Line<T> {
    const fn new(body: T) -> Self {
        Self {
            version: API_VERSION,
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_stable() {
        let line = serde_json::to_string(&Line::new(Request::Monitor)).unwrap();
        assert_eq!(line, r#"{"version":1,"request":"monitor"}"#);
        let line =
            serde_json::to_string(&Line::new(Request::Flows(FlowFilter::default()))).unwrap();
        assert_eq!(line, r#"{"version":1,"request":"flows"}"#);
        let back: Line<Request> = serde_json::from_str(&line).unwrap();
        assert_eq!(back, Line::new(Request::Flows(FlowFilter::default())));
        let line = serde_json::to_string(&Line::new(Response::Missed(3))).unwrap();
        assert_eq!(line, r#"{"version":1,"response":"missed","data":3}"#);
        let back: Line<Response> = serde_json::from_str(&line).unwrap();
        assert_eq!(back, Line::new(Response::Missed(3)));
    }
}
