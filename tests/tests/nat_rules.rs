//! Routing rules of the host apply to what is translated.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    nat::{By, Family, Lab, Probe, Seen, Servers, Translator, alone, beside, services},
    traffic::DEADLINE,
    wait::wait_until,
};

const PORT: u16 = 80;
/// A table of routes that lead nowhere.
const TABLE: u32 = 100;
/// A class of service (low delay).
const CLASS: u8 = 0x10;

/// Packets that these rules select must not be sent on.
fn add_rules(lab: &Lab, rules: &[&str]) -> Result<()> {
    for family in Family::BOTH {
        // Only on the way there: the kernel looks for the way back by the same class.
        let target = lab.target(family, 0);
        let flag = family.flag();
        let ip = |what: &str| lab.node.ip(&format!("{flag} {what}")).map(drop);
        ip(&format!("route add prohibit default table {TABLE}"))?;
        for rule in rules {
            ip(&format!(
                "rule add pref 9 to {target} {rule} lookup {TABLE}"
            ))?;
        }
    }
    Ok(())
}

/// One alias of each family, with its target.
fn pairs(lab: &Lab) -> Vec<(SocketAddr, std::net::IpAddr)> {
    let pair = |family| {
        let alias = SocketAddr::new(lab.foreign(family, 1), PORT);
        (alias, lab.target(family, 0))
    };
    Family::BOTH.map(pair).to_vec()
}

#[test]
fn packets_are_routed_by_where_they_come_in_and_by_their_class() {
    beside(|by| {
        let lab = Lab::new()?;
        let targets = Family::BOTH.map(|family| lab.target(family, 0));
        let _servers = Servers::start(&lab, &lab.target, &targets)?;
        add_rules(&lab, &["iif d0", &format!("tos {CLASS:#x}")])?;
        let pairs = pairs(&lab);
        let _translator = Translator::start(by, &lab, &services(&pairs))?;
        let mut seen = Seen::new();
        for (alias, _) in pairs {
            let family = Family::of(alias.ip());
            for (who, address, class, passes) in [
                (&lab.client, lab.client(family), 0, true),
                (&lab.client, lab.client(family), CLASS, false),
                (&lab.second, lab.second(family), 0, false),
            ] {
                let probe = Probe::start(who, SocketAddr::new(address, 0), alias)?;
                probe.set_class(class)?;
                probe.send(5)?;
                let what = || format!("{address} to {alias}, class {class}");
                if passes {
                    probe.receive().with_context(what)?;
                } else {
                    let error = probe.network_error().with_context(what)?;
                    seen.note(what(), error.errno);
                }
            }
        }
        Ok(seen)
    });
}

#[test]
fn packets_of_this_host_are_routed_by_their_mark() {
    const MARK: i32 = 7;
    beside(|by| {
        let lab = Lab::new()?;
        let targets = Family::BOTH.map(|family| lab.target(family, 0));
        let _servers = Servers::start(&lab, &lab.target, &targets)?;
        add_rules(&lab, &[&format!("fwmark {MARK}")])?;
        let pairs = pairs(&lab);
        let _translator = Translator::start(by, &lab, &services(&pairs))?;
        for (alias, _) in pairs {
            let near = SocketAddr::new(lab.near(Family::of(alias.ip())), 0);
            let is_answered = |mark| -> Result<bool> {
                let probe = Probe::start(&lab.node, near, alias)?;
                probe.set_patience(Duration::from_millis(300))?;
                probe.set_mark(mark)?;
                // It may be told at once that the packet is not sent.
                Ok(probe.send(5).is_ok() && probe.receive().is_ok())
            };
            // The first packet may be lost while the target's link address is asked for.
            wait_until(DEADLINE, "an answer without a mark", || {
                ensure!(is_answered(0)?, "{alias}: none");
                Ok(())
            })?;
            ensure!(!is_answered(MARK)?, "{alias}: the mark is not followed");
            ensure!(is_answered(MARK + 1)?, "{alias}: another mark counts");
        }
        Ok(Seen::new())
    });
}

#[test]
fn explain_names_rules_that_are_not_followed() {
    alone(|| {
        let lab = Lab::new()?;
        let pairs = pairs(&lab);
        let mut translator = Translator::start(By::Truename, &lab, &services(&pairs))?;
        let truename = translator.truename().context("truename is at work")?;
        let client = lab.client(Family::V4).to_string();
        let alias = pairs[0].0.to_string();
        let explain = || truename.words(&["explain", &client, &alias]);
        let said = explain()?;
        ensure!(!said.contains("ip rule"), "{said}");
        add_rules(&lab, &["fwmark 7", "iif d0"])?;
        let said = explain()?;
        ensure!(said.contains("fwmark") && said.contains("iif"), "{said}");
        Ok(())
    });
}
