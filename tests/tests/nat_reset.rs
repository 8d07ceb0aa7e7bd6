//! The target of a service becomes another: connections to the former one are reset or left alone.

use std::{io, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use truename_tests::nat::{
    By, Download, Family, Lab, Protocol, Rules, Seen, Service, Translator, Web, beside, connect,
    page,
};

/// The port that the web servers listen on.
const PORT: u16 = 8080;

/// The same web server on the node and on two others, and an alias that leads to one of them.
struct Site {
    lab: Lab,
    web: [Web; 2],
    targets: [SocketAddr; 3],
    alias: SocketAddr,
    family: Family,
}

impl Site {
    fn new(family: Family) -> Result<Self> {
        let lab = Lab::new()?;
        let targets = [
            lab.node(family),
            lab.target(family, 0),
            lab.target(family, 1),
        ];
        let targets = targets.map(|address| SocketAddr::new(address, PORT));
        let web = [
            Web::start(&lab.node, &lab.scratch, &targets[..1])?,
            Web::start(&lab.target, &lab.scratch, &targets[1..])?,
        ];
        let alias = SocketAddr::new(lab.foreign(family, 1), 80);
        Ok(Self {
            lab,
            web,
            targets,
            alias,
            family,
        })
    }

    fn rules(&self, targets: &[usize], on_change: &'static str) -> Rules {
        let targets: Vec<_> = targets.iter().map(|at| (self.targets[*at], 1)).collect();
        let service = Service::weighted(Protocol::Tcp, self.alias, &targets);
        Rules::new(vec![Service {
            on_change: Some(on_change),
            ..service
        }])
    }

    /// Makes the alias lead to these targets.
    fn lead(&self, by: &Translator, targets: &[usize], on_change: &'static str) -> Result<()> {
        by.reload(&self.lab, &self.rules(targets, on_change))
    }

    /// Notes whether the alias leads to a target now.
    fn note(&self, seen: &mut Seen, stream: &std::net::TcpStream, target: usize) -> Result<()> {
        self.ensure_at(stream, target)?;
        seen.note(self.family, target);
        Ok(())
    }

    fn connect(&self) -> Result<std::net::TcpStream> {
        let from = SocketAddr::new(self.lab.client(self.family), 0);
        connect(&self.lab.client, from, self.alias)
    }

    /// Asserts which target a connection leads to.
    fn ensure_at(&self, stream: &std::net::TcpStream, target: usize) -> Result<()> {
        let who = page(stream, "/who")?;
        let expected = self.targets[target].ip().to_string();
        ensure!(who.starts_with(&format!("{expected} ")), "it is {who}");
        Ok(())
    }
}

/// Netfilter takes up a connection in the middle, too.
#[test]
fn a_connection_that_was_forgotten_goes_on_with_its_target() {
    for family in Family::BOTH {
        beside(|by| {
            let site = Site::new(family)?;
            let mut seen = Seen::new();
            for on_change in ["drain", "reset"] {
                for target in [0, 1] {
                    let rules = site.rules(&[target], on_change);
                    let by = Translator::start(by, &site.lab, &rules)?;
                    let stream = site.connect()?;
                    site.note(&mut seen, &stream, target)?;
                    for _ in 0..2 {
                        by.forget(&site.lab)?;
                        let case = || format!("{family}, target {target}, {on_change}");
                        site.note(&mut seen, &stream, target).with_context(case)?;
                    }
                }
            }
            Ok(seen)
        });
    }
}

/// Asserts that a connection ended with `ECONNRESET`.
fn ensure_reset<T>(outcome: Result<T>) -> Result<()> {
    let error = outcome.err().context("it goes on")?;
    let errors = error.chain();
    let kinds = errors.filter_map(|cause| cause.downcast_ref().map(io::Error::kind));
    let is_reset = kinds.last() == Some(io::ErrorKind::ConnectionReset);
    ensure!(is_reset, "it ended with {error:#}");
    Ok(())
}

/// nftables has no such thing: its connections go on with the former target.
#[test]
fn connections_to_a_former_target_are_reset() {
    for family in Family::BOTH {
        beside(|by| {
            let site = Site::new(family)?;
            let rules = site.rules(&[0], "reset");
            let resets = by == By::Truename;
            let mut seen = Seen::new();
            let by = Translator::start(by, &site.lab, &rules)?;
            // From the node to another, on to the next, and back.
            for (former, next) in [(0, 1), (1, 2), (2, 0)] {
                let case = || format!("{family}, from {former} to {next}");
                let idle = site.connect()?;
                site.ensure_at(&idle, former).with_context(case)?;
                let busy = Download::begin(site.connect()?, "/big")?;
                site.lead(&by, &[next], "reset")?;
                if resets {
                    ensure_reset(page(&idle, "/who")).with_context(case)?;
                    ensure_reset(busy.finish(site.web[0].big())).with_context(case)?;
                } else {
                    site.ensure_at(&idle, former).with_context(case)?;
                    let busy = busy.finish(site.web[0].big()).with_context(case)?;
                    site.ensure_at(&busy, former).with_context(case)?;
                }
                let new = site.connect()?;
                site.note(&mut seen, &new, next).with_context(case)?;
                // It stays a target while another comes and goes.
                for targets in [&[next, former][..], &[next]] {
                    site.lead(&by, targets, "reset")?;
                    site.note(&mut seen, &new, next).with_context(case)?;
                }
            }
            Ok(seen)
        });
    }
}

#[test]
fn connections_to_a_former_target_are_left_alone() {
    for family in Family::BOTH {
        beside(|by| {
            let site = Site::new(family)?;
            let rules = site.rules(&[0], "drain");
            let is_truename = by == By::Truename;
            let mut seen = Seen::new();
            let by = Translator::start(by, &site.lab, &rules)?;
            let former = site.connect()?;
            site.note(&mut seen, &former, 0)?;
            let busy = Download::begin(site.connect()?, "/big")?;
            site.lead(&by, &[1], "drain")?;
            site.note(&mut seen, &former, 0)?;
            site.note(&mut seen, &busy.finish(site.web[0].big())?, 0)?;
            site.note(&mut seen, &site.connect()?, 1)?;
            if !is_truename {
                return Ok(seen);
            }
            // Told so later, it ends those that were left alone with the next change.
            site.lead(&by, &[1], "reset")?;
            site.ensure_at(&former, 0)?;
            site.lead(&by, &[2], "reset")?;
            ensure_reset(page(&former, "/who"))?;
            site.ensure_at(&site.connect()?, 2)?;
            Ok(seen)
        });
    }
}
