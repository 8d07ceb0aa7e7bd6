//! The steps of an explanation, as data and as sentences.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// A name that was asked for.
    Name {
        /// It, without a port.
        name: String,
        /// The address that counts.
        address: IpAddr,
        /// How it was found, as `truename names` has it.
        how: String,
        /// The other addresses of the name.
        others: Vec<IpAddr>,
    },
    /// The first hook that could see the packet.
    Hook {
        /// The interface.
        interface: String,
        /// Whether this host sends it.
        leaves: bool,
        /// Whether the program hangs there.
        attached: bool,
    },
    /// The first look: what has this port, of any address.
    Port {
        /// The port.
        port: u16,
        /// Whether it is the destination's.
        destination: bool,
        /// `endpoint`, `service`, `target`.
        flags: Vec<String>,
    },
    /// The destination is an alias.
    Service {
        /// It.
        alias: SocketAddr,
        /// The service's name, unless it was removed from the configuration.
        name: Option<String>,
        /// The service's number.
        id: u32,
        /// First slot and number of slots.
        slots: (u32, u32),
        /// Whether its targets are being changed.
        changing: bool,
        /// Whether connections stay with targets that get no new ones.
        moved: bool,
    },
    /// The destination is no alias.
    NoService {
        /// One that is almost the same, and what differs.
        nearest: Option<String>,
    },
    /// A choice of the service gives a target.
    Choice {
        /// `moved`, `current` or `previous`.
        choice: String,
        /// The hash of what the client sees.
        hash: u64,
        /// The slot, unless it is listed as one that stays.
        slot: Option<u32>,
        /// The target's number.
        number: u32,
        /// The target.
        target: SocketAddr,
        /// Whether it is this host.
        local: bool,
        /// The address that it sees instead of the client's.
        source: Option<String>,
    },
    /// The connection is known.
    Connection {
        /// What the target sees as the client.
        client: SocketAddr,
        /// The target.
        target: SocketAddr,
        /// Its state.
        state: String,
        /// Which candidate its source port is.
        candidate: u8,
        /// Seconds since its last packet.
        idle_s: u64,
    },
    /// No connection is known.
    NoConnection {
        /// Which packets begin one.
        begins: Begins,
    },
    /// A source port that may be given to a new connection.
    Candidate {
        /// Its position.
        index: u32,
        /// What the target would see as the client.
        client: SocketAddr,
        /// The connection that has it: the client and what it addresses.
        taken_by: Option<(SocketAddr, SocketAddr)>,
        /// Whether that connection is over, so that the candidate is free all the same.
        leftover: bool,
    },
    /// The packet goes up to this host.
    Local {
        /// Whether a program of this host sent it, so that it is turned around on the loopback
        /// interface.
        turned: bool,
    },
    /// The packet is sent on by the routes of this host.
    Forwarded {
        /// Whether this host forwards.
        enabled: bool,
        /// Whether it passes the host's stack, and netfilter.
        #[serde(default)]
        netfilter: bool,
    },
    /// The target is an RPC endpoint.
    Endpoint {
        /// Its name, unless it was removed from the configuration.
        name: Option<String>,
        /// Where it listens.
        listen: String,
        /// The name by which it knows itself.
        canonical: Option<String>,
        /// The aliases that it answers to; all if absent.
        aliases: Option<Vec<String>>,
    },
    /// The name that the client has for the endpoint.
    Alias {
        /// It.
        alias: String,
        /// The name by which the endpoint knows itself.
        canonical: Option<String>,
        /// Whether the endpoint answers to it.
        is_admitted: bool,
        /// Whether the endpoint has a relay, for an alias that is too long.
        #[serde(default)]
        is_relayed: bool,
    },
}

/// Which packets to a service begin a connection if they have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begins {
    /// UDP: all.
    Any,
    /// TCP, to a service that resets connections to former targets: all but a RST.
    AnyButRst,
    /// TCP: a SYN.
    First,
}

impl Step {
    /// What is looked at, as a word.
    pub const fn heading(&self) -> &'static str {
        match self {
            Self::Name { .. } => "name",
            Self::Hook { .. } => "hook",
            Self::Port { .. } => "port",
            Self::Service { .. } | Self::NoService { .. } => "service",
            Self::Choice { .. } => "target",
            Self::Connection { .. } | Self::NoConnection { .. } => "connection",
            Self::Candidate { .. } => "source port",
            Self::Local { .. } | Self::Forwarded { .. } => "way",
            Self::Endpoint { .. } => "endpoint",
            Self::Alias { .. } => "alias",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name {
                name,
                address,
                how,
                others,
            } => {
                write!(f, "{name} is {address} ")?;
                f.write_str(match how.as_str() {
                    "file" => "by the operator's files",
                    "said" => "by the server that answers there",
                    "lookup" => "by this host's hosts file or DNS",
                    "seen" => "by a handshake that came from there",
                    _ => "by itself",
                })?;
                for (index, other) in others.iter().enumerate() {
                    let before = if index == 0 { "; also" } else { "," };
                    write!(f, "{before} {other}")?;
                }
                Ok(())
            }
            Self::Hook {
                interface,
                leaves,
                attached,
            } => {
                let way = if *leaves { "leaves" } else { "comes in" };
                let what = if *attached {
                    "which is attached"
                } else {
                    "to which nothing is attached: no program sees it, whatever the tables say"
                };
                write!(f, "it {way} by {interface}, {what}")
            }
            Self::Port {
                port,
                destination,
                flags,
            } => {
                let side = if *destination { "destination" } else { "source" };
                if flags.is_empty() {
                    return write!(f, "the {side} port {port} is nothing's: PORTS[{port}] is 0");
                }
                let things: Vec<_> = flags
                    .iter()
                    .map(|flag| match flag.as_str() {
                        "endpoint" => "an endpoint".to_owned(),
                        other => format!("a {other}"),
                    })
                    .collect();
                let things = things.join(" and ");
                write!(f, "the {side} port {port} is that of {things} at some address")
            }
            Self::Service {
                alias,
                name,
                id,
                slots: (first, count),
                changing,
                moved,
            } => {
                let name = name.as_deref().unwrap_or("-");
                write!(f, "{alias} is an alias of the service {name} (number {id}), ")?;
                match count {
                    0 => f.write_str("which has no target")?,
                    1 => write!(f, "whose target is in slot {first}")?,
                    count => write!(f, "whose targets are in {count} slots from {first}")?,
                }
                if *changing {
                    f.write_str("; its targets are being changed")?;
                }
                if *moved {
                    f.write_str("; some connections stay with targets that get no new ones")?;
                }
                Ok(())
            }
            Self::NoService { nearest: None } => {
                f.write_str("the destination is no alias of a service")
            }
            Self::NoService {
                nearest: Some(nearest),
            } => write!(
                f,
                "the destination is no alias of a service; the nearest is {nearest}"
            ),
            Self::Choice {
                choice,
                hash,
                slot,
                number,
                target,
                local,
                source,
            } => {
                write!(f, "{choice} choice: ")?;
                match slot {
                    Some(slot) => write!(f, "hash {hash:016x} gives slot {slot}, ")?,
                    None => f.write_str("MOVED lists the connection, ")?,
                }
                let place = if *local { "this host" } else { "another host" };
                write!(f, "target {number}: {target}, {place}")?;
                if let Some(source) = source {
                    write!(f, ", which sees {source} as the client")?;
                }
                Ok(())
            }
            Self::Connection {
                client,
                target,
                state,
                candidate,
                idle_s,
            } => write!(
                f,
                "known: {client} to {target}, {state}, silent for {idle_s}s, candidate {candidate}"
            ),
            Self::NoConnection { begins } => f.write_str(match begins {
                Begins::Any => "none is known: the packet begins one",
                Begins::AnyButRst => {
                    "none is known: any packet but a RST begins one"
                }
                Begins::First => {
                    "none is known: a SYN begins one, another packet passes unchanged (nat_no_connection)"
                }
            }),
            Self::Candidate {
                index,
                client,
                taken_by: None,
                ..
            } => write!(f, "candidate {index}, {client}, is free"),
            Self::Candidate {
                index,
                client,
                taken_by: Some((other, alias)),
                leftover,
            } => {
                let verb = if *leftover {
                    "was left free"
                } else {
                    "is taken"
                };
                write!(
                    f,
                    "candidate {index}, {client}, {verb} by the connection of {other} to {alias}"
                )
            }
            Self::Local { turned: false } => f.write_str("up to this host's own stack"),
            Self::Local { turned: true } => f.write_str(
                "back to this host's own stack, by way of the loopback interface",
            ),
            Self::Forwarded {
                enabled: true,
                netfilter: false,
            } => f.write_str("on by this host's routes"),
            Self::Forwarded {
                enabled: true,
                netfilter: true,
            } => f.write_str("on by this host's stack, if netfilter lets it pass"),
            Self::Forwarded { enabled: false, .. } => f.write_str(
                "on by this host's routes, but the host does not forward: it is dropped (nat_forwarding_off)",
            ),
            Self::Endpoint {
                name,
                listen,
                canonical,
                aliases,
            } => {
                let name = name.as_deref().unwrap_or("-");
                write!(f, "the endpoint {name} listens on {listen}: recipients become ")?;
                match canonical {
                    Some(canonical) => write!(f, "{canonical}")?,
                    None => f.write_str("local, its own name is not known yet")?,
                }
                match aliases {
                    None => f.write_str(", whatever alias the client uses"),
                    Some(aliases) => write!(f, ", for the aliases {}", aliases.join(", ")),
                }
            }
            Self::Alias {
                alias,
                canonical,
                is_admitted,
                is_relayed,
            } => match canonical {
                _ if !is_admitted => write!(
                    f,
                    "{alias} is not in the list of the endpoint: recipients with it are not translated"
                ),
                Some(canonical) if canonical == alias => {
                    write!(f, "{alias} is the endpoint's own name: nothing to translate")
                }
                Some(canonical) if alias.len() > canonical.len() => {
                    write!(f, "{alias} becomes {canonical}, which is shorter: it has no room in answers, ")?;
                    f.write_str(match is_relayed {
                        true => "so the agent relays the connection",
                        false => "and needs a relay, which the endpoint does not have; set enabled = true in [relay]",
                    })
                }
                Some(canonical) => write!(
                    f,
                    "{alias} becomes {canonical} in requests, and {canonical} becomes {alias} in answers"
                ),
                None => write!(f, "{alias} becomes a local recipient: the endpoint's own name is not known yet"),
            },
        }
    }
}
