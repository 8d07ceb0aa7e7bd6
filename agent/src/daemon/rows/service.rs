//! The rows of `truename services`. Pure.

use std::{collections::BTreeMap, net::SocketAddr};

use truename_common::layout::{
    Conntrack, ConntrackState, FiveTuple, Service, Socket, Target, bytes, ip, target_flags,
};

use super::{attempts::Attempts, text::socket};
use crate::{
    api::{ServiceRow, TargetRow},
    config::{self, Config, index::Services},
    plan::{Facts, roles},
};

/// What the kernel tables tell of services.
pub struct Known<'a> {
    /// `SERVICES`.
    pub services: &'a [(Socket, Service)],
    /// `TARGETS`.
    pub targets: &'a BTreeMap<u32, Target>,
    /// `CONNTRACK`.
    pub connections: &'a BTreeMap<FiveTuple, Conntrack>,
    /// What became of those that were begun lately.
    pub attempts: &'a Attempts<'a>,
    /// Connections that were refused, by service.
    pub refused: &'a BTreeMap<String, u64>,
    /// What else targets depend on.
    pub facts: &'a Facts,
}

/// Services, in the order of the configuration.
pub fn services(config: &Config, known: &Known<'_>) -> Vec<ServiceRow> {
    let by_alias = Services::new(config);
    let by_socket: BTreeMap<_, _> = known
        .targets
        .values()
        .map(|target| ((target.address, target.port), target))
        .collect();
    let mut aliases: BTreeMap<&str, Vec<(Socket, Service)>> = BTreeMap::new();
    for (alias, service) in known.services {
        if let Some(configured) = by_alias.find(*alias) {
            let all = aliases.entry(&configured.name).or_default();
            all.push((*alias, *service));
        }
    }
    let mut connections: BTreeMap<&str, Vec<(&FiveTuple, &Conntrack)>> = BTreeMap::new();
    for (key, entry) in known.connections {
        if let Some(configured) = by_alias.find(entry.alias(key.protocol)) {
            let all = connections.entry(&configured.name).or_default();
            all.push((key, entry));
        }
    }
    let row = |service: &config::Service| {
        let name = service.name.as_str();
        let mut aliases = aliases.remove(name).unwrap_or_default();
        aliases.sort_by_key(|(alias, _)| *alias);
        let connections = connections.remove(name).unwrap_or_default();
        let opening = |entry: &Conntrack| {
            use ConntrackState::{SynReceived, SynSent, Unreplied};
            let state = ConntrackState::from_number(entry.state);
            matches!(state, SynSent | SynReceived | Unreplied)
        };
        let targets = target_rows(service, known, &by_socket, &connections);
        ServiceRow {
            name: name.to_owned(),
            protocol: service.protocol.to_string(),
            listen: service.listen.to_string(),
            state: service_state(&aliases, &targets).to_owned(),
            aliases: aliases
                .iter()
                .map(|(alias, _)| socket(alias.address, alias.port))
                .collect(),
            targets,
            connections: connections.len(),
            states: states(&connections),
            opening: connections.iter().filter(|(_, e)| opening(e)).count(),
            refused: known.refused.get(name).copied().unwrap_or_default(),
        }
    };
    config.services.iter().map(row).collect()
}

fn states(connections: &[(&FiveTuple, &Conntrack)]) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for (_, entry) in connections {
        let label = ConntrackState::from_number(entry.state).label();
        *states.entry(label.to_owned()).or_default() += 1;
    }
    states
}

fn service_state(aliases: &[(Socket, Service)], targets: &[TargetRow]) -> &'static str {
    let fails = |target: &TargetRow| target.answered == 0 && target.unanswered + target.reset > 0;
    let any = |is: fn(&Service) -> bool| aliases.iter().any(|(_, service)| is(service));
    if aliases.is_empty() {
        "left out"
    } else if any(|service| service.previous.count > 0) {
        "changing"
    } else if any(|service| service.slots.count == 0) {
        "no target"
    } else if targets.iter().any(fails) {
        "no answer"
    } else {
        "ok"
    }
}

/// The configured targets, and those that were and still have connections.
fn target_rows(
    service: &config::Service,
    known: &Known<'_>,
    targets: &BTreeMap<([u8; 16], u16), &Target>,
    connections: &[(&FiveTuple, &Conntrack)],
) -> Vec<TargetRow> {
    let mut counts: BTreeMap<([u8; 16], u16), usize> = BTreeMap::new();
    for (key, _) in connections {
        *counts.entry((key.endpoint, key.endpoint_port)).or_default() += 1;
    }
    let facts = known.facts;
    let row = |role: Option<&config::Role>, address: [u8; 16], port, weight, connections| {
        let present = targets.get(&(address, port));
        let has = |flag| present.is_some_and(|target| target.flags & flag != 0);
        let lately = known.attempts.of(&service.name, address, port);
        TargetRow {
            address: Some(socket(address, port)),
            role: role.map(ToString::to_string),
            weight,
            draining: facts.is_drained(service, SocketAddr::new(ip(address), port)),
            // The kernel does not know one that gets no connections and has none.
            local: has(target_flags::LOCAL) || facts.is_local(ip(address)),
            source: present
                .filter(|_| has(target_flags::SNAT))
                .map(|target| ip(target.source).to_string()),
            connections,
            answered: lately.answered,
            unanswered: lately.silent,
            reset: lately.refused,
        }
    };
    let mut rows = Vec::new();
    for wanted in roles::targets(service, &facts.roles) {
        let at = (bytes(wanted.socket.ip()), wanted.socket.port());
        let connections = counts.remove(&at).unwrap_or_default();
        rows.push(row(wanted.role, at.0, at.1, wanted.weight, connections));
    }
    rows.extend(roles::unknown(service, &facts.roles).map(|role| TargetRow {
        role: Some(role.to_string()),
        ..TargetRow::default()
    }));
    let left = counts.into_iter();
    rows.extend(left.map(|((address, port), count)| row(None, address, port, 0, count)));
    rows
}

#[cfg(test)]
mod tests {
    use truename_common::layout::{Slots, TCP};

    use super::{
        super::flow::tests::{at, config, connection},
        *,
    };
    use crate::api::Clock;

    #[test]
    fn services_show_targets_that_are_left() {
        let connections: BTreeMap<_, _> = [
            connection("10.0.0.5:40000", "10.0.0.9:61000", "10.0.0.1:6123"),
            connection("10.0.0.6:40000", "10.0.0.9:61001", "10.0.0.2:6123"),
        ]
        .into();
        let (alias, port) = at("10.0.0.10:6123");
        let socket = Socket {
            address: alias,
            port,
            protocol: TCP,
            pad: 0,
        };
        let service = Service {
            slots: Slots { first: 0, count: 1 },
            ..Service::default()
        };
        let config = config();
        let known = Known {
            services: &[(socket, service)],
            targets: &BTreeMap::new(),
            connections: &connections,
            attempts: &Attempts::new(&config, &Clock::read()),
            refused: &[("rpc".to_owned(), 3)].into(),
            facts: &Facts::default(),
        };
        let rows = services(&config, &known);
        let row = &rows[0];
        assert_eq!((row.connections, row.refused, &*row.state), (2, 3, "ok"));
        assert_eq!(row.states, [("established".to_owned(), 2)].into());
        let targets: Vec<_> = row
            .targets
            .iter()
            .map(|target| {
                (
                    target.address.as_deref().unwrap(),
                    target.weight,
                    target.connections,
                )
            })
            .collect();
        assert_eq!(targets, [("10.0.0.1:6123", 1, 1), ("10.0.0.2:6123", 0, 1)]);
        let none = Known {
            services: &[],
            ..known
        };
        assert_eq!(services(&config, &none)[0].state, "left out");
    }
}
