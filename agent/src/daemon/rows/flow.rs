//! Connections and RPC flows as rows: one for each flow. Pure.

use std::collections::BTreeMap;

use truename_common::{
    layout::{
        Conntrack, ConntrackState, FiveTuple, RpcFlow, Settings, TCP, bytes, conntrack_flags,
    },
    wire::flow::state,
};

use super::{
    super::expiry,
    text::{socket, text},
};
use crate::{
    api::{Clock, FlowRow, FlowState},
    config::{
        Config,
        index::{Services, endpoint_name},
    },
    relay,
};

/// Flows, the latest first.
pub fn flows(
    config: &Config,
    clock: &Clock,
    settings: &Settings,
    connections: &BTreeMap<FiveTuple, Conntrack>,
    rpc: &BTreeMap<FiveTuple, RpcFlow>,
) -> Vec<FlowRow> {
    let aliases = Services::new(config);
    let alone = connections
        .iter()
        .filter(|(key, _)| !rpc.contains_key(key))
        .map(|(key, entry)| {
            (
                entry.seen_ns,
                row(config, &aliases, clock, settings, key, Some(entry), None),
            )
        });
    let both = rpc.iter().map(|(key, flow)| {
        let entry = connections.get(key);
        let seen = flow.seen_ns.max(entry.map_or(0, |entry| entry.seen_ns));
        (
            seen,
            row(config, &aliases, clock, settings, key, entry, Some(flow)),
        )
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
    let (aliases, settings) = (Services::new(config), Settings::default());
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
            ..self::row(config, &aliases, clock, &settings, &key, None, None)
        }
    };
    rows.iter().map(row).collect()
}

/// A flow. Its key is what the endpoint or target sees.
pub fn row(
    config: &Config,
    aliases: &Services<'_>,
    clock: &Clock,
    settings: &Settings,
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
    let now = clock.monotonic_ns();
    let left = entry
        .map(|entry| expiry::left(entry, now, settings))
        .or_else(|| flow.map(|flow| expiry::flow_left(flow, now)));
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
        expires_in_s: left.map(|left| left.as_secs()),
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

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use truename_common::layout::Authority;

    use super::*;
    use crate::{
        api::FlowFilter,
        config::{File, Flags},
    };

    pub fn config() -> Config {
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

    pub fn at(text: &str) -> ([u8; 16], u16) {
        let at: std::net::SocketAddr = text.parse().unwrap();
        (bytes(at.ip()), at.port())
    }

    pub fn connection(client: &str, seen: &str, target: &str) -> (FiveTuple, Conntrack) {
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
            &Settings::default(),
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
}
