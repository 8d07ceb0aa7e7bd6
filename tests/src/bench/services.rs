//! A service whose target is another host, in three labs side by side: forwarded without translation,
//! translated by nftables, translated by truename.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Cpus, in_thread, median};
use crate::{
    namespace::Namespace,
    nat::{By, Client, Family, Iperf, Lab, Protocol, Rules, Service, Translator, connect, reset},
    socket,
};

const BULK: u16 = 5201;
const ECHO: u16 = 7007;
/// Bytes of a bulk transfer.
const BYTES: u64 = 1 << 30;

/// What one arrangement did, by round.
#[derive(Clone, Debug)]
pub struct ServiceRates {
    /// The arrangement.
    pub name: &'static str,
    /// Bits a second of a bulk transfer.
    pub bulk: Vec<u64>,
    /// Connections a second: opened, a byte each way, reset.
    pub connections: Vec<u64>,
    /// Round trips a second of one byte on one connection.
    pub round_trips: Vec<u64>,
}

impl ServiceRates {
    /// The medians over the rounds, in the order of the fields.
    ///
    /// # Errors
    /// There was no round.
    pub fn medians(&self) -> Result<[u64; 3]> {
        let middle = |values: &[u64]| median(&mut values.to_vec()).context("no round was measured");
        Ok([
            middle(&self.bulk)?,
            middle(&self.connections)?,
            middle(&self.round_trips)?,
        ])
    }
}

/// Runs `rounds` rounds in each arrangement, in turn; connections and round trips for `time` each. The
/// first round is not counted.
///
/// # Errors
/// A connection failed, or a byte came back wrong.
pub fn services(rounds: usize, time: Duration) -> Result<Vec<ServiceRates>> {
    in_thread(|| {
        Cpus::One.pin(0)?;
        let mut arrangements = [
            ("forwarded, not translated", None),
            ("translated by nftables", Some(By::Nftables)),
            ("translated by truename", Some(By::Truename)),
        ]
        .into_iter()
        .map(|(name, by)| Arrangement::new(name, by))
        .collect::<Result<Vec<_>>>()?;
        for round in 0..=rounds {
            for arrangement in &mut arrangements {
                arrangement.round(time, round > 0)?;
            }
        }
        Ok(arrangements
            .into_iter()
            .map(|arrangement| arrangement.rates)
            .collect())
    })
}

struct Arrangement {
    rates: ServiceRates,
    /// Where the client connects to.
    bulk: SocketAddr,
    echo: SocketAddr,
    _iperf: Iperf,
    _translator: Option<Translator>,
    lab: Lab,
}

impl Arrangement {
    fn new(name: &'static str, by: Option<By>) -> Result<Self> {
        let lab = Lab::new()?;
        let target = |port| SocketAddr::new(lab.target(Family::V4, 0), port);
        let alias = |port| SocketAddr::new(lab.foreign(Family::V4, 1), port);
        let iperf = Iperf::start(&lab.target, &lab.scratch, target(BULK))?;
        serve(&lab.target, target(ECHO))?;
        let of = |port| Service::new(Protocol::Tcp, alias(port), target(port));
        let rules = Rules::new(vec![of(BULK), of(ECHO)]);
        let translator = by
            .map(|by| Translator::start(by, &lab, &rules))
            .transpose()?;
        let place = |port| {
            if by.is_some() {
                alias(port)
            } else {
                target(port)
            }
        };
        Ok(Self {
            rates: ServiceRates {
                name,
                bulk: Vec::new(),
                connections: Vec::new(),
                round_trips: Vec::new(),
            },
            bulk: place(BULK),
            echo: place(ECHO),
            _iperf: iperf,
            _translator: translator,
            lab,
        })
    }

    fn round(&mut self, time: Duration, counted: bool) -> Result<()> {
        let client = Client::new(&self.lab.client, &self.lab.scratch);
        let bulk = client.measure(self.bulk, BYTES, false)?.rate as u64;
        let connections = self.repeat(time, |this| {
            let stream = this.connect()?;
            exchange(&stream)?;
            reset(stream)
        })?;
        let stream = self.connect()?;
        let round_trips = self.repeat(time, |_| exchange(&stream))?;
        if counted {
            self.rates.bulk.push(bulk);
            self.rates.connections.push(connections);
            self.rates.round_trips.push(round_trips);
        }
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream> {
        let any = SocketAddr::new(self.lab.client(Family::V4), 0);
        let stream = connect(&self.lab.client, any, self.echo)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// How often a second `what` can be done.
    fn repeat(&self, time: Duration, what: impl Fn(&Self) -> Result<()>) -> Result<u64> {
        let begun = Instant::now();
        let mut count = 0u64;
        while begun.elapsed() < time {
            what(self)?;
            count += 1;
        }
        Ok((count as f64 / begun.elapsed().as_secs_f64()) as u64)
    }
}

/// A byte there and back.
fn exchange(mut stream: &TcpStream) -> Result<()> {
    let mut answer = [0];
    stream.write_all(b"x")?;
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"x", "a wrong answer");
    Ok(())
}

/// Sends every byte back, to one client at a time, until the benchmark ends.
fn serve(namespace: &Namespace, address: SocketAddr) -> Result<()> {
    let listener: TcpListener = namespace
        .run(|| socket::listen(address))?
        .with_context(|| format!("listen on {address}"))?;
    thread::spawn(move || {
        loop {
            // A deadline passes while others are measured.
            let Ok((mut stream, _)) = listener.accept() else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        }
    });
    Ok(())
}
