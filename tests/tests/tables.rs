//! Tables are read many entries at a time: that is what single reads find, also while entries come and go.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::{Result, ensure};
use aya::{
    Pod,
    maps::{Array, HashMap, MapData},
};
use truename::{
    datapath::{Pins, ServiceTables, TablesMut},
    reconcile::Kernel as _,
};
use truename_common::layout::{
    Conntrack, FiveTuple, SLOTS_MAX, Service, Slots, Socket, TARGETS_MAX, TCP, Target, map,
    v4_mapped,
};
use truename_tests::{
    pinned::table,
    traffic::{DEADLINE, Lab},
    truename::Truename,
    wait::wait_until,
};

/// An installation whose agent is gone, so that the tables are ours.
fn installed() -> Result<(Lab, Truename)> {
    let lab = Lab::direct()?;
    let mut truename = lab.truename(None)?;
    truename.kill_agent();
    Ok((lab, truename))
}

fn key(number: u32) -> FiveTuple {
    FiveTuple {
        client: v4_mapped(number.to_be_bytes()),
        endpoint: v4_mapped([10, 0, 0, 1]),
        client_port: (number % 60_000) as u16,
        endpoint_port: 80,
        protocol: TCP,
        pad: [0; 3],
    }
}

/// What one read after the other finds.
fn single<K: Pod + Ord, V: Pod>(table: &HashMap<MapData, K, V>) -> Result<BTreeMap<K, V>> {
    Ok(table.iter().collect::<Result<_, _>>()?)
}

/// Both ways find the same; how long each took is printed.
fn compare<T: PartialEq + Debug>(
    name: &str,
    singly: impl FnOnce() -> Result<T>,
    at_once: impl FnOnce() -> Result<T>,
) -> Result<()> {
    let begin = Instant::now();
    let expected = singly()?;
    let middle = Instant::now();
    let found = at_once()?;
    println!(
        "{name}: singly {:?}, at once {:?}",
        middle - begin,
        middle.elapsed()
    );
    ensure!(
        found == expected,
        "{name}: {found:?} instead of {expected:?}"
    );
    Ok(())
}

#[test]
fn what_is_read_at_once_is_what_single_reads_find() -> Result<()> {
    let (_lab, truename) = installed()?;
    let pins = Pins::new(truename.bpffs());
    let mut services: HashMap<MapData, Socket, Service> = table(&truename, map::SERVICES)?;
    let mut slots: Array<MapData, u32> = table(&truename, map::SLOTS)?;
    let mut targets: Array<MapData, Target> = table(&truename, map::TARGETS)?;
    let mut ports: Array<MapData, u8> = table(&truename, map::PORTS)?;
    let mut connections: HashMap<MapData, FiveTuple, Conntrack> = table(&truename, map::CONNTRACK)?;
    let mut moved: HashMap<MapData, FiveTuple, u32> = table(&truename, map::MOVED)?;
    for number in 0..2000_u32 {
        let alias = Socket {
            address: v4_mapped(number.to_be_bytes()),
            port: 80,
            protocol: TCP,
            pad: 0,
        };
        let service = Service {
            id: number,
            ..Service::default()
        };
        services.insert(alias, service, 0)?;
        let target = Target {
            port: 1 + number as u16,
            ..Target::default()
        };
        // The first and the last one, too.
        targets.set(number * 7 % TARGETS_MAX, target, 0)?;
        targets.set(TARGETS_MAX - 1 - number, target, 0)?;
        slots.set(SLOTS_MAX - 1 - number, number, 0)?;
        slots.set(number, number + 1, 0)?;
        ports.set(number * 31 % 65_536, 1, 0)?;
        ports.set(65_535 - number, 2, 0)?;
    }
    for number in 0..20_000 {
        let entry = Conntrack {
            seen_ns: u64::from(number),
            ..Conntrack::default()
        };
        connections.insert(key(number), entry, 0)?;
        if number % 3 == 0 {
            moved.insert(key(number), number, 0)?;
        }
    }
    let ours = ServiceTables::open(&pins)?;
    compare(
        map::SERVICES,
        || single(&services),
        || Ok(ours.services()?.into_iter().collect()),
    )?;
    compare(
        map::MOVED,
        || single(&moved),
        || Ok(ours.moved()?.into_iter().collect()),
    )?;
    compare(
        map::CONNTRACK,
        || single(&connections),
        || {
            let mut all = BTreeMap::new();
            ours.visit_connections(|key, entry| {
                all.insert(key, entry);
            })?;
            Ok(all)
        },
    )?;
    let read_targets = || {
        let all = (0..TARGETS_MAX).map(|number| Ok((number, targets.get(&number, 0)?)));
        let used = all.filter(|read: &Result<(u32, Target)>| {
            read.as_ref().map_or(true, |(_, target)| target.port != 0)
        });
        used.collect::<Result<BTreeMap<_, _>>>()
    };
    compare(map::TARGETS, read_targets, || Ok(ours.targets()?))?;
    let read_ports = || {
        let all = (0..=u16::MAX).map(|port| Ok((port, ports.get(&u32::from(port), 0)?)));
        let used = all.filter(|read: &Result<(u16, u8)>| {
            read.as_ref().map_or(true, |(_, flags)| *flags != 0)
        });
        used.collect::<Result<BTreeMap<_, _>>>()
    };
    let tables = TablesMut::open(&pins)?;
    compare(map::PORTS, read_ports, || Ok(tables.owned()?.ports))?;
    // Any part of an array, and what is beyond its end.
    for (first, count) in [
        (0, 1),
        (0, 5000),
        (1, 1),
        (1999, 3),
        (70_000, 1021),
        (SLOTS_MAX - 1021, 1021),
        (SLOTS_MAX - 3, 100),
        (SLOTS_MAX, 1),
        (u32::MAX, u32::MAX),
        (5, 0),
    ] {
        let there = first.min(SLOTS_MAX)..first.saturating_add(count).min(SLOTS_MAX);
        compare(
            &format!("{} from {first} on", map::SLOTS),
            || {
                Ok(there
                    .map(|position| slots.get(&position, 0))
                    .collect::<Result<Vec<_>, _>>()?)
            },
            || Ok(ours.slots(Slots { first, count })?),
        )?;
    }
    Ok(())
}

#[test]
fn a_connection_that_stays_is_shown_once_while_others_come_and_go() -> Result<()> {
    /// Connections that stay, and rounds.
    const STAY: u32 = 5000;
    const ROUNDS: usize = 100;
    let (_lab, truename) = installed()?;
    let ours = ServiceTables::open(&Pins::new(truename.bpffs()))?;
    let mut connections: HashMap<MapData, FiveTuple, Conntrack> = table(&truename, map::CONNTRACK)?;
    for number in 0..STAY {
        connections.insert(key(number), Conntrack::default(), 0)?;
    }
    let done = AtomicBool::new(false);
    let (changes, shown) = std::thread::scope(|scope| {
        let changing = scope.spawn(|| -> Result<u64> {
            let mut changes = 0;
            while !done.load(Ordering::Relaxed) {
                for number in STAY..STAY + 2000 {
                    connections.insert(key(number), Conntrack::default(), 0)?;
                }
                for number in STAY..STAY + 2000 {
                    connections.remove(&key(number))?;
                }
                changes += 4000;
            }
            Ok(changes)
        });
        let shown: Result<Vec<BTreeMap<FiveTuple, u32>>> = (0..ROUNDS)
            .map(|_| {
                let mut shown = BTreeMap::new();
                ours.visit_connections(|key, _| *shown.entry(key).or_default() += 1)?;
                Ok(shown)
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        (changing.join(), shown)
    });
    let changes = changes.map_err(|_| anyhow::anyhow!("the other thread panicked"))??;
    ensure!(changes > 0, "nothing came or went");
    let mut others = 0;
    for shown in shown? {
        ensure!(shown.values().all(|times| *times == 1), "shown twice");
        ensure!(
            (0..STAY).all(|number| shown.contains_key(&key(number))),
            "not shown"
        );
        others += shown.len() - STAY as usize;
    }
    println!("{changes} changes; {others} others were shown in {ROUNDS} rounds");
    Ok(())
}

#[test]
fn the_hosts_addresses_are_followed() -> Result<()> {
    let lab = Lab::direct()?;
    let truename = lab.truename(None)?;
    let own: HashMap<MapData, [u8; 16], u8> = table(&truename, map::ADDRESSES)?;
    let has = |address: IpAddr| own.get(&truename_common::layout::bytes(address), 0).is_ok();
    ensure!(has(lab.address().ip()), "its own address is missing");
    ensure!(has([127, 0, 0, 1].into()), "loopback is missing");
    let another: IpAddr = [10, 99, 0, 7].into();
    for (verb, expected) in [("add", true), ("del", false)] {
        lab.server()
            .ip(&format!("address {verb} {another}/32 dev lo"))?;
        wait_until(DEADLINE, "the table", || {
            ensure!(has(another) == expected, "{verb}: not yet");
            Ok(())
        })?;
    }
    Ok(())
}
