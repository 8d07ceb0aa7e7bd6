//! Connections and RPC flows as rows: one for each flow. Pure.

use std::collections::BTreeMap;

use truename_common::{
    layout::{
        Conntrack, ConntrackState, FiveTuple, RpcFlow, Service, Socket, TCP, Target,
        conntrack_flags, target_flags,
    },
    wire::flow::state,
};

use super::{
    attempts::Attempts,
    view::{endpoint_name, ip, socket, text},
};
use crate::{
    api::{Clock, FlowRow, FlowState, ServiceRow, TargetRow},
    config::{self, Config},
    plan::{Roles, bytes, roles},
    relay,
};

/// Flows, the latest first.
pub fn flows(
    config: &Config,
    clock: &Clock,
    connections: &BTreeMap<FiveTuple, Conntrack>,
    rpc: &BTreeMap<FiveTuple, RpcFlow>,
) -> Vec<FlowRow> {
    let aliases = Aliases::new(config);
    let alone = connections
        .iter()
        .filter(|(key, _)| !rpc.contains_key(key))
        .map(|(key, entry)| {
            (
                entry.seen_ns,
                row(config, &aliases, clock, key, Some(entry), None),
            )
        });
    let both = rpc.iter().map(|(key, flow)| {
        let entry = connections.get(key);
        let seen = flow.seen_ns.max(entry.map_or(0, |entry| entry.seen_ns));
        (seen, row(config, &aliases, clock, key, entry, Some(flow)))
    });
    let mut rows: Vec<_> = alone.chain(both).collect();
    rows.sort_by(|(a_seen, a), (b_seen, b)| {
        let seen = b_seen.cmp(a_seen);
        seen.then_with(|| (&a.client, &a.address).cmp(&(&b.client, &b.address)))
    });
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The relayed connections.
pub fn relayed(config: &Config, clock: &Clock, rows: &[relay::Row]) -> Vec<FlowRow> {
    let row = |row: &relay::Row| {
        let key = FiveTuple {
            client: bytes(row.client.ip()),
            endpoint: bytes(row.endpoint.ip()),
            client_port: row.client.port(),
            endpoint_port: row.endpoint.port(),
            protocol: TCP,
            ..FiveTuple::default()
        };
        let [frames_in, frames_out] = row.frames;
        let [edits_in, edits_out] = row.edits;
        FlowRow {
            state: FlowState::Relayed,
            alias: row.alias.map(|alias| alias.to_string()),
            canonical: text(&row.canonical),
            frames_in,
            frames_out,
            edits_in,
            edits_out,
            first_seen: clock.at(row.created_ns),
            last_seen: clock.at(row.seen_ns),
            ..self::row(config, &Aliases::new(config), clock, &key, None, None)
        }
    };
    rows.iter().map(row).collect()
}

/// A flow. Its key is what the endpoint or target sees.
pub fn row(
    config: &Config,
    aliases: &Aliases<'_>,
    clock: &Clock,
    key: &FiveTuple,
    entry: Option<&Conntrack>,
    flow: Option<&RpcFlow>,
) -> FlowRow {
    let seen = socket(key.client, key.client_port);
    let client = entry.map_or_else(
        || seen.clone(),
        |entry| socket(entry.client, entry.client_port),
    );
    let name = |part: fn(&RpcFlow) -> Option<String>| flow.and_then(part);
    let number = |part: fn(&RpcFlow) -> u64| flow.map_or(0, part);
    let created = entry.map(|entry| u64::from(entry.created_s) * 1_000_000_000);
    let last = [
        entry.map(|entry| entry.seen_ns),
        flow.map(|flow| flow.seen_ns),
    ];
    FlowRow {
        protocol: if key.protocol == TCP { "tcp" } else { "udp" }.to_owned(),
        via: entry.map(|entry| socket(entry.alias, entry.alias_port)),
        source: (seen != client).then_some(seen),
        client,
        address: socket(key.endpoint, key.endpoint_port),
        service: entry
            .and_then(|entry| aliases.find(entry.alias(key.protocol)))
            .map(|service| service.name.clone()),
        connection: entry.map(|entry| ConntrackState::from_number(entry.state).label().to_owned()),
        direct: entry.is_some_and(|entry| entry.flags & conntrack_flags::DIRECT != 0),
        sent: entry.map(|entry| entry.sent),
        received: entry.map(|entry| entry.received),
        endpoint: endpoint_name(config, key.endpoint()),
        state: flow.map_or(FlowState::Forwarded, flow_state),
        adopted: flow.is_some_and(|flow| flow.flags & state::ADOPTED != 0),
        alias: name(|flow| text(&flow.names.alias)),
        canonical: name(|flow| text(&flow.names.canonical)),
        announced: name(|flow| text(&flow.names.origin)),
        system: name(|flow| text(&flow.names.system)),
        frames_in: number(|flow| flow.inbound.frames),
        frames_out: number(|flow| flow.outbound.frames),
        edits_in: number(|flow| flow.inbound.edits),
        edits_out: number(|flow| flow.outbound.edits),
        first_seen: clock.at(created.or(flow.map(|flow| flow.created_ns)).unwrap_or(0)),
        last_seen: clock.at(last.into_iter().flatten().max().unwrap_or(0)),
    }
}

pub fn flow_state(flow: &RpcFlow) -> FlowState {
    if state::is_closed(flow.flags) {
        FlowState::Closed
    } else if flow.flags & state::LEFT_ALONE != 0 {
        FlowState::LeftAlone
    } else if !flow.names.alias.is_empty() {
        FlowState::Translated
    } else if flow.flags & state::CANONICAL_USED != 0 {
        FlowState::Canonical
    } else {
        FlowState::New
    }
}

/// The configured service that has an alias: the one of that address, or the one of any address. For
/// many questions, [`Aliases`] is faster.
pub fn find(config: &Config, alias: Socket) -> Option<&config::Service> {
    let has = |wanted: Socket| config.services.iter().find(move |s| s.alias() == wanted);
    has(alias).or_else(|| has(alias.any()))
}

/// The configured services, by alias.
pub struct Aliases<'a>(BTreeMap<Socket, &'a config::Service>);

impl<'a> Aliases<'a> {
    /// Those of a configuration.
    pub fn new(config: &'a Config) -> Self {
        let services = config.services.iter();
        Self(services.map(|service| (service.alias(), service)).collect())
    }

    /// As [`find`].
    pub fn find(&self, alias: Socket) -> Option<&'a config::Service> {
        let found = self.0.get(&alias).or_else(|| self.0.get(&alias.any()));
        found.copied()
    }
}

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
    /// What the topology knows of roles.
    pub roles: &'a Roles,
}

/// Services, in the order of the configuration.
pub fn services(config: &Config, known: &Known<'_>) -> Vec<ServiceRow> {
    let by_alias = Aliases::new(config);
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
    let row = |role: Option<&config::Role>, address: [u8; 16], port, weight, connections| {
        let present = targets.get(&(address, port));
        let has = |flag| present.is_some_and(|target| target.flags & flag != 0);
        let lately = known.attempts.of(&service.name, address, port);
        TargetRow {
            address: Some(socket(address, port)),
            role: role.map(ToString::to_string),
            weight,
            local: has(target_flags::LOCAL),
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
    for wanted in roles::targets(service, known.roles) {
        let at = (bytes(wanted.socket.ip()), wanted.socket.port());
        let connections = counts.remove(&at).unwrap_or_default();
        rows.push(row(wanted.role, at.0, at.1, wanted.weight, connections));
    }
    rows.extend(roles::unknown(service, known.roles).map(|role| TargetRow {
        role: Some(role.to_string()),
        ..TargetRow::default()
    }));
    let left = counts.into_iter();
    rows.extend(left.map(|((address, port), count)| row(None, address, port, 0, count)));
    rows
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use truename_common::layout::{Authority, Slots};

    use super::*;
    use crate::{
        api::FlowFilter,
        config::{File, Flags},
    };

    fn config() -> Config {
        let text = r#"
            [[endpoint]]
            name = "jm"
            protocol = "pekko"
            listen = "10.0.0.1:6123"
            [[service]]
            name = "rpc"
            protocol = "tcp"
            listen = "10.0.0.10:6123"
            target = "10.0.0.1:6123"
        "#;
        Config::new(File::parse(Path::new("t"), text).unwrap(), Flags::default()).unwrap()
    }

    fn at(text: &str) -> ([u8; 16], u16) {
        let at: std::net::SocketAddr = text.parse().unwrap();
        (bytes(at.ip()), at.port())
    }

    fn connection(client: &str, seen: &str, target: &str) -> (FiveTuple, Conntrack) {
        let ((client, client_port), (seen, seen_port)) = (at(client), at(seen));
        let (target, target_port) = at(target);
        let (alias, alias_port) = at("10.0.0.10:6123");
        let key = FiveTuple {
            client: seen,
            endpoint: target,
            client_port: seen_port,
            endpoint_port: target_port,
            protocol: TCP,
            pad: [0; 3],
        };
        let entry = Conntrack {
            client,
            client_port,
            alias,
            alias_port,
            state: ConntrackState::Established as u8,
            seen_ns: 5,
            sent: 100,
            ..Conntrack::default()
        };
        (key, entry)
    }

    #[test]
    fn a_connection_and_its_rpc_flow_are_one_row() {
        let connections: BTreeMap<_, _> = [
            connection("10.0.0.5:40000", "10.0.0.9:61000", "10.0.0.1:6123"),
            connection("10.0.0.6:40000", "10.0.0.6:40000", "10.0.0.1:6123"),
        ]
        .into();
        let mut flow = RpcFlow {
            seen_ns: 9,
            ..RpcFlow::default()
        };
        flow.names.alias = Authority::new(b"jm:6123").unwrap();
        let key = *connections
            .keys()
            .find(|key| key.client_port == 61_000)
            .unwrap();
        let rows = flows(
            &config(),
            &Clock::read(),
            &connections,
            &BTreeMap::from([(key, flow)]),
        );
        assert_eq!(rows.len(), 2);
        let row = &rows[0];
        assert_eq!(row.client, "10.0.0.5:40000");
        assert_eq!(row.source.as_deref(), Some("10.0.0.9:61000"));
        assert_eq!(row.via.as_deref(), Some("10.0.0.10:6123"));
        assert_eq!(row.address, "10.0.0.1:6123");
        assert_eq!(
            (row.service.as_deref(), &*row.endpoint),
            (Some("rpc"), "jm")
        );
        assert_eq!(row.connection.as_deref(), Some("established"));
        assert_eq!(row.state, FlowState::Translated);
        assert_eq!(rows[1].state, FlowState::Forwarded);
        assert_eq!(rows[1].source, None);

        let admitted = |filter: FlowFilter| rows.iter().filter(|row| filter.admits(row)).count();
        let only = FlowFilter::default;
        for (filter, expected) in [
            (only(), 2),
            (
                FlowFilter {
                    service: Some("rpc".into()),
                    ..only()
                },
                2,
            ),
            (
                FlowFilter {
                    service: Some("x".into()),
                    ..only()
                },
                0,
            ),
            (
                FlowFilter {
                    client: "10.0.0.5".parse().ok(),
                    ..only()
                },
                1,
            ),
            (
                FlowFilter {
                    state: Some("established".into()),
                    ..only()
                },
                2,
            ),
            (
                FlowFilter {
                    state: Some("translated".into()),
                    ..only()
                },
                1,
            ),
            (
                FlowFilter {
                    target: "10.0.0.1".parse().ok(),
                    port: Some(6123),
                    ..only()
                },
                2,
            ),
            (
                FlowFilter {
                    target: "10.0.0.10".parse().ok(),
                    ..only()
                },
                0,
            ),
            (
                FlowFilter {
                    port: Some(6124),
                    ..only()
                },
                0,
            ),
            (
                FlowFilter {
                    alias: Some("jm:6123".into()),
                    ..only()
                },
                1,
            ),
        ] {
            assert_eq!(admitted(filter.clone()), expected, "{filter:?}");
        }
    }

    #[test]
    fn flows_have_one_state() {
        let mut flow = RpcFlow::default();
        assert_eq!(flow_state(&flow), FlowState::New);
        flow.flags = state::CANONICAL_USED;
        assert_eq!(flow_state(&flow), FlowState::Canonical);
        flow.names.alias = Authority::new(b"a:1").unwrap();
        assert_eq!(flow_state(&flow), FlowState::Translated);
        flow.flags = state::LEFT_ALONE;
        assert_eq!(flow_state(&flow), FlowState::LeftAlone);
        flow.flags |= state::RESET;
        assert_eq!(flow_state(&flow), FlowState::Closed);
    }

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
            roles: &Roles::new(),
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
