//! The rows of `truename aliases`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use truename_common::layout::{AliasKey, AliasStat, Authority, FiveTuple, ip};

use super::{behind::Behind, text::socket};
use crate::{
    api::{AliasRow, Clock},
    config::{Config, index::endpoint_name},
    relay,
};

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
        endpoint: endpoint_name(config, relay::socket(row.endpoint)),
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

#[cfg(test)]
mod tests {
    use truename_common::layout::v4_mapped;

    use super::{
        super::endpoint::tests::{at, authority, config},
        *,
    };

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
}
