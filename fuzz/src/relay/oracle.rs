//! How a frame has to come out: a plain translation that decodes all of it with prost, replaces names, and encodes it.

use std::collections::HashMap;

use prost::Message;
use truename_common::wire::relay::Direction;

/// Fields without names are bytes, so that nothing is checked that the peers do not check.
#[derive(Clone, PartialEq, Message)]
pub struct Outer {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub payload: Option<Vec<u8>>,
    #[prost(message, optional, tag = "2")]
    pub instruction: Option<Control>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Control {
    #[prost(int32, required, tag = "1")]
    pub command: i32,
    #[prost(message, optional, tag = "2")]
    pub handshake: Option<Handshake>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Handshake {
    #[prost(message, required, tag = "1")]
    pub origin: Address,
    #[prost(fixed64, required, tag = "2")]
    pub uid: u64,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub cookie: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Address {
    #[prost(bytes = "vec", required, tag = "1")]
    pub system: Vec<u8>,
    #[prost(bytes = "vec", required, tag = "2")]
    pub host: Vec<u8>,
    #[prost(uint32, required, tag = "3")]
    pub port: u32,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub protocol: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Container {
    #[prost(message, optional, tag = "1")]
    pub ack: Option<Ack>,
    #[prost(message, optional, tag = "2")]
    pub envelope: Option<Envelope>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ack {
    #[prost(fixed64, required, tag = "1")]
    pub cumulative: u64,
    #[prost(fixed64, repeated, packed = "false", tag = "2")]
    pub nacks: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    #[prost(message, required, tag = "1")]
    pub recipient: Ref,
    #[prost(message, required, tag = "2")]
    pub message: Serialized,
    #[prost(message, optional, tag = "4")]
    pub sender: Option<Ref>,
    #[prost(fixed64, optional, tag = "5")]
    pub sequence: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ref {
    #[prost(bytes = "vec", required, tag = "1")]
    pub path: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Serialized {
    #[prost(bytes = "vec", required, tag = "1")]
    pub bytes: Vec<u8>,
    #[prost(int32, required, tag = "2")]
    pub serializer: i32,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub manifest: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Payload {
    #[prost(bytes = "vec", required, tag = "1")]
    pub bytes: Vec<u8>,
    #[prost(int32, required, tag = "2")]
    pub serializer: i32,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub manifest: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Selection {
    #[prost(bytes = "vec", required, tag = "1")]
    pub bytes: Vec<u8>,
    #[prost(int32, required, tag = "2")]
    pub serializer: i32,
    #[prost(message, repeated, tag = "3")]
    pub elements: Vec<Element>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub manifest: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "5")]
    pub fan_out: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Element {
    #[prost(int32, required, tag = "1")]
    pub kind: i32,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub matcher: Option<Vec<u8>>,
}

/// Identify, Some, Optional; with a reference ActorIdentity.
#[derive(Clone, PartialEq, Message)]
pub struct Identity {
    #[prost(message, optional, tag = "1")]
    pub correlation: Option<Payload>,
    #[prost(message, optional, tag = "2")]
    pub reference: Option<Ref>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Scope {
    #[prost(message, required, tag = "1")]
    pub address: Address,
}

#[derive(Clone, PartialEq, Message)]
pub struct Router {
    #[prost(message, optional, tag = "1")]
    pub pool: Option<Payload>,
    #[prost(message, repeated, tag = "2")]
    pub targets: Vec<Address>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Failed {
    #[prost(message, optional, tag = "1")]
    pub actor: Option<Ref>,
    #[prost(bytes = "vec", required, tag = "2")]
    pub text: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub cause: Option<Payload>,
}

#[derive(Clone, PartialEq, Message)]
pub struct System {
    #[prost(int32, required, tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub watch: Option<Watch>,
    #[prost(message, optional, tag = "3")]
    pub cause: Option<Payload>,
    #[prost(message, optional, tag = "5")]
    pub supervise: Option<Watched>,
    #[prost(message, optional, tag = "6")]
    pub failed: Option<Watched>,
    #[prost(message, optional, tag = "7")]
    pub notification: Option<Watched>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Watch {
    #[prost(message, required, tag = "1")]
    pub watchee: Ref,
    #[prost(message, required, tag = "2")]
    pub watcher: Ref,
}

#[derive(Clone, PartialEq, Message)]
pub struct Watched {
    #[prost(message, required, tag = "1")]
    pub actor: Ref,
    #[prost(uint64, optional, tag = "2")]
    pub number: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Daemon {
    #[prost(bytes = "vec", required, tag = "1")]
    pub props: Vec<u8>,
    #[prost(message, required, tag = "2")]
    pub deploy: Deploy,
    #[prost(bytes = "vec", required, tag = "3")]
    pub path: Vec<u8>,
    #[prost(message, required, tag = "4")]
    pub supervisor: Ref,
}

#[derive(Clone, PartialEq, Message)]
pub struct Deploy {
    #[prost(bytes = "vec", required, tag = "1")]
    pub path: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub scope: Option<Vec<u8>>,
    #[prost(int32, optional, tag = "6")]
    pub serializer: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "7")]
    pub manifest: Option<Vec<u8>>,
}

/// What is replaced by what, and what is known of streams of Java.
#[derive(Debug)]
pub struct Oracle {
    pub direction: Direction,
    pub canonical: String,
    pub alias: Option<String>,
    /// Every name is an alias, and the first is learned.
    pub learns: bool,
    /// Streams of Java, and what they have to become.
    pub java: HashMap<Vec<u8>, Vec<u8>>,
}

impl Oracle {
    fn pair(&self) -> Option<(&str, &str)> {
        let alias = self.alias.as_deref()?;
        let pair = match self.direction {
            Direction::Inbound => (alias, self.canonical.as_str()),
            Direction::Outbound => (self.canonical.as_str(), alias),
        };
        (pair.0 != pair.1).then_some(pair)
    }

    /// The body of a frame, translated; `None` if it is malformed. `is_head`: only the recipient is translated.
    pub fn body(&mut self, body: &[u8], is_head: bool) -> Option<Vec<u8>> {
        let mut outer = Outer::decode(body).ok()?;
        if let Some(control) = &mut outer.instruction
            && self.direction == Direction::Outbound
            && let Some(handshake) = &mut control.handshake
        {
            self.address(&mut handshake.origin);
        }
        if let Some(payload) = &mut outer.payload {
            let mut container = Container::decode(&payload[..]).ok()?;
            if let Some(envelope) = &mut container.envelope {
                self.envelope(envelope, is_head);
            }
            *payload = container.encode_to_vec();
        }
        Some(outer.encode_to_vec())
    }

    fn envelope(&mut self, envelope: &mut Envelope, is_head: bool) {
        if self.direction == Direction::Inbound {
            self.recipient(&mut envelope.recipient.path);
        } else if let Some(sender) = &mut envelope.sender {
            self.path(&mut sender.path);
        }
        if !is_head {
            let message = &mut envelope.message;
            let manifest = message.manifest.as_deref().unwrap_or_default();
            self.object(&mut message.bytes, message.serializer, manifest);
        }
    }

    fn recipient(&mut self, path: &mut Vec<u8>) {
        let Some((front, authority, rest)) = split(path) else {
            return;
        };
        if authority == self.canonical || !is_name(&authority) {
            return;
        }
        if self.learns {
            self.alias.get_or_insert(authority);
        } else if self.alias.as_ref() != Some(&authority) {
            return;
        }
        *path = join(&front, &self.canonical, &rest);
    }

    /// The path that holds the name to replace is given the other one.
    pub fn path(&self, path: &mut Vec<u8>) {
        if let Some((front, authority, rest)) = split(path)
            && let Some((from, to)) = self.pair()
            && authority == from
        {
            *path = join(&front, to, &rest);
        }
    }

    fn reference(&self, reference: &mut Ref) {
        self.path(&mut reference.path);
    }

    fn address(&self, address: &mut Address) {
        let Some((from, to)) = self.pair() else {
            return;
        };
        let (from_host, from_port) = from.rsplit_once(':').unwrap();
        let (to_host, to_port) = to.rsplit_once(':').unwrap();
        let bare = from_host.trim_start_matches('[').trim_end_matches(']');
        let is_host = address.host == from_host.as_bytes() || address.host == bare.as_bytes();
        if is_host && from_port.parse() == Ok(address.port) {
            address.host = to_host.as_bytes().to_vec();
            address.port = to_port.parse().unwrap();
        }
    }

    fn payload(&self, payload: &mut Option<Payload>) {
        if let Some(payload) = payload {
            let manifest = payload.manifest.as_deref().unwrap_or_default();
            self.object(&mut payload.bytes, payload.serializer, manifest);
        }
    }

    fn object(&self, bytes: &mut Vec<u8>, serializer: i32, manifest: &[u8]) {
        match serializer {
            1 => {
                if self.alias.is_some()
                    && let Some(after) = self.java.get(bytes)
                {
                    *bytes = after.clone();
                }
            }
            3 => Self::decoded(bytes, |message: &mut Daemon| {
                let deploy = &mut message.deploy;
                if let (Some(scope), Some(serializer)) = (&mut deploy.scope, deploy.serializer) {
                    let manifest = deploy.manifest.as_deref().unwrap_or_default();
                    self.object(scope, serializer, manifest);
                }
                self.path(&mut message.path);
                self.reference(&mut message.supervisor);
            }),
            6 => Self::decoded(bytes, |message: &mut Selection| {
                let manifest = message.manifest.as_deref().unwrap_or_default();
                self.object(&mut message.bytes, message.serializer, manifest);
            }),
            16 => self.miscellaneous(bytes, manifest),
            20 if self.direction == Direction::Outbound => self.path(bytes),
            22 => Self::decoded(bytes, |message: &mut System| {
                if let Some(watch) = &mut message.watch {
                    self.reference(&mut watch.watchee);
                    self.reference(&mut watch.watcher);
                }
                self.payload(&mut message.cause);
                let watched = [
                    &mut message.supervise,
                    &mut message.failed,
                    &mut message.notification,
                ];
                for watched in watched.into_iter().flatten() {
                    self.reference(&mut watched.actor);
                }
            }),
            _ => {}
        }
    }

    fn miscellaneous(&self, bytes: &mut Vec<u8>, manifest: &[u8]) {
        match manifest {
            b"A" | b"C" | b"H" => Self::decoded(bytes, |message: &mut Identity| {
                self.payload(&mut message.correlation);
            }),
            b"B" => Self::decoded(bytes, |message: &mut Identity| {
                self.payload(&mut message.correlation);
                if let Some(reference) = &mut message.reference {
                    self.reference(reference);
                }
            }),
            b"D" | b"E" | b"S" | b"SE" => Self::decoded(bytes, |message: &mut Payload| {
                let manifest = message.manifest.as_deref().unwrap_or_default();
                self.object(&mut message.bytes, message.serializer, manifest);
            }),
            b"G" => Self::decoded(bytes, |message: &mut Ref| self.reference(message)),
            b"AD" => Self::decoded(bytes, |message: &mut Address| self.address(message)),
            b"RS" => Self::decoded(bytes, |message: &mut Scope| {
                self.address(&mut message.address)
            }),
            b"RORRC" => Self::decoded(bytes, |message: &mut Router| {
                self.payload(&mut message.pool);
                for target in &mut message.targets {
                    self.address(target);
                }
            }),
            b"AIEX" => Self::decoded(bytes, |message: &mut Failed| {
                if let Some(actor) = &mut message.actor {
                    self.reference(actor);
                }
                self.payload(&mut message.cause);
            }),
            _ => {}
        }
    }

    /// Changes a message, if it is one.
    fn decoded<M: Message + Default>(bytes: &mut Vec<u8>, change: impl FnOnce(&mut M)) {
        if let Ok(mut message) = M::decode(&bytes[..]) {
            change(&mut message);
            *bytes = message.encode_to_vec();
        }
    }
}

/// What stands before the authority of a path, the authority, and what stands behind.
fn split(path: &[u8]) -> Option<(String, String, String)> {
    // Bytes that are no text may follow: each byte is a character.
    let path: String = path.iter().map(|byte| char::from(*byte)).collect();
    let (scheme, rest) = path.split_once("://")?;
    let (system, rest) = rest.split_once('@')?;
    let (authority, behind) = match rest.split_once('/') {
        Some((authority, behind)) => (authority, format!("/{behind}")),
        None => (rest, String::new()),
    };
    let is_system = !system.is_empty()
        && system.len() <= 63
        && system
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    (matches!(scheme, "akka.tcp" | "pekko.tcp") && is_system && authority.chars().count() <= 255)
        .then(|| {
            (
                format!("{scheme}://{system}@"),
                authority.to_owned(),
                behind,
            )
        })
}

fn join(front: &str, authority: &str, rest: &str) -> Vec<u8> {
    [front, authority, rest]
        .into_iter()
        .flat_map(str::chars)
        .map(|character| character as u8)
        .collect()
}

/// Whether it is a host and a port.
fn is_name(authority: &str) -> bool {
    let Some((host, port)) = authority.rsplit_once(':') else {
        return false;
    };
    let is_literal = host.starts_with('[') && host.ends_with(']');
    let is_host = !host.is_empty()
        && host.chars().all(|c| {
            c.is_ascii_alphanumeric() || ".-_".contains(c) || is_literal && "[]:%".contains(c)
        });
    let is_port = (1..=5).contains(&port.len()) && port.chars().all(|c| c.is_ascii_digit());
    is_host && is_port && port.parse::<u16>().is_ok_and(|port| port != 0)
}
