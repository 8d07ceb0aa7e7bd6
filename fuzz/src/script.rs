//! What an input stands for: a connection, what both sides send, and how it has to arrive.

use arbitrary::{Result, Unstructured};
use truename_tests::wire::{
    Authority, Envelope, Names, Piece, associate, control, frame, inbound, outbound,
};

/// Bytes that a side sends, at the most.
const LONGEST: usize = 48 << 10;
/// Frames that a side sends, at the most.
const FRAMES: usize = 24;

/// Canonical name, alias and client. In the first half nothing is the beginning of anything else.
const NAMES: [(&str, &str, &str); 8] = [
    ("jobmanager", "alias", "taskmanager"),
    ("jobmanager", "a", "taskmanager"),
    (
        "jobmanager.example.org",
        "alias-longer-than-that",
        "taskmanager",
    ),
    ("j.example.org", "10.0.0.1", "worker"),
    ("jobmanager", "jm", "jobmanager2"),
    ("jobmanager-alias", "jobmanager", "jobmanager"),
    ("localhost", "loc", "localhost"),
    ("jobmanager", "jobmanager", "taskmanager"),
];

/// A connection, and what is known of it when it begins.
#[derive(Debug)]
pub struct Script {
    pub names: Names,
    /// Nothing that is sent looks like a name and is none: there is nothing to reset the connection for.
    pub is_plain: bool,
    /// The endpoint translates only listed aliases.
    pub is_listed: bool,
    /// What the client calls the endpoint is known of another connection.
    pub has_peer_alias: bool,
    /// The connection is found in the middle.
    pub is_adopted: bool,
    /// The canonical name is configured.
    pub is_named: bool,
    /// The endpoint has sent so much that names are searched by words.
    pub is_late: bool,
    /// What the client calls the endpoint is known at once.
    pub knows_alias: bool,
    /// Everything is done a second time, byte by byte, and compared.
    pub is_compared: bool,
    /// Sequence numbers behind the SYNs, of the client and of the endpoint.
    pub starts: [u32; 2],
    /// Bytes that were sent before, which decides where pages begin.
    pub ahead: u16,
    /// Scale of the windows; more than 14: it is not known.
    pub scale: u8,
    /// Bytes of the segments that bring what is missing at the end.
    pub last_segments: usize,
    pub client: Side,
    pub server: Side,
}

/// What one side sends.
#[derive(Debug)]
pub struct Side {
    pub stream: Vec<u8>,
    pub expected: Vec<Piece>,
    /// Bytes that are sent at once; the others when the other side has received what it waits for.
    pub greeting: usize,
    /// When this much has arrived, the other side goes on.
    pub trigger: usize,
}

impl Script {
    /// Reads a script from an input; what is left of it tells what happens to the segments.
    ///
    /// # Errors
    /// The input is too short.
    pub fn read(input: &mut Unstructured<'_>) -> Result<Self> {
        let flags: u16 = input.arbitrary()?;
        let is = |bit: u16| flags & 1 << bit != 0;
        let is_plain = is(0);
        let is_compared = is(11) && is(12);
        let among = if is_plain || is_compared {
            NAMES.len() / 2
        } else {
            NAMES.len()
        };
        let (canonical, alias, client) = NAMES[usize::from(input.arbitrary::<u8>()?) % among];
        let names = Names {
            scheme: if is(1) { "akka" } else { "pekko" },
            client: Authority::new(client, 6122),
            ..Names::flink(canonical, alias)
        };
        let is_listed = is(2) && is(3);
        let is_adopted = is(4) && is(5);
        let has_peer_alias = is(6) && is(7);
        let wraps = is(8);
        let start = |input: &mut Unstructured<'_>| -> Result<u32> {
            let start = u32::from(input.arbitrary::<u16>()?) / 2;
            Ok(if wraps {
                (u32::MAX - 20_000).wrapping_add(start)
            } else {
                (1 << 20) + start
            })
        };
        let starts = [start(input)?, start(input)?];
        let ahead = input.arbitrary()?;
        let scale = input.arbitrary::<u8>()? & 31;
        let last_segments = 64 + 4 * usize::from(input.arbitrary::<u8>()?);
        let mut writer = Writer {
            names: &names,
            is_plain,
            is_adopted,
            is_listed,
            begins_canonical: has_peer_alias && is(13) && !is_plain || canonical == alias,
        };
        let client = writer.side(input, true)?;
        // What the fast way skips teaches it nothing about near misses: whether a name is held is not the same.
        writer.is_plain |= is_compared;
        let server = writer.side(input, false)?;
        let mut script = Self {
            is_plain,
            is_listed,
            has_peer_alias,
            is_adopted,
            is_named: is(9) || is_adopted,
            is_late: is(10),
            knows_alias: is(14) || is_compared,
            is_compared,
            starts,
            ahead,
            scale,
            last_segments,
            client,
            server,
            names,
        };
        script.client.expected = script.inbound();
        script.server.expected = script.outbound();
        Ok(script)
    }

    fn inbound(&self) -> Vec<Piece> {
        let pieces = inbound(&self.client.stream, &self.names);
        if !self.is_listed {
            return pieces;
        }
        // A name that is cut, and does not go on in time, is left as it is.
        let mut at = 0;
        pieces
            .into_iter()
            .map(|piece| match piece {
                Piece::Exact(bytes) => {
                    at += bytes.len();
                    Piece::Exact(bytes)
                }
                Piece::OneOf(mut forms) => {
                    let len = forms.first().map_or(0, Vec::len);
                    let sent = self.client.stream[at..at + len].to_vec();
                    at += len;
                    if is_unlisted(&sent) {
                        return Piece::Exact(sent);
                    }
                    forms.push(sent);
                    Piece::OneOf(forms)
                }
            })
            .collect()
    }

    fn outbound(&self) -> Vec<Piece> {
        let translated = outbound(&self.server.stream, &self.names);
        if self.is_listed || self.has_peer_alias {
            // The alias may be learned later, or be of no use any more.
            either(&self.server.stream, &translated)
        } else {
            vec![Piece::Exact(translated)]
        }
    }
}

/// Whether the endpoint's list has it.
pub fn is_listed(alias: &[u8]) -> bool {
    !alias.starts_with(b"unlisted")
}

fn is_unlisted(front: &[u8]) -> bool {
    front
        .iter()
        .position(|byte| *byte == b'@')
        .is_some_and(|at| !is_listed(&front[at + 1..]))
}

/// Every run of bytes in which the two differ may be that of either.
fn either(one: &[u8], other: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let pairs: Vec<(u8, u8)> = one.iter().copied().zip(other.iter().copied()).collect();
    for run in pairs.chunk_by(|a, b| (a.0 == a.1) == (b.0 == b.1)) {
        let (one, other): (Vec<u8>, Vec<u8>) = run.iter().copied().unzip();
        pieces.push(if one == other {
            Piece::Exact(one)
        } else {
            Piece::OneOf(vec![one, other])
        });
    }
    pieces
}

/// Writes frames as an input tells.
struct Writer<'n> {
    names: &'n Names,
    is_plain: bool,
    is_adopted: bool,
    is_listed: bool,
    /// The client's first recipient is the canonical name.
    begins_canonical: bool,
}

impl Writer<'_> {
    fn side(&mut self, input: &mut Unstructured<'_>, is_client: bool) -> Result<Side> {
        let names = self.names;
        let own = if is_client {
            &names.client
        } else {
            &names.canonical
        };
        let mut stream = Vec::new();
        if !self.is_adopted {
            stream.extend(associate(&names.system, own, 7));
        }
        let greeting = stream.len();
        let mut trigger = greeting;
        if is_client {
            // The first recipient is what the alias is learned from.
            let authority = if self.begins_canonical {
                &names.canonical
            } else {
                &names.alias
            };
            let first = Envelope {
                recipient: names.path(authority, "/user/rpc/x"),
                serializer: 20,
                ..Envelope::default()
            };
            stream.extend(first.frame());
            trigger = stream.len();
        } else if self.is_adopted {
            // At a control message it would be the next recipient that is read, and not searched.
            let first = Envelope {
                recipient: names.path(&names.client, "/user/rpc/y"),
                serializer: 20,
                ..Envelope::default()
            };
            stream.extend(first.frame());
        }
        let count = input.arbitrary::<u8>()? as usize % FRAMES;
        for _ in 0..count {
            if stream.len() > LONGEST || input.is_empty() {
                break;
            }
            self.frame(input, is_client, &mut stream)?;
        }
        Ok(Side {
            stream,
            expected: Vec::new(),
            greeting,
            trigger,
        })
    }

    fn frame(
        &mut self,
        input: &mut Unstructured<'_>,
        is_client: bool,
        stream: &mut Vec<u8>,
    ) -> Result<()> {
        let names = self.names;
        let kind: u8 = input.arbitrary()?;
        match kind & 15 {
            0 => stream.extend(frame(&[])),
            1 => stream.extend([0; 4].repeat(1 + usize::from(kind >> 4))),
            2 => stream.extend(control(3)),
            3 => {
                // An acknowledgement without an envelope.
                let mut body = vec![0x0a, 0x0b, 0x0a, 0x09, 0x09];
                body.extend([kind; 8]);
                stream.extend(frame(&body));
            }
            // Behind a hole it is not recognised, and the connection is reset.
            4 if !self.is_plain => {
                // No message: text.
                let mut body = vec![b'?'];
                self.body(input, &mut body)?;
                stream.extend(frame(&body));
            }
            _ => {
                let envelope = Envelope {
                    recipient: self.recipient(input, is_client)?,
                    sender: (kind & 16 != 0).then(|| {
                        let own = if is_client {
                            &names.client
                        } else {
                            &names.canonical
                        };
                        names.path(own, "/temp/$a")
                    }),
                    manifest: (kind & 32 != 0).then(|| "B".to_owned()),
                    ack: (kind & 0xc0 == 0x40).then_some(5),
                    sequence: (kind & 0xc0 == 0xc0).then_some(7),
                    serializer: 20,
                    body: {
                        let mut body = Vec::new();
                        self.body(input, &mut body)?;
                        body
                    },
                };
                stream.extend(envelope.frame());
            }
        }
        Ok(())
    }

    fn recipient(&self, input: &mut Unstructured<'_>, is_client: bool) -> Result<String> {
        let names = self.names;
        let choice: u8 = input.arbitrary()?;
        let rest = ["/", "/user/rpc/dispatcher_0", "/user/x", ""][usize::from(choice >> 6)];
        if !is_client {
            return Ok(match choice & 7 {
                // Where a connection is adopted at a control message, the next recipient is read and not searched.
                0 if !self.is_plain && !self.is_adopted => {
                    names.path(&names.canonical, "/user/own")
                }
                1 if !self.is_plain => format!("{}://{}/user/x", names.scheme, names.system),
                _ => names.path(&names.client, rest),
            });
        }
        // Without a path behind it an authority has no end.
        let rest = if rest.is_empty() { "/a" } else { rest };
        Ok(match choice & 15 {
            0 | 1 => names.path(&names.canonical, rest),
            2 if !self.is_plain => format!("{}://{}/user/x", names.scheme, names.system),
            3 if !self.is_plain => format!("{}.tcp://other@elsewhere:1{rest}", names.scheme),
            // Else it may be learned as the alias, where the first recipient is cut.
            4 if self.is_listed && !self.is_plain => names.path(&"unlisted:6123", rest),
            6 if !self.is_plain => {
                format!(
                    "{}.tcp://{}-metrics@{}{rest}",
                    names.scheme, names.system, names.alias
                )
            }
            _ => names.path(&names.alias, rest),
        })
    }

    /// Appends the message of an envelope: pieces, one after another.
    fn body(&self, input: &mut Unstructured<'_>, body: &mut Vec<u8>) -> Result<()> {
        let names = self.names;
        let pieces = input.arbitrary::<u8>()? & 7;
        for _ in 0..pieces {
            if body.len() > LONGEST / 4 {
                break;
            }
            let what: u8 = input.arbitrary()?;
            let times = usize::from(what >> 5);
            match what & 31 {
                0 | 1 => {
                    let len = 1 + usize::from(input.arbitrary::<u8>()? & 31);
                    let raw = input.bytes(len.min(input.len()))?;
                    if self.is_plain {
                        body.extend(raw.iter().map(|byte| byte | 0x80));
                    } else {
                        body.extend(raw);
                    }
                }
                2 => body.extend(b"x".repeat(16 << times)),
                3 => body.extend(b"x".repeat(times)),
                4 => body.extend([0xff].repeat(100 + 1000 * times)),
                5..8 => {
                    let url = names.path(&names.canonical, "/user/rpc/a");
                    body.extend(url.repeat(1 + times / 2).bytes());
                }
                8 => body.extend(format!("://{}@{}/", names.system, names.canonical).bytes()),
                9 => body.extend(names.path(&names.alias, "/user/rpc/b").bytes()),
                _ if self.is_plain => body.push(what | 0x80),
                near => body.extend(self.near_miss(near, times)),
            }
        }
        Ok(())
    }

    /// What looks like a name, or like a frame, and is something else.
    fn near_miss(&self, what: u8, times: usize) -> Vec<u8> {
        let Names {
            scheme,
            system,
            canonical,
            alias,
            ..
        } = self.names;
        let host = &canonical.host;
        let text = match what {
            10 => format!("{scheme}.tcp://{system}@{canonical}4/user"),
            11 => format!("{scheme}.tcp://{system}@{host}2:{}/user", canonical.port),
            12 => format!("{scheme}.tcp://{system}@{canonical} and more"),
            13 => format!("{scheme}.tcp://{system}@x{canonical}/user"),
            14 => format!("{scheme}.tcp://{system}-metrics@{canonical}/user"),
            15 => format!("://{system}@://{system}@{canonical}/"),
            16 => format!("://{system}@{host}:61://{system}@{canonical}/"),
            17 => format!("://{system}@{canonical}://{system}@{canonical}/"),
            18 => format!(":://{system}@{canonical}//"),
            19 => format!("@{canonical}/"),
            20 => format!("{host}:{}/", canonical.port),
            21 => format!("@{alias}/"),
            22 => ":".repeat(times),
            23 => "/".repeat(times),
            24 => {
                let whole = format!("://{system}@{canonical}/");
                whole[..whole.len() * times / 8].to_owned()
            }
            25 => {
                let whole = format!("{scheme}.tcp://{system}@{alias}/");
                whole[whole.len() * times / 8..].to_owned()
            }
            26 => return vec![0; times],
            27 => return frame(&[]).repeat(times),
            28 => return control(3),
            29 => return [0x16, 0x03, 0x01].repeat(times),
            _ => {
                let inner = Envelope {
                    recipient: self.names.path(alias, "/user/y"),
                    serializer: 20,
                    ..Envelope::default()
                };
                return inner.frame();
            }
        };
        text.into_bytes()
    }
}
