//! What services need of the host.

use std::net::IpAddr;

use super::Check;
use crate::{
    config::{Config, Ports},
    sysctl,
};

/// Forwarding, for targets on other hosts.
pub fn forwarding(config: &Config, is_local: impl Fn(IpAddr) -> bool) -> Check {
    let missing = sysctl::missing_forwarding(config, is_local);
    if missing.is_empty() {
        return Check::ok(
            "forwarding",
            "the host forwards what services with targets on other hosts need".to_owned(),
        );
    }
    let names: Vec<_> = missing.into_iter().map(sysctl::dotted).collect();
    let remedy: Vec<_> = names
        .iter()
        .map(|name| format!("sysctl -w {name}=1"))
        .collect();
    Check::warning(
        "forwarding",
        format!(
            "{} is off: other hosts' connections to targets on other hosts are dropped",
            names.join(" and ")
        ),
        &remedy.join("; "),
    )
}

/// Source ports that nobody else gives out.
pub fn ports(config: &Config) -> Check {
    let wanted = config.datapath.snat_ports;
    let local = sysctl::read(sysctl::LOCAL_PORTS).ok();
    match local.as_deref().and_then(parse_range) {
        None => Check::warning(
            "snat_ports",
            format!("{} cannot be read", sysctl::dotted(sysctl::LOCAL_PORTS)),
            "keep snat_ports apart from the ports that the host gives to its own connections",
        ),
        Some(local) if wanted.first <= local.last && local.first <= wanted.last => Check::warning(
            "snat_ports",
            format!("snat_ports {wanted} overlaps the host's own ports {local}"),
            "choose another range, or narrow net.ipv4.ip_local_port_range: a connection of the host and one through a service could get the same port",
        ),
        Some(local) => Check::ok(
            "snat_ports",
            format!("snat_ports {wanted} and the host's own ports {local} are apart"),
        ),
    }
}

fn parse_range(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once(char::is_whitespace)?;
    Some(Ports {
        first: first.parse().ok()?,
        last: last.trim().parse().ok()?,
    })
}

/// The switches of the loopback interface, which the agent sets.
pub fn loopback() -> Check {
    let off: Vec<_> = sysctl::LOOPBACK
        .into_iter()
        .filter(|name| !sysctl::is_on(name))
        .map(sysctl::dotted)
        .collect();
    if off.is_empty() {
        return Check::ok(
            "loopback",
            "the host's own connections through services can be turned around".to_owned(),
        );
    }
    Check::warning(
        "loopback",
        format!("{} is off", off.join(" and ")),
        "`truename run` sets it where /proc/sys can be written; without it the host's own connections through services do not work",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_range() {
        let range = parse_range("32768\t60999").unwrap();
        assert_eq!(range.to_string(), "32768-60999");
        assert_eq!(parse_range("32768"), None);
    }
}
