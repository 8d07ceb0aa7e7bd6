//! The rows of `truename peers`. Pure.

use std::collections::BTreeSet;

use truename_common::layout::{Peer, PeerKey, ip};

use super::{
    behind::Behind,
    text::{socket, text},
};
use crate::{
    api::{Clock, PeerRow},
    config::{Config, index::endpoint_name},
};

/// Clients, the latest first. The entry of the client that was seen last at an address is left out
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

#[cfg(test)]
mod tests {
    use super::{
        super::endpoint::tests::{at, authority, config},
        *,
    };

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
}
