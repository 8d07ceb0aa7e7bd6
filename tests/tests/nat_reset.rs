//! The target of a service becomes another: connections to the former one are reset or left alone.

use std::{io, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use truename_tests::nat::{
    By, Download, Family, Lab, Protocol, Rules, Service, Translator, Web, alone, connect, page,
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

/// As netfilter does, which takes up a connection in the middle.
#[test]
fn a_connection_to_an_alias_that_no_interface_has_survives_the_loss_of_its_entry() {
    alone(|| {
        for family in Family::BOTH {
            for target in [0, 1] {
                let site = Site::new(family)?;
                let rules = site.rules(&[target], "drain");
                let mut by = Translator::start(By::Truename, &site.lab, &rules)?;
                let stream = site.connect()?;
                site.ensure_at(&stream, target)?;
                let truename = by.truename().context("not truename")?;
                ensure!(truename.flush()? == 1, "not this one alone");
                site.ensure_at(&stream, target)?;
            }
        }
        Ok(())
    });
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

#[test]
fn connections_to_a_former_target_are_reset() {
    for family in Family::BOTH {
        alone(|| {
            let site = Site::new(family)?;
            let rules = site.rules(&[0], "reset");
            let by = Translator::start(By::Truename, &site.lab, &rules)?;
            // From the node to another, on to the next, and back.
            for (former, next) in [(0, 1), (1, 2), (2, 0)] {
                let case = || format!("{family}, from {former} to {next}");
                let idle = site.connect()?;
                site.ensure_at(&idle, former).with_context(case)?;
                let busy = Download::begin(site.connect()?, "/big")?;
                site.lead(&by, &[next], "reset")?;
                ensure_reset(page(&idle, "/who")).with_context(case)?;
                ensure_reset(busy.finish(site.web[0].big())).with_context(case)?;
                let new = site.connect()?;
                site.ensure_at(&new, next).with_context(case)?;
                // It stays a target while another comes and goes.
                for targets in [&[next, former][..], &[next]] {
                    site.lead(&by, targets, "reset")?;
                    site.ensure_at(&new, next).with_context(case)?;
                }
            }
            Ok(())
        });
    }
}

#[test]
fn connections_to_a_former_target_are_left_alone() {
    for family in Family::BOTH {
        alone(|| {
            let site = Site::new(family)?;
            let rules = site.rules(&[0], "drain");
            let by = Translator::start(By::Truename, &site.lab, &rules)?;
            let former = site.connect()?;
            site.ensure_at(&former, 0)?;
            let busy = Download::begin(site.connect()?, "/big")?;
            site.lead(&by, &[1], "drain")?;
            site.ensure_at(&former, 0)?;
            site.ensure_at(&busy.finish(site.web[0].big())?, 0)?;
            site.ensure_at(&site.connect()?, 1)?;
            // Told so later, it ends those that were left alone with the next change.
            site.lead(&by, &[1], "reset")?;
            site.ensure_at(&former, 0)?;
            site.lead(&by, &[2], "reset")?;
            ensure_reset(page(&former, "/who"))?;
            site.ensure_at(&site.connect()?, 2)
        });
    }
}

#[test]
fn a_connection_that_was_forgotten_goes_on_with_its_target() {
    for family in Family::BOTH {
        alone(|| {
            let site = Site::new(family)?;
            for target in [0, 1] {
                let rules = site.rules(&[target], "reset");
                let mut by = Translator::start(By::Truename, &site.lab, &rules)?;
                let truename = by.truename().context("no truename")?;
                let stream = site.connect()?;
                site.ensure_at(&stream, target)?;
                for _ in 0..2 {
                    ensure!(truename.flush()? == 1, "not this one alone");
                    site.ensure_at(&stream, target)?;
                }
            }
            Ok(())
        });
    }
}
