//! The difference between the wanted and the present tables of services.

use std::collections::BTreeSet;

use truename_common::layout::{Service, Slots, Socket, Target};

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
    for (range, contents) in &wanted.slots {
        let present = held.slots.get(range);
        if present == Some(contents) {
            continue;
        }
        let now = |index: usize| present.and_then(|present| present.get(index));
        let slots = (range.first..).zip(contents).enumerate();
        let others = slots.filter(|(index, (_, number))| now(*index) != Some(number));
        let steps_to = others.map(|(_, (position, number))| Change::Slot(position, *number));
        steps.additions.extend(steps_to);
        // Somebody else wrote slots that are in use: connections may have begun by them.
        let in_use = held.services.iter();
        let in_use = in_use.filter(|(_, service)| service.slots == *range);
        steps.unsettled.extend(in_use.map(|(alias, _)| *alias));
    }
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
/// that stay are listed first. To be called when every processor works with the services as they are
/// in `held`.
pub fn settle(held: &Held, aliases: &BTreeSet<Socket>) -> Vec<Change> {
    let moves = held.moves(aliases);
    let mut listed: BTreeSet<Socket> = moves.keys().map(|original| original.endpoint()).collect();
    listed.extend(held.moved.keys().map(|original| original.endpoint()));
    let mut steps: Vec<_> = moves
        .into_iter()
        .map(|(original, number)| Change::Move(original, number))
        .collect();
    for (alias, service) in &held.services {
        if aliases.contains(alias) {
            let flags = if listed.contains(alias) {
                truename_common::layout::service_flags::MOVED
            } else {
                0
            };
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
