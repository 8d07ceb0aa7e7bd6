//! The clients behind an address that the kernel program gave them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use truename_common::layout::{Conntrack, FiveTuple, Socket, conntrack_flags, ip};

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
    pub fn of(&self, client: [u8; 16], endpoint: Socket) -> Vec<String> {
        let clients = self.0.get(&(client, endpoint)).into_iter().flatten();
        clients.take(BEHIND_MAX).map(ToString::to_string).collect()
    }
}
