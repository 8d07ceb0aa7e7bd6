//! What is between client and endpoint in a column of the stream benchmark.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    block::{Arrival, Block},
    row::{Direction, Path, Row},
    transfer::{Moved, Time, transfer},
};
use crate::{
    bench::{LONG_ALIAS, haproxy::Haproxy, relay::Relay},
    traffic::{Connection, Dial, Frames, Impairment, Lab, Repetitions},
    truename::Truename,
    wire::{Envelope, Names, associate},
};

const CANONICAL: &str = "jobmanager:6123";

/// What may be between client and endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Untouched,
    /// truename of this binary, and the client uses an alias.
    Translated(PathBuf),
    /// truename of this binary, and the client uses the canonical name.
    Canonical(PathBuf),
    /// truename of this binary, and the client uses an alias that is too long: truename's own relay.
    Relayed(PathBuf),
    /// A relay in user space that translates.
    Relay,
    /// HAProxy in TCP mode, which translates nothing.
    Haproxy,
}

/// A column.
pub struct Arrangement {
    /// How it is called.
    pub name: String,
    kind: Kind,
    names: Names,
    // Dropped in this order: what uses the lab goes first.
    truename: Option<Truename>,
    relay: Option<Relay>,
    haproxy: Option<Haproxy>,
    lab: Lab,
}

/// What one round of an arrangement showed.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// What moved.
    pub moved: Moved,
    /// What both ends sent again.
    pub repetitions: Repetitions,
    /// By how much the counters of truename grew.
    pub counters: BTreeMap<String, u64>,
}

impl Round {
    /// Names that truename says it has translated.
    pub fn rewritten(&self, direction: Direction) -> u64 {
        let label = match direction {
            Direction::In => "rewritten_inbound",
            Direction::Out => "rewritten_outbound",
        };
        self.counters.get(label).copied().unwrap_or(0)
    }
}

impl Arrangement {
    /// Sets it up over a path.
    ///
    /// # Errors
    /// A part does not start.
    pub fn new(name: &str, kind: Kind, path: &Path) -> Result<Self> {
        let lab = if path.apart {
            Lab::asymmetric()?
        } else if path.is_cable() {
            Lab::direct()?
        } else {
            let impairment = Impairment {
                delay: path.round_trip / 2,
                loss: path.loss,
                frames: Frames::Gso,
                ..Impairment::default()
            };
            Lab::impaired(impairment, 9)?
        };
        let names = match kind {
            Kind::Canonical(_) => Names::flink("jobmanager", "jobmanager"),
            Kind::Relayed(_) => Names::flink("jobmanager", LONG_ALIAS),
            _ => Names::flink("jobmanager", "jm"),
        };
        let truename = match &kind {
            Kind::Translated(binary) | Kind::Canonical(binary) => {
                Some(lab.truename_of(binary.clone(), Some(CANONICAL))?)
            }
            Kind::Relayed(binary) => Some(lab.truename_relay(binary.clone(), Some(CANONICAL))?),
            _ => None,
        };
        let relay = (kind == Kind::Relay)
            .then(|| Relay::start(&lab, &names))
            .transpose()?;
        let haproxy = (kind == Kind::Haproxy)
            .then(|| Haproxy::start(&lab))
            .transpose()?;
        Ok(Self {
            name: name.to_owned(),
            kind,
            names,
            truename,
            relay,
            haproxy,
            lab,
        })
    }

    /// Whether every name has to be translated.
    pub fn translates(&self) -> bool {
        matches!(self.kind, Kind::Translated(_))
    }

    /// Opens connections, runs the streams of a row over them, and counts.
    ///
    /// # Errors
    /// A connection failed, or a byte is wrong.
    pub fn round(&self, row: &Row, time: Time) -> Result<Round> {
        let arrival = match self.kind {
            Kind::Untouched | Kind::Haproxy => Arrival::Same,
            Kind::Translated(_) | Kind::Relay => Arrival::Translated,
            Kind::Canonical(_) => Arrival::SameOrLocal,
            Kind::Relayed(_) => Arrival::Relayed,
        };
        let block_names = Names::flink("jobmanager", "jm");
        let block = Block::new(row, &block_names, arrival)?;
        let mut connections = Vec::new();
        for _ in 0..row.connections {
            let Some(connection) = self.connect()? else {
                return Ok(Round {
                    moved: Moved {
                        stalled: true,
                        ..Moved::default()
                    },
                    ..Round::default()
                });
            };
            connections.push(connection);
        }
        let pairs: Vec<_> = connections
            .iter()
            .map(|connection| match row.direction {
                Direction::In => (connection.client(), connection.server()),
                Direction::Out => (connection.server(), connection.client()),
            })
            .collect();
        let before = (self.counters()?, self.lab.repetitions()?);
        let moved = transfer(&pairs, &block, time)
            .with_context(|| format!("counters since the beginning: {:?}", self.counters()))?;
        let after = (self.counters()?, self.lab.repetitions()?);
        let counters = after
            .0
            .into_iter()
            .map(|(label, count)| {
                let grown = count.saturating_sub(before.0.get(&label).copied().unwrap_or(0));
                (label, grown)
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        Ok(Round {
            moved,
            repetitions: after.1 - before.1,
            counters,
        })
    }

    /// Where the client connects to.
    fn address(&self) -> Option<SocketAddr> {
        if matches!(self.kind, Kind::Relayed(_)) {
            // The server accepts another connection than the client's.
            return Some(self.lab.address());
        }
        let relay = self.relay.as_ref().map(Relay::address);
        relay.or_else(|| self.haproxy.as_ref().map(Haproxy::address))
    }

    /// A connection on which both have announced themselves and the client has used its name once; none if
    /// that does not arrive.
    fn connect(&self) -> Result<Option<Connection>> {
        let dial = Dial {
            to: self.address(),
            ..Dial::default()
        };
        let connection = self.lab.connect(dial)?;
        let names = &self.names;
        let client = |name| {
            let hello = Envelope {
                recipient: names.path(name, "/user/a"),
                body: b"hello".to_vec(),
                serializer: 1,
                ..Envelope::default()
            };
            [associate(&names.system, &names.client, 7), hello.frame()].concat()
        };
        let server = |name| associate(&names.system, name, -7);
        let (inbound, outbound) = (client(&names.alias), server(&names.canonical));
        // In place the length does not change.
        let arriving = match self.kind {
            Kind::Relayed(_) => [client(&names.canonical), server(&names.alias)],
            _ => [inbound.clone(), outbound.clone()],
        };
        let [there, back] = arriving.map(|bytes| vec![0; bytes.len()]);
        for (mut from, mut to, bytes, mut arrived) in [
            (connection.client(), connection.server(), inbound, there),
            (connection.server(), connection.client(), outbound, back),
        ] {
            from.write_all(&bytes)?;
            to.set_read_timeout(Some(GREETING))?;
            match to.read_exact(&mut arrived) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                read => read.context("read the greeting")?,
            }
        }
        Ok(Some(connection))
    }

    fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let Some(truename) = &self.truename else {
            return Ok(BTreeMap::new());
        };
        let (status, _) = truename.status()?;
        let counters = status["counters"].as_object().context("no counters")?;
        counters
            .iter()
            .map(|(label, count)| {
                let count = count
                    .as_u64()
                    .with_context(|| format!("{label}: {count}"))?;
                Ok((label.clone(), count))
            })
            .collect()
    }
}

/// How long a greeting may take, with loss.
const GREETING: Duration = Duration::from_secs(10);
