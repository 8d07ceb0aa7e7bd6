//! Clients are told what a router would tell them: nobody there, no way there.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename_tests::{
    namespace::Namespace,
    nat::{
        By, Family, Lab, Probe, Protocol, Rules, Seen, Servers, Service, Snat, Translator, alone,
        beside, services,
    },
    traffic::DEADLINE,
    truename::Truename,
    wait::wait_until,
};

const PORT: u16 = 7000;

/// How an attempt to connect ends.
fn outcome(namespace: &Namespace, to: SocketAddr) -> Result<io::ErrorKind> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let attempt = namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    let error = attempt.err().context("it is connected")?;
    Ok(error.kind())
}

#[test]
fn what_cannot_be_reached_is_said() {
    /// The alias by which clients are hidden from the target.
    const HIDDEN: u8 = 4;
    beside(|by| {
        let lab = Lab::new()?;
        let mut rules = Rules::default();
        let mut aliases = Vec::new();
        for family in Family::BOTH {
            // Of the target's network, and not there.
            let absent = lab.absent(family);
            let (unreachable, prohibited) = (lab.foreign(family, 50), lab.foreign(family, 51));
            for (kind, address) in [("unreachable", unreachable), ("prohibit", prohibited)] {
                lab.node.ip(&format!("route add {kind} {address}"))?;
            }
            let hidden = SocketAddr::new(lab.foreign(family, HIDDEN), 80);
            let target = SocketAddr::new(absent, PORT);
            rules
                .services
                .push(Service::new(Protocol::Udp, hidden, target));
            for (number, address) in [(1, absent), (2, unreachable), (3, prohibited)] {
                let alias = SocketAddr::new(lab.foreign(family, number), 80);
                let target = SocketAddr::new(address, PORT);
                let all = [Protocol::Tcp, Protocol::Udp];
                let services = all.map(|protocol| Service::new(protocol, alias, target));
                rules
                    .services
                    .extend(services.into_iter().map(|mut service| {
                        // A target to which there is no route has no source address.
                        service.snat = Snat::Never;
                        service
                    }));
                aliases.push(alias);
            }
        }
        let _translator = Translator::start(by, &lab, &rules)?;
        let mut seen = Seen::new();
        for alias in aliases {
            let begin = Instant::now();
            let is = outcome(&lab.client, alias).with_context(|| alias.to_string())?;
            // Long before the client would give up by itself.
            let is_late = begin.elapsed() >= Duration::from_secs(10);
            ensure!(is != io::ErrorKind::TimedOut && !is_late, "{alias}: {is:?}");
            seen.note(alias, is);
        }
        // Who sends a single datagram and asks for errors is told, too.
        let mut probes = Vec::new();
        for family in Family::BOTH {
            for number in [1, HIDDEN] {
                let alias = SocketAddr::new(lab.foreign(family, number), 80);
                let from = SocketAddr::new(lab.client(family), 0);
                let probe = Probe::start(&lab.client, from, alias)?;
                probe.send(5)?;
                probes.push((alias, probe));
            }
        }
        for (alias, probe) in probes {
            let error = probe.network_error().with_context(|| alias.to_string())?;
            ensure!(error.errno == libc::EHOSTUNREACH, "{alias}: {error:?}");
        }
        Ok(seen)
    });
}

#[test]
fn what_an_ipsec_policy_covers_does_not_leave_unencrypted() {
    for xdp in ["off", "generic"] {
        nothing_leaves_unencrypted(xdp);
    }
}

fn nothing_leaves_unencrypted(xdp: &'static str) {
    const SOON: Duration = Duration::from_secs(10);
    beside(|by| {
        let lab = Lab::new()?;
        let mut pairs = Vec::new();
        for family in Family::BOTH {
            let alias = SocketAddr::new(lab.foreign(family, 1), 80);
            pairs.push((alias, lab.target(family, 0)));
        }
        let targets = Family::BOTH.map(|family| lab.target(family, 0));
        let _servers = Servers::start(&lab, &lab.target, &targets)?;
        // What it wants cannot be done here, as no key is known: what it covers does not leave.
        let policies = |verb: &str| -> Result<()> {
            for family in Family::BOTH {
                let (own, target) = (lab.near(family), lab.target(family, 0));
                let what = format!("src {own} dst {target} dir out");
                let how = match verb {
                    "add" => format!(" tmpl src {own} dst {target} proto esp mode transport"),
                    _ => String::new(),
                };
                lab.node.ip(&format!("xfrm policy {verb} {what}{how}"))?;
            }
            Ok(())
        };
        let mut rules = services(&pairs);
        rules.xdp = Some(xdp);
        let mut translator = Translator::start(by, &lab, &rules)?;
        // Another host, and the host itself.
        let probe = |alias: &SocketAddr, is_own: bool| -> Result<Probe> {
            let family = Family::of(alias.ip());
            let (who, address) = match is_own {
                true => (&lab.node, lab.near(family)),
                false => (&lab.client, lab.client(family)),
            };
            let probe = Probe::start(who, SocketAddr::new(address, 0), *alias)?;
            probe.set_patience(Duration::from_millis(200))?;
            Ok(probe)
        };
        let mut old = Vec::new();
        for (alias, _) in &pairs {
            for is_own in [false, true] {
                old.push((alias, is_own, probe(alias, is_own)?));
            }
        }
        // It may have been told of a refusal before.
        let is_answered = |probe: &Probe| probe.send(3).is_ok() && probe.receive().is_ok();
        let settles = |expected: bool| {
            wait_until(SOON, "the policies to be in force, or not", || {
                for (alias, is_own, old) in &old {
                    for probe in [old, &probe(alias, *is_own)?] {
                        let what = || format!("{alias}, own: {is_own}: {}", !expected);
                        ensure!(is_answered(probe) == expected, what());
                    }
                }
                Ok(())
            })
        };
        settles(true)?;
        policies("add")?;
        settles(false)?;
        if let Some(truename) = translator.truename() {
            let (status, _) = truename.status()?;
            let problems = status["problems"].to_string();
            let count = problems.matches("the IPsec policy").count();
            // TCP and UDP of both families.
            ensure!(count == 4, "{problems}");
            let (client, alias) = (lab.client(Family::V4).to_string(), pairs[0].0.to_string());
            let said = truename.words(&["explain", &client, &alias])?;
            ensure!(said.contains("the IPsec policy"), "{said}");
            let line = doctor(truename, &lab, "ipsec")?;
            ensure!(
                line.contains("warning") && line.contains("the IPsec policy"),
                "{line}"
            );
        }
        policies("delete")?;
        settles(true)?;
        Ok(Seen::new())
    });
}

/// nftables has no such service: a rule leads to a target to which there is no route, and the client is told that.
#[test]
fn a_service_without_a_target_refuses() {
    beside(|by| {
        let lab = Lab::new()?;
        let mut rules = Rules::default();
        let mut aliases = Vec::new();
        for family in Family::BOTH {
            let alias = SocketAddr::new(lab.foreign(family, 1), 80);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                // A weight of nothing takes no connections.
                let target = SocketAddr::new(lab.target(family, 0), PORT);
                let other = SocketAddr::new(lab.foreign(family, 9), PORT);
                let mut service = Service::weighted(protocol, alias, &[(target, 0), (other, 1)]);
                if by == By::Nftables {
                    // A target to which there is no route has no source address.
                    service.snat = Snat::Never;
                }
                rules.services.push(service);
            }
            lab.node
                .ip(&format!("route add throw {}", lab.foreign(family, 9)))?;
            aliases.push((family, alias));
        }
        // The only one that takes connections has no route.
        for family in Family::BOTH {
            let flag = if family == Family::V4 { "-4" } else { "-6" };
            lab.node.ip(&format!("{flag} route del default"))?;
        }
        let _translator = Translator::start(by, &lab, &rules)?;
        let (expected, errno) = match by {
            By::Nftables => (io::ErrorKind::NetworkUnreachable, libc::ENETUNREACH),
            By::Truename => (io::ErrorKind::ConnectionRefused, libc::ECONNREFUSED),
        };
        for (family, alias) in aliases {
            let is = outcome(&lab.client, alias).with_context(|| alias.to_string())?;
            ensure!(is == expected, "{alias}: {is:?}");
            let from = SocketAddr::new(lab.client(family), 0);
            let probe = Probe::start(&lab.client, from, alias)?;
            probe.send(5)?;
            let error = probe.network_error()?;
            ensure!(error.errno == errno, "{alias}: {error:?}");
        }
        Ok(Seen::new())
    });
}

/// What `doctor` says of one of its checks.
fn doctor(truename: &Truename, lab: &Lab, check: &str) -> Result<String> {
    let mut doctor = truename.command(&["doctor", "-o", "jsonl", "--config"])?;
    let file = lab.scratch.path().join("truename.toml");
    let text = String::from_utf8(doctor.arg(file).output()?.stdout)?;
    let mut lines = text.lines();
    let line = lines.find(|line| line.contains(&format!("\"{check}\"")));
    Ok(line.with_context(|| text.clone())?.to_owned())
}

/// Neither nftables nor truename answers ARP or NDP for an alias that no interface has. truename says what to do.
#[test]
fn an_alias_that_neighbours_look_for_needs_an_interface() {
    beside(|by| {
        let lab = Lab::new()?;
        // Neighbours are asked for three times.
        for family in ["ipv4", "ipv6"] {
            lab.client
                .sysctl(&format!("net/{family}/neigh/s0/retrans_time_ms"), "100")?;
        }
        let mut rules = Rules::default();
        let mut near = Vec::new();
        for family in Family::BOTH {
            let target = SocketAddr::new(lab.target(family, 0), PORT);
            // One of the client's network, one that is routed, and one that the node has.
            let addresses = [
                lab.other_client(family),
                lab.foreign(family, 1),
                lab.node(family),
            ];
            near.push((family, addresses[0]));
            let services = addresses
                .map(|address| Service::new(Protocol::Tcp, SocketAddr::new(address, 80), target));
            rules.services.extend(services);
        }
        let mut translator = Translator::start(by, &lab, &rules)?;
        let commands = near.iter().map(|(family, alias)| match family {
            Family::V4 => format!("ip address add {alias}/32 dev lo"),
            Family::V6 => format!("ip address add {alias}/128 dev c0 nodad preferred_lft 0"),
        });
        let commands: Vec<_> = commands.collect();
        if let Some(truename) = translator.truename() {
            let remedy = commands.join("; ");
            let line: Value = serde_json::from_str(&doctor(truename, &lab, "aliases")?)?;
            ensure!(line["remedy"] == remedy, "{line}");
            let (status, _) = truename.status()?;
            ensure!(status["notes"].to_string().contains(&remedy), "{status}");
            // It is among the first things that it said.
            truename.agent()?.wait_line(0, &[&remedy], DEADLINE)?;
        }
        let mut seen = Seen::new();
        for (command, (_, alias)) in commands.iter().zip(near) {
            let alias = SocketAddr::new(alias, 80);
            let is = outcome(&lab.client, alias)?;
            ensure!(is == io::ErrorKind::HostUnreachable, "{alias}: {is:?}");
            // It helps: the client, which is a neighbour, gets as far as the target, where nobody listens.
            lab.node.ip(command.trim_start_matches("ip "))?;
            let now = outcome(&lab.client, alias)?;
            ensure!(now == io::ErrorKind::ConnectionRefused, "{alias}: {now:?}");
            seen.note(alias, format!("{is}, {now}"));
        }
        Ok(seen)
    });
}

#[test]
fn explain_begins_where_the_packet_comes_in() {
    alone(|| {
        let lab = Lab::new()?;
        let family = Family::V4;
        let target = SocketAddr::new(lab.target(family, 0), PORT);
        let alias = SocketAddr::new(lab.foreign(family, 1), 80);
        let rules = Rules::new(vec![Service::new(Protocol::Tcp, alias, target)]);
        let mut translator = Translator::start(By::Truename, &lab, &rules)?;
        let truename = translator.truename().context("truename is at work")?;
        // An interface that nobody asked to be attached.
        for command in [
            "link add v0 type veth peer name v1",
            "link set v0 up",
            "link set v1 up",
            "address add 10.99.0.1/24 dev v0",
        ] {
            lab.node.ip(command)?;
        }
        let client = lab.client(family).to_string();
        let near = lab.near(family).to_string();
        for (from, hook, outcome) in [
            (
                client.as_str(),
                "comes in by c0, which is attached",
                "begins a connection",
            ),
            (
                near.as_str(),
                "leaves by t0, which is attached",
                "begins a connection",
            ),
            (
                "10.99.0.2",
                "comes in by v0, to which nothing is attached",
                "keeps its addresses",
            ),
        ] {
            let said = truename.words(&["explain", from, &alias.to_string()])?;
            ensure!(said.contains(hook) && said.contains(outcome), "{said}");
        }
        Ok(())
    });
}
