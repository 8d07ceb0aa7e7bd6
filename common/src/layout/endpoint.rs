use super::{Authority, System, plain};

/// What an endpoint speaks.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Classic Akka/Pekko remoting over TCP.
    Pekko = 1,
}

/// Which aliases an endpoint answers to.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A well-formed message on this socket is meant for this node.
    Any = 0,
    /// Only the aliases in [`super::map::LISTED`].
    Listed = 1,
}

/// A listening address whose traffic is translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Number of the endpoint in the configuration's order; stable for one generation of it.
    pub id: u32,
    /// A [`Protocol`].
    pub protocol: u8,
    /// A [`Policy`].
    pub policy: u8,
    pub pad: [u8; 2],
}

/// The names a node knows itself by.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `CLOCK_MONOTONIC` nanoseconds when learned; 0 if configured.
    pub learned_ns: u64,
    pub canonical: Authority,
    /// Empty until learned.
    pub system: System,
    /// 1 if the canonical authority came from the configuration: it is then never overwritten.
    pub configured: u8,
    pub pad: [u8; 3],
}

/// Key of [`super::map::LISTED`]: an alias that an endpoint with [`Policy::Listed`] answers to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListedAlias {
    /// [`Endpoint::id`].
    pub endpoint: u32,
    pub alias: Authority,
    pub pad: [u8; 2],
}

plain!(Endpoint = 8, Names = 336, ListedAlias = 264);

impl Names {
    /// The entry for an endpoint whose canonical authority is configured.
    pub fn configured(canonical: Authority) -> Self {
        Self {
            canonical,
            configured: 1,
            ..Self::default()
        }
    }
}
