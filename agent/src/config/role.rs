//! A target by what it does in the cluster, such as `leader:rest`, or by its name.

use std::{fmt, str::FromStr};

use crate::name::{Authority, Id, NameError, parse_port};

/// Targets that the topology decides: who has this role now.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `leader:rest`: the REST server of the leader.
    LeaderRest,
    /// `leader:rpc`: the actor system of the leader.
    LeaderRpc,
    /// `leader:blob`: the blob server of the leader.
    LeaderBlob,
    /// `workers:PORT`: this port of every worker.
    Workers(u16),
    /// `worker:ID:PORT`: this port of one worker.
    Worker(Id, u16),
    /// `HOST:PORT`: the host of this name.
    Host(Authority),
}

/// Why a text is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// Another word than those there are.
    #[error("write leader:rest, leader:rpc, leader:blob, workers:PORT or worker:ID:PORT")]
    Unknown,
    /// No port.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// No identifier.
    #[error("the worker: {0}")]
    Id(NameError),
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "leader:rest" => return Ok(Self::LeaderRest),
            "leader:rpc" => return Ok(Self::LeaderRpc),
            "leader:blob" => return Ok(Self::LeaderBlob),
            _ => {}
        }
        let port = |text: &str| parse_port(text).map_err(|_| RoleError::Port);
        if let Some(text) = text.strip_prefix("workers:") {
            return port(text).map(Self::Workers);
        }
        let rest = text.strip_prefix("worker:").ok_or(RoleError::Unknown)?;
        // An identifier may have colons itself.
        let (id, number) = rest.rsplit_once(':').ok_or(RoleError::Port)?;
        let id = id.parse().map_err(RoleError::Id)?;
        Ok(Self::Worker(id, port(number)?))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaderRest => f.write_str("leader:rest"),
            Self::LeaderRpc => f.write_str("leader:rpc"),
            Self::LeaderBlob => f.write_str("leader:blob"),
            Self::Workers(port) => write!(f, "workers:{port}"),
            Self::Worker(id, port) => write!(f, "worker:{id}:{port}"),
            Self::Host(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_it_is_read() {
        for text in [
            "leader:rest",
            "leader:rpc",
            "leader:blob",
            "workers:9069",
            "worker:10.0.0.3:6122-a:6121",
        ] {
            assert_eq!(text.parse::<Role>().unwrap().to_string(), text);
        }
        for (text, error) in [
            ("leader:", RoleError::Unknown),
            ("leader:REST", RoleError::Unknown),
            ("10.0.0.1:80", RoleError::Unknown),
            ("workers:0", RoleError::Port),
            ("workers:+1", RoleError::Port),
            ("worker:tm", RoleError::Port),
            ("worker::1", RoleError::Id(NameError::Id)),
        ] {
            assert_eq!(text.parse::<Role>(), Err(error), "{text}");
        }
    }
}
