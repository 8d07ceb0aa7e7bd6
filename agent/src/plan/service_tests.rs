//! The plan of services, one rule each. What holds for all of them is tested with
//! [`crate::reconcile`].

use std::{path::Path, sync::Arc};

use truename_common::layout::{TCP, Target, target_flags};

use super::policy::IpsecPolicy;
use super::*;
use crate::config::{File, Flags, Netfilter};

fn config(services: &[&str]) -> Config {
    let flags = Flags {
        services: services.iter().map(|flag| flag.parse().unwrap()).collect(),
        ..Flags::default()
    };
    Config::new(File::default(), flags).unwrap()
}

fn facts() -> Facts {
    let address = |text: &str| text.parse().unwrap();
    Facts {
        addresses: ["127.0.0.1", "10.0.0.1", "10.0.0.10", "fd00::1", "fe80::1"]
            .map(address)
            .into(),
        loopback: 1,
        roles: std::sync::Arc::default(),
        names: Arc::default(),
        sources: [("10.0.0.2", "10.0.0.1"), ("10.0.0.3", "10.0.0.1")]
            .map(|(target, source)| (address(target), address(source)))
            .into(),
        ..Facts::default()
    }
}

fn services(config: &Config) -> Services {
    plan(config, &facts(), &BTreeMap::new(), &Held::default()).services
}

fn alias(text: &str) -> Socket {
    text.parse::<crate::config::Listen>().unwrap().to_socket()
}

#[test]
fn a_target_that_an_ipsec_policy_covers_is_left_out() {
    use truename_common::layout::service_flags::RESET;

    let policy = IpsecPolicy::of;
    let service = [
        "tcp=10.0.0.10:80=10.0.0.2:8080",
        "tcp=10.0.0.10:81=10.0.0.3:8080",
    ];
    for (policy, left_out) in [
        (policy("10.0.0.1/32", "10.0.0.2/32"), true),
        (policy("0.0.0.0/0", "10.0.0.2/31"), true),
        // The source that truename gives to packets is another.
        (policy("10.0.0.9/32", "10.0.0.2/32"), false),
        (policy("10.0.0.1/32", "10.0.0.4/32"), false),
        (policy("::/0", "::/0"), false),
    ] {
        let facts = Facts {
            policies: [policy.clone()].into_iter().collect(),
            ..facts()
        };
        for honoured in [false, true] {
            let mut config = config(&service);
            if honoured {
                config.datapath.netfilter = Netfilter::Honour;
            }
            let services = plan(&config, &facts, &BTreeMap::new(), &Held::default()).services;
            let is_out = left_out && !honoured;
            let why = &services.left_out;
            assert_eq!(
                why.iter().any(|why| why.contains("IPsec")),
                is_out,
                "{why:?}"
            );
            assert_eq!(super::refused(&config, &facts).is_empty(), !is_out);
            let first = services.services[&alias("10.0.0.10:80")];
            assert_eq!(
                (first.slots.count == 0, first.flags & RESET != 0),
                (is_out, is_out)
            );
            if honoured {
                // What this host sends by itself is not forwarded.
                let own = super::unencrypted(&config, &facts).len();
                assert!(own >= usize::from(left_out), "{policy}");
            }
        }
    }
}

#[test]
fn an_alias_is_marked_by_where_its_address_is() {
    use truename_common::layout::service_flags::{LOOPBACK, UNASSIGNED};

    for (listen, expected) in [
        ("10.0.0.10:80", 0),
        ("127.0.0.2:80", LOOPBACK),
        ("10.0.0.99:80", UNASSIGNED),
        ("[::1]:80", LOOPBACK),
        ("[fd00::1]:80", 0),
        ("[fd00::99]:80", UNASSIGNED),
    ] {
        let target = if listen.starts_with('[') {
            "[fd00::1]:8080"
        } else {
            "10.0.0.1:8080"
        };
        let plan = services(&config(&[&format!("tcp={listen}={target}")]));
        assert_eq!(plan.services[&alias(listen)].flags, expected, "{listen}");
    }
}

#[test]
fn a_local_target_is_only_readdressed() {
    let plan = services(&config(&["tcp=10.0.0.10:80=10.0.0.1:8080"]));
    let service = plan.services[&alias("10.0.0.10:80")];
    assert_eq!(
        service.slots,
        truename_common::layout::Slots { first: 0, count: 1 }
    );
    assert_eq!(plan.slots[&service.slots], [0]);
    let target = plan.targets[&0];
    assert_eq!((target.port, target.flags), (8080, target_flags::LOCAL));
    assert_eq!(target.source, [0; 16]);
    assert_eq!(plan.settings.loopback, 1);
    assert_eq!(
        (plan.settings.first_port, plan.settings.last_port),
        (1024, 65_535)
    );
    assert_eq!(plan.left_out, [""; 0]);
}

#[test]
fn a_remote_target_sees_this_host() {
    let plan = services(&config(&["tcp=10.0.0.10:80=10.0.0.2:80"]));
    let target = plan.targets[&0];
    assert_eq!(target.flags, target_flags::SNAT);
    assert_eq!(target.source, bytes("10.0.0.1".parse().unwrap()));
}

#[test]
fn flags_of_ports_follow() {
    let config = config(&["tcp=10.0.0.10:80=10.0.0.1:8080"]);
    let tables = plan(&config, &facts(), &BTreeMap::new(), &Held::default());
    assert_eq!(
        tables.ports,
        [(80, port_flags::SERVICE), (8080, port_flags::TARGET)].into()
    );
}

#[test]
fn a_star_stands_for_the_addresses_of_the_family() {
    let plan = services(&config(&["tcp=*:80=10.0.0.1:80"]));
    let aliases: Vec<_> = plan.services.keys().copied().collect();
    // The target itself is no alias, and that is not worth a word.
    assert_eq!(aliases, [alias("10.0.0.10:80"), alias("127.0.0.1:80")]);
    assert_eq!(plan.left_out, [""; 0]);
    let ids: Vec<_> = plan.services.values().map(|service| service.id).collect();
    assert_eq!(ids, [0, 0]);
    let plan = services(&config(&["tcp=*:80=[fd00::1]:81"]));
    assert_eq!(plan.services.keys().count(), 1, "no link-local address");
}

#[test]
fn says_what_is_left_out() {
    let mut config = config(&[
        "tcp=*:80=10.0.0.2:81,10.0.0.9:81",
        "tcp=10.0.0.30:79=10.0.0.10:80",
        "tcp=10.0.0.31:79=10.0.0.9:80",
        "tcp=10.0.0.32:79=10.0.0.2:80",
    ]);
    let endpoint = r#"[[endpoint]]
        name = "jm"
        protocol = "pekko"
        listen = "10.0.0.32:79""#;
    config.endpoints = File::parse(Path::new("t"), endpoint).unwrap().endpoints;
    assert_eq!(
        services(&config).left_out,
        [
            "the service \"tcp-79-2\" leaves out its target 10.0.0.9:80: this host has no route to it",
            "the service \"tcp-79-2\" returns \"port unreachable\" to new connections and datagrams: it has no target",
            "the service \"tcp-79-3\" leaves out its alias 10.0.0.32:79: the endpoint \"jm\" listens there",
            "the service \"tcp-80\" leaves out its alias 10.0.0.10:80: it is a target of another service",
            "the service \"tcp-80\" leaves out its target 10.0.0.9:81: this host has no route to it",
        ]
    );
}

#[test]
fn numbers_stay() {
    let first = services(&config(&[
        "tcp=10.0.0.10:80=10.0.0.2:80,10.0.0.3:80",
        "tcp=10.0.0.11:80=10.0.0.1:80",
    ]));
    let held = Held {
        services: first.services.clone(),
        slots: first.slots.clone(),
        targets: first.targets.clone(),
        settings: first.settings,
        ..Held::default()
    };
    // The first service is gone and a new one is there, in front.
    let config = config(&[
        "tcp=10.0.0.9:80=10.0.0.2:80",
        "tcp=10.0.0.11:80=10.0.0.1:80",
    ]);
    let second = plan(&config, &facts(), &BTreeMap::new(), &held).services;
    let (old, new) = (alias("10.0.0.11:80"), alias("10.0.0.9:80"));
    assert_eq!(second.services[&old], first.services[&old]);
    assert_eq!(second.services[&new].id, 2);
    // What the tables refer to now is not given another meaning.
    for (number, target) in &first.targets {
        assert_eq!(second.targets[number], *target);
    }
    assert!(!first.slots.contains_key(&second.services[&new].slots));
    let number = second.slots[&second.services[&new].slots][0];
    assert_eq!(
        second.targets[&number].address,
        bytes("10.0.0.2".parse().unwrap())
    );
}

#[test]
fn a_route_that_is_gone_changes_nothing() {
    let config = config(&["tcp=10.0.0.10:80=10.0.0.2:80"]);
    let first = services(&config);
    let held = Held {
        services: first.services.clone(),
        slots: first.slots.clone(),
        targets: first.targets.clone(),
        settings: first.settings,
        ..Held::default()
    };
    let gone = Facts {
        sources: BTreeMap::new(),
        ..facts()
    };
    let second = plan(&config, &gone, &BTreeMap::new(), &held).services;
    assert_eq!(second, first);
}

#[test]
fn the_port_range_waits_for_its_connections() {
    let config = config(&["tcp=10.0.0.10:80=10.0.0.2:80"]);
    let first = services(&config);
    let original = truename_common::layout::FiveTuple {
        client: bytes("10.0.0.50".parse().unwrap()),
        endpoint: bytes("10.0.0.10".parse().unwrap()),
        client_port: 40_000,
        endpoint_port: 80,
        protocol: TCP,
        pad: [0; 3],
    };
    let target: Target = first.targets[&0];
    let hash = truename_common::nat::hash(&original);
    let key = truename_common::nat::key(&original, &target, &first.settings, hash, 0);
    let connection = truename_common::layout::Conntrack {
        client: original.client,
        alias: original.endpoint,
        client_port: original.client_port,
        alias_port: original.endpoint_port,
        ..Default::default()
    };
    let mut held = Held {
        targets: first.targets.clone(),
        settings: first.settings,
        connections: [(key, connection)].into(),
        ..Held::default()
    };
    let mut other = config.clone();
    other.datapath.snat_ports = "50000-50999".parse().unwrap();
    let planned = |held: &Held| {
        let held = held.clone().summed_up(other.datapath.snat_ports);
        plan(&other, &facts(), &BTreeMap::new(), &held).services
    };
    let waiting = planned(&held);
    assert_eq!(waiting.settings, first.settings);
    assert!(waiting.is_waiting);
    assert!(waiting.left_out[0].starts_with("the source ports 50000-50999 wait until"));
    // The same of one that went around the alias and had to give up its port.
    held.connections.clear();
    let direct = truename_common::layout::FiveTuple {
        endpoint: target.address,
        ..original
    };
    let hash = truename_common::nat::hash(&direct);
    let around = Target { flags: 0, ..target };
    let key = truename_common::nat::key(&direct, &around, &first.settings, hash, 1);
    let entry = truename_common::layout::Conntrack {
        alias: direct.endpoint,
        service: u32::MAX,
        tries: 1,
        flags: truename_common::layout::conntrack_flags::DIRECT,
        ..connection
    };
    held.connections.insert(key, entry);
    let waiting = planned(&held);
    assert_eq!(waiting.settings, first.settings);
    assert_eq!(waiting.services[&alias("10.0.0.10:80")].id, 0);
    held.connections.clear();
    let done = planned(&held);
    assert_eq!(done.settings.first_port, 50_000);
}
