//! Services change while connections go on: at every single step each of them is found where it is.

use std::{cell::RefCell, convert::Infallible, sync::Arc};

use proptest::prelude::*;
use truename_common::{
    layout::{Conntrack, FiveTuple, Service, Slots, TCP, bytes, service_flags, target_flags},
    nat::{self, Choice},
};

use super::*;
use crate::{
    config::{Config, File, Flags},
    plan::{self, Facts},
};

/// The tables in memory. A change checks that no connection is lost by it.
#[derive(Default)]
struct Fake {
    present: RefCell<Present>,
    /// Begins connections at every barrier: the first client that is not used yet.
    next_client: RefCell<u16>,
    /// Services that reset connections to former targets, by the last byte of their alias.
    resets: BTreeSet<u8>,
    writes: usize,
}

fn address(text: &str) -> [u8; 16] {
    bytes(text.parse().unwrap())
}

pub(super) fn original(client: u16, alias: Socket) -> FiveTuple {
    FiveTuple {
        client: address("10.9.0.1"),
        endpoint: alias.address,
        client_port: client,
        endpoint_port: alias.port,
        protocol: alias.protocol,
        pad: [0; 3],
    }
}

/// As the kernel program does with a packet of a client.
fn find(held: &Held, original: &FiveTuple) -> Option<FiveTuple> {
    let service = held.services.get(&original.endpoint())?;
    let hash = nat::hash(original);
    let choices = Choice::ALL.into_iter();
    let mut targets = choices.filter_map(|c| nat::choose(held, service, c, original, hash));
    targets.find_map(|(_, target)| {
        (0..nat::MAX_PORT_TRIES).find_map(|index| {
            let key = nat::key(original, &target, &held.settings, hash, index);
            let entry = held.connections.get(&key)?;
            (entry.original(original.protocol) == *original).then_some(key)
        })
    })
}

/// As the kernel program does with the first packet of a connection.
fn begin(held: &mut Held, original: &FiveTuple, choice: Choice) {
    let Some(service) = held.services.get(&original.endpoint()).copied() else {
        return;
    };
    let hash = nat::hash(original);
    let Some((_, target)) = nat::choose(held, &service, choice, original, hash) else {
        return;
    };
    let free = (0..nat::MAX_PORT_TRIES).find_map(|index| {
        let key = nat::key(original, &target, &held.settings, hash, index);
        (!held.connections.contains_key(&key)).then_some((index, key))
    });
    if let Some((tries, key)) = free {
        let entry = Conntrack {
            client: original.client,
            alias: original.endpoint,
            client_port: original.client_port,
            alias_port: original.endpoint_port,
            service: service.id,
            tries: tries as u8,
            ..Conntrack::default()
        };
        held.connections.insert(key, entry);
    }
}

/// The connections that are found, with where they are.
fn found(held: &Held) -> BTreeMap<FiveTuple, FiveTuple> {
    let connections = held.connections.iter();
    connections
        .filter_map(|(key, entry)| {
            let original = entry.original(key.protocol);
            (find(held, &original) == Some(*key)).then_some((original, *key))
        })
        .collect()
}

/// The sockets that new connections of a service go to.
fn targets(held: &Held, alias: &Socket) -> BTreeSet<([u8; 16], u16)> {
    let numbers = held.slots.get(&held.services[alias].slots);
    let targets = numbers
        .into_iter()
        .flatten()
        .map(|number| held.targets[number]);
    targets
        .map(|target| (target.address, target.port))
        .collect()
}

impl Fake {
    /// Begins connections through every service.
    fn connect(&self, count: u16, choice: Choice) {
        let mut present = self.shown();
        let aliases: Vec<_> = present.held.services.keys().copied().collect();
        for alias in aliases {
            for _ in 0..count {
                let mut client = self.next_client.borrow_mut();
                *client += 1;
                begin(&mut present.held, &original(*client, alias), choice);
            }
        }
        self.present.borrow_mut().held.connections = present.held.connections;
    }

    /// Only the slots that services refer to are read.
    fn shown(&self) -> Present {
        let mut present = self.present.borrow().clone();
        let all = std::mem::take(&mut present.held.slots);
        let slot = |position: u32| {
            all.get(&Slots {
                first: position,
                count: 1,
            })
        };
        for service in present.held.services.values() {
            for range in [service.slots, service.previous] {
                let content = (range.first..range.first + range.count)
                    .map(|position| slot(position).map_or(0, |slot| slot[0]));
                if range.count > 0 {
                    present.held.slots.insert(range, content.collect());
                }
            }
        }
        present
    }

    fn bring(&mut self, config: &Config, facts: &Facts) -> Tables {
        let resets = self.resets.clone();
        let plan = |present: &Present| {
            let mut held = present.held.clone();
            held.settings.tag = 7;
            let mut tables = plan::plan(config, facts, &present.numbers(), &held);
            for (alias, service) in &mut tables.services.services {
                service.flags &= !service_flags::RESET;
                if resets.contains(&alias.address[15]) {
                    service.flags |= service_flags::RESET;
                }
            }
            tables
        };
        reconcile(self, config.datapath.snat_ports, plan)
            .unwrap()
            .wanted
    }

    /// Only a service that wants it so ends connections, and those of its targets go on.
    fn check_end(&self, key: &FiveTuple) {
        let held = self.shown().held;
        let alias = held.connections[key].alias(key.protocol);
        let flags = held.services[&alias].flags;
        assert_ne!(flags & service_flags::RESET, 0, "{key:?}");
        let target = (key.endpoint, key.endpoint_port);
        assert!(!targets(&held, &alias).contains(&target), "{key:?}");
    }

    fn content(&self) -> Held {
        self.present.borrow().held.clone()
    }
}

impl Kernel for Fake {
    type Error = Infallible;

    fn owned(&self) -> Result<Present, Infallible> {
        let mut present = self.shown();
        present.held.connections.clear();
        present.held.moved.clear();
        Ok(present)
    }

    fn connected(&self, _: &Held, ports: Ports) -> Result<Connected, Infallible> {
        Ok(self.shown().held.summed_up(ports).connected)
    }

    fn held(&self, aliases: &BTreeSet<Socket>) -> Result<Held, Infallible> {
        let mut held = self.shown().held;
        let is_wanted =
            |key: &FiveTuple, entry: &mut Conntrack| aliases.contains(&entry.alias(key.protocol));
        held.connections.retain(is_wanted);
        Ok(held)
    }

    fn slots(&self, range: Slots) -> Result<Vec<u32>, Infallible> {
        let present = self.present.borrow();
        let slot = |position| {
            let one = Slots {
                first: position,
                count: 1,
            };
            present.held.slots.get(&one).map_or(0, |slot| slot[0])
        };
        Ok((range.first..range.first + range.count).map(slot).collect())
    }

    fn apply(&mut self, change: &Change) -> Result<(), Infallible> {
        self.writes += 1;
        if let Change::Slot(position, number) = *change {
            let mut present = self.present.borrow_mut();
            let mut ranges = present
                .held
                .services
                .values()
                .flat_map(|s| [s.slots, s.previous]);
            assert!(
                !ranges.any(|range| (range.first..range.first + range.count).contains(&position)),
                "a slot in use is written"
            );
            let one = Slots {
                first: position,
                count: 1,
            };
            present.held.slots.insert(one, vec![number]);
            return Ok(());
        }
        let mut before = found(&self.shown().held);
        if let Change::Forget(key) = change {
            self.check_end(key);
            before.retain(|_, of| of != key);
        }
        {
            let mut present = self.present.borrow_mut();
            let held = &mut present.held;
            match *change {
                Change::Target(number, target) if target.port == 0 => {
                    held.targets.remove(&number);
                }
                Change::Target(number, target) => drop(held.targets.insert(number, target)),
                Change::Settings(settings) => held.settings = settings,
                Change::Service(alias, service) => drop(held.services.insert(alias, service)),
                Change::Move(original, number) => drop(held.moved.insert(original, number)),
                Change::Forget(key) => {
                    let entry = held.connections.remove(&key).unwrap();
                    held.moved.remove(&entry.original(key.protocol));
                }
                Change::RemoveService(alias) => drop(held.services.remove(&alias)),
                Change::Port(port, 0) => drop(present.ports.remove(&port)),
                Change::Port(port, flags) => drop(present.ports.insert(port, flags)),
                Change::Address(address) => drop(present.addresses.insert(address)),
                Change::RemoveAddress(address) => drop(present.addresses.remove(&address)),
                ref other => panic!("no step for services: {other:?}"),
            }
        }
        let held = self.shown().held;
        let after = found(&held);
        for (original, key) in &before {
            let is_gone = !held.services.contains_key(&original.endpoint());
            assert!(
                is_gone || after.get(original) == Some(key),
                "lost by {change:?}: {original:?}"
            );
            assert!(
                is_gone || self.present.borrow().ports.contains_key(&key.endpoint_port),
                "no flag for the answers of {key:?}"
            );
        }
        Ok(())
    }

    fn barrier(&self) -> Result<(), Infallible> {
        // A processor that still works with the old choice, and one that works with the new one.
        self.connect(2, Choice::Previous);
        self.connect(2, Choice::Current);
        Ok(())
    }
}

pub(super) fn facts(sources: u8) -> Facts {
    let ip = |n: u8| format!("10.0.0.{n}").parse().unwrap();
    Facts {
        // Its own and, so that no flag tells that they are not, the aliases.
        addresses: (0..=u8::MAX)
            .map(|n| std::net::IpAddr::from([10, 0, 1, n]))
            .chain([ip(1), ip(10)])
            .collect(),
        loopback: 1,
        roles: std::sync::Arc::default(),
        names: Arc::default(),
        sources: (2..6).map(|n| (ip(n), ip(sources))).collect(),
        ..Facts::default()
    }
}

/// Services by the last byte of their alias, with the last bytes and weights of their targets.
pub(super) type Wanted = BTreeMap<u8, BTreeMap<u8, u32>>;

pub(super) fn config(wanted: &Wanted, reverse: bool) -> Config {
    let mut text = String::new();
    let mut services: Vec<_> = wanted.iter().collect();
    if reverse {
        services.reverse();
    }
    for (alias, targets) in services {
        let mut list: Vec<_> = targets
            .iter()
            .map(|(n, weight)| format!("{{ address = \"10.0.0.{n}:80\", weight = {weight} }}"))
            .collect();
        if reverse {
            list.reverse();
        }
        text.push_str(&format!(
            "[[service]]\nname = \"s{alias}\"\nprotocol = \"tcp\"\nlisten = \"10.0.1.{alias}:80\"\ntarget = [{}]\n",
            list.join(", ")
        ));
    }
    Config::new(
        File::parse(std::path::Path::new("t"), &text).unwrap(),
        Flags::default(),
    )
    .unwrap()
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let targets = proptest::collection::btree_map(1..6_u8, 1..4_u32, 1..4);
    proptest::collection::btree_map(1..4_u8, targets, 0..4)
}

fn resets() -> impl Strategy<Value = BTreeSet<u8>> {
    proptest::collection::btree_set(1..4_u8, 0..4)
}

/// Asserts that no connection is found at a former target of a service whose targets changed, if it
/// resets those, and that nothing is listed there.
fn assert_ended(held: &Held, before: &BTreeMap<Socket, Service>) {
    for (original, key) in found(held) {
        let alias = original.endpoint();
        let service = held.services[&alias];
        let has_changed = before.get(&alias).map(|before| before.slots) != Some(service.slots);
        if service.flags & service_flags::RESET != 0 && has_changed {
            let target = (key.endpoint, key.endpoint_port);
            assert!(targets(held, &alias).contains(&target), "{original:?}");
        }
    }
    for (alias, service) in &held.services {
        let is_listed = held.moved.keys().any(|moved| moved.endpoint() == *alias);
        let flags = service.flags & service_flags::MOVED;
        assert_eq!(flags != 0, is_listed, "{alias:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_step_loses_a_connection(
        plans in proptest::collection::vec((wanted(), resets(), 1..3_u8, any::<bool>()), 1..5)
    ) {
        let mut fake = Fake::default();
        for (wanted, resets, source, reverse) in &plans {
            let config = config(wanted, *reverse);
            let facts = facts(*source);
            let before = fake.content().services;
            fake.resets.clone_from(resets);
            fake.bring(&config, &facts);
            assert_ended(&fake.shown().held, &before);
            let aliases: Vec<_> = fake.content().services.keys().copied().collect();
            prop_assert_eq!(aliases.len(), wanted.len());
            // Nothing is left to do but to free what connections used that are gone.
            let tables = fake.bring(&config, &facts);
            let writes = fake.writes;
            prop_assert_eq!(fake.bring(&config, &facts), tables);
            prop_assert_eq!(fake.writes, writes);
        }
    }

    #[test]
    fn the_order_decides_nothing(wanted in wanted()) {
        let plan = |reverse| {
            let config = config(&wanted, reverse);
            plan::plan(&config, &facts(1), &BTreeMap::new(), &Held::default())
        };
        prop_assert_eq!(plan(false), plan(true));
    }

    #[test]
    fn what_no_connection_uses_is_freed(first in wanted(), second in wanted()) {
        let mut fake = Fake::default();
        fake.bring(&config(&first, false), &facts(1));
        fake.bring(&config(&second, false), &facts(1));
        {
            let mut present = fake.present.borrow_mut();
            present.held.connections.clear();
            present.held.moved.clear();
        }
        fake.bring(&config(&second, false), &facts(1));
        fake.present.borrow_mut().held.connections.clear();
        let tables = fake.bring(&config(&second, false), &facts(1));
        let used: BTreeSet<_> = tables.services.slots.values().flatten().copied().collect();
        let held = fake.content();
        let kept: BTreeSet<_> = held.targets.keys().copied().collect();
        prop_assert_eq!(kept, used);
        let flags = held.services.values().map(|service| service.flags);
        prop_assert!(flags.clone().all(|flags| flags == 0));
    }
}

/// The connections to a target.
fn there<'a>(held: &'a Held, target: &str) -> Vec<&'a FiveTuple> {
    let target = address(target);
    let all = held.connections.keys();
    all.filter(|key| key.endpoint == target).collect()
}

#[test]
fn a_removed_target_keeps_its_connections_and_gets_no_new_ones() {
    let mut fake = Fake::default();
    let two: Wanted = [(1, [(2, 1), (3, 1)].into())].into();
    fake.bring(&config(&two, false), &facts(1));
    fake.connect(50, Choice::Current);
    let gone = "10.0.0.3";
    let before = there(&fake.content(), gone).len();
    assert!(before > 10, "{before}");

    let one: Wanted = [(1, [(2, 1)].into())].into();
    fake.bring(&config(&one, false), &facts(1));
    let held = fake.shown().held;
    let begun_before_the_barrier = 2;
    let after = there(&held, gone).len();
    assert!(after <= before + begun_before_the_barrier);
    assert_eq!(held.moved.len(), after);
    assert_eq!(found(&held).len(), held.connections.len());
    let service = held.services.values().next().unwrap();
    assert_eq!(service.previous.count, 0);
    assert_eq!(service.flags, service_flags::MOVED);
    let gone = address(gone);
    assert!(held.targets.values().any(|target| target.address == gone));
    assert!(
        held.targets
            .values()
            .all(|target| target.flags == target_flags::SNAT)
    );
    assert_eq!(held.services.keys().next().unwrap().protocol, TCP);
}

#[test]
fn a_reset_ends_what_former_targets_kept() {
    let mut fake = Fake::default();
    let service = |targets: &[u8]| -> Wanted {
        let targets = targets.iter().map(|target| (*target, 1)).collect();
        [(1, targets)].into()
    };
    fake.bring(&config(&service(&[2, 3]), false), &facts(1));
    fake.connect(50, Choice::Current);
    fake.bring(&config(&service(&[2]), false), &facts(1));
    let kept = there(&fake.content(), "10.0.0.3").len();
    assert!(kept > 10, "{kept}");
    let flags = |fake: &Fake| fake.content().services.values().next().unwrap().flags;
    assert_eq!(flags(&fake), service_flags::MOVED);

    // To be told so changes nothing for those that are there.
    fake.resets.insert(1);
    let writes = fake.writes;
    fake.bring(&config(&service(&[2]), false), &facts(1));
    assert_eq!(fake.writes, writes + 1);
    assert_eq!(flags(&fake), service_flags::MOVED | service_flags::RESET);
    assert_eq!(there(&fake.content(), "10.0.0.3").len(), kept);

    // Those of 10.0.0.2 go on, listed where 10.0.0.4 has their slot now.
    let stays = there(&fake.content(), "10.0.0.2").len();
    fake.bring(&config(&service(&[2, 4]), false), &facts(1));
    let held = fake.shown().held;
    assert!(there(&held, "10.0.0.3").is_empty());
    assert!(there(&held, "10.0.0.2").len() >= stays);
    assert!(!held.moved.is_empty());
    assert_eq!(flags(&fake), service_flags::MOVED | service_flags::RESET);
    assert_eq!(found(&held).len(), held.connections.len());

    // With another target alone nothing is left to be listed.
    fake.bring(&config(&service(&[5]), false), &facts(1));
    let held = fake.content();
    let begun = there(&held, "10.0.0.5").len();
    assert_eq!(held.connections.len(), begun);
    assert_eq!(flags(&fake), service_flags::RESET);
    assert!(held.moved.is_empty());

    fake.resets.clear();
    fake.bring(&config(&service(&[5]), false), &facts(1));
    assert_eq!(flags(&fake), 0);
    assert_eq!(there(&fake.content(), "10.0.0.5").len(), begun);
}

#[test]
fn a_reset_spares_a_target_that_sees_another_source() {
    let mut fake = Fake::default();
    fake.resets.insert(1);
    let service: Wanted = [(1, [(2, 1), (3, 1)].into())].into();
    fake.bring(&config(&service, false), &facts(1));
    fake.connect(50, Choice::Current);
    let before = found(&fake.shown().held);
    fake.bring(&config(&service, false), &facts(2));
    let after = found(&fake.shown().held);
    let is_there = |(original, key): (&FiveTuple, &FiveTuple)| after.get(original) == Some(key);
    assert!(before.iter().all(is_there));
    assert!(before.len() >= 50, "{}", before.len());
}
