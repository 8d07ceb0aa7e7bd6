//! Source ports: two clients with the same, none left, and one that the target still remembers.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use truename_tests::nat::{
    Attempt, Family, Lab, Protocol, Rules, Seen, Service, Translator, Web, beside, connect,
    last_page, page, reset, syn_repeats,
};

/// The port that the web servers listen on.
const PORT: u16 = 8080;
/// The port of the aliases.
const ALIAS: u16 = 80;

/// A lab with a local and a remote target of each family, and the alias of each.
fn lab() -> Result<(
    Lab,
    [Web; 2],
    Vec<(Family, &'static str, SocketAddr, SocketAddr)>,
)> {
    let lab = Lab::new()?;
    let local = Family::BOTH.map(|family| SocketAddr::new(lab.node(family), PORT));
    let remote = Family::BOTH.map(|family| SocketAddr::new(lab.target(family, 0), PORT));
    let webs = [
        Web::start(&lab.node, &lab.scratch, &local)?,
        Web::start(&lab.target, &lab.scratch, &remote)?,
    ];
    let mut aliases = Vec::new();
    for (family, (local, remote)) in Family::BOTH.into_iter().zip(local.into_iter().zip(remote)) {
        let alias = |number| SocketAddr::new(lab.foreign(family, number), ALIAS);
        aliases.push((family, "local", alias(1), local));
        aliases.push((family, "remote", alias(2), remote));
    }
    Ok((lab, webs, aliases))
}

fn rules(aliases: &[(Family, &'static str, SocketAddr, SocketAddr)]) -> Rules {
    Rules::new(
        aliases
            .iter()
            .map(|&(.., alias, target)| Service::new(Protocol::Tcp, alias, target))
            .collect(),
    )
}

#[test]
fn two_clients_may_have_the_same_port() {
    const SAME: u16 = 40_000;
    beside(|by| {
        let (lab, _webs, aliases) = lab()?;
        let _translator = Translator::start(by, &lab, &rules(&aliases))?;
        let mut seen = Seen::new();
        for (family, what, alias, _) in aliases {
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
        let (lab, _webs, mut aliases) = lab()?;
        aliases.retain(|(_, what, ..)| *what == "remote");
        let rules = Rules {
            snat_ports: Some(ports.clone()),
            timeouts: vec![("closed", 1), ("time_wait", 1)],
            ..rules(&aliases)
        };
        let mut translator = Translator::start(by, &lab, &rules)?;
        let mut seen = Seen::new();
        for (family, what, alias, _) in aliases {
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
        let (lab, _webs, mut aliases) = lab()?;
        aliases.retain(|(_, what, ..)| *what == "local");
        for (family, _, _, target) in aliases.clone() {
            let alias = SocketAddr::new(lab.foreign(family, 3), ALIAS);
            aliases.push((family, "another alias", alias, target));
        }
        let _translator = Translator::start(by, &lab, &rules(&aliases))?;
        let mut replaced = 0;
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
                    ensure!(repeats == 0, "{from} to {to}: {repeats} SYNs repeated");
                    seen.note(from, format!("{:?}", stream.peer_addr()?));
                    let port_there: u16 = last_page(stream, "/port")?.parse()?;
                    replaced += u32::from(port_there != port);
                }
            }
        }
        // Otherwise the case did not happen.
        ensure!(replaced > 0, "the target never saw another port");
        Ok(seen)
    });
}
