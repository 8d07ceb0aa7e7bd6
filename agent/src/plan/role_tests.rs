//! The plan of services whose targets the topology finds.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc};

use proptest::{prelude::*, sample::subsequence};
use truename_common::layout::service_flags;

use super::*;
use crate::config::{File, Flags, Role};

/// `name listen target on_change` of services.
fn config(services: &[(&str, &str, &str)]) -> Config {
    let mut text = "[topology]\nsource = \"flink\"\nurls = [\"http://jm:8081\"]\n".to_owned();
    for (name, listen, target) in services {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"{listen}\"\ntarget = {target}\n"
        );
    }
    Config::new(
        File::parse(Path::new("t.toml"), &text).unwrap(),
        Flags::default(),
    )
    .unwrap()
}

fn facts(roles: &[(&str, &[&str])]) -> Facts {
    let ip = |n: u8| [10, 0, 0, n].into();
    let socket = |text: &&str| text.parse::<SocketAddr>().unwrap();
    let roles = roles.iter().map(|(role, sockets)| {
        let role: Role = role.parse().unwrap();
        (role, sockets.iter().map(socket).collect())
    });
    Facts {
        addresses: [ip(1), "fd00::1".parse().unwrap()].into(),
        loopback: 1,
        roles: Arc::new(roles.collect()),
        names: Arc::default(),
        sources: (2..30).map(|n| (ip(n), ip(1))).collect(),
        ..Facts::default()
    }
}

fn plan_of(config: &Config, facts: &Facts, held: &Held) -> Services {
    plan(config, facts, &BTreeMap::new(), held).services
}

fn holding(services: &Services) -> Held {
    Held {
        services: services.services.clone(),
        slots: services.slots.clone(),
        targets: services.targets.clone(),
        settings: services.settings,
        ..Held::default()
    }
}

/// The sockets that the service at an alias gives new connections to.
fn targets(services: &Services, alias: &str) -> BTreeSet<String> {
    let alias = alias.parse::<crate::config::Listen>().unwrap().to_socket();
    let Some(service) = services.services.get(&alias) else {
        return BTreeSet::new();
    };
    let numbers = services.slots.get(&service.slots).into_iter().flatten();
    numbers
        .map(|number| {
            let target = services.targets[number];
            let ip = std::net::Ipv6Addr::from(target.address).to_canonical();
            SocketAddr::new(ip, target.port).to_string()
        })
        .collect()
}

fn only(socket: &str) -> BTreeSet<String> {
    [socket.to_owned()].into()
}

const ALIAS: &str = "10.0.0.100:8081";

#[test]
fn a_service_follows_its_role() {
    let config = config(&[("rest", ALIAS, "\"leader:rest\"")]);
    let first = facts(&[("leader:rest", &["10.0.0.2:8081"])]);
    let before = plan_of(&config, &first, &Held::default());
    assert_eq!(targets(&before, ALIAS), only("10.0.0.2:8081"));
    let flags = before.services.values().next().unwrap().flags;
    assert_ne!(
        flags & service_flags::RESET,
        0,
        "connections follow a leader"
    );
    let second = facts(&[("leader:rest", &["10.0.0.3:8081"])]);
    let after = plan_of(&config, &second, &holding(&before));
    assert_eq!(targets(&after, ALIAS), only("10.0.0.3:8081"));
    let ids = |services: &Services| services.services.values().map(|s| s.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after));
}

#[test]
fn what_was_never_known_leaves_the_tables_as_they_are() {
    let config = config(&[
        ("rest", ALIAS, "\"leader:rest\""),
        ("star", "*:9069", "\"workers:9069\""),
    ]);
    let nothing = facts(&[]);
    let fresh = plan_of(&config, &nothing, &Held::default());
    assert_eq!(targets(&fresh, ALIAS), BTreeSet::new());
    assert_eq!(fresh.services.len(), 1, "no address is taken for nothing");
    assert_eq!(
        fresh.left_out,
        [
            "the service \"rest\" returns \"port unreachable\" to new connections and datagrams: it has no target"
        ]
    );
    let known = facts(&[
        ("leader:rest", &["10.0.0.2:8081"]),
        ("workers:9069", &["10.0.0.3:9069", "10.0.0.4:9069"]),
    ]);
    let before = plan_of(&config, &known, &Held::default());
    let after = plan_of(&config, &nothing, &holding(&before));
    assert_eq!(after, before, "another agent begins");
}

#[test]
fn addresses_of_the_other_family_do_not_count() {
    let config = config(&[
        ("four", ALIAS, "\"leader:rest\""),
        ("six", "[fd00::100]:8081", "\"leader:rest\""),
        ("star", "*:9069", "\"leader:rest\""),
    ]);
    let known = facts(&[("leader:rest", &["10.0.0.2:8081", "[fd00::1]:8081"])]);
    let plan = plan_of(&config, &known, &Held::default());
    assert_eq!(targets(&plan, ALIAS), only("10.0.0.2:8081"));
    assert_eq!(targets(&plan, "[fd00::100]:8081"), only("[fd00::1]:8081"));
    assert_eq!(targets(&plan, "10.0.0.1:9069"), only("10.0.0.2:8081"));
    assert_eq!(plan.services.len(), 3);
}

#[test]
fn a_name_that_leads_to_an_alias_is_no_target() {
    let config = config(&[
        ("rest", ALIAS, "\"leader:rest\""),
        (
            "rpc",
            "10.0.0.100:6123",
            "[\"leader:rpc\", \"10.0.0.2:6123\"]",
        ),
    ]);
    // The leader's name was given the alias's address on this host.
    let known = facts(&[
        ("leader:rest", &[ALIAS]),
        ("leader:rpc", &["10.0.0.100:6123"]),
    ]);
    let plan = plan_of(&config, &known, &Held::default());
    assert_eq!(targets(&plan, ALIAS), BTreeSet::new());
    assert_eq!(targets(&plan, "10.0.0.100:6123"), only("10.0.0.2:6123"));
    assert_eq!(
        plan.left_out[0],
        "the service \"rest\" leaves out its target leader:rest (10.0.0.100:8081): it is an alias of the service \"rest\", and a packet is translated once; have the name resolve to the node's own address on this host"
    );
}

#[test]
fn a_socket_that_two_roles_stand_for_counts_once() {
    let config = config(&[(
        "all",
        ALIAS,
        "[\"worker:a:80\", { address = \"workers:80\", weight = 5 }, \"10.0.0.2:80\"]",
    )]);
    let known = facts(&[
        ("worker:a:80", &["10.0.0.2:80"]),
        ("workers:80", &["10.0.0.2:80", "10.0.0.3:80"]),
    ]);
    let plan = plan_of(&config, &known, &Held::default());
    assert_eq!(plan.targets.len(), 2);
    let slots = plan.slots.values().next().unwrap();
    let share = |number: u32| slots.iter().filter(|slot| **slot == number).count();
    // 1 to 5, by chance of the hash.
    assert!(share(1) > 3 * share(0), "{} {}", share(0), share(1));
}

const ROLES: [&str; 5] = [
    "leader:rest",
    "leader:rpc",
    "workers:80",
    "worker:a:80",
    "worker:b:81",
];

/// A few sockets, some of which are aliases or this host's.
fn sockets() -> impl Strategy<Value = Vec<SocketAddr>> {
    let all = [
        "10.0.0.1:80",
        "10.0.0.2:80",
        "10.0.0.3:81",
        "10.0.0.100:80",
        "10.0.0.101:81",
        "[fd00::1]:80",
    ];
    let all: Vec<SocketAddr> = all.iter().map(|text| text.parse().unwrap()).collect();
    subsequence(all, 1..=6).prop_shuffle()
}

fn known() -> impl Strategy<Value = Vec<(Role, Vec<SocketAddr>)>> {
    let role = |text: &'static str| sockets().prop_map(move |s| (text.parse::<Role>().unwrap(), s));
    subsequence(ROLES.to_vec(), 0..=5).prop_flat_map(move |roles| {
        roles
            .into_iter()
            .map(role)
            .collect::<Vec<_>>()
            .prop_shuffle()
    })
}

/// Services `s0` and so on with some roles each.
fn wanted() -> impl Strategy<Value = Vec<(String, String, String)>> {
    let listens = vec!["10.0.0.100:80", "10.0.0.101:81", "*:82", "[fd00::100]:80"];
    let listens = subsequence(listens, 1..=4);
    let roles = || subsequence(ROLES.to_vec(), 1..=3);
    (listens, prop::collection::vec(roles(), 4)).prop_map(|(listens, roles)| {
        let services = listens.iter().zip(roles).enumerate();
        services
            .map(|(n, (listen, roles))| {
                (format!("s{n}"), (*listen).to_owned(), format!("{roles:?}"))
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn the_plan_is_of_its_inputs_alone(
        (wanted, reordered) in wanted().prop_flat_map(|w| (Just(w.clone()), Just(w).prop_shuffle())),
        before in known(),
        now in known(),
    ) {
        let configured = |wanted: &[(String, String, String)]| {
            let services: Vec<_> =
                wanted.iter().map(|(n, l, t)| (n.as_str(), l.as_str(), t.as_str())).collect();
            config(&services)
        };
        let (config, reordered) = (configured(&wanted), configured(&reordered));
        let facts_of = |known: &[(Role, Vec<SocketAddr>)]| Facts {
            roles: Arc::new(known.iter().cloned().collect()),
            ..facts(&[])
        };
        let first = plan_of(&config, &facts_of(&before), &Held::default());
        let held = holding(&first);
        let second = plan_of(&config, &facts_of(&now), &held);
        // The order of services is of no account, and once more changes nothing.
        prop_assert_eq!(&plan_of(&reordered, &facts_of(&now), &held), &second);
        let again = plan_of(&config, &facts_of(&now), &holding(&second));
        prop_assert_eq!(&again.services, &second.services);
        for plan in [&first, &second] {
            // No target that is given connections is an alias that a service is named by: no loop.
            for alias in ["10.0.0.100:80", "10.0.0.101:81"] {
                let is_alias = config.services.iter().any(|s| s.listen.to_string() == alias);
                let all = plan.services.keys().flat_map(|key| {
                    let ip = std::net::Ipv6Addr::from(key.address).to_canonical();
                    targets(plan, &SocketAddr::new(ip, key.port).to_string())
                });
                let is_target = all.into_iter().any(|socket| socket == alias);
                prop_assert!(!(is_alias && is_target), "{alias} in {plan:?}");
            }
            // Of every service, all aliases have the same targets.
            let mut by_id: BTreeMap<u32, BTreeSet<_>> = BTreeMap::new();
            for service in plan.services.values() {
                by_id.entry(service.id).or_default().insert(service.slots);
            }
            prop_assert!(by_id.values().all(|slots| slots.len() == 1));
        }
    }
}
