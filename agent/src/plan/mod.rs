//! From the configuration to the contents of the kernel tables: a pure function.

mod connected;
mod facts;
mod ipsec;
pub mod policy;
#[cfg(test)]
mod role_tests;
pub mod roles;
#[cfg(test)]
mod service_tests;
mod services;
mod space;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use truename_common::layout::{Endpoint, ListedAlias, Names, Policy, Socket, bytes, port_flags};

pub use connected::Summary;
pub use facts::{CanonicalNames, Connected, Facts, Held};
pub use ipsec::{refused, unencrypted};
pub use roles::Roles;
pub use services::Services;

use crate::config::{self, Aliases, Config};

/// The wanted contents of the tables that the agent owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `PORTS`; a port that is absent has no flags.
    pub ports: BTreeMap<u16, u8>,
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<Socket, Endpoint>,
    /// The configured entries of `NAMES`. Learned ones are the kernel program's.
    pub names: BTreeMap<Socket, Names>,
    /// `LISTED`, as number of the endpoint and alias.
    pub listed: BTreeSet<(u32, truename_common::layout::Authority)>,
    /// `ADDRESSES`: this host's, of which the first ones count.
    pub addresses: BTreeSet<[u8; 16]>,
    /// The tables of services.
    pub services: Services,
}

/// Entries of `NAMES` that are configured or confirmed; the others are for names that are learned.
const CONFIRMED_MAX: usize = 2048;
/// The port of DNS.
const DNS: u16 = 53;
/// Entries of `ADDRESSES`.
const ADDRESSES_MAX: usize = 4096;

/// Key of `LISTED`.
pub fn listed_key((endpoint, alias): (u32, truename_common::layout::Authority)) -> ListedAlias {
    ListedAlias {
        endpoint,
        alias,
        ..ListedAlias::default()
    }
}

/// The names that are confirmed where an endpoint listens.
fn confirmed(endpoint: &config::Endpoint, facts: &Facts) -> BTreeMap<Socket, Names> {
    let listen = endpoint.listen;
    let mut names = BTreeMap::new();
    for ((address, port), name) in facts.names.iter() {
        if *port != listen.port {
            continue;
        }
        // What answers at a loopback address answers at others of this host, too.
        let own = facts.addresses.iter().filter(|_| address.is_loopback());
        for address in own.chain([address]) {
            if listen.address.is_none_or(|wanted| wanted == *address) {
                let address = bytes(*address);
                let socket = Socket {
                    address,
                    ..listen.to_socket()
                };
                names.insert(socket, Names::configured(name.to_layout()));
            }
        }
    }
    names
}

/// Compiles a configuration. `numbers` are those that endpoints have in the kernel now: an
/// endpoint keeps its number, because flows remember it, and a new one gets a number that no
/// endpoint has had since. `held` is what the kernel tables hold of services, which keep their numbers
/// likewise.
pub fn plan(
    config: &Config,
    facts: &Facts,
    numbers: &BTreeMap<Socket, u32>,
    held: &Held,
) -> Tables {
    let mut tables = Tables {
        services: services::plan(config, facts, held),
        addresses: facts
            .addresses
            .iter()
            .map(|address| bytes(*address))
            .take(ADDRESSES_MAX)
            .collect(),
        ..Tables::default()
    };
    let mut flag = |port, flag| *tables.ports.entry(port).or_default() |= flag;
    if config.captures_names() {
        flag(DNS, port_flags::CAPTURE);
    }
    for alias in tables.services.services.keys() {
        flag(alias.port, port_flags::SERVICE);
    }
    for target in tables.services.targets.values() {
        flag(target.port, port_flags::TARGET);
    }
    // The answers of a connection are translated for as long as it lives.
    for (_, port) in &held.connected.targets {
        flag(*port, port_flags::TARGET);
    }
    let mut next = numbers
        .values()
        .max()
        .map_or(0, |highest| highest.wrapping_add(1));
    for endpoint in &config.endpoints {
        let socket = endpoint.listen.to_socket();
        let id = numbers.get(&socket).copied().unwrap_or_else(|| {
            let id = next;
            next = next.wrapping_add(1);
            id
        });
        let policy = match &endpoint.aliases {
            Aliases::Any => Policy::Any,
            Aliases::Listed(aliases) => {
                tables
                    .listed
                    .extend(aliases.iter().map(|alias| (id, alias.to_layout())));
                Policy::Listed
            }
        };
        *tables.ports.entry(socket.port).or_default() |= port_flags::ENDPOINT;
        tables.endpoints.insert(
            socket,
            Endpoint {
                id,
                protocol: endpoint.protocol.to_layout() as u8,
                policy: policy as u8,
                pad: [0; 2],
            },
        );
        if let Some(canonical) = &endpoint.canonical {
            tables
                .names
                .insert(socket, Names::configured(canonical.to_layout()));
        } else {
            let room = CONFIRMED_MAX.saturating_sub(tables.names.len());
            tables
                .names
                .extend(confirmed(endpoint, facts).into_iter().take(room));
        }
    }
    tables
}
