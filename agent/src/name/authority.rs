//! `host:port` as written in a name.

use std::{borrow::Borrow, fmt, net::Ipv4Addr, net::Ipv6Addr, str::FromStr};

use truename_common::layout::{self, AUTHORITY_MAX};

/// Longest host name in a DNS name.
const LABEL_MAX: usize = 63;

/// A well-formed `host:port`: the host is a DNS name, an IPv4 address or an IPv6 address in
/// brackets. It is kept as it was written: names are compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority(String);

/// Why a text is no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// No colon, or nothing behind it.
    #[error("a port is missing; write host:port, e.g. jobmanager:6123")]
    NoPort,
    /// Not a number from 1 to 65535 in its shortest form.
    #[error("the port must be a number from 1 to 65535 without leading zeros")]
    BadPort,
    /// Nothing before the colon.
    #[error("the host is missing; write host:port, e.g. jobmanager:6123")]
    NoHost,
    /// Brackets that do not hold an IPv6 address.
    #[error("the brackets do not hold an IPv6 address; write e.g. [fd00::1]:6123")]
    BadIpv6,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address needs brackets, e.g. [fd00::1]:6123")]
    NoBrackets,
    /// Four numbers that are no address.
    #[error("the host looks like an IPv4 address but is none")]
    BadIpv4,
    /// A label that is empty, too long, or has a character that names do not have.
    #[error(
        "the host is no DNS name: labels have 1 to 63 letters, digits, hyphens or underscores, and no hyphen at either end"
    )]
    BadHost,
    /// More than one, separated by commas.
    #[error(
        "these are several; where several may stand, write a list of one each, e.g. [\"zk1:2181\", \"zk2:2181\"]"
    )]
    Several,
    /// A URL, the address of an actor system, or a user in front of the host.
    #[error("only its host:port is wanted, without what stands before and behind")]
    WithScheme,
    /// More bytes than the kernel tables hold.
    #[error("it is longer than {AUTHORITY_MAX} bytes")]
    TooLong,
}

impl Authority {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host as it was written: a name, an IPv4 address, or an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.0.rsplit_once(':').map_or("", |(host, _)| host)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        // Validated when it was parsed.
        self.0
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or_default()
    }

    /// The value for the kernel tables.
    pub fn to_layout(&self) -> layout::Authority {
        // An Authority is never longer than AUTHORITY_MAX, so it always fits.
        layout::Authority::new(self.0.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Authorities are ordered as their texts are, so that a map of them is searched by a text.
impl Borrow<str> for Authority {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > AUTHORITY_MAX {
            return Err(AuthorityError::TooLong);
        }
        let (host, port) = split(text)?;
        parse_port(port)?;
        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(AuthorityError::BadIpv6)?;
            inner
                .parse::<Ipv6Addr>()
                .map_err(|_| AuthorityError::BadIpv6)?;
        } else {
            check_host(host)?;
        }
        Ok(Self(text.to_owned()))
    }
}

/// Splits `host:port` at the colon that separates them.
pub fn split(text: &str) -> Result<(&str, &str), AuthorityError> {
    if text.contains("://") || text.contains('@') {
        return Err(AuthorityError::WithScheme);
    }
    if text.contains(',') {
        return Err(AuthorityError::Several);
    }
    if text.starts_with('[') {
        let end = text.find(']').ok_or(AuthorityError::BadIpv6)?;
        let (host, rest) = text.split_at(end + 1);
        let port = rest.strip_prefix(':').ok_or(AuthorityError::NoPort)?;
        return Ok((host, port));
    }
    let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::NoPort)?;
    if host.contains(':') {
        return Err(AuthorityError::NoBrackets);
    }
    Ok((host, port))
}

/// A port number from 1, in its shortest form.
pub fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    if text.is_empty() {
        return Err(AuthorityError::NoPort);
    }
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AuthorityError::BadPort);
    }
    text.parse().map_err(|_| AuthorityError::BadPort)
}

fn check_host(host: &str) -> Result<(), AuthorityError> {
    if host.is_empty() {
        return Err(AuthorityError::NoHost);
    }
    if host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return host
            .parse::<Ipv4Addr>()
            .map(|_| ())
            .map_err(|_| AuthorityError::BadIpv4);
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    name.split('.')
        .all(is_label)
        .then_some(())
        .ok_or(AuthorityError::BadHost)
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_and_addresses() {
        for text in [
            "jobmanager:6123",
            "job_manager.my-cluster.svc.cluster.local:6123",
            "jm.example.org.:1",
            "10.0.0.1:65535",
            "[fd00::1]:6123",
            "[::ffff:10.0.0.1]:6123",
            "1a:6123",
        ] {
            assert_eq!(
                text.parse::<Authority>().map(|a| a.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, error) in [
            ("", AuthorityError::NoPort),
            ("jobmanager", AuthorityError::NoPort),
            ("zk1:2181,zk2:2181", AuthorityError::Several),
            ("pekko.tcp://flink@jm:6123", AuthorityError::WithScheme),
            ("jobmanager:", AuthorityError::NoPort),
            (":6123", AuthorityError::NoHost),
            ("jobmanager:0", AuthorityError::BadPort),
            ("jobmanager:06123", AuthorityError::BadPort),
            ("jobmanager:65536", AuthorityError::BadPort),
            ("jobmanager:+1", AuthorityError::BadPort),
            ("fd00::1:6123", AuthorityError::NoBrackets),
            ("[fd00::1:6123", AuthorityError::BadIpv6),
            ("[fd00::1]6123", AuthorityError::NoPort),
            ("[10.0.0.1]:6123", AuthorityError::BadIpv6),
            ("10.0.0.256:6123", AuthorityError::BadIpv4),
            ("10.0.0:6123", AuthorityError::BadIpv4),
            ("-jm:6123", AuthorityError::BadHost),
            ("jm-:6123", AuthorityError::BadHost),
            ("j m:6123", AuthorityError::BadHost),
            ("jm..x:6123", AuthorityError::BadHost),
            ("j@m:6123", AuthorityError::WithScheme),
        ] {
            assert_eq!(text.parse::<Authority>(), Err(error), "{text}");
        }
        let long = format!("{}:6123", ["a".repeat(63).as_str(); 4].join("."));
        assert_eq!(long.parse::<Authority>(), Err(AuthorityError::TooLong));
        assert_eq!(
            format!("{}:6123", "a".repeat(64)).parse::<Authority>(),
            Err(AuthorityError::BadHost)
        );
    }

    #[test]
    fn has_a_host_and_a_port() {
        for (text, host, port) in [("jm:1", "jm", 1), ("[fd00::1]:6123", "[fd00::1]", 6123)] {
            let authority: Authority = text.parse().unwrap();
            assert_eq!((authority.host(), authority.port()), (host, port));
        }
    }

    #[test]
    fn the_longest_fits_the_tables() {
        let host = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(57),
        ]
        .join(".");
        let text = format!("{host}:65535");
        assert_eq!(text.len(), AUTHORITY_MAX);
        let authority: Authority = text.parse().unwrap();
        assert_eq!(authority.to_layout().as_bytes(), text.as_bytes());
    }
}
