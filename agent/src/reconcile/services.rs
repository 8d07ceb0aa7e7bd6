//! The difference between the wanted and the present tables of services.

use std::collections::{BTreeMap, BTreeSet};

use truename_common::layout::{FiveTuple, Service, Slots, Socket, Target, service_flags};

use super::Change;
use crate::plan::{Held, Services};

/// The steps of a change, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// What services refer to, then the services.
    pub additions: Vec<Change>,
    /// Aliases whose connections may be with targets that their service gives to no new ones.
    pub unsettled: BTreeSet<Socket>,
    /// What nothing refers to any more.
    pub removals: Vec<Change>,
}

/// The steps from `held` to `wanted`.
pub fn diff(wanted: &Services, held: &Held) -> Steps {
    let mut steps = Steps::default();
    for (number, target) in &wanted.targets {
        if held.targets.get(number) != Some(target) {
            steps.additions.push(Change::Target(*number, *target));
        }
    }
    let mut rewritten = BTreeSet::new();
    for (range, contents) in &wanted.slots {
        let present = held.slots.get(range);
        if present == Some(contents) {
            continue;
        }
        rewritten.insert(*range);
        let now = |index: usize| present.and_then(|present| present.get(index));
        let slots = (range.first..).zip(contents).enumerate();
        let others = slots.filter(|(index, (_, number))| now(*index) != Some(number));
        let others = others.map(|(_, (position, number))| Change::Slot(position, *number));
        steps.additions.extend(others);
    }
    // Somebody else wrote slots that are in use: connections may have begun by them.
    let services = held.services.iter();
    let in_use = services.filter(|(_, service)| rewritten.contains(&service.slots));
    steps.unsettled.extend(in_use.map(|(alias, _)| *alias));
    if held.settings != wanted.settings {
        steps.additions.push(Change::Settings(wanted.settings));
    }
    for (alias, service) in &wanted.services {
        let present = held.services.get(alias);
        if present == Some(service) {
            continue;
        }
        let before = present.map(|present| present.slots);
        let mut next = *service;
        if before != Some(service.slots) {
            // Both choices are looked through until the connections are known that stay.
            next.previous = before.unwrap_or_default();
            steps.unsettled.insert(*alias);
        }
        steps.additions.push(Change::Service(*alias, next));
    }
    for alias in held.services.keys() {
        if !wanted.services.contains_key(alias) {
            steps.removals.push(Change::RemoveService(*alias));
        }
    }
    for number in held.targets.keys() {
        if !wanted.targets.contains_key(number) {
            let none = Target::default();
            steps.removals.push(Change::Target(*number, none));
        }
    }
    steps
}

/// The aliases that an agent left unsettled.
pub fn unsettled(held: &Held) -> BTreeSet<Socket> {
    let unsettled = held.services.iter();
    unsettled
        .filter(|(_, service)| service.previous.count != 0)
        .map(|(alias, _)| *alias)
        .collect()
}

/// The steps after which these aliases need not look through what they chose before: connections
/// that end are forgotten, and those that stay are listed. To be called when every processor works with
/// the services as they are in `held`.
pub fn settle(mut held: Held, aliases: &BTreeSet<Socket>) -> Vec<Change> {
    let mut steps = Vec::new();
    for key in ended(&held, aliases) {
        if let Some(entry) = held.connections.remove(&key) {
            held.moved.remove(&entry.original(key.protocol));
            steps.push(Change::Forget(key));
        }
    }
    let moves = held.moves(aliases);
    let listed = moves.keys().chain(held.moved.keys());
    let listed: BTreeSet<Socket> = listed.map(FiveTuple::endpoint).collect();
    let moves = moves.into_iter();
    steps.extend(moves.map(|(original, number)| Change::Move(original, number)));
    for (alias, service) in &held.services {
        if aliases.contains(alias) {
            let mut flags = service.flags & !service_flags::MOVED;
            if listed.contains(alias) {
                flags |= service_flags::MOVED;
            }
            let settled = Service {
                flags,
                previous: Slots::default(),
                ..*service
            };
            if settled != *service {
                steps.push(Change::Service(*alias, settled));
            }
        }
    }
    steps
}

/// The connections that end because their target gets no new ones, of those among these aliases that
/// want it so.
fn ended(held: &Held, aliases: &BTreeSet<Socket>) -> Vec<FiveTuple> {
    let targets: BTreeMap<Socket, BTreeSet<Socket>> = held
        .services
        .iter()
        .filter(|(alias, service)| {
            aliases.contains(alias) && service.flags & service_flags::RESET != 0
        })
        .map(|(alias, service)| (*alias, targets(held, service, alias.protocol)))
        .collect();
    let connections = held.connections.iter();
    connections
        .filter(|(key, entry)| {
            let targets = targets.get(&entry.alias(key.protocol));
            targets.is_some_and(|targets| !targets.contains(&key.endpoint()))
        })
        .map(|(key, _)| *key)
        .collect()
}

/// Where new connections of a service go, whatever the source address is.
fn targets(held: &Held, service: &Service, protocol: u8) -> BTreeSet<Socket> {
    let numbers = held.slots.get(&service.slots).into_iter().flatten();
    numbers
        .filter_map(|number| held.targets.get(number))
        .map(|target| Socket {
            address: target.address,
            port: target.port,
            protocol,
            pad: 0,
        })
        .collect()
}
