//! `netfilter = "honour"`: what is forwarded passes the FORWARD rules of the host and its connection tracking, as it does
//! with nftables.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use truename_tests::nat::{
    Family, Lab, Probe, Rules, Seen, Servers, Snat, Translator, ask, beside, firewall, services,
};

const ALIAS: u16 = 80;

/// Rules by which the FORWARD chain knows connections, admits the targets' port alone, and hides clients if asked to.
fn rules(masquerade: bool) -> String {
    let hide = if masquerade { "masquerade" } else { "accept" };
    format!(
        "table inet fw {{
        chain forward {{ type filter hook forward priority 0; policy drop; ct state invalid drop;
            ct state established,related accept; meta l4proto {{ tcp, udp }} th dport 7000 accept; }}
        chain post {{ type nat hook postrouting priority 101; {hide}; }}
    }}
"
    )
}

fn honoured(mut rules: Rules) -> Rules {
    rules.netfilter = Some("honour");
    for service in &mut rules.services {
        service.snat = Snat::Never;
    }
    rules
}

/// What is forwarded is admitted by the port of the target, and nothing else is.
fn is_refused(lab: &Lab, family: Family, alias: SocketAddr) -> Result<bool> {
    let from = SocketAddr::new(lab.client(family), 0);
    let probe = Probe::start(&lab.client, from, alias)?;
    probe.set_patience(Duration::from_millis(300))?;
    probe.send(3)?;
    Ok(probe.receive().is_err())
}

#[test]
fn forwarded_packets_pass_the_forward_rules() {
    for masquerade in [false, true] {
        beside(|by| {
            let lab = Lab::new()?;
            let mut pairs = Vec::new();
            for family in Family::BOTH {
                for alias in [lab.node(family), lab.foreign(family, 1)] {
                    pairs.push((SocketAddr::new(alias, ALIAS), lab.target(family, 0)));
                }
            }
            let targets = Family::BOTH.map(|family| lab.target(family, 0));
            let _servers = Servers::start(&lab, &lab.target, &targets)?;
            let mut all = honoured(services(&pairs));
            // One whose port no rule admits.
            for family in Family::BOTH {
                let mut service = all.services[all.services.len() - 1].clone();
                service.listen = SocketAddr::new(lab.foreign(family, 2), ALIAS);
                service.targets[0].address = SocketAddr::new(lab.target(family, 0), 7001);
                all.services.push(service);
            }
            firewall(&lab.node, &lab.scratch, &rules(masquerade))?;
            let _translator = Translator::start(by, &lab, &all)?;
            let mut seen = Seen::new();
            for (alias, _) in pairs {
                for namespace in [&lab.client, &lab.second, &lab.client] {
                    ask(&mut seen, namespace, alias).with_context(|| alias.to_string())?;
                }
            }
            for family in Family::BOTH {
                let alias = SocketAddr::new(lab.foreign(family, 2), ALIAS);
                ensure!(is_refused(&lab, family, alias)?, "{alias} is admitted");
            }
            Ok(seen)
        });
    }
}

#[test]
fn a_packet_may_leave_as_it_came() {
    beside(|by| {
        let lab = Lab::new()?;
        let mut pairs = Vec::new();
        let mut targets = Vec::new();
        for family in Family::BOTH {
            // The target is the client's own host, by another address.
            let target = lab.other_client(family);
            let (length, flags) = match family {
                Family::V4 => (24, ""),
                Family::V6 => (64, "nodad"),
            };
            lab.client
                .ip(&format!("address add {target}/{length} dev s0 {flags}"))?;
            targets.push(target);
            pairs.push((SocketAddr::new(lab.foreign(family, 1), ALIAS), target));
        }
        let _servers = Servers::start(&lab, &lab.client, &targets)?;
        firewall(&lab.node, &lab.scratch, &rules(true))?;
        let _translator = Translator::start(by, &lab, &honoured(services(&pairs)))?;
        let mut seen = Seen::new();
        for (alias, _) in pairs {
            ask(&mut seen, &lab.client, alias).with_context(|| alias.to_string())?;
        }
        Ok(seen)
    });
}
