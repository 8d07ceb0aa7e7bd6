//! `[[service]]`: an alias address and the targets that it stands for.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use truename_common::layout::{SLOTS_PER_SERVICE, Socket, TCP, UDP};

use super::{ConfigError, Listen, ListenError, Origin, Role, RoleError, reader::*};
use crate::name::AuthorityError;

/// The keys of a service.
pub(super) const KEYS: &[&str] = &["name", "listen", "protocol", "target", "snat", "on_change"];
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
    /// At least one; the fixed ones are of one address family.
    pub targets: Vec<Target>,
    /// Whether targets see this host's address instead of the client's.
    pub snat: Snat,
    /// What happens to connections whose target the service no longer has.
    pub on_change: OnChange,
    /// Where it was written.
    pub origin: Origin,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where connections go.
    pub place: Place,
    /// Its share of the new connections among those of the service; 0 takes none.
    pub weight: u32,
    /// Where it was written.
    pub origin: Origin,
}

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Always there.
    Fixed(SocketAddr),
    /// Where the topology or a look-up says; of several sockets, each has the target's weight.
    Role(Role),
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

/// What happens to connections whose target the service no longer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// They stay with it until they end.
    Drain,
    /// They are reset, so that their clients connect to another.
    Reset,
}

impl Service {
    /// The alias as the kernel tables have it.
    pub fn alias(&self) -> Socket {
        Socket {
            protocol: self.protocol.number(),
            ..self.listen.to_socket()
        }
    }

    /// Entries that it takes of the table of slots, as far as the configuration tells: all workers, and
    /// the addresses of a name, may be one or many.
    pub fn slots(&self) -> usize {
        match &self.targets[..] {
            [only] if !matches!(only.place, Place::Role(Role::Workers(_) | Role::Host(_))) => 1,
            [] => 1,
            _ => SLOTS_PER_SERVICE as usize,
        }
    }
}

impl Place {
    /// The socket of a fixed target.
    pub const fn fixed(&self) -> Option<SocketAddr> {
        match self {
            Self::Fixed(socket) => Some(*socket),
            Self::Role(_) => None,
        }
    }

    /// The role of one that the topology finds.
    pub const fn role(&self) -> Option<&Role> {
        match self {
            Self::Role(role) => Some(role),
            Self::Fixed(_) => None,
        }
    }
}

impl OnChange {
    const ALL: [Self; 2] = [Self::Drain, Self::Reset];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Reset => "reset",
        }
    }

    /// What is done without configuration: who leads no more has no use for its connections, and a stream of datagrams
    /// does not notice that it goes to another target, but may go on for ever.
    pub(super) fn default_for(protocol: Transport, targets: &[Target]) -> Self {
        let follows_leader = |target: &Target| {
            matches!(
                target.place,
                Place::Role(Role::LeaderRest | Role::LeaderRpc | Role::LeaderBlob)
            )
        };
        if protocol == Transport::Udp || targets.iter().all(follows_leader) {
            Self::Reset
        } else {
            Self::Drain
        }
    }
}

impl fmt::Display for Place {
    /// As it is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(socket) => socket.fmt(f),
            Self::Role(role) => role.fmt(f),
        }
    }
}

impl FromStr for Place {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (word, _) = text.split_once(':').unwrap_or((text, ""));
        if ["leader", "workers", "worker"].contains(&word) {
            return Ok(Self::Role(text.parse()?));
        }
        match text.parse() {
            Ok(Listen {
                address: Some(address),
                port,
            }) => Ok(Self::Fixed(SocketAddr::new(address, port))),
            Ok(_) => Err(TargetError::Any),
            Err(ListenError::NotAnAddress) => {
                let name = text.parse().map_err(TargetError::Name)?;
                Ok(Self::Role(Role::Host(name)))
            }
            Err(error) => Err(TargetError::Listen(error)),
        }
    }
}

impl FromStr for OnChange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or("write drain or reset")
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// An address and a port are needed.
    #[error(transparent)]
    Listen(ListenError),
    /// A name is needed.
    #[error("{0}; a target is address:port, name:port, or a role such as leader:rest")]
    Name(AuthorityError),
    /// Any address.
    #[error("a target is one address; write address:port, e.g. 10.0.0.1:8081")]
    Any,
    /// A role in the cluster is needed.
    #[error(transparent)]
    Role(#[from] RoleError),
}

/// Reads a `[[service]]`.
pub(super) fn read(section: &Section<'_>) -> Result<Service, ConfigError> {
    let entry = section.need("name", "\"rest\"")?;
    let name = entry.string()?;
    check_name(name).map_err(|reason| entry.bad(name, reason))?;
    let protocol = section.need("protocol", "\"tcp\"")?.parse()?;
    let targets = read_targets(&section.need("target", "\"10.0.0.1:8081\"")?)?;
    let on_change = match section.get("on_change") {
        Some(entry) => entry.parse()?,
        None => OnChange::default_for(protocol, &targets),
    };
    Ok(Service {
        name: name.to_owned(),
        protocol,
        listen: section.need("listen", "\"10.0.0.10:8081\"")?.parse()?,
        targets,
        snat: section
            .get("snat")
            .map_or(Ok(Snat::Auto), |entry| entry.parse())?,
        on_change,
        origin: section.origin(),
    })
}

/// `"address:port"` or a role, or a list of that and of `{ address, weight }`.
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
    let (place, weight) = match entry.section("a target", TARGET_KEYS)? {
        None => (entry.place()?, 1),
        Some(section) => {
            let place = section.need("address", "\"10.0.0.1:8081\"")?.place()?;
            let weight = section
                .get("weight")
                .map_or(Ok(1), |entry| entry.number(0, WEIGHT_MAX))?;
            (place, weight)
        }
    };
    Ok(Target {
        place,
        weight,
        origin: entry.origin.clone(),
    })
}

impl Entry<'_> {
    fn place(&self) -> Result<Place, ConfigError> {
        let text = self.string()?;
        text.parse()
            .map_err(|error: TargetError| self.bad(text, &error.to_string()))
    }
}

/// The word for an address family in messages.
pub(super) const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}
