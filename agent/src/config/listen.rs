//! The address an endpoint listens on.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use truename_common::layout::{Socket, TCP, bytes};

use crate::name::{AuthorityError, parse_port, split};

/// An address and a port; no address stands for all of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    /// `None` for `*`, `0.0.0.0` and `[::]`.
    pub address: Option<IpAddr>,
    /// From 1.
    pub port: u16,
}

/// Why a text is no listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// The port or the brackets.
    #[error(transparent)]
    Syntax(#[from] AuthorityError),
    /// A name where an address must be.
    #[error("the host must be an IP address of this host, or * for all of them")]
    NotAnAddress,
    /// An address nobody listens on.
    #[error("nothing can listen on a multicast address")]
    Multicast,
}

impl Listen {
    /// The key in the kernel tables: all zero for any address.
    pub fn to_socket(self) -> Socket {
        let address = match self.address {
            None => [0; 16],
            Some(address) => bytes(address),
        };
        Socket {
            address,
            port: self.port,
            protocol: TCP,
            pad: 0,
        }
    }

    /// Whether a packet could be meant for both.
    pub fn overlaps(self, other: Self) -> bool {
        self.port == other.port
            && (self.address.is_none() || other.address.is_none() || self.address == other.address)
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = split(text)?;
        let port = parse_port(port)?;
        let address = match host {
            "*" => {
                return Ok(Self {
                    address: None,
                    port,
                });
            }
            "" => return Err(AuthorityError::NoHost.into()),
            _ => match host
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                Some(inner) => IpAddr::from(
                    inner
                        .parse::<Ipv6Addr>()
                        .map_err(|_| AuthorityError::BadIpv6)?,
                ),
                None => IpAddr::from(
                    host.parse::<Ipv4Addr>()
                        .map_err(|_| ListenError::NotAnAddress)?,
                ),
            },
        };
        let address = address.to_canonical();
        if address.is_multicast() {
            return Err(ListenError::Multicast);
        }
        Ok(Self {
            address: (!address.is_unspecified()).then_some(address),
            port,
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => write!(f, "*:{}", self.port),
            Some(IpAddr::V4(v4)) => write!(f, "{v4}:{}", self.port),
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use truename_common::layout::v4_mapped;

    use super::*;

    fn listen(text: &str) -> Listen {
        text.parse().unwrap()
    }

    #[test]
    fn reads_addresses() {
        for any in ["*:6123", "0.0.0.0:6123", "[::]:6123"] {
            assert_eq!(listen(any).to_string(), "*:6123");
            assert_eq!(listen(any).to_socket().address, [0; 16]);
        }
        assert_eq!(
            listen("10.0.0.1:6123").to_socket().address,
            v4_mapped([10, 0, 0, 1])
        );
        assert_eq!(listen("[::ffff:10.0.0.1]:6123"), listen("10.0.0.1:6123"));
        assert_eq!(listen("[fd00::1]:6123").to_string(), "[fd00::1]:6123");
    }

    #[test]
    fn refuses_what_cannot_listen() {
        for (text, error) in [
            ("jobmanager:6123", ListenError::NotAnAddress),
            ("224.0.0.1:6123", ListenError::Multicast),
            ("[ff02::1]:6123", ListenError::Multicast),
            ("10.0.0.1", ListenError::Syntax(AuthorityError::NoPort)),
            (":6123", ListenError::Syntax(AuthorityError::NoHost)),
            ("10.0.0.1:0", ListenError::Syntax(AuthorityError::BadPort)),
            (
                "fd00::1:6123",
                ListenError::Syntax(AuthorityError::NoBrackets),
            ),
        ] {
            assert_eq!(text.parse::<Listen>(), Err(error), "{text}");
        }
    }

    #[test]
    fn wildcards_overlap() {
        assert!(listen("*:1").overlaps(listen("10.0.0.1:1")));
        assert!(listen("10.0.0.1:1").overlaps(listen("10.0.0.1:1")));
        assert!(!listen("10.0.0.2:1").overlaps(listen("10.0.0.1:1")));
        assert!(!listen("*:1").overlaps(listen("*:2")));
    }
}
