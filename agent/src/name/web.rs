//! The address of a web server.

use std::{fmt, str::FromStr};

use super::{Authority, AuthorityError, NameError};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
