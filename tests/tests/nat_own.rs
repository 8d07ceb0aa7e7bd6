//! Programs of the node itself as clients, on hosts as people have them: no router, with a strict source check, with
//! a stateful firewall.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use truename_tests::nat::{
    By, Family, Lab, Probe, Seen, Servers, Translator, ask, beside, firewall, services,
};

const ALIAS: u16 = 80;

#[test]
fn a_host_that_is_no_router_has_services_for_itself() {
    beside(|by| {
        let lab = Lab::new()?;
        lab.node.sysctl("net/ipv4/ip_forward", "0")?;
        lab.node.sysctl("net/ipv6/conf/all/forwarding", "0")?;
        let mut pairs = Vec::new();
        for family in Family::BOTH {
            for alias in [lab.node(family), lab.foreign(family, 1)] {
                pairs.push((SocketAddr::new(alias, ALIAS), lab.target(family, 0)));
            }
        }
        pairs.push((
            SocketAddr::from(([127, 0, 0, 1], ALIAS)),
            lab.target(Family::V4, 0),
        ));
        if by == By::Nftables {
            // What truename does not need.
            lab.node.sysctl("net/ipv4/conf/all/route_localnet", "1")?;
        }
        let targets = Family::BOTH.map(|family| lab.target(family, 0));
        let _servers = Servers::start(&lab, &lab.target, &targets)?;
        let _translator = Translator::start(by, &lab, &services(&pairs))?;
        let mut seen = Seen::new();
        for (alias, _) in pairs {
            ask(&mut seen, &lab.node, alias).with_context(|| alias.to_string())?;
        }
        Ok(seen)
    });
}

#[test]
fn a_strict_source_check_lets_answers_in_and_strangers_not() {
    beside(|by| {
        let lab = Lab::new()?;
        for interface in ["all", "c0", "d0", "t0"] {
            lab.node
                .sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "1")?;
        }
        let family = Family::V4;
        let (alias, target) = (lab.foreign(family, 1), lab.target(family, 0));
        // The node would send to the alias by another interface than that of the target.
        lab.node
            .ip(&format!("route add {alias}/32 via {}", lab.client(family)))?;
        let pairs = [(SocketAddr::new(alias, ALIAS), target)];
        let _servers = Servers::start(&lab, &lab.target, &[target])?;
        let _translator = Translator::start(by, &lab, &services(&pairs))?;
        let mut seen = Seen::new();
        let alias = SocketAddr::new(alias, ALIAS);
        for (who, namespace) in [("node", &lab.node), ("client", &lab.client)] {
            ask(&mut seen, namespace, alias).context(who)?;
        }
        // The client pretends to be the other one.
        let other = lab.second(family);
        lab.client.ip(&format!("address add {other}/32 dev lo"))?;
        let refused = || {
            lab.node
                .tcp_count("netstat", "TcpExt", "IPReversePathFilter")
        };
        let before = refused()?;
        let probe = Probe::start(&lab.client, SocketAddr::new(other, 0), alias)?;
        probe.send(10)?;
        probe.set_patience(std::time::Duration::from_millis(300))?;
        ensure!(probe.receive().is_err(), "it is answered");
        ensure!(refused()? == before + 1, "it is not refused as such");
        Ok(seen)
    });
}

/// As the CIS benchmark for Debian has it, and `ct state invalid drop` on the way out.
const FIREWALL: &str = "table inet fw {
    chain in { type filter hook input priority 0; policy drop; iif lo accept; ct state established,related accept;
        ct state invalid drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept;
        tcp dport 7000 accept; udp dport 7000 accept; }
    chain out { type filter hook output priority 0; ct state invalid drop; }
}
";

#[test]
fn a_stateful_firewall_knows_the_connections_of_the_host() {
    beside(|by| {
        let lab = Lab::new()?;
        firewall(&lab.node, &lab.scratch, FIREWALL)?;
        let mut pairs = Vec::new();
        for family in Family::BOTH {
            let target = lab.node(family);
            for alias in [lab.foreign(family, 1), lab.near(family)] {
                pairs.push((SocketAddr::new(alias, ALIAS), target));
            }
        }
        let loopback = SocketAddr::from(([127, 0, 0, 1], ALIAS));
        pairs.push((loopback, lab.node(Family::V4)));
        let targets = Family::BOTH.map(|family| lab.node(family));
        let _servers = Servers::start(&lab, &lab.node, &targets)?;
        let _translator = Translator::start(by, &lab, &services(&pairs))?;
        let mut seen = Seen::new();
        for (alias, _) in &pairs {
            ask(&mut seen, &lab.node, *alias).with_context(|| format!("node, {alias}"))?;
        }
        for (alias, _) in pairs.iter().filter(|(alias, _)| !alias.ip().is_loopback()) {
            ask(&mut seen, &lab.client, *alias).with_context(|| format!("client, {alias}"))?;
        }
        if by == By::Truename {
            // Nothing more: INPUT rules are those of the target's port.
            ensure!(seen.count() == 18, "{} visits", seen.count());
        }
        Ok(seen)
    });
}
