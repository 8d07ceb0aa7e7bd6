//! A URL with a path, and nothing that a request line cannot have.

use std::{fmt, str::FromStr};

use hyper::Uri;

use super::{NameError, WebAddress};

/// `http://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    address: WebAddress,
    /// Begins with a slash.
    path: String,
}

impl Url {
    /// The server.
    pub const fn address(&self) -> &WebAddress {
        &self.address
    }

    /// What is asked for.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The server's root: what a connection is good for.
    pub fn origin(&self) -> Self {
        Self {
            address: self.address.clone(),
            path: "/".to_owned(),
        }
    }

    /// A resource below this one; `path` begins with a slash.
    pub fn below(&self, path: &str) -> Self {
        Self {
            address: self.address.clone(),
            path: format!("{}{path}", self.path.trim_end_matches('/')),
        }
    }

    /// Where a `Location` leads from here.
    ///
    /// # Errors
    /// It is not `http` or `https`, or no URL.
    pub fn join(&self, location: &str) -> Result<Self, NameError> {
        if location.starts_with('/') && !location.starts_with("//") {
            let url = Self {
                address: self.address.clone(),
                path: location.to_owned(),
            };
            return url.checked();
        }
        location.parse()
    }

    fn checked(self) -> Result<Self, NameError> {
        match self.path.parse::<Uri>() {
            Ok(_) => Ok(self),
            Err(_) => Err(NameError::Web),
        }
    }
}

impl FromStr for Url {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address: WebAddress = text.parse()?;
        let rest = text
            .split_once("://")
            .map_or("", |(_, rest)| rest)
            .trim_start_matches(|c| !matches!(c, '/' | '?' | '#'));
        let rest = rest.split('#').next().unwrap_or_default();
        let slash = if rest.starts_with('/') { "" } else { "/" };
        Self {
            address,
            path: format!("{slash}{rest}"),
        }
        .checked()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path == "/" { "" } else { &self.path };
        write!(f, "{}{path}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn has_a_path() {
        for (text, path) in [
            ("http://jm:8081", "/"),
            ("http://jm:8081/flink/", "/flink/"),
            ("http://jm?a#b", "/?a"),
        ] {
            assert_eq!(url(text).path(), path, "{text}");
        }
        assert_eq!(
            url("http://jm:8081/flink/").below("/overview").to_string(),
            "http://jm:8081/flink/overview"
        );
        for text in [
            "http://jm:8081/a b",
            "http://jm:8081/a\r\nX: y",
            "file:///etc/passwd",
        ] {
            assert_eq!(text.parse::<Url>(), Err(NameError::Web), "{text}");
        }
    }

    #[test]
    fn follows_a_location() {
        let from = url("https://jm:8081/overview");
        assert_eq!(from.join("/x").unwrap(), url("https://jm:8081/x"));
        assert_eq!(from.join("http://b:1/y").unwrap(), url("http://b:1/y"));
        for location in [
            "//b/x",
            "x",
            "javascript:alert(1)",
            "ftp://b/x",
            "",
            "/a\u{1b}b",
        ] {
            assert!(from.join(location).is_err(), "{location}");
        }
    }
}
