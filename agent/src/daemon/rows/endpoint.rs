//! The rows of `truename endpoints`. Pure.

use std::collections::BTreeMap;

use truename_common::layout::{FiveTuple, Names, Socket, ip};

use super::text::text;
use crate::{
    api::{Aliases, CanonicalSource, EndpointRow},
    config::{self, Config, Endpoint, index},
};

/// Endpoints, and the instances of those that listen on any address.
pub fn endpoints(
    config: &Config,
    names: &[(Socket, Names)],
    flows: &[FiveTuple],
) -> Vec<EndpointRow> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for flow in flows {
        if let Some(endpoint) = index::endpoint(config, flow.endpoint()) {
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

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use truename_common::layout::{Authority, TCP, v4_mapped};

    use super::*;
    use crate::config::{File, Flags};

    pub fn config() -> Config {
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

    pub fn authority(text: &str) -> Authority {
        Authority::new(text.as_bytes()).unwrap()
    }

    pub fn at(last: u8, port: u16) -> Socket {
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
}
