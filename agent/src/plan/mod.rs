//! From the configuration to the contents of the kernel tables: a pure function.

use std::collections::{BTreeMap, BTreeSet};

use truename_common::layout::{Endpoint, ListedAlias, Names, Policy, Socket, port_flags};

use crate::config::{Aliases, Config};

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
}

/// Key of `LISTED`.
pub fn listed_key((endpoint, alias): (u32, truename_common::layout::Authority)) -> ListedAlias {
    ListedAlias {
        endpoint,
        alias,
        ..ListedAlias::default()
    }
}

/// Compiles a configuration. `numbers` are those that endpoints have in the kernel now: an
/// endpoint keeps its number, because flows remember it, and a new one gets a number that no
/// endpoint has had since.
pub fn plan(config: &Config, numbers: &BTreeMap<Socket, u32>) -> Tables {
    let mut tables = Tables::default();
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
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{File, Flags, Listen};

    fn config(text: &str) -> Config {
        Config::new(
            File::parse(Path::new("t.toml"), text).unwrap(),
            Flags::default(),
        )
        .unwrap()
    }

    fn socket(text: &str) -> Socket {
        text.parse::<Listen>().unwrap().to_socket()
    }

    const TWO: &str = r#"
        [[endpoint]]
        name = "jobmanager"
        protocol = "pekko"
        listen = "10.0.0.1:6123"
        canonical = "jobmanager:6123"
        aliases = ["localhost:6123"]
        [[endpoint]]
        name = "taskmanager"
        protocol = "pekko"
        listen = "*:6122"
    "#;

    #[test]
    fn compiles_every_table() {
        let tables = plan(&config(TWO), &BTreeMap::new());
        assert_eq!(tables.ports, [(6122, 1), (6123, 1)].into());
        assert_eq!(tables.endpoints[&socket("10.0.0.1:6123")].id, 0);
        assert_eq!(
            tables.endpoints[&socket("10.0.0.1:6123")].policy,
            Policy::Listed as u8
        );
        assert_eq!(tables.endpoints[&socket("*:6122")].id, 1);
        assert_eq!(
            tables.endpoints[&socket("*:6122")].policy,
            Policy::Any as u8
        );
        assert_eq!(tables.names.len(), 1);
        assert_eq!(
            tables.names[&socket("10.0.0.1:6123")].canonical.as_bytes(),
            b"jobmanager:6123"
        );
        let (id, alias) = tables.listed.first().unwrap();
        assert_eq!((*id, alias.as_bytes()), (0, &b"localhost:6123"[..]));
    }

    #[test]
    fn endpoints_keep_their_numbers() {
        let numbers = [(socket("*:6122"), 7), (socket("*:9999"), 8)].into();
        let tables = plan(&config(TWO), &numbers);
        assert_eq!(tables.endpoints[&socket("*:6122")].id, 7);
        assert_eq!(tables.endpoints[&socket("10.0.0.1:6123")].id, 9);
        assert_eq!(tables.listed.first().unwrap().0, 9);
    }
}
