//! What happens to a packet, step by step, by the tables as they are: the same code over the same
//! tables as in the kernel program ([`truename_common::nat`]), which changes nothing.

mod asked;
mod step;
#[cfg(test)]
mod tests;
mod walk;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use truename_common::{
    layout::{Authority, Conntrack, Endpoint, FiveTuple, Names, Service, Settings, Socket},
    nat,
};

pub use asked::{Asked, Found, Host, Party};
pub use step::{Begins, Step};
pub use walk::explain;

/// The source port of a question that has none: an example of any.
pub const EXAMPLE_PORT: u16 = 40_000;

/// A kind of packet: of what protocol, from where, to where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Who sends it.
    pub from: IpAddr,
    /// From which port; any if absent.
    #[serde(default)]
    pub from_port: Option<u16>,
    /// To whom.
    pub to: SocketAddr,
}

impl Question {
    /// Why there can be no such packet: one sentence. The tables would have an answer all the same, which would be
    /// taken for the truth.
    pub fn impossible(&self) -> Option<String> {
        let (from, to) = (self.from.to_canonical(), self.to.ip().to_canonical());
        let is_broadcast = |address| address == IpAddr::V4(Ipv4Addr::BROADCAST);
        let why = if from.is_ipv4() != to.is_ipv4() {
            "one address is IPv4 and the other is not"
        } else if from.is_unspecified() || to.is_unspecified() {
            "an unspecified address is no host's"
        } else if from.is_multicast() || is_broadcast(from) {
            "no packet comes from many hosts"
        } else if to.is_multicast() || is_broadcast(to) {
            "what is sent to many hosts is not translated"
        } else if self.to.port() == 0 || self.from_port == Some(0) {
            "port 0 is not used"
        } else {
            return None;
        };
        Some(format!(
            "there is no packet from {} to {}: {why}",
            self.from, self.to
        ))
    }
}

/// What happens to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Who sends it.
    pub from: SocketAddr,
    /// Whether the source port is an example.
    pub example_port: bool,
    /// To whom.
    pub to: SocketAddr,
    /// The steps that it takes, in their order.
    pub steps: Vec<Step>,
    /// What happens to it.
    pub outcome: Outcome,
    /// Why it may come to nothing all the same, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Explanation {
    /// The service of the packet, and the target that it gets, if there are such.
    pub fn target(&self) -> Option<(&str, SocketAddr)> {
        let mut steps = self.steps.iter().rev();
        let target = steps.find_map(|step| match step {
            Step::Choice { target, .. } => Some(*target),
            _ => None,
        })?;
        Some((self.service()?, target))
    }

    /// The service of the packet.
    pub fn service(&self) -> Option<&str> {
        let mut steps = self.steps.iter();
        steps.find_map(|step| match step {
            Step::Service { name, .. } => name.as_deref(),
            _ => None,
        })
    }

    /// Tells by which names the packet was asked for, and what an endpoint does with the one that its client uses.
    pub fn name(&mut self, names: Vec<Step>, alias: Option<&str>, is_relayed: bool) {
        let endpoint = self.steps.iter().find_map(|step| match step {
            Step::Endpoint {
                canonical, aliases, ..
            } => Some((canonical.clone(), aliases.clone())),
            _ => None,
        });
        if let (Some(alias), Some((canonical, aliases))) = (alias, endpoint) {
            let is_admitted =
                aliases.is_none_or(|all| all.iter().any(|admitted| admitted == alias));
            self.steps.push(Step::Alias {
                alias: alias.to_owned(),
                canonical,
                is_admitted,
                is_relayed,
            });
        }
        self.steps.splice(0..0, names);
    }

    /// Tells by which interface the packet comes or leaves. Where nothing is attached nothing becomes of it.
    pub fn arrive(&mut self, interface: String, leaves: bool, attached: bool) {
        if !attached {
            self.outcome = Outcome::Unchanged;
        }
        let hook = Step::Hook {
            interface,
            leaves,
            attached,
        };
        self.steps.insert(0, hook);
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It gets these addresses.
    Translated {
        /// The source.
        from: SocketAddr,
        /// The destination.
        to: SocketAddr,
        /// Whether it begins a connection.
        begins: bool,
    },
    /// It is dropped. Its sender may be told by an ICMP error.
    Refused {
        /// The label of the counter that counts it.
        counter: String,
    },
    /// Its addresses stay.
    Unchanged,
}

/// The tables, and what else the answer depends on. A table that cannot be read is as if it were
/// empty, as for the kernel program.
pub trait Source: nat::Tables {
    /// An entry of `PORTS`.
    fn port_flags(&self, port: u16) -> u8;
    /// An entry of `SERVICES`.
    fn service(&self, alias: &Socket) -> Option<Service>;
    /// All aliases, to name a near miss.
    fn aliases(&self) -> Vec<Socket>;
    /// An entry of `CONNTRACK`.
    fn connection(&self, key: &FiveTuple) -> Option<Conntrack>;
    /// The entry of `PORT_BITMAP` for a hash.
    fn tried(&self, hash: u64) -> u32;
    /// `SETTINGS`.
    fn settings(&self) -> Settings;
    /// An entry of `ENDPOINTS`.
    fn endpoint(&self, at: &Socket) -> Option<Endpoint>;
    /// An entry of `NAMES`.
    fn names(&self, at: &Socket) -> Option<Names>;
    /// The entries of `LISTED` of an endpoint.
    fn listed(&self, endpoint: u32) -> Vec<Authority>;
    /// The name of a service in the configuration, by an alias.
    fn service_name(&self, alias: &Socket) -> Option<String>;
    /// The name of an endpoint in the configuration.
    fn endpoint_name(&self, at: &Socket) -> Option<String>;
    /// Whether the host forwards packets of the family: its own, or those of others.
    fn forwards(&self, v4: bool, own: bool) -> bool;
    /// The kernel's clock.
    fn now_ns(&self) -> u64;
}
