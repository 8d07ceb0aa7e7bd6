//! Where an IPsec policy of the host covers what truename sends past the host's stack, unencrypted.

use std::net::{IpAddr, SocketAddr};

use super::{
    Facts,
    policy::{Flow, IpsecPolicy},
    roles::{self, Wanted},
};
use crate::config::{Config, Netfilter, Service, Snat};

impl Facts {
    /// The policy that covers a service's packets to a target; `source` is the address that they get, if it is another than
    /// the client's.
    pub fn policy_towards(
        &self,
        service: &Service,
        source: Option<IpAddr>,
        target: SocketAddr,
    ) -> Option<&IpsecPolicy> {
        self.policies.covering(&Flow {
            from: source,
            from_port: None,
            to: Some(target.ip()),
            to_port: Some(target.port()),
            protocol: service.protocol.number(),
        })
    }
}

/// Why a service does not use a target on another host, if an IPsec policy keeps it from that. `source` as above.
pub(super) fn refusal(
    config: &Config,
    facts: &Facts,
    service: &Service,
    source: Option<IpAddr>,
    target: &Wanted<'_>,
) -> Option<String> {
    if config.datapath.netfilter == Netfilter::Honour {
        return None;
    }
    let policy = facts.policy_towards(service, source, target.socket)?;
    Some(format!(
        "the service \"{}\" leaves out its target {}: the IPsec policy {policy} covers it, and packets that truename forwards are not encrypted; with netfilter = \"honour\" the stack encrypts what other hosts send",
        service.name,
        roles::shown(target)
    ))
}

/// The targets that an IPsec policy keeps services from, a sentence each.
pub fn refused(config: &Config, facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for service in &config.services {
        for target in roles::targets(service, &facts.roles) {
            let address = target.socket.ip();
            if target.weight == 0 || facts.is_local(address) {
                continue;
            }
            let known = facts.sources.get(&address).copied();
            let source = known.filter(|_| service.snat != Snat::Never);
            found.extend(refusal(config, facts, service, source, &target));
        }
    }
    found
}

/// What leaves unencrypted although a policy covers it, a sentence each: answers to clients, and where the stack forwards
/// what other hosts send, what this host itself sends.
pub fn unencrypted(config: &Config, facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for service in &config.services {
        let name = &service.name;
        let aliases = match service.listen.address {
            Some(address) => vec![address],
            None => facts.addresses.iter().copied().collect(),
        };
        let answers = aliases.into_iter().find_map(|alias| {
            facts.policies.covering(&Flow {
                from: Some(alias),
                from_port: Some(service.listen.port),
                protocol: service.protocol.number(),
                ..Flow::default()
            })
        });
        found.extend(answers.map(|policy| {
            format!(
                "answers of the service \"{name}\" to clients in {} are not encrypted as the IPsec policy {policy} wants; let these clients use the target's own address",
                policy.to
            )
        }));
        if config.datapath.netfilter != Netfilter::Honour || service.snat == Snat::Always {
            continue;
        }
        for wanted in roles::targets(service, &facts.roles) {
            let target = wanted.socket;
            if facts.is_local(target.ip()) {
                continue;
            }
            let source = facts.sources.get(&target.ip()).copied();
            found.extend(facts.policy_towards(service, source, target).map(|policy| {
                format!(
                    "connections of this host to {target} by way of the service \"{name}\" are not encrypted as the IPsec policy {policy} wants; use the target's own address on this host"
                )
            }));
        }
    }
    found.sort();
    found.dedup();
    found
}
