//! A service whose target is an endpoint: the packets' addresses and the names in them are translated.

use std::net::SocketAddr;

use truename_tests::{
    traffic::{Dial, Lab, Pace},
    wire::{Names, Spec},
};

const CANONICAL_AUTHORITY: &str = "jobmanager:6123";

#[test]
fn an_endpoint_is_reached_through_an_alias_of_its_address() {
    for (name, lab, other) in [
        ("direct", Lab::direct as fn() -> anyhow::Result<Lab>, None),
        ("direct, IPv6", Lab::direct_v6, None),
        // On the router, so the endpoint is remote.
        ("routed", Lab::routed, Some("10.98.0.1:16123")),
        ("loopback", Lab::loopback, None),
    ] {
        let lab = lab().unwrap();
        let mut aliases = vec![SocketAddr::new(lab.address().ip(), 7123)];
        aliases.extend(other.map(|alias: &str| alias.parse::<SocketAddr>().unwrap()));
        let _truename = lab
            .truename_services(Some(CANONICAL_AUTHORITY), &aliases)
            .unwrap();
        // The endpoint's own address goes on to work.
        let ways = aliases.iter().copied().map(Some).chain([None]);
        for (seed, to) in ways.enumerate() {
            for (from, alias) in [(0, "jm"), (1, "taskmaster")] {
                let dial = Dial {
                    from,
                    to,
                    ..Dial::default()
                };
                let connection = lab.connect(dial).unwrap();
                let names = Names::flink("jobmanager", alias);
                let script = Spec::mixed(&names, seed as u64, 60).script();
                if let Err(error) = connection.exchange(&script, Pace::default()) {
                    panic!("{name}, to {to:?}, called {alias}: {error:#}");
                }
            }
        }
    }
}
