//! Services change while connections go on: at every single step each of them is found where it is.

use std::{cell::RefCell, convert::Infallible};

use proptest::prelude::*;
use truename_common::{
    layout::{Conntrack, FiveTuple, Slots, TCP, service_flags, target_flags},
    nat::{self, Choice},
};

use super::*;
use crate::{
    config::{Config, File, Flags},
    plan::{self, Facts, bytes},
};

/// The tables in memory. A change checks that no connection is lost by it.
#[derive(Default)]
struct Fake {
    present: RefCell<Present>,
    /// Begins connections at every barrier: the first client that is not used yet.
    next_client: RefCell<u16>,
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
        (0..nat::TRIES).find_map(|index| {
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
    let free = (0..nat::TRIES).find_map(|index| {
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

impl Fake {
    fn connect(&self, count: u16, choice: Choice) {
        let mut present = self.present.borrow_mut();
        let aliases: Vec<_> = present.held.services.keys().copied().collect();
        for alias in aliases {
            for _ in 0..count {
                let mut client = self.next_client.borrow_mut();
                *client += 1;
                begin(&mut present.held, &original(*client, alias), choice);
            }
        }
    }

    fn bring(&mut self, config: &Config, facts: &Facts) -> Tables {
        let plan = |present: &Present| {
            let mut held = present.held.clone();
            held.settings.tag = 7;
            plan::plan(config, facts, &present.numbers(), &held)
        };
        reconcile(self, plan).unwrap().wanted
    }

    fn held(&self) -> Held {
        self.present.borrow().held.clone()
    }
}

impl Kernel for Fake {
    type Error = Infallible;

    /// Only the slots that services refer to are read.
    fn present(&self) -> Result<Present, Infallible> {
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
        Ok(present)
    }

    fn owned(&self) -> Result<Present, Infallible> {
        self.present()
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
        let before = found(&self.present()?.held);
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
                Change::RemoveService(alias) => drop(held.services.remove(&alias)),
                Change::Port(port, 0) => drop(present.ports.remove(&port)),
                Change::Port(port, flags) => drop(present.ports.insert(port, flags)),
                ref other => panic!("no step for services: {other:?}"),
            }
        }
        let held = self.present()?.held;
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
        let shown = self.present()?.held.slots;
        let all = std::mem::replace(&mut self.present.borrow_mut().held.slots, shown);
        self.connect(2, Choice::Previous);
        self.connect(2, Choice::Current);
        self.present.borrow_mut().held.slots = all;
        Ok(())
    }
}

pub(super) fn facts(sources: u8) -> Facts {
    let ip = |n: u8| format!("10.0.0.{n}").parse().unwrap();
    Facts {
        addresses: [ip(1), ip(10)].into(),
        loopback: 1,
        roles: std::sync::Arc::default(),
        sources: (2..6).map(|n| (ip(n), ip(sources))).collect(),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_step_loses_a_connection(plans in proptest::collection::vec((wanted(), 1..3_u8, any::<bool>()), 1..5)) {
        let mut fake = Fake::default();
        for (wanted, source, reverse) in &plans {
            let config = config(wanted, *reverse);
            let facts = facts(*source);
            fake.bring(&config, &facts);
            let aliases: Vec<_> = fake.held().services.keys().copied().collect();
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
        let held = fake.held();
        let kept: BTreeSet<_> = held.targets.keys().copied().collect();
        prop_assert_eq!(kept, used);
        let flags = held.services.values().map(|service| service.flags);
        prop_assert!(flags.clone().all(|flags| flags == 0));
    }
}

#[test]
fn a_removed_target_keeps_its_connections_and_gets_no_new_ones() {
    let mut fake = Fake::default();
    let two: Wanted = [(1, [(2, 1), (3, 1)].into())].into();
    fake.bring(&config(&two, false), &facts(1));
    fake.present.borrow_mut().held.slots = fake.present().unwrap().held.slots;
    let all = fake.present.borrow().held.slots.clone();
    fake.connect(50, Choice::Current);
    // The fake keeps single slots.
    let mut single = BTreeMap::new();
    for (range, contents) in all {
        for (position, number) in (range.first..).zip(contents) {
            single.insert(
                Slots {
                    first: position,
                    count: 1,
                },
                vec![number],
            );
        }
    }
    fake.present.borrow_mut().held.slots = single;
    let gone = address("10.0.0.3");
    let there = |held: &Held| {
        held.connections
            .keys()
            .filter(|key| key.endpoint == gone)
            .count()
    };
    let before = there(&fake.held());
    assert!(before > 10, "{before}");

    let one: Wanted = [(1, [(2, 1)].into())].into();
    fake.bring(&config(&one, false), &facts(1));
    let held = fake.present().unwrap().held;
    let begun_before_the_barrier = 2;
    assert!(there(&held) <= before + begun_before_the_barrier);
    assert_eq!(held.moved.len(), there(&held));
    assert_eq!(found(&held).len(), held.connections.len());
    let service = held.services.values().next().unwrap();
    assert_eq!(service.previous.count, 0);
    assert_eq!(service.flags, service_flags::MOVED);
    assert!(held.targets.values().any(|target| target.address == gone));
    assert!(
        held.targets
            .values()
            .all(|target| target.flags == target_flags::SNAT)
    );
    assert_eq!(held.services.keys().next().unwrap().protocol, TCP);
}
