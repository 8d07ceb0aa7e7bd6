//! The difference between the wanted and the present contents of the kernel tables.
//!
//! Additions come before removals, and what others refer to comes before what refers to it, so
//! that the kernel program finds a usable state after every single step. Applying the difference
//! twice changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use truename_common::layout::{Authority, Endpoint, ListedAlias, Names, Socket};

use crate::plan::{Tables, listed_key};

/// The present contents of the kernel tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// `PORTS`: the ports with flags.
    pub ports: BTreeMap<u16, u8>,
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<Socket, Endpoint>,
    /// `NAMES`, configured and learned.
    pub names: BTreeMap<Socket, Names>,
    /// `LISTED`.
    pub listed: BTreeSet<(u32, Authority)>,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "there are few steps and they live briefly"
)]
pub enum Change {
    /// Sets an entry of `LISTED`.
    List(ListedAlias),
    /// Sets an entry of `NAMES`.
    Name(Socket, Names),
    /// Sets an entry of `ENDPOINTS`.
    Endpoint(Socket, Endpoint),
    /// Sets the flags of a port, 0 to remove it.
    Port(u16, u8),
    /// Removes an entry of `ENDPOINTS`.
    RemoveEndpoint(Socket),
    /// Removes an entry of `NAMES`.
    RemoveName(Socket),
    /// Removes an entry of `LISTED`.
    Unlist(ListedAlias),
}

impl Present {
    /// The numbers of the endpoints, for [`crate::plan::plan`].
    pub fn numbers(&self) -> BTreeMap<Socket, u32> {
        self.endpoints
            .iter()
            .map(|(socket, endpoint)| (*socket, endpoint.id))
            .collect()
    }
}

/// The steps from `present` to `wanted`, in their order.
pub fn diff(wanted: &Tables, present: &Present) -> Vec<Change> {
    let mut steps = Vec::new();
    steps.extend(
        wanted
            .listed
            .difference(&present.listed)
            .copied()
            .map(listed_key)
            .map(Change::List),
    );
    for (socket, names) in &wanted.names {
        let now = present.names.get(socket);
        if !now.is_some_and(|now| now.configured == 1 && now.canonical == names.canonical) {
            // The system is learned even where the authority is configured.
            let system = now.map(|now| now.system).unwrap_or_default();
            steps.push(Change::Name(*socket, Names { system, ..*names }));
        }
    }
    for (socket, endpoint) in &wanted.endpoints {
        if present.endpoints.get(socket) != Some(endpoint) {
            steps.push(Change::Endpoint(*socket, *endpoint));
        }
    }
    for (port, flags) in &wanted.ports {
        if present.ports.get(port) != Some(flags) {
            steps.push(Change::Port(*port, *flags));
        }
    }
    for port in present
        .ports
        .keys()
        .filter(|port| !wanted.ports.contains_key(port))
    {
        steps.push(Change::Port(*port, 0));
    }
    for socket in present
        .endpoints
        .keys()
        .filter(|socket| !wanted.endpoints.contains_key(socket))
    {
        steps.push(Change::RemoveEndpoint(*socket));
    }
    for (socket, names) in &present.names {
        let keep = if names.configured == 1 {
            // The kernel program notes the configured name of a wildcard endpoint for each of its
            // instances, with the system that it learned.
            let instance_of = wanted.names.get(&socket.any());
            wanted.names.contains_key(socket)
                || instance_of.is_some_and(|wanted| wanted.canonical == names.canonical)
        } else {
            // Learned for an endpoint, or for one instance of a wildcard endpoint.
            wanted.endpoints.contains_key(socket) || wanted.endpoints.contains_key(&socket.any())
        };
        if !keep {
            steps.push(Change::RemoveName(*socket));
        }
    }
    steps.extend(
        present
            .listed
            .difference(&wanted.listed)
            .copied()
            .map(listed_key)
            .map(Change::Unlist),
    );
    steps
}

#[cfg(test)]
mod tests {
    use truename_common::layout::{System, TCP};

    use super::*;

    fn socket(address: u8, port: u16) -> Socket {
        let mut bytes = [0; 16];
        bytes[15] = address;
        Socket {
            address: bytes,
            port,
            protocol: TCP,
            pad: 0,
        }
    }

    fn authority(text: &str) -> Authority {
        Authority::new(text.as_bytes()).unwrap()
    }

    fn wanted() -> Tables {
        Tables {
            ports: [(1, 1), (2, 1)].into(),
            endpoints: [
                (
                    socket(1, 1),
                    Endpoint {
                        id: 0,
                        protocol: 1,
                        policy: 1,
                        pad: [0; 2],
                    },
                ),
                (
                    socket(0, 2),
                    Endpoint {
                        id: 1,
                        protocol: 1,
                        ..Endpoint::default()
                    },
                ),
            ]
            .into(),
            names: [(socket(1, 1), Names::configured(authority("a:1")))].into(),
            listed: [(0, authority("b:1"))].into(),
        }
    }

    /// What the kernel does with the steps.
    fn apply(present: &mut Present, steps: &[Change]) {
        for step in steps {
            match *step {
                Change::List(key) => drop(present.listed.insert((key.endpoint, key.alias))),
                Change::Name(socket, names) => drop(present.names.insert(socket, names)),
                Change::Endpoint(socket, value) => drop(present.endpoints.insert(socket, value)),
                Change::Port(port, 0) => drop(present.ports.remove(&port)),
                Change::Port(port, flags) => drop(present.ports.insert(port, flags)),
                Change::RemoveEndpoint(socket) => drop(present.endpoints.remove(&socket)),
                Change::RemoveName(socket) => drop(present.names.remove(&socket)),
                Change::Unlist(key) => drop(present.listed.remove(&(key.endpoint, key.alias))),
            }
        }
    }

    #[test]
    fn converges_and_is_idempotent() {
        let mut present = Present::default();
        present.ports.insert(9, 1);
        present.endpoints.insert(socket(9, 9), Endpoint::default());
        present.names.insert(socket(9, 9), Names::default());
        present.listed.insert((3, authority("old:9")));
        let steps = diff(&wanted(), &present);
        apply(&mut present, &steps);
        assert_eq!(present.ports, wanted().ports);
        assert_eq!(present.endpoints, wanted().endpoints);
        assert_eq!(present.names, wanted().names);
        assert_eq!(present.listed, wanted().listed);
        assert_eq!(diff(&wanted(), &present), []);
    }

    #[test]
    fn adds_before_it_removes() {
        let mut present = Present::default();
        present.ports.insert(9, 1);
        present.endpoints.insert(socket(9, 9), Endpoint::default());
        let steps = diff(&wanted(), &present);
        let first_removal = steps
            .iter()
            .position(|step| matches!(step, Change::Port(9, 0) | Change::RemoveEndpoint(_)))
            .unwrap();
        assert_eq!(first_removal, steps.len() - 2);
        let position = |wanted: fn(&Change) -> bool| steps.iter().position(wanted).unwrap();
        let list = position(|step| matches!(step, Change::List(_)));
        let name = position(|step| matches!(step, Change::Name(..)));
        let endpoint = position(|step| matches!(step, Change::Endpoint(..)));
        let port = position(|step| matches!(step, Change::Port(..)));
        assert!(list < name && name < endpoint && endpoint < port);
    }

    #[test]
    fn instances_follow_the_name_of_their_wildcard() {
        let mut wanted = wanted();
        let configured = Names::configured(authority("n:2"));
        wanted.names.insert(socket(0, 2), configured);
        let mut present = Present::default();
        present.names.insert(socket(7, 2), configured);
        present
            .names
            .insert(socket(8, 2), Names::configured(authority("old:2")));
        let steps = diff(&wanted, &present);
        assert!(!steps.contains(&Change::RemoveName(socket(7, 2))));
        assert!(steps.contains(&Change::RemoveName(socket(8, 2))));
    }

    #[test]
    fn keeps_what_was_learned() {
        let mut present = Present::default();
        let learned = Names {
            canonical: authority("node:2"),
            learned_ns: 5,
            ..Names::default()
        };
        // Of an instance of the wildcard endpoint, and of the configured endpoint.
        present.names.insert(socket(7, 2), learned);
        let system = System::new(b"flink").unwrap();
        present
            .names
            .insert(socket(1, 1), Names { system, ..learned });
        let steps = diff(&wanted(), &present);
        apply(&mut present, &steps);
        assert_eq!(present.names[&socket(7, 2)], learned);
        let configured = present.names[&socket(1, 1)];
        assert_eq!(configured.canonical, authority("a:1"));
        assert_eq!(configured.system, system);
        // The system may be learned at any time and is no difference.
        assert_eq!(diff(&wanted(), &present), []);
    }
}
