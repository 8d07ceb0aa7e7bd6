//! Packets that are not this host's to translate, with nftables beside it: in frames for another host, to loopback
//! addresses from outside, and answers to programs of this host.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    nat::{By, Echo, Family, Lab, Probe, Protocol, Rules, Seen, Service, Translator, beside},
    prog_run::flag,
    traffic::{Forged, Stranger},
};

const PORT: u16 = 7000;

/// Whether a datagram to `to` is answered. It is waited for longer if it should be.
fn is_answered(lab: &Lab, to: SocketAddr, expected: bool) -> Result<bool> {
    let from = SocketAddr::new(lab.client(Family::of(to.ip())), 0);
    let probe = Probe::start(&lab.client, from, to)?;
    if !expected {
        probe.set_patience(Duration::from_millis(300))?;
    }
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
            let own = lab.node.link_address("c0")?;
            let own = own.as_str();
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
                        let is = is_answered(&lab, alias(number), answered)?;
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
    beside(|by| {
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
        let _translator = Translator::start(by, &lab, &rules)?;
        ensure!(is_answered(&lab, alias, true)?, "nobody answers");
        Ok(Seen::new())
    });
}

/// Under nftables it is: its destination is another before the stack could find it a martian.
#[test]
fn a_loopback_alias_is_not_for_neighbours() {
    beside(|by| {
        let lab = Lab::new()?;
        let target = SocketAddr::new(lab.target(Family::V4, 0), PORT);
        let alias = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 80);
        let _echo = Echo::start(&lab.target, target)?;
        let rules = Rules::new(vec![Service::new(Protocol::Udp, alias, target)]);
        let mut translator = Translator::start(by, &lab, &rules)?;
        // The client takes the address for one of the node.
        lab.client.sysctl("net/ipv4/conf/all/route_localnet", "1")?;
        lab.client.ip("address flush dev lo")?;
        let node = lab.node(Family::V4);
        lab.client
            .ip(&format!("route add 127.0.0.1/32 via {node}"))?;
        let expected = by == By::Nftables;
        let is = is_answered(&lab, alias, expected)?;
        ensure!(is == expected, "a neighbour is answered: {is}");
        if let Some(truename) = translator.truename() {
            ensure!(truename.counter("nat_strangers")? > 0, "nothing came");
        }
        Ok(Seen::new())
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
            let is = is_answered(&lab, own, true)?;
            ensure!(is, "{family}: the service does not answer");
            seen.note(family, is);
        }
        Ok(seen)
    });
}

/// What merely passes this host, or leaves it, is for another host's port of the same number.
#[test]
fn a_service_at_every_address_is_at_those_of_this_host() {
    for xdp in ["off", "generic"] {
        beside(|by| {
            let lab = Lab::new()?;
            let mut rules = Rules {
                xdp: Some(xdp),
                ..Rules::default()
            };
            let mut echoes = Vec::new();
            for (family, any, port) in [(Family::V4, "0.0.0.0", 123), (Family::V6, "::", 124)] {
                let target = SocketAddr::new(lab.target(family, 0), PORT);
                rules.services.push(Service::new(
                    Protocol::Udp,
                    SocketAddr::new(any.parse()?, port),
                    target,
                ));
                echoes.push((family, port, Some(Echo::start(&lab.target, target)?)));
            }
            let _translator = Translator::start(by, &lab, &rules)?;
            let mut seen = Seen::new();
            for (family, port, echo) in &mut echoes {
                let at = |address| SocketAddr::new(address, *port);
                for own in [lab.node(*family), lab.near(*family)] {
                    ensure!(is_answered(&lab, at(own), true)?, "{own}: nobody answers");
                    seen.note(own, "the service answers");
                }
                // What is taken for the service's gets no answer from now on.
                drop(echo.take());
                let _other = Echo::start(&lab.target, at(lab.target(*family, 1)))?;
                let _client = Echo::start(&lab.client, at(lab.client(*family)))?;
                for (who, from, to) in [
                    (&lab.client, lab.client(*family), lab.target(*family, 1)),
                    (&lab.node, lab.node(*family), lab.client(*family)),
                ] {
                    let probe = Probe::start(who, SocketAddr::new(from, 0), at(to))?;
                    for length in 1..4 {
                        probe.send(length)?;
                        let answer = probe.receive().with_context(|| format!("{from} to {to}"))?;
                        ensure!(answer == length, "{from} to {to}: {answer} bytes");
                        seen.note(to, length);
                    }
                }
            }
            Ok(seen)
        });
    }
}

/// A segment that does not begin a connection, to an alias that no interface has. If it was left alone, hosts would send
/// it to each other until its hop limit is reached.
#[test]
fn a_lone_segment_does_not_go_round_in_circles() {
    beside(|by| {
        let lab = Lab::new()?;
        for (key, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ] {
            lab.client.sysctl(key, value)?;
        }
        let mut rules = Rules::default();
        for family in Family::BOTH {
            lab.node.ip(&format!(
                "{} route replace default via {}",
                family.flag(),
                lab.client(family)
            ))?;
            for (number, target) in (1..).zip([lab.node(family), lab.target(family, 0)]) {
                let alias = SocketAddr::new(lab.foreign(family, number), 80);
                let target = SocketAddr::new(target, PORT);
                rules
                    .services
                    .push(Service::new(Protocol::Tcp, alias, target));
            }
        }
        let _translator = Translator::start(by, &lab, &rules)?;
        let own = lab.node.link_address("c0")?;
        let bytes: Vec<u8> = own
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect::<Result<_, _>>()?;
        let own = <[u8; 6]>::try_from(bytes).ok().context("six bytes")?;
        let stranger = Stranger::new(&lab.client, "s0", own)?;
        for family in Family::BOTH {
            for number in [1, 2] {
                let forged = Forged {
                    source: SocketAddr::new(lab.client(family), 4444),
                    destination: SocketAddr::new(lab.foreign(family, number), 80),
                    sequence: 1,
                    acknowledges: 1,
                    flags: flag::ACK,
                    payload: b"hello".to_vec(),
                };
                let packets = || Ok::<_, anyhow::Error>(lab.node.arrived("c0")?.1);
                let before = packets()?;
                stranger.send(&forged)?;
                // What follows it on the same way comes behind it.
                let probe = SocketAddr::new(lab.node(family), 9);
                let probe =
                    Probe::start(&lab.client, SocketAddr::new(lab.client(family), 0), probe)?;
                probe.send(1)?;
                let refused = probe.network_error()?;
                ensure!(refused.errno == libc::ECONNREFUSED, "{refused:?}");
                // It, the probe, and what neighbours ask each other.
                let came = packets()? - before;
                ensure!(came < 16, "{family}, alias {number}: {came} packets");
            }
        }
        Ok(Seen::new())
    });
}
