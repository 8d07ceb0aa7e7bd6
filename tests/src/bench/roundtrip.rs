//! Requests and responses of 190 bytes over one connection, in labs side by side: untouched, translated
//! by truename, relayed by truename, translated by a relay in user space, and through HAProxy.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Cpus, LONG_ALIAS, haproxy::Haproxy, in_thread, median, relay::Relay};
use crate::{
    traffic::{Connection, Dial, Lab},
    truename,
    wire::{Envelope, Names, associate},
};

/// Bytes of a frame, as of a small RPC message.
const FRAME: usize = 190;
const CANONICAL: &str = "jobmanager:6123";

/// What one arrangement did.
#[derive(Clone, Debug)]
pub struct RoundTrips {
    /// The arrangement.
    pub name: &'static str,
    /// Round trips a second, by round.
    pub rates: Vec<u64>,
    /// The 99th percentile of a round trip in nanoseconds, by round.
    pub p99: Vec<u64>,
}

impl RoundTrips {
    /// The medians over the rounds: round trips a second, and nanoseconds.
    ///
    /// # Errors
    /// There was no round.
    pub fn medians(&self) -> Result<(u64, u64)> {
        let rate = median(&mut self.rates.clone()).context("no round was measured")?;
        let p99 = median(&mut self.p99.clone()).context("no round was measured")?;
        Ok((rate, p99))
    }
}

/// Runs `rounds` rounds of `time` in each arrangement, in turn. The first round is not counted.
///
/// # Errors
/// A connection failed, or a frame came back wrong.
pub fn round_trips(rounds: usize, time: Duration, cpus: Cpus) -> Result<Vec<RoundTrips>> {
    in_thread(|| {
        // What is started now stays where it may run now.
        cpus.spread()?;
        let names = Names::flink("jobmanager", "jm");
        let plain = Names::flink("jobmanager", "jobmanager");
        let long = Names::flink("jobmanager", LONG_ALIAS);
        let labs = [
            Lab::direct()?,
            Lab::direct()?,
            Lab::direct()?,
            Lab::direct()?,
            Lab::direct()?,
        ];
        let _truename = labs[1].truename(Some(CANONICAL))?;
        let relay = Relay::start(&labs[2], &names)?;
        let haproxy = Haproxy::start(&labs[3])?;
        let _relayed = labs[4].truename_relay(truename::binary()?, Some(CANONICAL))?;
        let through = |address| Dial {
            to: Some(address),
            ..Dial::default()
        };
        let connections = [
            labs[0].connect(Dial::default())?,
            labs[1].connect(Dial::default())?,
            labs[4].connect(through(labs[4].address()))?,
            labs[2].connect(through(relay.address()))?,
            labs[3].connect(through(haproxy.address()))?,
        ];
        let mut arrangements = connections
            .into_iter()
            .zip([
                (&plain, "untouched"),
                (&names, "translated by truename"),
                (&long, "relayed by truename"),
                (&names, "translated by a relay in user space"),
                (&plain, "HAProxy, which translates nothing"),
            ])
            .map(|(connection, (names, name))| Arrangement::new(connection, names, name, cpus))
            .collect::<Result<Vec<_>>>()?;
        cpus.pin(0)?;
        for round in 0..=rounds {
            for arrangement in &mut arrangements {
                arrangement.round(time, round > 0)?;
            }
        }
        Ok(arrangements
            .into_iter()
            .map(|arrangement| arrangement.result)
            .collect())
    })
}

struct Arrangement {
    connection: Connection,
    /// What the client sends, and what has to come back.
    request: Vec<u8>,
    answer: Vec<u8>,
    /// How long the request is when it arrives.
    arrives: usize,
    /// What the server sends.
    reply: Vec<u8>,
    cpus: Cpus,
    result: RoundTrips,
}

impl Arrangement {
    fn new(connection: Connection, names: &Names, name: &'static str, cpus: Cpus) -> Result<Self> {
        let client = names.path(&names.client, "/temp/a");
        let [alias, canonical] =
            [&names.alias, &names.canonical].map(|name| names.path(name, "/user/a"));
        let (there, back) = (body(&alias, &client), body(&client, &canonical));
        let request = frame(&alias, &client, there);
        let reply = frame(&client, &canonical, back);
        // In place the length does not change. Otherwise truename relays.
        let (arrives, answer) = match names.alias.padded(CANONICAL.len()) {
            Some(padded) => {
                let padded = names.path(&padded, "/user/a");
                (request.len(), frame(&client, &padded, back))
            }
            None => (
                frame(&canonical, &client, there).len(),
                frame(&client, &alias, back),
            ),
        };
        ensure!(
            arrives.is_multiple_of(EMPTY_FRAME),
            "no empty frames are as long as a request, which is {arrives} bytes long"
        );
        // Both announce themselves, which must not change: no name was used yet.
        for (from, to, origin) in [
            (connection.client(), connection.server(), &names.client),
            (connection.server(), connection.client(), &names.canonical),
        ] {
            let frame = associate(&names.system, origin, 7);
            pass(from, to, &frame, &frame)?;
        }
        let result = RoundTrips {
            name,
            rates: Vec::new(),
            p99: Vec::new(),
        };
        Ok(Self {
            connection,
            request,
            answer,
            arrives,
            reply,
            cpus,
            result,
        })
    }

    fn round(&mut self, time: Duration, counted: bool) -> Result<()> {
        let mut taken = Vec::with_capacity(1 << 20);
        let begun = Instant::now();
        thread::scope(|scope| -> Result<()> {
            let server = scope.spawn(|| {
                self.cpus.pin(1)?;
                serve(self.connection.server(), self.arrives, &self.reply)
            });
            let mut client = self.connection.client();
            let mut answer = vec![0; self.answer.len()];
            while begun.elapsed() < time {
                let asked = Instant::now();
                client.write_all(&self.request)?;
                client.read_exact(&mut answer)?;
                taken.push(asked.elapsed().as_nanos() as u64);
                ensure!(
                    answer == self.answer,
                    "{}: a wrong answer",
                    self.result.name
                );
            }
            client.write_all(&vec![STOP; self.arrives])?;
            server
                .join()
                .map_err(|_| anyhow::anyhow!("the server panicked"))?
        })?;
        let rate = (taken.len() as f64 / begun.elapsed().as_secs_f64()) as u64;
        taken.sort_unstable();
        let p99 = taken.get(taken.len() * 99 / 100).copied().unwrap_or(0);
        if counted {
            self.result.rates.push(rate);
            self.result.p99.push(p99);
        }
        Ok(())
    }
}

/// A request of these bytes ends a round: empty frames, which mean nothing.
const STOP: u8 = 0;
/// The length of such a frame.
const EMPTY_FRAME: usize = 4;

/// Answers requests of `len` bytes until the round ends.
fn serve(mut server: &TcpStream, len: usize, reply: &[u8]) -> Result<()> {
    let mut request = vec![0; len];
    loop {
        server.read_exact(&mut request)?;
        if request.iter().all(|byte| *byte == STOP) {
            return Ok(());
        }
        server.write_all(reply)?;
    }
}

/// A frame with a message of this many bytes.
fn frame(recipient: &str, sender: &str, body: usize) -> Vec<u8> {
    Envelope {
        recipient: recipient.to_owned(),
        sender: Some(sender.to_owned()),
        body: vec![b'.'; body],
        serializer: 1,
        ..Envelope::default()
    }
    .frame()
}

/// The bytes of a message with which a frame has about [`FRAME`] bytes.
fn body(recipient: &str, sender: &str) -> usize {
    let bare = frame(recipient, sender, 1).len();
    let mut body = (FRAME + 2).saturating_sub(bare) + 1;
    // As long as some of the empty frames that end a round.
    while !frame(recipient, sender, body)
        .len()
        .is_multiple_of(EMPTY_FRAME)
    {
        body += 1;
    }
    body
}

/// Sends `bytes`, which have to arrive as `expected`.
fn pass(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8], expected: &[u8]) -> Result<()> {
    from.write_all(bytes)?;
    let mut arrived = vec![0; expected.len()];
    to.read_exact(&mut arrived)?;
    ensure!(arrived == expected, "a wrong handshake");
    Ok(())
}
