//! Packets that are not this host's to translate, with nftables beside it: in frames for another host, to loopback
//! addresses from outside, and answers to programs of this host.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::nat::{
    By, Echo, Family, Lab, Probe, Protocol, Rules, Seen, Service, Translator, alone, beside,
};

const PORT: u16 = 7000;

/// Whether a datagram to `to` is answered.
fn is_answered(lab: &Lab, to: SocketAddr) -> Result<bool> {
    let from = SocketAddr::new(lab.client(Family::of(to.ip())), 0);
    let probe = Probe::start(&lab.client, from, to)?;
    probe.set_patience(std::time::Duration::from_secs(1))?;
    probe.send(10)?;
    match probe.receive() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error).context("receive"),
    }
}

/// Makes the client send its packets to the node in frames to this link address.
fn send_to(lab: &Lab, family: Family, link: &str) -> Result<()> {
    let node = lab.node(family);
    lab.client
        .ip(&format!(
            "neigh replace {node} lladdr {link} dev s0 nud permanent"
        ))
        .map(drop)
}

#[test]
fn frames_for_another_host_are_not_translated() {
    for xdp in ["off", "generic"] {
        beside(|by| {
            let lab = Lab::new()?;
            let mut seen = Seen::new();
            let mut rules = Rules {
                xdp: Some(xdp),
                ..Rules::default()
            };
            let mut echoes = Vec::new();
            for family in Family::BOTH {
                let targets = [lab.node(family), lab.target(family, 0)];
                for (number, target) in (1..).zip(targets) {
                    let target = SocketAddr::new(target, PORT);
                    let alias = SocketAddr::new(lab.foreign(family, number), 80);
                    rules
                        .services
                        .push(Service::new(Protocol::Udp, alias, target));
                    let place = if number == 1 { &lab.node } else { &lab.target };
                    echoes.push(Echo::start(place, target)?);
                }
            }
            let _translator = Translator::start(by, &lab, &rules)?;
            let own = lab.node.ip("-br link show c0")?;
            let own = own.split_whitespace().nth(2).context("no link address")?;
            for family in Family::BOTH {
                let alias = |number| SocketAddr::new(lab.foreign(family, number), 80);
                for (link, answered) in [
                    (own, true),
                    ("02:00:00:00:00:77", false),
                    ("33:33:00:00:00:77", false),
                ] {
                    send_to(&lab, family, link)?;
                    // The second time there would be a connection.
                    for number in [1, 2, 2] {
                        // The host's own stack takes datagrams in any frame but one for another host.
                        if number == 1 && link.starts_with("33") {
                            continue;
                        }
                        let is = is_answered(&lab, alias(number))?;
                        let what = format!("{family}, alias {number}, frames to {link}");
                        ensure!(is == answered, "{what}: answered {is}");
                        seen.note(what.replace(own, "the node"), is);
                    }
                }
            }
            Ok(seen)
        });
    }
}

#[test]
fn a_port_of_a_bridge_takes_frames_for_the_bridge() {
    alone(|| {
        let lab = Lab::new()?;
        let family = Family::V4;
        for command in [
            "link add br0 address 02:00:00:00:01:00 type bridge",
            "address flush dev c0",
            "link set c0 master br0",
            "link set br0 up",
        ] {
            lab.node.ip(command)?;
        }
        let node = lab.node(family);
        lab.node.ip(&format!("address add {node}/24 dev br0"))?;
        let target = SocketAddr::new(lab.target(family, 0), PORT);
        let alias = SocketAddr::new(lab.foreign(family, 1), 80);
        let _echo = Echo::start(&lab.target, target)?;
        let rules = Rules::new(vec![Service::new(Protocol::Udp, alias, target)]);
        let _translator = Translator::start(By::Truename, &lab, &rules)?;
        ensure!(is_answered(&lab, alias)?, "nobody answers");
        Ok(())
    });
}

/// Under nftables it is: its destination is another before the stack could find it a martian.
#[test]
fn a_loopback_alias_is_not_for_neighbours() {
    alone(|| {
        let lab = Lab::new()?;
        let target = SocketAddr::new(lab.target(Family::V4, 0), PORT);
        let alias = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 80);
        let _echo = Echo::start(&lab.target, target)?;
        let rules = Rules::new(vec![Service::new(Protocol::Udp, alias, target)]);
        let mut translator = Translator::start(By::Truename, &lab, &rules)?;
        // The client takes the address for one of the node.
        lab.client.sysctl("net/ipv4/conf/all/route_localnet", "1")?;
        lab.client.ip("address flush dev lo")?;
        let node = lab.node(Family::V4);
        lab.client
            .ip(&format!("route add 127.0.0.1/32 via {node}"))?;
        ensure!(!is_answered(&lab, alias)?, "a neighbour is answered");
        let truename = translator.truename().context("not truename")?;
        ensure!(truename.counter("nat_strangers")? > 0, "nothing came");
        Ok(())
    });
}

#[test]
fn answers_to_programs_of_this_host_reach_them() {
    beside(|by| {
        let lab = Lab::new()?;
        let mut rules = Rules::default();
        let mut echoes = Vec::new();
        for family in Family::BOTH {
            let target = SocketAddr::new(lab.target(family, 0), PORT);
            let alias = SocketAddr::new(lab.node(family), 123);
            echoes.push(Echo::start(&lab.target, target)?);
            echoes.push(Echo::start(
                &lab.client,
                SocketAddr::new(lab.client(family), 123),
            )?);
            rules
                .services
                .push(Service::new(Protocol::Udp, alias, target));
        }
        let _translator = Translator::start(by, &lab, &rules)?;
        let mut seen = Seen::new();
        for family in Family::BOTH {
            let own = SocketAddr::new(lab.node(family), 123);
            let probe = Probe::start(&lab.node, own, SocketAddr::new(lab.client(family), 123))?;
            for length in 1..4 {
                probe.send(length)?;
                let answer = probe
                    .receive()
                    .with_context(|| format!("{family}, answer {length}"))?;
                ensure!(answer == length, "{answer} bytes");
            }
            let is = is_answered(&lab, own)?;
            ensure!(is, "{family}: the service does not answer");
            seen.note(family, is);
        }
        Ok(seen)
    });
}
