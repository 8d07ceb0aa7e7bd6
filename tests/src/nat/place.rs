//! Targets for both protocols, services to them, and a client of both.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    family::Family,
    lab::Lab,
    page::page,
    probe::{Probe, connect},
    rules::{Protocol, Rules, Service},
    seen::Seen,
    servers::{Echo, Web},
};
use crate::namespace::Namespace;

/// The port of the targets.
const PORT: u16 = 7000;

/// A web server and an echo for datagrams at every target.
#[derive(Debug)]
pub struct Servers {
    _web: Web,
    _echoes: Vec<Echo>,
}

impl Servers {
    /// Starts them.
    ///
    /// # Errors
    /// An address is not there.
    pub fn start(lab: &Lab, namespace: &Namespace, addresses: &[IpAddr]) -> Result<Self> {
        let targets: Vec<_> = addresses
            .iter()
            .map(|address| SocketAddr::new(*address, PORT))
            .collect();
        let echoes = targets
            .iter()
            .map(|target| Echo::start(namespace, *target))
            .collect::<Result<_>>()?;
        Ok(Self {
            _web: Web::start(namespace, &lab.scratch, &targets)?,
            _echoes: echoes,
        })
    }
}

/// Services of both protocols, each with one target.
pub fn services(pairs: &[(SocketAddr, IpAddr)]) -> Rules {
    let both = [Protocol::Tcp, Protocol::Udp];
    let service = |protocol, (alias, target): &(SocketAddr, IpAddr)| {
        Service::new(protocol, *alias, SocketAddr::new(*target, PORT))
    };
    let all = both.into_iter();
    Rules::new(
        all.flat_map(|protocol| pairs.iter().map(move |pair| service(protocol, pair)))
            .collect(),
    )
}

/// A page is fetched and three datagrams come back.
///
/// # Errors
/// They are not answered.
pub fn ask(seen: &mut Seen, namespace: &Namespace, alias: SocketAddr) -> Result<()> {
    let any: IpAddr = match Family::of(alias.ip()) {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let any = SocketAddr::new(any, 0);
    let stream = connect(namespace, any, alias)?;
    seen.note(alias, page(&stream, "/who")?);
    let probe = Probe::start(namespace, any, alias)?;
    // While a neighbour is being found, the first may be lost under anybody.
    for attempt in 0.. {
        probe.set_patience(Duration::from_secs(1))?;
        probe.send(9)?;
        if probe.receive().is_ok() {
            break;
        }
        ensure!(attempt < 1, "{alias}: no answer to datagrams");
    }
    for length in 1..4 {
        probe.send(length)?;
        let answer = probe
            .receive()
            .with_context(|| format!("{alias}: the answer to datagram {length}"))?;
        ensure!(answer == length, "{alias}: {answer} bytes");
    }
    seen.note(alias, "datagrams");
    Ok(())
}
