//! The configuration: a TOML file, flags, and what is valid.
//!
//! [`File`] reads a file and knows lines, [`Flags`] holds what the command line adds, and
//! [`Config`] is the validated sum of both. Nothing here touches the kernel.

mod cluster;
mod datapath;
mod derive;
mod error;
mod file;
mod flags;
mod frontend;
pub mod ha;
pub mod index;
mod listen;
mod names;
mod origin;
mod paths;
pub(crate) mod reader;
mod relay;
mod role;
mod selector;
mod service;
mod services;
mod show;
mod sources;
#[cfg(test)]
mod tests;
pub mod topology;
mod validate;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
};

use crate::name::Authority;

pub use cluster::{Cluster, ClusterError};
pub use datapath::{Datapath, Netfilter, Ports, TIMEOUT_KEYS, Timeouts, WhenFull, Xdp, seconds};
pub use derive::{Derivation, KnownPort};
pub use error::{ConfigError, without_password};
pub use file::{DEFAULT_FILE, File};
pub use flags::{EndpointFlag, Flags, ServiceFlag};
pub use frontend::Frontend;
pub use listen::{Listen, ListenError};
pub use names::{NameServers, NamesPlane};
pub use origin::Origin;
pub use paths::Paths;
pub use relay::Relay;
pub use role::{Role, RoleError};
pub use selector::{Selector, SelectorError};
pub use service::{OnChange, Place, Service, Snat, Target, TargetError, Transport};
pub use show::to_toml;
pub use sources::Sources;

/// Where the control socket is without configuration.
pub const DEFAULT_SOCKET: &str = "/run/truename/control.sock";
/// Where the pins are without configuration.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/truename";
/// Where metrics and health are served without configuration.
pub const DEFAULT_METRICS: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9464));
/// Endpoints that fit the kernel table.
pub const MAX_ENDPOINTS: usize = 1024;
/// Listed aliases, of all endpoints, that fit the kernel table.
pub const MAX_ALIASES: usize = 4096;

/// A validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[agent]`.
    pub agent: Agent,
    /// `[datapath]`.
    pub datapath: Datapath,
    /// `[[endpoint]]`, in their order.
    pub endpoints: Vec<Endpoint>,
    /// `[[service]]`, in their order.
    pub services: Vec<Service>,
    /// `[topology]`.
    pub topology: topology::Topology,
    /// `[relay]`.
    pub relay: Relay,
    /// `[frontend]`.
    pub frontend: Frontend,
    /// `[names]`.
    pub names: NamesPlane,
    /// What was not made of what is known of the cluster, and why: a sentence each.
    pub not_derived: Vec<String>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Whether DNS questions of containers for names of the cluster are answered, whatever server they were sent to.
    pub fn captures_names(&self) -> bool {
        let follows_cluster = !self.topology.cluster.is_empty();
        self.names.capture.unwrap_or(follows_cluster)
    }

    /// Whether connections whose alias cannot be translated in place are relayed.
    pub fn relays(&self) -> bool {
        let follows_cluster = !self.topology.cluster.is_empty();
        self.relay.enabled.unwrap_or(follows_cluster)
    }

    /// The addresses of services, but for those that stand for all of the host's.
    pub fn aliases(&self) -> impl Iterator<Item = IpAddr> {
        self.services
            .iter()
            .filter_map(|service| service.listen.address)
    }
}

/// `[agent]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The Unix socket of the control API.
    pub control_socket: PathBuf,
    /// Where programs, links and tables are pinned.
    pub bpffs: PathBuf,
    /// Where metrics and health are served over HTTP, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// What is logged; the variable `RUST_LOG` overrides it.
    pub log: log::LevelFilter,
}

/// An element of `interfaces`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What it selects.
    pub selector: Selector,
    /// Where it was written.
    pub origin: Origin,
}

/// `[[endpoint]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Unique.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it listens.
    pub listen: Listen,
    /// The authority by which the node knows itself; learned if absent.
    pub canonical: Option<Authority>,
    /// The aliases it answers to.
    pub aliases: Aliases,
    /// Where it was written.
    pub origin: Origin,
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Classic Akka or Pekko remoting over TCP.
    Pekko,
}

/// Which aliases an endpoint answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aliases {
    /// All.
    Any,
    /// These.
    Listed(Vec<Authority>),
}

impl Protocol {
    /// All protocols.
    pub const ALL: &'static [Self] = &[Self::Pekko];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pekko => "pekko",
        }
    }

    /// The number in the kernel tables.
    pub const fn to_layout(self) -> truename_common::layout::Protocol {
        match self {
            Self::Pekko => truename_common::layout::Protocol::Pekko,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|protocol| protocol.name() == text)
            .ok_or_else(|| {
                if text == "akka" {
                    return "write \"pekko\", which stands for Akka's remoting, too".to_owned();
                }
                let names: Vec<_> = Self::ALL.iter().map(|protocol| protocol.name()).collect();
                format!("this version translates {}", names.join(", "))
            })
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            control_socket: DEFAULT_SOCKET.into(),
            bpffs: DEFAULT_BPFFS.into(),
            metrics: Some(DEFAULT_METRICS),
            log: log::LevelFilter::Info,
        }
    }
}
