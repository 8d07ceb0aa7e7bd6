//! Source ports: two clients with the same, none left, and one that the target still remembers.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use truename::datapath::{Pins, ServiceTables};
use truename_tests::{
    nat::{
        Alias, Attempt, By, Echo, Family, Lab, Probe, Protocol, Rules, Seen, Service, Translator,
        Web, alone, beside, connect, last_page, page, reset, syn_repeats,
    },
    wait::wait_until,
};

/// The port that the web servers listen on.
const PORT: u16 = 8080;
/// The port of the aliases.
const ALIAS: u16 = 80;

/// A local and a remote target of each family, and an alias of each.
struct Place {
    lab: Lab,
    aliases: Vec<Alias>,
    _webs: [Web; 2],
}

impl Place {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for family in Family::BOTH {
            for (what, number, address, aliases) in [
                ("local", 1, lab.node(family), &mut local),
                ("remote", 2, lab.target(family, 0), &mut remote),
            ] {
                aliases.push(Alias {
                    what,
                    family,
                    listen: SocketAddr::new(lab.foreign(family, number), ALIAS),
                    target: SocketAddr::new(address, PORT),
                });
            }
        }
        let listen = |aliases: &[Alias]| -> Vec<SocketAddr> {
            aliases.iter().map(|alias| alias.target).collect()
        };
        let webs = [
            Web::start(&lab.node, &lab.scratch, &listen(&local))?,
            Web::start(&lab.target, &lab.scratch, &listen(&remote))?,
        ];
        Ok(Self {
            lab,
            aliases: [local, remote].concat(),
            _webs: webs,
        })
    }
}

#[test]
fn two_clients_may_have_the_same_port() {
    const SAME: u16 = 40_000;
    beside(|by| {
        let place = Place::new()?;
        let lab = &place.lab;
        let rules = Rules::aliases(Protocol::Tcp, &place.aliases);
        let _translator = Translator::start(by, lab, &rules)?;
        let mut seen = Seen::new();
        for &Alias {
            what,
            family,
            listen: alias,
            ..
        } in &place.aliases
        {
            let one = connect(
                &lab.client,
                SocketAddr::new(lab.client(family), SAME),
                alias,
            )?;
            let two = connect(
                &lab.second,
                SocketAddr::new(lab.second(family), SAME),
                alias,
            )?;
            for _ in 0..3 {
                for (who, stream) in [("client", &one), ("second", &two)] {
                    ensure!(stream.peer_addr()? == alias, "{:?}", stream.peer_addr());
                    seen.note(format!("{what}, {family}, {who}"), page(stream, "/who")?);
                }
            }
        }
        Ok(seen)
    });
}

#[test]
fn new_connections_wait_for_a_free_port() {
    let ports = 61_000..=61_003;
    beside(|by| {
        let mut place = Place::new()?;
        place.aliases.retain(|alias| alias.what == "remote");
        let lab = &place.lab;
        let rules = Rules {
            snat_ports: Some(ports.clone()),
            timeouts: vec![("closed", 1), ("time_wait", 1)],
            ..Rules::aliases(Protocol::Tcp, &place.aliases)
        };
        let mut translator = Translator::start(by, lab, &rules)?;
        let mut seen = Seen::new();
        for &Alias {
            what,
            family,
            listen: alias,
            ..
        } in &place.aliases
        {
            let from = SocketAddr::new(lab.client(family), 0);
            let mut held = ports
                .clone()
                .map(|_| connect(&lab.client, from, alias))
                .collect::<Result<Vec<_>>>()?;
            let late = Attempt::start(&lab.client, from, alias)?;
            late.wait_repeated()?;
            if let Some(truename) = translator.truename() {
                let refused = truename.counter("nat_ports_exhausted")?;
                ensure!(refused > 0, "{family}: nothing was counted");
            }
            for stream in &held {
                seen.note(format!("{what}, {family}"), page(stream, "/who")?);
            }
            reset(held.swap_remove(0))?;
            let late = late.finish()?;
            seen.note(format!("{what}, {family}, late"), page(&late, "/who")?);
            for stream in &held {
                seen.note(format!("{what}, {family}"), page(stream, "/who")?);
            }
        }
        Ok(seen)
    });
}

/// The client uses one port to reach the same target by different ways, each time right after the target ended the
/// connection and remembers it. If the target saw it as the same connection again, with unrelated sequence
/// numbers, it would refuse every other SYN, and the client would lose a second.
#[test]
fn a_target_that_remembers_a_port_costs_no_second() {
    beside(|by| {
        let place = Place::new()?;
        let lab = &place.lab;
        let mut aliases = place.aliases.clone();
        aliases.retain(|alias| alias.what == "local");
        for alias in aliases.clone() {
            aliases.push(Alias {
                listen: SocketAddr::new(lab.foreign(alias.family, 3), ALIAS),
                ..alias
            });
        }
        let rules = Rules::aliases(Protocol::Tcp, &aliases);
        let _translator = Translator::start(by, lab, &rules)?;
        let (mut replaced, mut tries, mut repeated) = (0, 0, 0);
        let mut seen = Seen::new();
        for family in Family::BOTH {
            let target = SocketAddr::new(lab.node(family), PORT);
            let alias = |number| SocketAddr::new(lab.foreign(family, number), ALIAS);
            let (one, other) = (alias(1), alias(3));
            for port in 41_000..41_020 {
                let from = SocketAddr::new(lab.client(family), port);
                for to in [target, one, one, target, other, one, target, target] {
                    let stream = connect(&lab.client, from, to)?;
                    let repeats = syn_repeats(&stream)?;
                    let is_translated = by == By::Truename && to != target;
                    ensure!(
                        repeats == 0 || !is_translated,
                        "{from} to {to}: {repeats} SYNs repeated"
                    );
                    tries += 1;
                    repeated += u32::from(repeats > 0);
                    seen.note(from, format!("{:?}", stream.peer_addr()?));
                    let port_there: u16 = last_page(stream, "/port")?.parse()?;
                    replaced += u32::from(port_there != port);
                }
            }
        }
        // A SYN is repeated now and then even on the direct way, which nobody translates. netfilter is not
        // what is tested.
        let few = tries / 50;
        let lost = by == By::Truename && repeated > few;
        ensure!(!lost, "{repeated} of {tries} SYNs repeated");
        // Otherwise the case did not happen.
        ensure!(replaced > 0, "the target never saw another port");
        Ok(seen)
    });
}

#[test]
fn marks_of_ports_are_cleared_when_their_connections_are_gone() {
    const CLIENTS: u16 = 300;
    /// As many may be left.
    const FEW: usize = 64;
    alone(|| {
        let lab = Lab::new()?;
        let family = Family::V4;
        let target = SocketAddr::new(lab.node(family), PORT);
        let aliases = [1, 2].map(|number| SocketAddr::new(lab.foreign(family, number), ALIAS));
        let _echo = Echo::start(&lab.node, target)?;
        let rules = Rules {
            timeouts: vec![("udp", 1), ("udp_replied", 1)],
            ..Rules::new(
                aliases
                    .map(|alias| Service::new(Protocol::Udp, alias, target))
                    .to_vec(),
            )
        };
        let mut translator = Translator::start(By::Truename, &lab, &rules)?;
        let truename = translator.truename().context("not truename")?;
        // With one port for two aliases, the second connection has to give it up.
        let from = |port| SocketAddr::new(lab.client(family), port);
        lab.client.run(|| {
            for port in 40_000..40_000 + CLIENTS {
                let socket = UdpSocket::bind(from(port)).context("bind")?;
                for alias in aliases {
                    socket.send_to(b"hello", alias).context("send")?;
                }
            }
            anyhow::Ok(())
        })??;
        let patience = Duration::from_secs(60);
        wait_until(patience, "ports that were given up", || {
            let count = truename.counter("nat_remapped")?;
            ensure!(count >= CLIENTS.into(), "{count}");
            Ok(())
        })?;
        let lasting = Probe::start(&lab.client, from(39_999), aliases[1])?;
        let tables = ServiceTables::open(&Pins::new(truename.bpffs()))?;
        wait_until(patience, "marks to be cleared", || {
            lasting.send(100)?;
            ensure!(lasting.receive()? == 100, "another's datagram");
            let mut marked = 0;
            for half in 0..2 {
                let bits = tables.tried_half(half)?;
                marked += bits.iter().filter(|bits| **bits != 0).count();
            }
            ensure!(marked <= 2 * FEW, "{marked} marks");
            Ok(())
        })
    });
}
