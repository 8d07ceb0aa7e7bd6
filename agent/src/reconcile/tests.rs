//! The differences of endpoints' tables.

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
        addresses: [[1; 16], [2; 16]].into(),
        ..Tables::default()
    }
}

/// The steps, without those that settle services.
fn diff(wanted: &Tables, present: &Present) -> Vec<Change> {
    let mut steps = super::diff(wanted, present);
    steps.additions.append(&mut steps.removals);
    steps.additions
}

/// What the kernel does with the steps.
fn apply(present: &mut Present, steps: &[Change]) {
    for step in steps {
        match *step {
            Change::Settings(settings) => present.held.settings = settings,
            Change::List(key) => drop(present.listed.insert((key.endpoint, key.alias))),
            Change::Name(socket, names) => drop(present.names.insert(socket, names)),
            Change::Endpoint(socket, value) => drop(present.endpoints.insert(socket, value)),
            Change::Port(port, 0) => drop(present.ports.remove(&port)),
            Change::Port(port, flags) => drop(present.ports.insert(port, flags)),
            Change::RemoveEndpoint(socket) => drop(present.endpoints.remove(&socket)),
            Change::RemoveName(socket) => drop(present.names.remove(&socket)),
            Change::Address(address) => drop(present.addresses.insert(address)),
            Change::RemoveAddress(address) => drop(present.addresses.remove(&address)),
            Change::Unlist(key) => drop(present.listed.remove(&(key.endpoint, key.alias))),
            other => panic!("no step for endpoints: {other:?}"),
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
    present.addresses = [[2; 16], [3; 16]].into();
    let steps = diff(&wanted(), &present);
    apply(&mut present, &steps);
    assert_eq!(present.ports, wanted().ports);
    assert_eq!(present.endpoints, wanted().endpoints);
    assert_eq!(present.names, wanted().names);
    assert_eq!(present.listed, wanted().listed);
    assert_eq!(present.addresses, wanted().addresses);
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
