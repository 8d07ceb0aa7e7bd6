//! Names of nodes as they stand in actor paths.

use std::fmt;

/// `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The host, with brackets if it is an IPv6 address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Authority {
    /// Puts the parts together.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
        }
    }

    /// The same authority in exactly `length` bytes, the port padded with zeroes, if it fits.
    pub fn padded(&self, length: usize) -> Option<String> {
        let zeroes = length.checked_sub(self.to_string().len())?;
        Some(format!("{}:{}{}", self.host, "0".repeat(zeroes), self.port))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// Who talks to whom.
#[derive(Clone, Debug)]
pub struct Names {
    /// `akka` or `pekko`.
    pub scheme: &'static str,
    /// The actor system of both.
    pub system: String,
    /// What the server calls itself.
    pub canonical: Authority,
    /// What the client calls the server.
    pub alias: Authority,
    /// What the client calls itself.
    pub client: Authority,
}

impl Names {
    /// A Flink cluster whose JobManager calls itself `canonical` and is called `alias`, both with port 6123.
    pub fn flink(canonical: &str, alias: &str) -> Self {
        Self {
            scheme: "pekko",
            system: "flink".to_owned(),
            canonical: Authority::new(canonical, 6123),
            alias: Authority::new(alias, 6123),
            client: Authority::new("taskmanager", 6122),
        }
    }

    /// A path of an actor at `authority`.
    pub fn path(&self, authority: &impl fmt::Display, rest: &str) -> String {
        format!("{}.tcp://{}@{authority}{rest}", self.scheme, self.system)
    }
}
