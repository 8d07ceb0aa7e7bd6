//! What an input stands for: names, limits, and the frames that one side sends.

use std::collections::HashMap;

use arbitrary::{Result, Unstructured};
use prost::Message;
use truename_common::wire::relay::{Direction, Limits};

use super::{
    java::{self, Text, Texts},
    oracle::{
        Ack, Address, Container, Control, Daemon, Deploy, Element, Envelope, Failed, Handshake,
        Identity, Oracle, Outer, Payload, Ref, Router, Scope, Selection, Serialized, System, Watch,
        Watched,
    },
};

/// What the endpoint calls itself, and what its peer calls it.
const NAMES: [(&str, &str); 10] = [
    ("jobmanager:6123", "jm:6123"),
    (
        "jm:6123",
        "flink-jobmanager.prod.svc.cluster.example.org:6123",
    ),
    ("10.61.23.1:6123", "jm.example.org:7123"),
    ("[fd00::1]:6123", "jobmanager:6123"),
    ("jobmanager:6123", "[2001:db8::1234:5678]:16123"),
    ("jobmanager:6123", "jobmaster1:6124"),
    ("localhost:6123", "localhost:61234"),
    ("a:1", LONGEST),
    (LONGEST, "jobmanager:6123"),
    ("jobmanager:6123", "jobmanager:6123"),
];
/// 250 bytes.
const LONGEST: &str = "a23456789.a23456789.a23456789.a23456789.a23456789.\
    b23456789.b23456789.b23456789.b23456789.b23456789.\
    c23456789.c23456789.c23456789.c23456789.c23456789.\
    d23456789.d23456789.d23456789.d23456789.d23456789.\
    e23456789.e23456789.e23456789.e23456789.e234:65535";
const PEER: &str = "taskmanager:6122";

/// A frame that is sent.
#[derive(Debug)]
pub struct Frame {
    pub bytes: Vec<u8>,
    /// It is written as peers write it.
    pub is_good: bool,
}

/// A direction of a connection.
#[derive(Debug)]
pub struct Script {
    pub direction: Direction,
    pub canonical: String,
    pub alias: String,
    /// The alias is learned.
    pub learns: bool,
    pub limits: Limits,
    pub frames: Vec<Frame>,
    /// Bytes behind the frames.
    pub tail: Vec<u8>,
    pub java: HashMap<Vec<u8>, Vec<u8>>,
}

impl Script {
    /// Reads what an input stands for.
    pub fn read(input: &mut Unstructured<'_>) -> Result<Self> {
        let (canonical, alias) = *input.choose(&NAMES)?;
        let direction = if input.arbitrary()? {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        let frame = match input.int_in_range(0..=7)? {
            0 => input.int_in_range(60..=700)?,
            1 => 20_000,
            _ => Limits::default().frame,
        };
        let whole = match input.int_in_range(0..=3)? {
            0 => input.int_in_range(0..=400)?,
            1 => Limits::default().frame,
            _ => Limits::default().whole,
        };
        let mut script = Self {
            direction,
            canonical: canonical.to_owned(),
            alias: alias.to_owned(),
            learns: direction == Direction::Inbound && input.arbitrary()?,
            limits: Limits { frame, whole },
            frames: Vec::new(),
            tail: Vec::new(),
            java: HashMap::new(),
        };
        let count = input.int_in_range(1..=12)?;
        for _ in 0..count {
            // If the first frame with bytes is none of the protocol, nothing is.
            let is_first = script.frames.iter().all(|frame| frame.bytes.len() == 4);
            let frame = script.frame(input, is_first)?;
            script.frames.push(frame);
        }
        // A name in a frame that no peer writes is learned or not.
        script.learns &= script.frames.iter().all(|frame| frame.is_good);
        script.tail = match input.int_in_range(0..=5)? {
            0 => b"\x16\x03\x01\x00\xa5\x01\x00".to_vec(),
            1 => input.arbitrary()?,
            2 => {
                let mut frame = script.message(input)?;
                frame.truncate(input.int_in_range(0..=frame.len())?);
                frame
            }
            _ => Vec::new(),
        };
        Ok(script)
    }

    fn pair(&self) -> (&str, &str) {
        match self.direction {
            Direction::Inbound => (&self.alias, &self.canonical),
            Direction::Outbound => (&self.canonical, &self.alias),
        }
    }

    fn frame(&mut self, input: &mut Unstructured<'_>, is_first: bool) -> Result<Frame> {
        let kind = input.int_in_range(0..=11)?;
        let mut bytes = match kind {
            0 => framed(&[]),
            1 => framed(&[0x12, 2, 8, input.int_in_range(2..=5)?]),
            2 => self.associate(input)?,
            3 if !is_first => framed(input.arbitrary::<Vec<u8>>()?.as_slice()),
            _ => self.message(input)?,
        };
        if kind < 10 || is_first {
            return Ok(Frame {
                bytes,
                is_good: kind != 3 || is_first,
            });
        }
        // What no peer writes.
        for _ in 0..input.int_in_range(1..=3)? {
            let len = bytes.len();
            if len <= 5 {
                break;
            }
            let at = input.int_in_range(4..=len - 1)?;
            match input.int_in_range(0..=3)? {
                0 => bytes[at] = input.arbitrary()?,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, input.arbitrary()?),
                _ => {
                    // A varint that is longer than it has to be.
                    bytes[at] |= 0x80;
                    bytes.insert(at + 1, 0);
                }
            }
        }
        Ok(Frame {
            bytes: framed(&bytes[4..]),
            is_good: false,
        })
    }

    fn associate(&self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let outer = Outer {
            payload: None,
            instruction: Some(Control {
                command: 1,
                handshake: Some(Handshake {
                    origin: self.address(input)?,
                    uid: input.arbitrary()?,
                    cookie: None,
                }),
            }),
        };
        Ok(framed(&outer.encode_to_vec()))
    }

    fn message(&mut self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let (bytes, serializer, manifest) = self.object(input, 0)?;
        let sender = match input.int_in_range(0..=4)? {
            0 => None,
            1 | 2 => Some(self.own(input)?),
            _ => Some(self.path(input)?),
        };
        let recipient = if self.direction == Direction::Inbound {
            self.recipient(input)?
        } else {
            self.path(input)?
        };
        let ack = input.ratio(1, 5)?.then(|| Ack {
            cumulative: 3,
            nacks: vec![1, 2],
        });
        let container = Container {
            ack,
            envelope: Some(Envelope {
                recipient: reference(recipient),
                message: Serialized {
                    bytes,
                    serializer,
                    manifest,
                },
                sender: sender.map(reference),
                sequence: input.ratio(1, 5)?.then_some(7),
            }),
        };
        let outer = Outer {
            payload: Some(container.encode_to_vec()),
            instruction: None,
        };
        Ok(framed(&outer.encode_to_vec()))
    }

    /// A serialized object.
    fn object(
        &mut self,
        input: &mut Unstructured<'_>,
        depth: u32,
    ) -> Result<(Vec<u8>, i32, Option<Vec<u8>>)> {
        let most = if depth > 3 { 3 } else { 12 };
        let mut manifest = None;
        let (bytes, serializer) = match input.int_in_range(0..=most)? {
            0 => (self.data(input)?, *input.choose(&[0, 2, 4, 17, 99, -1])?),
            1 => (self.path(input)?.into_bytes(), 20),
            2 | 3 => {
                let [before, after] = java::stream(input, self)?;
                self.java.insert(before.clone(), after);
                (before, 1)
            }
            4 => {
                let message = Identity {
                    correlation: Some(self.payload(input, depth)?),
                    reference: Some(reference(self.path(input)?)),
                };
                manifest = Some(b"B".to_vec());
                (message.encode_to_vec(), 16)
            }
            5 => {
                manifest = Some(input.choose(&[&b"A"[..], b"C", b"H"])?.to_vec());
                let message = Identity {
                    correlation: Some(self.payload(input, depth)?),
                    reference: None,
                };
                (message.encode_to_vec(), 16)
            }
            6 => {
                manifest = Some(input.choose(&[&b"D"[..], b"E", b"S", b"SE"])?.to_vec());
                (self.payload(input, depth)?.encode_to_vec(), 16)
            }
            7 => {
                manifest = Some(b"G".to_vec());
                (reference(self.path(input)?).encode_to_vec(), 16)
            }
            8 => match input.int_in_range(0..=2)? {
                0 => {
                    manifest = Some(b"AD".to_vec());
                    (self.address(input)?.encode_to_vec(), 16)
                }
                1 => {
                    manifest = Some(b"RS".to_vec());
                    let address = self.address(input)?;
                    (Scope { address }.encode_to_vec(), 16)
                }
                _ => {
                    manifest = Some(b"RORRC".to_vec());
                    let message = Router {
                        pool: Some(self.payload(input, depth)?),
                        targets: vec![self.address(input)?, self.address(input)?],
                    };
                    (message.encode_to_vec(), 16)
                }
            },
            9 => {
                manifest = Some(b"AIEX".to_vec());
                let message = Failed {
                    actor: Some(reference(self.path(input)?)),
                    text: self.data(input)?,
                    cause: Some(self.payload(input, depth)?),
                };
                (message.encode_to_vec(), 16)
            }
            10 => (self.system(input, depth)?.encode_to_vec(), 22),
            11 => {
                let (bytes, serializer, manifest) = self.object(input, depth + 1)?;
                let elements = vec![Element {
                    kind: 1,
                    matcher: Some(b"user".to_vec()),
                }];
                let message = Selection {
                    bytes,
                    serializer,
                    elements,
                    manifest,
                    fan_out: Some(false),
                };
                (message.encode_to_vec(), 6)
            }
            _ => {
                let scope = Scope {
                    address: self.address(input)?,
                };
                let message = Daemon {
                    props: self.data(input)?,
                    deploy: Deploy {
                        path: b"/user/a".to_vec(),
                        scope: Some(scope.encode_to_vec()),
                        serializer: Some(16),
                        manifest: Some(b"RS".to_vec()),
                    },
                    path: self.path(input)?.into_bytes(),
                    supervisor: reference(self.path(input)?),
                };
                (message.encode_to_vec(), 3)
            }
        };
        Ok((bytes, serializer, manifest))
    }

    fn payload(&mut self, input: &mut Unstructured<'_>, depth: u32) -> Result<Payload> {
        let (bytes, serializer, manifest) = self.object(input, depth + 1)?;
        Ok(Payload {
            bytes,
            serializer,
            manifest,
        })
    }

    fn system(&mut self, input: &mut Unstructured<'_>, depth: u32) -> Result<System> {
        let watched = |actor| Watched {
            actor: reference(actor),
            number: Some(5),
        };
        let mut system = System {
            kind: 6,
            ..System::default()
        };
        match input.int_in_range(0..=4)? {
            0 => {
                system.watch = Some(Watch {
                    watchee: reference(self.path(input)?),
                    watcher: reference(self.path(input)?),
                });
            }
            1 => system.cause = Some(self.payload(input, depth)?),
            2 => system.supervise = Some(watched(self.path(input)?)),
            3 => system.failed = Some(watched(self.path(input)?)),
            _ => system.notification = Some(watched(self.path(input)?)),
        }
        Ok(system)
    }

    /// Data without a structure: it may name the endpoint.
    fn data(&self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let len = match input.int_in_range(0..=5)? {
            0 => input.int_in_range(90..=140)?,
            1 => input.int_in_range(16_200..=16_500)?,
            2 => input.int_in_range(0..=500)?,
            _ => input.int_in_range(0..=40)?,
        };
        let mut data = vec![input.arbitrary()?; len];
        if input.arbitrary()? {
            data.extend(self.path(input)?.into_bytes());
        }
        Ok(data)
    }

    /// A path of the endpoint's own, by the name that is replaced.
    fn own(&self, input: &mut Unstructured<'_>) -> Result<String> {
        Self::path_at(input, self.pair().0.to_owned())
    }

    fn path(&self, input: &mut Unstructured<'_>) -> Result<String> {
        let authority = self.authority(input)?;
        Self::path_at(input, authority)
    }

    fn path_at(input: &mut Unstructured<'_>, authority: String) -> Result<String> {
        let scheme =
            *input.choose(&["pekko.tcp", "pekko.tcp", "akka.tcp", "pekko.ssl.tcp", "x"])?;
        let system = *input.choose(&["flink", "flink", "flink-metrics", "a_1"])?;
        let rest = *input.choose(&["/", "/user/rpc/jobmanager_2#-117", "/temp/a@jm:6123/b", ""])?;
        Ok(format!("{scheme}://{system}@{authority}{rest}"))
    }

    fn recipient(&self, input: &mut Unstructured<'_>) -> Result<String> {
        let authority = match input.int_in_range(0..=9)? {
            0 => self.canonical.clone(),
            1 => "no-port".to_owned(),
            2 => "no host:1".to_owned(),
            3 if !self.learns => self.authority(input)?,
            4 => return Ok("pekko://flink/user/a".to_owned()),
            _ => self.alias.clone(),
        };
        Self::path_at(input, authority)
    }

    /// Names, and what only looks like one.
    fn authority(&self, input: &mut Unstructured<'_>) -> Result<String> {
        let (from, to) = self.pair();
        Ok(match input.int_in_range(0..=9)? {
            0 => to.to_owned(),
            1 => format!("{from}4"),
            2 => from[..from.len() - 1].to_owned(),
            3 => format!("x{from}"),
            4 => from.to_uppercase(),
            5 | 6 => PEER.to_owned(),
            _ => from.to_owned(),
        })
    }

    fn address(&self, input: &mut Unstructured<'_>) -> Result<Address> {
        let authority = self.authority(input)?;
        let (host, port) = authority.rsplit_once(':').unwrap_or((&authority, "6123"));
        let host = if input.ratio(1, 4)? {
            host.trim_start_matches('[').trim_end_matches(']')
        } else {
            host
        };
        Ok(Address {
            system: b"flink".to_vec(),
            host: host.as_bytes().to_vec(),
            port: port.parse().unwrap_or(70_000),
            protocol: Some(b"tcp".to_vec()),
        })
    }
}

impl Script {
    /// A text that is replaced by the oracle's rule for paths.
    fn text(&self, before: String, is_replaced: bool) -> Text {
        let oracle = Oracle {
            direction: self.direction,
            canonical: self.canonical.clone(),
            alias: Some(self.alias.clone()),
            learns: false,
            java: HashMap::new(),
        };
        let mut after = before.clone().into_bytes();
        if is_replaced {
            oracle.path(&mut after);
        }
        Text {
            before,
            after: String::from_utf8(after).unwrap(),
        }
    }
}

impl Texts for Script {
    fn plain(&mut self, input: &mut Unstructured<'_>) -> Result<Text> {
        let text = match input.int_in_range(0..=3)? {
            0 => format!("at {}", self.own(input)?),
            1 => self
                .pair()
                .0
                .rsplit_once(':')
                .map_or(String::new(), |(host, _)| host.to_owned()),
            _ => self.path(input)?,
        };
        Ok(self.text(text, self.direction == Direction::Outbound))
    }

    fn reference(&mut self, input: &mut Unstructured<'_>) -> Result<Text> {
        let path = self.path(input)?;
        Ok(self.text(path, true))
    }

    fn host(&mut self, input: &mut Unstructured<'_>) -> Result<Text> {
        let (from, to) = self.pair();
        let host = |name: &str| name.rsplit_once(':').unwrap().0.to_owned();
        let own = host(from);
        let before = match input.int_in_range(0..=3)? {
            0 => format!("{own}-2"),
            1 => own.trim_start_matches('[').trim_end_matches(']').to_owned(),
            _ => own.clone(),
        };
        let bare = own.trim_start_matches('[').trim_end_matches(']');
        let is_own = before == own || before == bare;
        let is_replaced = is_own && self.direction == Direction::Outbound && from != to;
        let after = if is_replaced {
            host(to)
        } else {
            before.clone()
        };
        Ok(Text { before, after })
    }
}

fn reference(path: String) -> Ref {
    Ref {
        path: path.into_bytes(),
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    truename_tests::wire::frame(body)
}
