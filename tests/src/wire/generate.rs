//! Seeded streams in both directions, full of what has to change and of what must not.

use super::{
    check::Piece,
    encode::{Envelope, associate, control, frame},
    names::Names,
    oracle,
};
use crate::random::Random;

/// Set where a machine is so slow that senders wait for seconds with a name that is cut. A name is then
/// guessed, and a near miss that is cut resets the connection, as it has to.
pub const NO_NEAR_MISSES: &str = "TRUENAME_NO_NEAR_MISSES";

/// What to generate.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Who talks to whom.
    pub names: Names,
    /// The same seed gives the same streams.
    pub seed: u64,
    /// Begin with the handshake; without it the streams continue a connection.
    pub greet: bool,
    /// Messages may contain what begins like the server's name and is something else.
    pub near_misses: bool,
    /// The size of the message in each envelope of the client.
    pub client: Vec<usize>,
    /// The same for the server.
    pub server: Vec<usize>,
}

impl Spec {
    /// A new connection with `count` small and medium messages each way.
    pub fn mixed(names: &Names, seed: u64, count: usize) -> Self {
        let mut random = Random::new(seed ^ 0x5a5a);
        let mut sizes = || {
            (0..count)
                .map(|_| match random.below(10) {
                    0..3 => 1 + random.below(20),
                    3..8 => 20 + random.below(500),
                    8 => 500 + random.below(4_000),
                    _ => 4_000 + random.below(30_000),
                })
                .collect()
        };
        Self {
            names: names.clone(),
            seed,
            greet: true,
            near_misses: true,
            client: sizes(),
            server: sizes(),
        }
    }

    /// A new connection with the same sizes of messages in both directions.
    pub fn sizes(names: &Names, seed: u64, sizes: &[usize]) -> Self {
        Self {
            names: names.clone(),
            seed,
            greet: true,
            near_misses: true,
            client: sizes.to_vec(),
            server: sizes.to_vec(),
        }
    }

    /// The same on a connection that has been greeted before.
    #[must_use]
    pub fn continued(mut self, seed: u64) -> Self {
        self.greet = false;
        self.seed = seed;
        self
    }

    /// Generates both streams.
    pub fn script(&self) -> Script {
        let mut random = Random::new(self.seed);
        Script {
            client: self.client_half(&mut random),
            server: self.server_half(&mut random),
        }
    }

    fn client_half(&self, random: &mut Random) -> Half {
        let names = &self.names;
        let greeting = if self.greet {
            associate(&names.system, &names.client, random.number() as i32)
        } else {
            Vec::new()
        };
        let mut rest = Vec::new();
        let mut first = 0;
        for (index, size) in self.client.iter().enumerate() {
            // Clients that learned the canonical name by other means may use it; the first one must not,
            // because it is what the alias is learned from.
            let authority = if index > 0 && random.chance(150) {
                &names.canonical
            } else {
                &names.alias
            };
            let recipient = names.path(authority, random.pick::<&str>(&TARGETS));
            let sender = names.path(&names.client, random.pick::<&str>(&SOURCES));
            let body = body(random, *size, &phrases(names, self.near_misses));
            rest.extend(envelope(random, recipient, sender, body).frame());
            if index == 0 {
                first = rest.len();
            }
            noise(random, &mut rest);
        }
        let sent = [greeting.as_slice(), rest.as_slice()].concat();
        Half {
            trigger: greeting.len() + first,
            expected: oracle::inbound(&sent, names),
            greeting,
            rest,
        }
    }

    fn server_half(&self, random: &mut Random) -> Half {
        let names = &self.names;
        let greeting = if self.greet {
            associate(&names.system, &names.canonical, random.number() as i32)
        } else {
            Vec::new()
        };
        let mut rest = Vec::new();
        for size in &self.server {
            let recipient = names.path(&names.client, random.pick::<&str>(&SOURCES));
            let sender = names.path(&names.canonical, random.pick::<&str>(&TARGETS));
            let body = body(random, *size, &phrases(names, self.near_misses));
            rest.extend(envelope(random, recipient, sender, body).frame());
            noise(random, &mut rest);
        }
        let sent = [greeting.as_slice(), rest.as_slice()].concat();
        Half {
            trigger: greeting.len(),
            expected: vec![Piece::Exact(oracle::outbound(&sent, names))],
            greeting,
            rest,
        }
    }
}

/// What both sides of a connection send.
#[derive(Clone, Debug)]
pub struct Script {
    /// From the client to the server.
    pub client: Half,
    /// From the server to the client.
    pub server: Half,
}

/// One direction.
#[derive(Clone, Debug)]
pub struct Half {
    /// Sent at once.
    pub greeting: Vec<u8>,
    /// Sent when the other side has received `trigger` bytes of what it has to receive.
    pub rest: Vec<u8>,
    /// When this much has arrived, the receiver may send its own `rest`.
    pub trigger: usize,
    /// How greeting and rest have to arrive.
    pub expected: Vec<Piece>,
}

impl Half {
    /// Where the frame ends that the byte at `position` belongs to.
    pub fn frame_end(&self, position: usize) -> usize {
        let stream = [&*self.greeting, &self.rest].concat();
        let mut end = 0;
        while end <= position
            && let Some(length) = stream.get(end..).and_then(|rest| rest.first_chunk())
        {
            end += 4 + u32::from_be_bytes(*length) as usize;
        }
        end
    }
}

const TARGETS: [&str; 6] = [
    "/",
    "/user/rpc/resourcemanager_*",
    "/user/rpc/dispatcher_0",
    "/user/rpc/jobmanager_2#-1178420801",
    "/temp/_user_rpc_jobmanager_2$g",
    "/user/jobmanager",
];
const SOURCES: [&str; 3] = [
    "/user/rpc/taskmanager_0#903715523",
    "/temp/_user_rpc_resourcemanager_*$a",
    "/user/rpc/taskmanager_0",
];

fn envelope(random: &mut Random, recipient: String, sender: String, body: Vec<u8>) -> Envelope {
    Envelope {
        recipient,
        sender: random.chance(700).then_some(sender),
        body,
        serializer: *random.pick(&[1, 6, 16, 20, 22]),
        manifest: random.chance(300).then(|| "B".to_owned()),
        ack: random.chance(200).then(|| random.number()),
        sequence: random.chance(200).then(|| random.number()),
    }
}

/// Frames without addresses.
fn noise(random: &mut Random, stream: &mut Vec<u8>) {
    match random.below(12) {
        0 => stream.extend(frame(&[])),
        1 => stream.extend(control(3)),
        // An acknowledgement without an envelope.
        2 => {
            let mut body = vec![0x0a, 0x0b, 0x0a, 0x09, 0x09];
            body.extend(random.number().to_le_bytes());
            stream.extend(frame(&body));
        }
        _ => {}
    }
}

/// Random bytes with phrases in between, exactly `size` long.
fn body(random: &mut Random, size: usize, phrases: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![0; size];
    random.fill(&mut body);
    // As many as there is room for, at most a few in a large message.
    let mut at = 0;
    for _ in 0..64 {
        let phrase = random.pick(phrases);
        at += random.below(size / 8 + 8);
        let Some(place) = body.get_mut(at..at + phrase.len()) else {
            break;
        };
        place.copy_from_slice(phrase);
        // Often without anything in between.
        at += phrase.len();
        if random.chance(500) {
            at += random.below(100);
        }
    }
    body
}

/// What a message may contain. What has to become of each is the oracle's business.
fn phrases(names: &Names, near_misses: bool) -> Vec<Vec<u8>> {
    let Names {
        scheme,
        system,
        canonical,
        alias,
        ..
    } = names;
    let host = &canonical.host;
    let near_misses = near_misses && std::env::var_os(NO_NEAR_MISSES).is_none();
    let url = names.path(canonical, "/user/rpc/jobmanager_2");
    let mut java = vec![0x74];
    java.extend((url.len() as u16).to_be_bytes());
    java.extend(url.bytes());
    let reference = names.path(canonical, "/user/a#7");
    let mut identity = vec![0x12, reference.len() as u8 + 2, 0x0a, reference.len() as u8];
    identity.extend(reference.bytes());
    let texts = [
        // Names of the server.
        url.clone(),
        names.path(canonical, "/"),
        format!("://{system}@{canonical}/"),
        format!("{url}{url}{url}"),
        // What has some of it.
        format!("{host}_2"),
        format!("{host}.rpc.address"),
        format!("@{canonical}/"),
        // Names by which the client knows it.
        names.path(alias, "/user/rpc/dispatcher_0"),
        names.path(alias, "/"),
    ];
    let near = [
        format!(":://{system}@{canonical}//"),
        format!("://{system}@://{system}@{canonical}/"),
        // Beginnings of such names, followed by a whole one.
        format!("://{system}@{host}:61://{system}@{canonical}/"),
        format!("://{system}@{canonical}://{system}@{canonical}/"),
        // What looks like one.
        format!("{scheme}.tcp://{system}@{canonical}4/user"),
        format!("{scheme}.tcp://{system}@{host}2:{}/user", canonical.port),
        format!("{scheme}.tcp://{system}@{canonical} and more"),
        format!("{scheme}.tcp://{system}@x{canonical}/user"),
        format!("{scheme}.tcp://{system}-metrics@{canonical}/user"),
        format!("{scheme}.tcp://{}@{canonical}/user", system.to_uppercase()),
        format!("{scheme}://{system}@{}:0{}/user", host, canonical.port),
    ];
    let near = near.into_iter().take_while(|_| near_misses);
    texts
        .into_iter()
        .chain(near)
        .map(String::into_bytes)
        .chain([java, identity])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Checker;

    #[test]
    fn a_seed_gives_the_same_streams() {
        let names = Names::flink("jobmanager", "jm");
        let (one, same, other) = (
            Spec::mixed(&names, 1, 40).script(),
            Spec::mixed(&names, 1, 40).script(),
            Spec::mixed(&names, 2, 40).script(),
        );
        assert_eq!(one.client.rest, same.client.rest);
        assert_eq!(one.server.rest, same.server.rest);
        assert_ne!(one.client.rest, other.client.rest);
    }

    #[test]
    fn an_untranslated_stream_is_noticed() {
        let names = Names::flink("jobmanager", "jm");
        let script = Spec::mixed(&names, 3, 40).script();
        for half in [&script.client, &script.server] {
            let mut checker = Checker::new(&half.expected);
            let outcome = checker
                .feed(&half.greeting)
                .and_then(|()| checker.feed(&half.rest));
            assert!(outcome.is_err());
        }
    }

    #[test]
    fn without_an_alias_streams_arrive_as_they_are() {
        let names = Names::flink("jobmanager", "jobmanager");
        let script = Spec::mixed(&names, 4, 40).script();
        for half in [&script.client, &script.server] {
            let mut checker = Checker::new(&half.expected);
            checker.feed(&half.greeting).unwrap();
            checker.feed(&half.rest).unwrap();
            assert!(checker.is_complete());
        }
    }

    #[test]
    fn bodies_have_the_size_that_was_asked_for() {
        let names = Names::flink("jobmanager", "jm");
        let mut random = Random::new(5);
        for size in [1, 2, 30, 1_000, 100_000] {
            assert_eq!(body(&mut random, size, &phrases(&names, true)).len(), size);
        }
    }
}
