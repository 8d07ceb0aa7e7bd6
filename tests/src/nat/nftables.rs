//! The same translation by nftables: what every case is compared with.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result, bail};

use super::{
    family::Family,
    rules::{Protocol, Rules, Service, Snat},
};
use crate::{namespace::Namespace, scratch::Scratch};

/// truename's names of states, and the kernel's of their timeouts.
const TIMEOUTS: [(&str, &str); 8] = [
    ("syn_sent", "tcp_timeout_syn_sent"),
    ("syn_received", "tcp_timeout_syn_recv"),
    ("established", "tcp_timeout_established"),
    ("half_closed", "tcp_timeout_fin_wait"),
    ("time_wait", "tcp_timeout_time_wait"),
    ("closed", "tcp_timeout_close"),
    ("udp", "udp_timeout"),
    ("udp_replied", "udp_timeout_stream"),
];

/// Replaces the rules of a namespace; connections stay.
///
/// # Errors
/// `nft` refuses.
pub(super) fn load(
    node: &Namespace,
    scratch: &Scratch,
    rules: &Rules,
    source: impl Fn(IpAddr) -> Option<IpAddr>,
) -> Result<()> {
    firewall(node, scratch, &ruleset(rules, source))?;
    for (state, seconds) in &rules.timeouts {
        let (_, key) = TIMEOUTS
            .iter()
            .find(|(name, _)| name == state)
            .with_context(|| format!("{state} has no timeout"))?;
        node.sysctl(
            &format!("net/netfilter/nf_conntrack_{key}"),
            &seconds.to_string(),
        )?;
    }
    Ok(())
}

/// Adds rules of another kind, which are there whoever translates.
///
/// # Errors
/// `nft` refuses.
pub fn firewall(node: &Namespace, scratch: &Scratch, rules: &str) -> Result<()> {
    let path = scratch.write("rules.nft", rules)?;
    let output = node
        .command("nft".as_ref(), &[])?
        .arg("-f")
        .arg(path)
        .output()
        .context("run nft")?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The rules as text. `source` gives the node's address on the way to a remote target.
fn ruleset(rules: &Rules, source: impl Fn(IpAddr) -> Option<IpAddr>) -> String {
    let (mut to, mut from) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let services: Vec<&Service> = rules
                .services
                .iter()
                .filter(|service| {
                    service.protocol == protocol && Family::of(service.listen.ip()) == family
                })
                .collect();
            to.extend(destinations(family, protocol, &services));
            from.extend(sources(family, protocol, &services, rules, &source));
        }
    }
    let mut text =
        String::from("table inet beside\ndelete table inet beside\ntable inet beside {\n");
    let mut chain = |name: &str, head: &str, lines: &[String]| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "chain {name} {{\n{head}{}\n}}", lines.join("\n"));
    };
    let jump = ["jump services".to_owned()];
    chain("services", "", &to);
    chain("pre", "type nat hook prerouting priority dstnat;\n", &jump);
    chain("out", "type nat hook output priority -100;\n", &jump);
    chain(
        "post",
        "type nat hook postrouting priority srcnat;\n",
        &from,
    );
    text.push_str("}\n");
    text
}

/// How nft calls a family.
fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// One rule for all services with one target, one for each other.
fn destinations(family: Family, protocol: Protocol, services: &[&Service]) -> Vec<String> {
    let (ip, protocol) = (word(family), protocol.word());
    let mut lines = Vec::new();
    let single: Vec<String> = services
        .iter()
        .filter(|service| service.targets.len() == 1 && !service.listen.ip().is_unspecified())
        .map(|service| {
            let (listen, target) = (service.listen, service.targets[0].address);
            format!(
                "{} . {} : {} . {}",
                listen.ip(),
                listen.port(),
                target.ip(),
                target.port()
            )
        })
        .collect();
    if !single.is_empty() {
        lines.push(format!(
            "dnat {ip} to {ip} daddr . {protocol} dport map {{ {} }}",
            single.join(", ")
        ));
    }
    for service in services {
        let (port, targets) = (service.listen.port(), &service.targets[..]);
        if let (true, [target]) = (service.listen.ip().is_unspecified(), targets) {
            lines.push(format!(
                "meta nfproto {} fib daddr type local {protocol} dport {port} dnat {ip} to {}",
                family.to_string().to_lowercase(),
                target.address
            ));
        }
        if targets.len() == 1 {
            continue;
        }
        let mut total = 0;
        let mut map = Vec::new();
        for target in targets.iter().filter(|target| target.weight > 0) {
            let last = total + target.weight - 1;
            let (address, port) = (target.address.ip(), target.address.port());
            map.push(format!("{total}-{last} : {address} . {port}"));
            total += target.weight;
        }
        lines.push(format!(
            "{ip} daddr {} {protocol} dport {} dnat {ip} to \
             jhash {ip} saddr . {protocol} sport mod {total} seed 0x7e57 map {{ {} }}",
            service.listen.ip(),
            port,
            map.join(", ")
        ));
    }
    lines
}

/// One rule for each remote target.
fn sources(
    family: Family,
    protocol: Protocol,
    services: &[&Service],
    rules: &Rules,
    source: impl Fn(IpAddr) -> Option<IpAddr>,
) -> Vec<String> {
    let (ip, protocol) = (word(family), protocol.word());
    let ports = rules.snat_ports.as_ref().map_or(String::new(), |ports| {
        format!(":{}-{}", ports.start(), ports.end())
    });
    let mut lines: Vec<String> = services
        .iter()
        .filter(|service| service.snat == Snat::Auto)
        .flat_map(|service| &service.targets)
        .filter_map(|target| {
            let own = match source(target.address.ip())? {
                IpAddr::V6(own) if !ports.is_empty() => format!("[{own}]"),
                own => own.to_string(),
            };
            let (address, port) = (target.address.ip(), target.address.port());
            Some(format!(
                "ct status dnat {ip} daddr {address} {protocol} dport {port} snat {ip} to {own}{ports}"
            ))
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_a_careful_administrator() {
        let [alias, other, local, remote] = [
            "10.0.0.1:80",
            "10.0.0.1:81",
            "10.0.0.2:8080",
            "10.0.0.3:8080",
        ]
        .map(|address| address.parse().unwrap());
        let mut rules = Rules::new(vec![
            Service::new(Protocol::Tcp, alias, local),
            Service::weighted(Protocol::Tcp, other, &[(local, 1), (remote, 3)]),
        ]);
        rules.snat_ports = Some(61_000..=61_003);
        let own = "10.0.0.9".parse().unwrap();
        let text = ruleset(&rules, |address| (address == remote.ip()).then_some(own));
        for line in [
            "dnat ip to ip daddr . tcp dport map { 10.0.0.1 . 80 : 10.0.0.2 . 8080 }",
            "ip daddr 10.0.0.1 tcp dport 81 dnat ip to jhash ip saddr . tcp sport mod 4 seed 0x7e57 \
             map { 0-0 : 10.0.0.2 . 8080, 1-3 : 10.0.0.3 . 8080 }",
            "ct status dnat ip daddr 10.0.0.3 tcp dport 8080 snat ip to 10.0.0.9:61000-61003",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line}\nis not in\n{text}"
            );
        }
    }
}
