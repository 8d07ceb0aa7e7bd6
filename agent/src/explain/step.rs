//! A step of an explanation, in words.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use truename_common::layout::{Conntrack, FiveTuple, Socket, conntrack_flags, port_flags};

/// What was asked, and what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The kernel table; none for a step that asks no table.
    pub table: Option<String>,
    /// The key that was looked up.
    pub key: Option<String>,
    /// The answer, and what follows from it.
    pub says: String,
}

/// Steps in their order.
#[derive(Default)]
pub struct Steps(Vec<Step>);

impl Steps {
    /// A table was asked.
    pub fn add(&mut self, table: &str, key: String, says: impl Into<String>) {
        self.0.push(Step {
            table: Some(table.to_owned()),
            key: Some(key),
            says: says.into(),
        });
    }

    /// No table was asked.
    pub fn end(&mut self, says: impl Into<String>) {
        self.0.push(Step {
            table: None,
            key: None,
            says: says.into(),
        });
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<Step> {
        self.0
    }
}

/// What a value of `PORTS` means.
pub fn port_text(flags: u8) -> String {
    let names = [
        (port_flags::SERVICE, "a service's"),
        (port_flags::TARGET, "a target's"),
        (port_flags::ENDPOINT, "an endpoint's"),
    ];
    let set: Vec<_> = names
        .iter()
        .filter(|(flag, _)| flags & flag != 0)
        .map(|(_, name)| *name)
        .collect();
    match set.as_slice() {
        [] => "nobody's".to_owned(),
        names => format!("{} port", names.join(", ")),
    }
}

/// A connection: who with whom, its state, and for how long it has been silent.
pub fn connection_text(entry: &Conntrack, now_ns: u64) -> String {
    let client = SocketAddr::new(ip(entry.client), entry.client_port);
    let alias = SocketAddr::new(ip(entry.alias), entry.alias_port);
    let kind = if entry.flags & conntrack_flags::DIRECT != 0 {
        "directly to"
    } else {
        "to"
    };
    let silent = now_ns.saturating_sub(entry.seen_ns) / 1_000_000_000;
    format!(
        "{client} {kind} {alias}, {}, silent for {silent} s",
        super::state(entry)
    )
}

/// A five-tuple.
pub fn tuple_text(tuple: &FiveTuple) -> String {
    format!(
        "{} → {}",
        socket_text(&tuple.client()),
        socket_text(&tuple.endpoint())
    )
}

/// An address and a port; `*` for any address.
pub fn socket_text(socket: &Socket) -> String {
    if socket.address == [0; 16] {
        format!("*:{}", socket.port)
    } else {
        SocketAddr::new(ip(socket.address), socket.port).to_string()
    }
}

/// An address of the kernel tables.
pub fn ip(address: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}
