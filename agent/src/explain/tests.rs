use std::collections::BTreeMap;

use truename_common::layout::Slots;

use super::*;
use crate::{
    config::{File, Flags},
    plan::{self, Facts, Held},
};

const SECOND: u64 = 1_000_000_000;

/// The tables that the flags make on a host that has 10.0.0.1 and 10.0.0.10.
fn present(services: &[&str], endpoints: &[&str]) -> (Present, Config) {
    let flags = Flags {
        services: services.iter().map(|flag| flag.parse().unwrap()).collect(),
        endpoints: endpoints.iter().map(|flag| flag.parse().unwrap()).collect(),
        ..Flags::default()
    };
    let config = Config::new(File::default(), flags).unwrap();
    let address = |text: &str| text.parse().unwrap();
    let facts = Facts {
        addresses: ["10.0.0.1", "10.0.0.10"].map(address).into(),
        loopback: 1,
        sources: [(address("10.0.0.2"), address("10.0.0.1"))].into(),
    };
    let wanted = plan::plan(&config, &facts, &BTreeMap::new(), &Held::default());
    let mut held = Held {
        services: wanted.services.services.clone(),
        slots: wanted.services.slots.clone(),
        targets: wanted.services.targets.clone(),
        settings: wanted.services.settings,
        ..Held::default()
    };
    held.settings.timeouts = [100; 8];
    let present = Present {
        ports: wanted.ports,
        endpoints: wanted.endpoints,
        held,
        ..Present::default()
    };
    (present, config)
}

fn question(from: &str, to: &str) -> Question {
    Question {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        protocol: TCP,
    }
}

/// The verdict, and the steps as text.
fn ask((present, config): &(Present, Config), from: &str, to: &str) -> (Verdict, String) {
    let explanation = explain(present, config, 50 * SECOND, &question(from, to));
    let steps: Vec<_> = explanation
        .steps
        .iter()
        .map(|step| format!("{:?} {:?} {}", step.table, step.key, step.says))
        .collect();
    (explanation.verdict, steps.join("\n"))
}

/// Makes the connection that the verdict announces.
fn connect((present, _): &mut (Present, Config), from: &str, to: &str, verdict: &Verdict) {
    let Verdict::ToTarget {
        from: source,
        to: target,
        ..
    } = verdict
    else {
        panic!("{verdict:?} makes no connection");
    };
    let key = tuple(&Question {
        from: *source,
        to: *target,
        protocol: TCP,
    });
    let original = tuple(&question(from, to));
    let entry = Conntrack {
        client: original.client,
        alias: original.endpoint,
        client_port: original.client_port,
        alias_port: original.endpoint_port,
        seen_ns: 50 * SECOND,
        state: ConntrackState::Established as u8,
        flags: conntrack_flags::LOCAL,
        ..Conntrack::default()
    };
    present.held.connections.insert(key, entry);
}

#[test]
fn a_connection_and_its_answer() {
    let mut tables = present(
        &["tcp=10.0.0.10:7000=10.0.0.1:6123"],
        &["pekko=10.0.0.1:6123"],
    );
    let (from, to) = ("10.0.0.7:4000", "10.0.0.10:7000");
    let (verdict, steps) = ask(&tables, from, to);
    assert_eq!(
        verdict,
        Verdict::ToTarget {
            new: true,
            from: "10.0.0.7:4000".parse().unwrap(),
            to: "10.0.0.1:6123".parse().unwrap(),
        },
        "{steps}"
    );
    assert!(steps.contains("free: the new connection's key"), "{steps}");
    assert!(steps.contains("recipients are translated"), "{steps}");
    connect(&mut tables, from, to, &verdict);
    let (again, steps) = ask(&tables, from, to);
    assert!(matches!(again, Verdict::ToTarget { new: false, .. }));
    assert!(steps.contains("established, silent for 0 s"), "{steps}");
    let (answer, steps) = ask(&tables, "10.0.0.1:6123", from);
    assert_eq!(
        answer,
        Verdict::ToClient {
            from: to.parse().unwrap(),
            to: from.parse().unwrap(),
        }
    );
    assert!(
        steps.contains("its canonical name is translated"),
        "{steps}"
    );
}

#[test]
fn a_taken_port_and_a_direct_connection() {
    let mut tables = present(
        &[
            "tcp=10.0.0.10:7000=10.0.0.1:6123",
            "tcp=10.0.0.10:7001=10.0.0.1:6123",
        ],
        &[],
    );
    let from = "10.0.0.7:4000";
    let (first, _) = ask(&tables, from, "10.0.0.10:7000");
    connect(&mut tables, from, "10.0.0.10:7000", &first);
    for to in ["10.0.0.10:7001", "10.0.0.1:6123"] {
        let (verdict, steps) = ask(&tables, from, to);
        let Verdict::ToTarget {
            new: true, from, ..
        } = verdict
        else {
            panic!("{steps}");
        };
        assert!((61_000..=65_535).contains(&from.port()), "{steps}");
    }
    // A leftover takes no port.
    for entry in tables.0.held.connections.values_mut() {
        entry.seen_ns = 0;
        entry.state = ConntrackState::TimeWait as u8;
    }
    tables.0.held.settings.timeouts = [10; 8];
    let (verdict, steps) = ask(&tables, from, "10.0.0.10:7001");
    assert!(steps.contains("a leftover"), "{steps}");
    assert!(matches!(verdict, Verdict::ToTarget { from, .. } if from.port() == 4000));
    assert_eq!(ask(&tables, from, "10.0.0.1:6123").0, Verdict::Unchanged);
}

#[test]
fn what_is_not_translated_and_why() {
    let mut tables = present(&["tcp=10.0.0.10:7000=10.0.0.2:6123"], &[]);
    let (verdict, steps) = ask(&tables, "10.0.0.7:4000", "10.0.0.11:7000");
    assert_eq!(verdict, Verdict::Unchanged);
    assert!(
        steps.contains("the nearest is tcp-10.0.0.10:7000 at tcp 10.0.0.10:7000")
            || steps.contains("at tcp 10.0.0.10:7000"),
        "{steps}"
    );
    let (verdict, steps) = ask(&tables, "10.0.0.7:4000", "10.0.0.10:9");
    assert_eq!(verdict, Verdict::Unchanged);
    assert!(steps.contains("neither port is one of ours"), "{steps}");
    let (verdict, steps) = ask(&tables, "10.0.0.7:4000", "10.0.0.10:7000");
    assert!(steps.contains("reached from 10.0.0.1"), "{steps}");
    assert!(
        matches!(verdict, Verdict::ToTarget { from, .. } if from.ip().to_string() == "10.0.0.1")
    );
    for service in tables.0.held.services.values_mut() {
        service.slots = Slots::default();
    }
    let (verdict, _) = ask(&tables, "10.0.0.7:4000", "10.0.0.10:7000");
    assert_eq!(
        verdict,
        Verdict::Refused {
            reason: "nat_no_target".to_owned()
        }
    );
}
