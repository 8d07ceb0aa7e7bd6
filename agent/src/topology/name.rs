//! Names as other software writes them, and the grammar that they must have to be kept: the
//! parsers are the only way to make one of these values, so what is in a topology can be shown and
//! put into a kernel table as it is.

use std::{fmt, str::FromStr};

use truename_common::layout::SYSTEM_MAX;

use crate::config::{Authority, AuthorityError};

/// Longest identifier of a worker, in bytes.
pub const ID_MAX: usize = 255;
/// How much of a refused text is shown, in characters.
const SHOWN_MAX: usize = 80;

/// Why a text from outside is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The `host:port` in it.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// No actor path, or one of a transport that is not known.
    #[error("it must begin with akka or pekko, .tcp or .ssl.tcp, and ://")]
    Scheme,
    /// An actor path without a host: it is of use in its own process only.
    #[error("it has no host")]
    Local,
    /// The name of the actor system.
    #[error("the actor system must have 1 to {SYSTEM_MAX} letters, digits, hyphens or underscores")]
    System,
    /// No web address.
    #[error("it must begin with http:// or https://")]
    Web,
    /// A web address with more in its authority than host and port.
    #[error("user names are not used in addresses")]
    UserInfo,
    /// An identifier.
    #[error("an identifier has 1 to {ID_MAX} printable ASCII characters and no space")]
    Id,
    /// A session number.
    #[error("it is no UUID")]
    Session,
}

/// A text from outside for a message: escaped and not longer than a line.
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == SHOWN_MAX {
            out.push('…');
            break;
        }
        if matches!(character, ' '..='~') {
            out.push(character);
        } else {
            out.extend(character.escape_default());
        }
    }
    out
}

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

/// The address of a REST server, the front part of a URL: `http://jm:8081`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebAddress {
    authority: Authority,
    tls: bool,
}

impl WebAddress {
    /// From its parts.
    pub const fn new(tls: bool, authority: Authority) -> Self {
        Self { authority, tls }
    }

    /// Its `host:port`.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Whether it is `https`.
    pub const fn tls(&self) -> bool {
        self.tls
    }
}

impl FromStr for WebAddress {
    type Err = NameError;

    /// Reads a URL; what follows the authority is dropped, and the port may be missing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tls, rest) = if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else {
            return Err(NameError::Web);
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let authority = &rest[..end];
        if authority.contains('@') {
            return Err(NameError::UserInfo);
        }
        let authority = match authority.parse() {
            Err(AuthorityError::NoPort) if !authority.ends_with(':') => {
                format!("{authority}:{}", if tls { 443 } else { 80 }).parse()?
            }
            parsed => parsed?,
        };
        Ok(Self { authority, tls })
    }
}

impl fmt::Display for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// The identifier of a worker; Flink's ResourceID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |byte: u8| byte.is_ascii_graphic();
        if !(1..=ID_MAX).contains(&text.len()) || !text.bytes().all(good) {
            return Err(NameError::Id);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a leader's term, a UUID: another one means another term, even at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session(u128);

impl Session {
    /// From the number.
    pub const fn new(number: u128) -> Self {
        Self(number)
    }
}

impl FromStr for Session {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let groups: Vec<&str> = text.split('-').collect();
        let hexadecimal = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            || !groups.iter().all(hexadecimal)
        {
            return Err(NameError::Session);
        }
        u128::from_str_radix(&groups.concat(), 16)
            .map(Self)
            .map_err(|_| NameError::Session)
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hexadecimal = format!("{:032x}", self.0);
        let mut from = 0;
        for to in [8, 12, 16, 20, 32] {
            if from > 0 {
                f.write_str("-")?;
            }
            f.write_str(&hexadecimal[from..to])?;
            from = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("pekko.tcp://flink@b@a:1", AuthorityError::BadHost.into()),
        ] {
            assert_eq!(text.parse::<RpcAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn reads_urls() {
        for (text, shown) in [
            ("http://jm:8081/overview?x", "http://jm:8081"),
            ("https://jm.example.org", "https://jm.example.org:443"),
            ("http://[::1]/", "http://[::1]:80"),
        ] {
            assert_eq!(text.parse::<WebAddress>().unwrap().to_string(), shown);
        }
        for (text, error) in [
            ("ftp://jm:21", NameError::Web),
            ("jm:8081", NameError::Web),
            ("http://user:secret@jm:8081", NameError::UserInfo),
            ("http://", AuthorityError::NoHost.into()),
            ("http://jm:/", AuthorityError::NoPort.into()),
            ("http://j\u{7}m", AuthorityError::BadHost.into()),
        ] {
            assert_eq!(text.parse::<WebAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn reads_identifiers_and_sessions() {
        for text in ["10.0.0.1:6122-a1b2c3", "taskmanager-1-1", "container_e01_2"] {
            assert_eq!(text.parse::<Id>().unwrap().as_str(), text);
        }
        for text in ["", "a b", "a\u{1b}[31m", "ä", &"x".repeat(256)] {
            assert_eq!(text.parse::<Id>(), Err(NameError::Id));
        }
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(text.parse::<Session>().unwrap().to_string(), text);
        for text in [
            "",
            "00112233445566778899aabbccddeeff",
            "+0112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(text.parse::<Session>(), Err(NameError::Session));
        }
    }

    #[test]
    fn shows_nothing_that_a_terminal_obeys() {
        assert_eq!(shown("a\u{1b}[2Jb\n\u{9b}"), "a\\u{1b}[2Jb\\n\\u{9b}");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), SHOWN_MAX + 1);
    }
}
