//! What services need of the host.

use std::net::IpAddr;

use super::Check;
use crate::{
    config::Config,
    netlink::Unanswered,
    plan::{self, Facts, Roles, roles},
    sysctl,
};

/// Forwarding, for targets on other hosts. Where roles are is not known without an agent.
pub fn forwarding(config: &Config, is_local: impl Fn(IpAddr) -> bool) -> Check {
    let mut elsewhere: Vec<_> = roles::sockets(config, &Roles::default()).collect();
    elsewhere.retain(|socket| !is_local(socket.ip()));
    let missing = sysctl::missing_forwarding(elsewhere.into_iter());
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
            "off: {}; other hosts' connections to targets on other hosts are dropped",
            names.join(", ")
        ),
        &remedy.join("; "),
    )
}

/// Enough source ports: one is kept for two minutes after its connection.
pub fn ports(config: &Config) -> Check {
    const FEW: u32 = 4096;
    let wanted = config.datapath.snat_ports;
    let count = u32::from(wanted.last - wanted.first) + 1;
    if count < FEW {
        return Check::warning(
            "snat_ports",
            format!(
                "snat_ports {wanted}: no more than {count} connections at a time to a target elsewhere"
            ),
            "choose a larger range, unless another NAT of this host shares its address and needs the rest",
        );
    }
    Check::ok(
        "snat_ports",
        format!("{count} connections at a time to each target elsewhere (snat_ports {wanted})"),
    )
}

/// The switches of the loopback interface, which the agent sets.
pub fn loopback() -> Check {
    let off: Vec<_> = sysctl::loopback()
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
        format!("off: {}", off.join(", ")),
        "`truename run` sets it where /proc/sys can be written, elsewhere (in a container) use sysctl -w on the host; without it the host's own connections through services do not work",
    )
}

/// Aliases of a network that this host is in, and that no interface has.
pub fn aliases(unanswered: &[Unanswered]) -> Check {
    if unanswered.is_empty() {
        return Check::ok(
            "aliases",
            "neighbours look for no alias that nobody has".to_owned(),
        );
    }
    let words = |each: fn(&Unanswered) -> String| unanswered.iter().map(each).collect::<Vec<_>>();
    let remedy = words(Unanswered::remedy);
    Check::warning(
        "aliases",
        format!(
            "neighbours ask who has {}, and nobody answers (ARP, NDP), unless they have a route to it by this host",
            words(|alias| alias.address.to_string()).join(", ")
        ),
        &remedy.join("; "),
    )
}

/// IPsec policies for packets that truename sends past the stack.
pub fn ipsec(config: &Config, facts: &Facts) -> Check {
    let mut found = plan::refused(config, facts);
    found.extend(plan::unencrypted(config, facts));
    if found.is_empty() {
        let sentence = "no IPsec policy covers packets of services";
        return Check::ok("ipsec", sentence.to_owned());
    }
    let remedy = "set netfilter = \"honour\", or use these addresses without a service";
    Check::warning("ipsec", found.join("; "), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn aliases_that_nobody_has_are_named_with_the_remedy() {
        let check = aliases(&["10.0.0.10", "fd00::10"].map(|address| Unanswered {
            address: address.parse().unwrap(),
            interface: "eth0".to_owned(),
        }));
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.found.contains("10.0.0.10, fd00::10"), "{check:?}");
        assert_eq!(
            check.remedy.as_deref(),
            Some(
                "ip address add 10.0.0.10/32 dev lo; ip address add fd00::10/128 dev eth0 nodad preferred_lft 0"
            )
        );
        assert_eq!(aliases(&[]).verdict, Verdict::Ok);
    }
}
