//! The address of an actor system.

use std::{fmt, str::FromStr};

use truename_common::layout::SYSTEM_MAX;

use super::{Authority, NameError};

/// The transport of an actor path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// `akka`: no transport is named, as Artery does.
    Akka,
    /// `akka.tcp`
    AkkaTcp,
    /// `akka.ssl.tcp`
    AkkaSslTcp,
    /// `pekko`: no transport is named, as Artery does.
    Pekko,
    /// `pekko.tcp`
    PekkoTcp,
    /// `pekko.ssl.tcp`
    PekkoSslTcp,
}

impl Scheme {
    /// All schemes.
    pub const ALL: [Self; 6] = [
        Self::Akka,
        Self::AkkaTcp,
        Self::AkkaSslTcp,
        Self::Pekko,
        Self::PekkoTcp,
        Self::PekkoSslTcp,
    ];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Akka => "akka",
            Self::AkkaTcp => "akka.tcp",
            Self::AkkaSslTcp => "akka.ssl.tcp",
            Self::Pekko => "pekko",
            Self::PekkoTcp => "pekko.tcp",
            Self::PekkoSslTcp => "pekko.ssl.tcp",
        }
    }
}

/// The address of an actor system, the front part of an actor path: `pekko.tcp://flink@jm:6123`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RpcAddress {
    authority: Authority,
    system: String,
    scheme: Scheme,
}

impl RpcAddress {
    /// From its parts.
    ///
    /// # Errors
    /// The system has no valid name.
    pub fn new(scheme: Scheme, system: &str, authority: Authority) -> Result<Self, NameError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=SYSTEM_MAX).contains(&system.len()) || !system.bytes().all(good) {
            return Err(NameError::System);
        }
        Ok(Self {
            authority,
            system: system.to_owned(),
            scheme,
        })
    }

    /// Its transport.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its actor system.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// The `host:port` that the node announces.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl FromStr for RpcAddress {
    type Err = NameError;

    /// Reads an actor path; what follows the authority is dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(NameError::Scheme)?;
        let scheme = Scheme::ALL
            .into_iter()
            .find(|known| known.name() == scheme)
            .ok_or(NameError::Scheme)?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (system, authority) = rest[..end].split_once('@').ok_or(NameError::Local)?;
        Self::new(scheme, system, authority.parse()?)
    }
}

impl fmt::Display for RpcAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}@{}",
            self.scheme.name(),
            self.system,
            self.authority
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::AuthorityError;

    #[test]
    fn reads_actor_paths() {
        for (text, shown) in [
            (
                "pekko.tcp://flink@jobmanager:6123/user/rpc/dispatcher_1",
                "pekko.tcp://flink@jobmanager:6123",
            ),
            (
                "akka.ssl.tcp://flink@[fd00::1]:1",
                "akka.ssl.tcp://flink@[fd00::1]:1",
            ),
            (
                "pekko://my-system@10.0.0.1:25520",
                "pekko://my-system@10.0.0.1:25520",
            ),
        ] {
            assert_eq!(text.parse::<RpcAddress>().unwrap().to_string(), shown);
        }
        for (text, error) in [
            ("", NameError::Scheme),
            ("http://flink@a:1", NameError::Scheme),
            ("akka.udp://flink@a:1", NameError::Scheme),
            ("pekko.tcp://flink/user/x", NameError::Local),
            ("pekko.tcp://@a:1", NameError::System),
            ("pekko.tcp://fl\u{1b}ink@a:1", NameError::System),
            ("pekko.tcp://flink@a", AuthorityError::NoPort.into()),
            ("pekko.tcp://flink@a\n:1", AuthorityError::BadHost.into()),
            ("pekko.tcp://flink@b@a:1", AuthorityError::WithScheme.into()),
        ] {
            assert_eq!(text.parse::<RpcAddress>(), Err(error), "{text}");
        }
    }
}
