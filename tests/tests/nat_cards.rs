//! Which cards translate when truename chooses them itself.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    namespace::{Namespace, link},
    nat::{Family, Lab, Seen, Servers, Translator, ask, beside, services},
};

const ALIAS: u16 = 80;

/// Replaces the cables of a lab by wires with cards that are no veths. The node has its default route by `eth0`, where
/// the client is; `eth1` is private, and the target is there.
fn with_cards(lab: &Lab, wires: &Namespace) -> Result<()> {
    for interface in ["c0", "d0", "t0"] {
        lab.node.ip(&format!("link del {interface}"))?;
    }
    for (wire, card, client) in [("a0", "eth0", true), ("a1", "eth1", false)] {
        link((wires, wire), (wires, &wire.replace('a', "b")))?;
        let other = if client { &lab.client } else { &lab.target };
        for (namespace, name) in [(&lab.node, card), (other, "s0")] {
            let place = namespace.name();
            wires.ip_batch(&format!(
                "link add link {wire} name m0 type macvlan mode bridge\n\
                 link set m0 netns {place} name {name}\n"
            ))?;
            namespace.ip(&format!("link set {name} up"))?;
        }
        for family in Family::BOTH {
            let (own, theirs) = match client {
                true => (lab.node(family), lab.client(family)),
                false => (lab.near(family), lab.target(family, 0)),
            };
            let length = match family {
                Family::V4 => 24,
                Family::V6 => 64,
            };
            lab.node
                .ip(&format!("address add {own}/{length} dev {card}"))?;
            other.ip(&format!("address add {theirs}/{length} dev s0"))?;
            other.ip(&format!("{} route add default via {own}", family.flag()))?;
            if client {
                let flag = family.flag();
                lab.node
                    .ip(&format!("{flag} route add default via {theirs}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_private_card_with_an_alias_is_chosen() {
    beside(|by| {
        let wires = Namespace::new("w")?;
        let lab = Lab::new()?;
        with_cards(&lab, &wires)?;
        let [clients, nodes] = [Lab::client, Lab::node].map(|of| Family::BOTH.map(|f| of(&lab, f)));
        let _servers = [
            Servers::start(&lab, &lab.client, &clients)?,
            Servers::start(&lab, &lab.node, &nodes)?,
        ];
        let mut pairs = Vec::new();
        let mut asked = Vec::new();
        for family in Family::BOTH {
            let (client, node) = (lab.client(family), lab.node(family));
            for (who, alias, target) in [
                (
                    &lab.target,
                    SocketAddr::new(lab.near(family), ALIAS),
                    client,
                ),
                (
                    &lab.target,
                    SocketAddr::new(lab.near(family), ALIAS + 1),
                    node,
                ),
                (&lab.client, SocketAddr::new(node, ALIAS + 1), node),
            ] {
                pairs.push((alias, target));
                asked.push((who, alias));
            }
        }
        let mut rules = services(&pairs);
        rules.interfaces_are_automatic = true;
        let mut translator = Translator::start(by, &lab, &rules)?;
        if let Some(truename) = translator.truename() {
            let (status, _) = truename.status()?;
            let rows = status["interfaces"].as_array().context("no interfaces")?;
            let mut names: Vec<_> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
            names.sort_unstable();
            ensure!(names == ["eth0", "eth1", "lo"], "{names:?}");
        }
        let mut seen = Seen::new();
        for (who, alias) in asked {
            ask(&mut seen, who, alias).with_context(|| alias.to_string())?;
        }
        Ok(seen)
    });
}
