//! `[[service]]`: an alias address and the targets that it stands for.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use truename_common::layout::{SLOTS_PER_SERVICE, TCP, UDP};

use super::{ConfigError, Listen, ListenError, Origin, file::check_name, reader::*};

/// The keys of a service.
pub(super) const KEYS: &[&str] = &["name", "listen", "protocol", "target", "snat"];
/// The keys of a target that is written as a table.
const TARGET_KEYS: &[&str] = &["address", "weight"];
/// The largest weight of a target.
const WEIGHT_MAX: u32 = 65_535;

/// An address that peers use, and what they reach in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among services.
    pub name: String,
    /// What is translated.
    pub protocol: Transport,
    /// The alias: no address stands for all of this host's.
    pub listen: Listen,
    /// At least one, all of one address family.
    pub targets: Vec<Target>,
    /// Whether targets see this host's address instead of the client's.
    pub snat: Snat,
    /// Where it was written.
    pub origin: Origin,
}

/// A fixed target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where connections go.
    pub socket: SocketAddr,
    /// Its share of the new connections among those of the service; 0 takes none.
    pub weight: u32,
    /// Where it was written.
    pub origin: Origin,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// When the source address is translated, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Snat {
    /// Unless the target is this host.
    #[default]
    Auto,
    /// For every target.
    Always,
    /// For none: the answers must come back through this host by themselves.
    Never,
}

impl Service {
    /// Entries that it takes of the table of slots.
    pub const fn slots(&self) -> usize {
        match self.targets.len() {
            0 | 1 => 1,
            _ => SLOTS_PER_SERVICE as usize,
        }
    }
}

impl Transport {
    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

impl Snat {
    const ALL: [Self; 3] = [Self::Auto, Self::Always, Self::Never];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Transport {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err("write tcp or udp"),
        }
    }
}

impl FromStr for Snat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|snat| snat.name() == text)
            .ok_or("write auto, always or never")
    }
}

/// Why a text is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// An address and a port are needed.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Any address.
    #[error("a target is one address; write address:port, e.g. 10.0.0.1:8081")]
    Any,
    /// A target that is found at run time.
    #[error("this version has only fixed targets; write address:port, e.g. 10.0.0.1:8081")]
    NotFixed,
}

/// Reads `address:port`.
///
/// # Errors
/// When the text is something else.
pub(super) fn parse_target(text: &str) -> Result<SocketAddr, TargetError> {
    if ["leader:", "workers:", "worker:"]
        .iter()
        .any(|start| text.starts_with(start))
    {
        return Err(TargetError::NotFixed);
    }
    match text.parse::<Listen>()? {
        Listen {
            address: Some(address),
            port,
        } => Ok(SocketAddr::new(address, port)),
        _ => Err(TargetError::Any),
    }
}

/// Reads a `[[service]]`.
pub(super) fn read(section: &Section<'_>) -> Result<Service, ConfigError> {
    let entry = section.need("name", "\"rest\"")?;
    let name = entry.string()?;
    check_name(name).map_err(|reason| entry.bad(name, reason))?;
    Ok(Service {
        name: name.to_owned(),
        protocol: section.need("protocol", "\"tcp\"")?.parse()?,
        listen: section.need("listen", "\"10.0.0.10:8081\"")?.parse()?,
        targets: read_targets(&section.need("target", "\"10.0.0.1:8081\"")?)?,
        snat: section
            .get("snat")
            .map_or(Ok(Snat::Auto), |entry| entry.parse())?,
        origin: section.origin(),
    })
}

/// `"address:port"`, or a list of that and of `{ address, weight }`.
fn read_targets(entry: &Entry<'_>) -> Result<Vec<Target>, ConfigError> {
    let Some(items) = entry.items() else {
        return Ok(vec![read_target(entry)?]);
    };
    if items.is_empty() {
        return Err(entry.bad("[]", "name at least one target, e.g. \"10.0.0.1:8081\""));
    }
    items.iter().map(read_target).collect()
}

fn read_target(entry: &Entry<'_>) -> Result<Target, ConfigError> {
    let (address, weight) = match entry.section("a target", TARGET_KEYS)? {
        None => (entry.socket()?, 1),
        Some(section) => {
            let address = section.need("address", "\"10.0.0.1:8081\"")?.socket()?;
            let weight = section
                .get("weight")
                .map_or(Ok(1), |entry| entry.number(0, WEIGHT_MAX))?;
            (address, weight)
        }
    };
    Ok(Target {
        socket: address,
        weight,
        origin: entry.origin.clone(),
    })
}

impl Entry<'_> {
    fn socket(&self) -> Result<SocketAddr, ConfigError> {
        let text = self.string()?;
        parse_target(text).map_err(|error| self.bad(text, &error.to_string()))
    }
}

/// The word for an address family in messages.
pub(super) const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}
