//! A question of somebody who may know names only.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::{EXAMPLE_PORT, Question, Step};
use crate::name::{Authority, shown};

/// A question before its names are resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Who sends.
    pub from: Host,
    /// From which port; any if absent.
    #[serde(default)]
    pub from_port: Option<u16>,
    /// To whom.
    pub to: Party,
}

/// A host, by address or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    /// `10.0.0.5`
    Address(IpAddr),
    /// `taskmanager`
    Name(String),
}

/// A host with a port or without; IPv6 addresses with a port are in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Party {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: Option<u16>,
}

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its addresses, never empty.
    pub addresses: Vec<IpAddr>,
    /// How they were found; absent if the host was given by its address.
    pub how: Option<String>,
}

impl Asked {
    /// The fields of a question.
    pub const FIELDS: &[&str] = &["protocol", "from", "from_port", "to"];

    /// Why there is no such packet, if that needs no resolution of names: one sentence.
    pub fn impossible(&self) -> Option<String> {
        let (Host::Address(from), Host::Address(to)) = (&self.from, &self.to.host) else {
            return None;
        };
        let found = |address: &IpAddr| Found {
            addresses: vec![*address],
            how: None,
        };
        self.question(&found(from), &found(to)).err()
    }

    /// The name of the sender, with the port that it is looked up with.
    pub fn sender(&self) -> Result<Option<Authority>, String> {
        self.from.authority(self.from_port.unwrap_or(EXAMPLE_PORT))
    }

    /// The name of the receiver.
    pub fn receiver(&self) -> Result<Option<Authority>, String> {
        self.to.host.authority(self.to_port()?)
    }

    /// The port of the receiver.
    pub fn to_port(&self) -> Result<u16, String> {
        self.to
            .port
            .ok_or_else(|| format!("{} has no port; write e.g. jobmanager:6123", self.to))
    }

    /// The packet that is meant, and a step for each name. Of several addresses the first two of one family count.
    ///
    /// # Errors
    /// There is no such packet: one sentence.
    pub fn question(&self, from: &Found, to: &Found) -> Result<(Question, Vec<Step>), String> {
        let pairs = || {
            let from = from.addresses.iter();
            from.flat_map(|from| to.addresses.iter().map(move |to| (*from, *to)))
        };
        let is_pair = |(from, to): &(IpAddr, IpAddr)| {
            from.to_canonical().is_ipv4() == to.to_canonical().is_ipv4()
        };
        let pair = pairs().find(is_pair).or_else(|| pairs().next());
        let (from_address, to_address) = pair.ok_or("a name has no address")?;
        let question = Question {
            protocol: self.protocol.clone(),
            from: from_address,
            from_port: self.from_port,
            to: SocketAddr::new(to_address, self.to_port()?),
        };
        if let Some(why) = question.impossible() {
            return Err(why);
        }
        let sides = [
            (&self.from, from, from_address),
            (&self.to.host, to, to_address),
        ];
        let steps = sides.into_iter().filter_map(|(host, found, address)| {
            Some(Step::Name {
                name: host.to_string(),
                address,
                how: found.how.clone()?,
                others: found
                    .addresses
                    .iter()
                    .copied()
                    .filter(|other| *other != address)
                    .collect(),
            })
        });
        Ok((question, steps.collect()))
    }
}

impl Host {
    /// The name with a port, if it is one.
    fn authority(&self, port: u16) -> Result<Option<Authority>, String> {
        match self {
            Self::Address(_) => Ok(None),
            Self::Name(name) => {
                let authority = format!("{name}:{port}").parse();
                authority
                    .map(Some)
                    .map_err(|why| format!("\"{}\" is no host: {why}", shown(name)))
            }
        }
    }
}

impl FromStr for Party {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse() {
            let host = Host::Address(address);
            return Ok(Self { host, port: None });
        }
        if let Ok(at) = text.parse::<SocketAddr>() {
            let host = Host::Address(at.ip());
            let port = Some(at.port());
            return Ok(Self { host, port });
        }
        let has_port = text.contains(':');
        let whole = if has_port {
            text.to_owned()
        } else {
            format!("{text}:{EXAMPLE_PORT}")
        };
        let name: Authority = whole.parse().map_err(|why| {
            format!(
                "{why}; write an address or a name, with :port or without, e.g. 10.0.0.5, [fd00::5]:40000 or jobmanager:6123"
            )
        })?;
        Ok(Self {
            host: Host::Name(name.host().to_owned()),
            port: has_port.then(|| name.port()),
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (host, None) => write!(f, "{host}"),
            (Host::Address(address), Some(port)) => {
                write!(f, "{}", SocketAddr::new(*address, port))
            }
            (Host::Name(name), Some(port)) => write!(f, "{name}:{port}"),
        }
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.to_string()
    }
}

impl From<Party> for String {
    fn from(party: Party) -> Self {
        party.to_string()
    }
}

impl TryFrom<String> for Party {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.parse()? {
            Party { host, port: None } => Ok(host),
            Party { port: Some(_), .. } => Err("the port has a field of its own".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str], how: Option<&str>) -> Found {
        Found {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            how: how.map(str::to_owned),
        }
    }

    #[test]
    fn parties_are_addresses_or_names() {
        for (text, host, port) in [
            ("10.0.0.5", "10.0.0.5", None),
            ("10.0.0.5:80", "10.0.0.5", Some(80)),
            ("[fd00::5]", "fd00::5", None),
            ("[fd00::5]:80", "fd00::5", Some(80)),
            ("jobmanager", "jobmanager", None),
            ("jobmanager:6123", "jobmanager", Some(6123)),
        ] {
            let party: Party = text.parse().unwrap();
            assert_eq!(
                (&*party.host.to_string(), party.port),
                (host, port),
                "{text}"
            );
        }
        for text in [
            "",
            ":",
            "jobmanager:",
            "a b:1",
            "tcp://jobmanager:6123",
            "10.0.0.256",
        ] {
            let error = text.parse::<Party>().unwrap_err();
            assert!(error.contains("write an address or a name"), "{error}");
        }
    }

    #[test]
    fn names_become_addresses_of_one_family() {
        let json = r#"{"protocol":"tcp","from":"10.0.0.9","to":"jobmanager:6123"}"#;
        let asked: Asked = serde_json::from_str(json).unwrap();
        assert_eq!(asked.sender(), Ok(None));
        let receiver = asked.receiver().unwrap().unwrap();
        assert_eq!(receiver.to_string(), "jobmanager:6123");
        let to = found(&["fd00::2", "10.0.0.2"], Some("lookup"));
        let (question, steps) = asked.question(&found(&["10.0.0.9"], None), &to).unwrap();
        assert_eq!(question.to.to_string(), "10.0.0.2:6123");
        let [step] = &steps[..] else {
            panic!("{steps:?}")
        };
        assert_eq!(
            step.to_string(),
            "jobmanager is 10.0.0.2 by this host's hosts file or DNS; also fd00::2"
        );
        let other = asked.question(&found(&["fd00::9"], None), &found(&["10.0.0.2"], None));
        assert!(other.unwrap_err().contains("one address is IPv4"));
        let line = serde_json::to_string(&asked).unwrap();
        assert!(line.contains(r#""to":"jobmanager:6123""#), "{line}");
    }
}
