//! From the kernel's values to the rows of the control API. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use truename_common::layout::{
    AliasKey, AliasStat, Authority, Conntrack, Counter, Event, EventKind, FiveTuple, Names, Peer,
    PeerKey, Socket, TCP, Text, conntrack_flags,
};

use truename_common::wire::stream::reset;

use super::flow;
use crate::{
    api::{AliasRow, Aliases, CanonicalSource, Clock, EndpointRow, EventRow, PeerRow},
    config::{self, Config, Endpoint},
    plan, relay,
};

/// Endpoints, and the instances of those that listen on any address.
pub fn endpoints(
    config: &Config,
    names: &[(Socket, Names)],
    flows: &[FiveTuple],
) -> Vec<EndpointRow> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for flow in flows {
        if let Some(endpoint) = find(config, flow.endpoint()) {
            *counts.entry(&endpoint.name).or_default() += 1;
        }
    }
    let by_socket: BTreeMap<_, _> = names.iter().copied().collect();
    let mut rows = Vec::new();
    for endpoint in &config.endpoints {
        let socket = endpoint.listen.to_socket();
        let flows = counts
            .get(endpoint.name.as_str())
            .copied()
            .unwrap_or_default();
        let row = |address: Option<String>, names: Option<&Names>| {
            endpoint_row(endpoint, address, names, flows)
        };
        let instances: Vec<_> = by_socket
            .iter()
            .filter(|(key, _)| endpoint.listen.address.is_none() && **key != socket)
            .filter(|(key, _)| key.any() == socket)
            .collect();
        if let Some(names) = by_socket.get(&socket) {
            rows.push(row(None, Some(names)));
        } else if instances.is_empty() {
            rows.push(row(None, None));
        }
        for (key, names) in instances {
            rows.push(row(Some(ip(key.address).to_string()), Some(names)));
        }
    }
    rows
}

fn endpoint_row(
    endpoint: &Endpoint,
    address: Option<String>,
    names: Option<&Names>,
    flows: usize,
) -> EndpointRow {
    let canonical = names.and_then(|names| text(&names.canonical));
    EndpointRow {
        name: endpoint.name.clone(),
        protocol: endpoint.protocol.to_string(),
        listen: endpoint.listen.to_string(),
        address,
        canonical_source: match names {
            Some(names) if names.configured == 1 && endpoint.canonical.is_none() => {
                CanonicalSource::Topology
            }
            Some(names) if names.configured == 1 => CanonicalSource::Configured,
            Some(_) if canonical.is_some() => CanonicalSource::Learned,
            _ => CanonicalSource::Unknown,
        },
        canonical,
        system: names.and_then(|names| text(&names.system)),
        aliases: match &endpoint.aliases {
            config::Aliases::Any => Aliases::Any("any".to_owned()),
            config::Aliases::Listed(list) => {
                Aliases::Listed(list.iter().map(ToString::to_string).collect())
            }
        },
        flows,
    }
}

/// Clients that are told for one address.
const BEHIND_MAX: usize = 8;

/// The clients whose address was replaced, by what the target sees: that address, and its own.
#[derive(Debug, Default)]
pub struct Behind(BTreeMap<([u8; 16], Socket), BTreeSet<IpAddr>>);

impl Behind {
    /// Takes a connection into account.
    pub fn note(&mut self, key: &FiveTuple, entry: &Conntrack) {
        if entry.flags & conntrack_flags::MASKED != 0 {
            let clients = self.0.entry((key.client, key.endpoint())).or_default();
            clients.insert(ip(entry.client));
        }
    }

    /// Those that an endpoint sees by an address.
    fn of(&self, client: [u8; 16], endpoint: Socket) -> Vec<String> {
        let clients = self.0.get(&(client, endpoint)).into_iter().flatten();
        clients.take(BEHIND_MAX).map(ToString::to_string).collect()
    }
}

/// Aliases in use, the latest first.
pub fn aliases(
    config: &Config,
    clock: &Clock,
    behind: &Behind,
    entries: &BTreeMap<AliasKey, AliasStat>,
    steered: &BTreeSet<FiveTuple>,
) -> Vec<AliasRow> {
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|(key, stat)| (std::cmp::Reverse(stat.seen_ns), key.client));
    entries
        .into_iter()
        .map(|(key, stat)| AliasRow {
            alias: stat.alias.to_string(),
            endpoint: endpoint_name(config, key.endpoint),
            address: socket(key.endpoint.address, key.endpoint.port),
            client: ip(key.client).to_string(),
            behind: behind.of(key.client, key.endpoint),
            inbound: stat.inbound,
            outbound: stat.outbound,
            first_seen: clock.at(stat.first_ns),
            last_seen: clock.at(stat.seen_ns),
            no_fit: stat.no_fit != 0,
            relayed: stat.no_fit != 0
                && steered.contains(&FiveTuple {
                    client: key.client,
                    endpoint: key.endpoint.address,
                    endpoint_port: key.endpoint.port,
                    protocol: key.endpoint.protocol,
                    ..FiveTuple::default()
                }),
        })
        .collect()
}

/// The aliases of relayed connections, which the kernel program does not see.
pub fn relayed_aliases(config: &Config, clock: &Clock, rows: &[relay::Row]) -> Vec<AliasRow> {
    let named = rows.iter().filter_map(|row| Some((row, row.alias?)));
    let row = |(row, alias): (&relay::Row, Authority)| AliasRow {
        alias: alias.to_string(),
        endpoint: endpoint_name(
            config,
            Socket {
                address: plan::bytes(row.endpoint.ip()),
                port: row.endpoint.port(),
                protocol: TCP,
                pad: 0,
            },
        ),
        address: row.endpoint.to_string(),
        client: row.client.ip().to_string(),
        behind: Vec::new(),
        inbound: row.edits[0],
        outbound: row.edits[1],
        first_seen: clock.at(row.created_ns),
        last_seen: clock.at(row.seen_ns),
        no_fit: alias.len > row.canonical.len,
        relayed: true,
    };
    named.map(row).collect()
}

/// Clients, the latest first. The entry for whoever was seen last at an address is left out
/// where a client that announced its name is known there.
pub fn peers(
    config: &Config,
    clock: &Clock,
    behind: &Behind,
    entries: &[(PeerKey, Peer)],
) -> Vec<PeerRow> {
    let named: BTreeSet<_> = entries
        .iter()
        .filter(|(key, _)| key.origin != 0)
        .map(|(key, _)| (key.endpoint, key.client))
        .collect();
    let mut entries: Vec<_> = entries
        .iter()
        .filter(|(key, _)| key.origin != 0 || !named.contains(&(key.endpoint, key.client)))
        .collect();
    entries.sort_by_key(|(key, peer)| (std::cmp::Reverse(peer.seen_ns), key.client));
    entries
        .into_iter()
        .map(|(key, peer)| PeerRow {
            announced: text(&peer.announced),
            system: text(&peer.system),
            client: ip(key.client).to_string(),
            behind: behind.of(key.client, key.endpoint),
            endpoint: endpoint_name(config, key.endpoint),
            address: socket(key.endpoint.address, key.endpoint.port),
            alias: text(&peer.alias),
            last_seen: clock.at(peer.seen_ns),
        })
        .collect()
}

/// An event.
pub fn event(config: &Config, clock: &Clock, event: &Event) -> EventRow {
    let kind = EventKind::from_number(event.kind);
    let detail = match kind {
        Some(EventKind::LeftAlone | EventKind::Refused) => Counter::ALL
            .get(event.detail as usize)
            .map_or_else(
                || event.detail.to_string(),
                |counter| counter.label().to_owned(),
            )
            .into(),
        Some(EventKind::Resynchronised) => Some(
            if event.detail == 0 {
                "inbound"
            } else {
                "outbound"
            }
            .to_owned(),
        ),
        Some(EventKind::NoFit) => Some("longer than the canonical name".to_owned()),
        Some(EventKind::Reset) if event.detail == reset::RELAY => {
            Some("the next connection is relayed".to_owned())
        }
        Some(_) => None,
        None => Some(event.detail.to_string()),
    };
    EventRow {
        time: clock.at(event.time_ns),
        kind: kind.map_or_else(|| event.kind.to_string(), |kind| kind.label().to_owned()),
        client: socket(event.flow.client, event.flow.client_port),
        address: socket(event.flow.endpoint, event.flow.endpoint_port),
        endpoint: match kind {
            Some(EventKind::Refused) => service_name(config, event.flow.endpoint()),
            _ => endpoint_name(config, event.flow.endpoint()),
        },
        name: text(&event.text),
        detail,
    }
}

/// The name of the service that has an alias there, or a dash.
pub fn service_name(config: &Config, alias: Socket) -> String {
    flow::find(config, alias).map_or_else(|| "-".to_owned(), |service| service.name.clone())
}

/// An event as a sentence for the log.
pub fn sentence(row: &EventRow) -> String {
    let mut sentence = format!(
        "{}: {} to {} ({})",
        row.kind, row.client, row.address, row.endpoint
    );
    for part in [&row.name, &row.detail].into_iter().flatten() {
        sentence.push_str(": ");
        sentence.push_str(part);
    }
    sentence
}

/// The endpoint that listens there: the one of that address, or the one of any address.
pub fn find(config: &Config, at: Socket) -> Option<&Endpoint> {
    let listening = |socket: Socket| {
        config
            .endpoints
            .iter()
            .find(move |endpoint| endpoint.listen.to_socket() == socket)
    };
    listening(at).or_else(|| listening(at.any()))
}

/// Its name, or a dash if it was removed from the configuration.
pub fn endpoint_name(config: &Config, at: Socket) -> String {
    find(config, at).map_or_else(|| "-".to_owned(), |endpoint| endpoint.name.clone())
}

/// An escaped text, unless it is empty.
pub fn text<const N: usize>(text: &Text<N>) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

/// An address of the kernel tables.
pub fn ip(address: [u8; 16]) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(address)).to_canonical()
}

/// An address and a port of the kernel tables.
pub fn socket(address: [u8; 16], port: u16) -> String {
    SocketAddr::new(ip(address), port).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use truename_common::layout::v4_mapped;

    use super::*;
    use crate::config::{File, Flags};

    fn config() -> Config {
        let text = r#"
            [[endpoint]]
            name = "jm"
            protocol = "pekko"
            listen = "10.0.0.1:6123"
            canonical = "jm:6123"
            [[endpoint]]
            name = "tm"
            protocol = "pekko"
            listen = "*:6122"
            aliases = ["a:1"]
        "#;
        Config::new(File::parse(Path::new("t"), text).unwrap(), Flags::default()).unwrap()
    }

    fn authority(text: &str) -> Authority {
        Authority::new(text.as_bytes()).unwrap()
    }

    fn at(last: u8, port: u16) -> Socket {
        Socket {
            address: v4_mapped([10, 0, 0, last]),
            port,
            protocol: TCP,
            pad: 0,
        }
    }

    #[test]
    fn endpoints_have_one_row_an_instance() {
        let names = [
            (at(1, 6123), Names::configured(authority("jm:6123"))),
            (
                at(7, 6122),
                Names {
                    canonical: authority("tm7:6122"),
                    ..Names::default()
                },
            ),
            (
                at(8, 6122),
                Names {
                    canonical: authority("tm8:6122"),
                    ..Names::default()
                },
            ),
        ];
        let flow = FiveTuple {
            endpoint: at(7, 6122).address,
            endpoint_port: 6122,
            protocol: TCP,
            ..FiveTuple::default()
        };
        let rows = endpoints(&config(), &names, &[flow]);
        let short: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    row.name.as_str(),
                    row.address.as_deref(),
                    row.canonical_source,
                    row.flows,
                )
            })
            .collect();
        assert_eq!(
            short,
            [
                ("jm", None, CanonicalSource::Configured, 0),
                ("tm", Some("10.0.0.7"), CanonicalSource::Learned, 1),
                ("tm", Some("10.0.0.8"), CanonicalSource::Learned, 1),
            ]
        );
        let rows = endpoints(&config(), &[], &[]);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].canonical_source, CanonicalSource::Unknown);
    }

    #[test]
    fn network_text_is_escaped() {
        let stat = AliasStat {
            alias: authority("a\x1b[2J:1"),
            seen_ns: 1,
            ..AliasStat::default()
        };
        let key = AliasKey {
            endpoint: at(1, 6123),
            client: v4_mapped([10, 0, 0, 2]),
            ..AliasKey::default()
        };
        let rows = aliases(
            &config(),
            &Clock::read(),
            &Behind::default(),
            &BTreeMap::from([(key, stat)]),
            &BTreeSet::new(),
        );
        assert_eq!(rows[0].alias, "a\\x1b[2J:1");
        assert_eq!(rows[0].endpoint, "jm");
        assert_eq!(rows[0].client, "10.0.0.2");
    }

    #[test]
    fn peers_without_a_name_yield_to_those_with_one() {
        let key = |origin| PeerKey {
            endpoint: at(1, 6123),
            origin,
            ..PeerKey::default()
        };
        let peer = Peer {
            announced: authority("tm:1"),
            ..Peer::default()
        };
        let rows = peers(
            &config(),
            &Clock::read(),
            &Behind::default(),
            &[(key(0), peer), (key(5), peer)],
        );
        assert_eq!(rows.len(), 1);
        assert_eq!(
            peers(
                &config(),
                &Clock::read(),
                &Behind::default(),
                &[(key(0), Peer::default())]
            )
            .len(),
            1
        );
    }

    #[test]
    fn events_say_why() {
        let flow = FiveTuple {
            client: v4_mapped([10, 0, 0, 2]),
            endpoint: at(1, 6123).address,
            client_port: 40000,
            endpoint_port: 6123,
            protocol: TCP,
            pad: [0; 3],
        };
        let raw = Event {
            time_ns: 1,
            kind: EventKind::LeftAlone as u32,
            detail: Counter::Tls as u32,
            flow,
            text: Authority::EMPTY,
            pad: [0; 6],
        };
        let row = event(&config(), &Clock::read(), &raw);
        assert_eq!(
            sentence(&row),
            "left_alone: 10.0.0.2:40000 to 10.0.0.1:6123 (jm): tls"
        );
        let mut config = config();
        let flag = "tcp=10.0.0.1:6123=10.0.0.3:80".parse().unwrap();
        let flags = Flags {
            services: vec![flag],
            ..Flags::default()
        };
        config.services = Config::new(File::default(), flags).unwrap().services;
        let refused = Event {
            kind: EventKind::Refused as u32,
            detail: Counter::NatTableFull as u32,
            ..raw
        };
        assert_eq!(
            sentence(&event(&config, &Clock::read(), &refused)),
            "refused: 10.0.0.2:40000 to 10.0.0.1:6123 (tcp-6123): nat_table_full"
        );
        let row = event(
            &config,
            &Clock::read(),
            &Event {
                kind: 99,
                detail: 3,
                ..raw
            },
        );
        assert_eq!(
            (row.kind.as_str(), row.detail.as_deref()),
            ("99", Some("3"))
        );
    }
}
