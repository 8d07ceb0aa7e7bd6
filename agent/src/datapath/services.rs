//! The tables of services and of their connections.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, MapData, MapError, PerCpuArray};
use truename_common::{
    layout::{
        Conntrack, FiveTuple, Service, Settings, Slots, Socket, Target, conntrack_flags, map,
    },
    nat,
};

use super::{
    Pins,
    access::{Added, Table, add, capacity, entries, get, insert, open, remove},
    batch,
    error::DatapathError,
    sys,
};
use crate::{
    config::Ports,
    plan::{Connected, Held, Summary},
    reconcile::Change,
};

/// The tables of services and of their connections. Reading them changes nothing.
pub struct ServiceTables {
    services: Table<Socket, Service>,
    slots: Array<MapData, u32>,
    targets: Array<MapData, Target>,
    connections: Table<FiveTuple, Conntrack>,
    capacity: u32,
    moved: Table<FiveTuple, u32>,
    tried: Array<MapData, u32>,
    settings: Array<MapData, Settings>,
    tries: PerCpuArray<MapData, u64>,
}

impl ServiceTables {
    /// Opens the tables.
    ///
    /// # Errors
    /// When one is not pinned or looks different.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            services: open(pins, map::SERVICES)?,
            slots: open(pins, map::SLOTS)?,
            targets: open(pins, map::TARGETS)?,
            connections: open(pins, map::CONNTRACK)?,
            capacity: capacity(pins, map::CONNTRACK)?,
            moved: open(pins, map::MOVED)?,
            tried: open(pins, map::PORT_BITMAP)?,
            settings: open(pins, map::SETTINGS)?,
            tries: open(pins, map::PORT_TRY_HISTOGRAM)?,
        })
    }

    /// What the agent wrote that a plan goes by, but for where connections stay.
    pub(super) fn owned(&self) -> Result<Held, DatapathError> {
        let mut held = Held {
            services: self.services()?.into_iter().collect(),
            targets: self.targets()?,
            settings: self.settings()?,
            ..Held::default()
        };
        for service in held.services.values() {
            for range in [service.slots, service.previous] {
                if range.count > 0 && !held.slots.contains_key(&range) {
                    held.slots.insert(range, self.slots(range)?);
                }
            }
        }
        Ok(held)
    }

    /// What connections need.
    pub(super) fn connected(&self, held: &Held, ports: Ports) -> Result<Connected, DatapathError> {
        let mut summary = Summary::new(held, ports);
        self.visit_connections(|key, entry| summary.add(&key, &entry))?;
        batch::visit(&self.moved, map::MOVED, |original, target| {
            summary.add_moved(&original, target);
        })?;
        Ok(summary.finish())
    }

    /// The same as [`Self::owned`] with the connections of some aliases, and where they stay.
    pub(super) fn held(&self, aliases: &BTreeSet<Socket>) -> Result<Held, DatapathError> {
        let mut held = self.owned()?;
        held.moved.extend(self.moved()?);
        // Sorted at once: they come in no order, and there may be many.
        let mut connections = Vec::new();
        self.visit_connections(|key, entry| {
            if aliases.contains(&entry.alias(key.protocol)) {
                connections.push((key, entry));
            }
        })?;
        held.connections = connections.into_iter().collect();
        Ok(held)
    }

    /// Makes a change; those of other tables are none of this.
    pub(super) fn apply(&mut self, change: &Change) -> Result<(), DatapathError> {
        match *change {
            Change::Target(number, target) => self
                .targets
                .set(number, target, 0)
                .map_err(DatapathError::table("write", map::TARGETS)),
            Change::Slot(position, number) => self
                .slots
                .set(position, number, 0)
                .map_err(DatapathError::table("write", map::SLOTS)),
            Change::Settings(settings) => self
                .settings
                .set(0, settings, 0)
                .map_err(DatapathError::table("write", map::SETTINGS)),
            Change::Service(alias, service) => {
                insert(&mut self.services, &alias, service, map::SERVICES)
            }
            Change::Move(original, number) => {
                insert(&mut self.moved, &original, number, map::MOVED)
            }
            Change::Forget(key) => {
                if let Some(entry) = self.connection(&key)? {
                    self.remove_moved(&entry.original(key.protocol))?;
                }
                self.remove_connection(&key).map(drop)
            }
            Change::RemoveService(alias) => {
                remove(&mut self.services, &alias, map::SERVICES).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Aliases.
    pub fn services(&self) -> Result<Vec<(Socket, Service)>, DatapathError> {
        entries(&self.services, map::SERVICES)
    }

    /// The service of an alias.
    pub fn service(&self, alias: &Socket) -> Result<Option<Service>, DatapathError> {
        get(&self.services, alias, map::SERVICES)
    }

    /// Targets that are in use, by number.
    pub fn targets(&self) -> Result<BTreeMap<u32, Target>, DatapathError> {
        let mut targets = BTreeMap::new();
        batch::visit(&self.targets, map::TARGETS, |number, target: Target| {
            if target.port != 0 {
                targets.insert(number, target);
            }
        })?;
        Ok(targets)
    }

    /// Some slots, as far as the table has them.
    pub fn slots(&self, range: Slots) -> Result<Vec<u32>, DatapathError> {
        let positions = range.first..range.first.saturating_add(range.count);
        batch::range(&self.slots, positions, map::SLOTS)
    }

    /// What the kernel program goes by.
    pub fn settings(&self) -> Result<Settings, DatapathError> {
        self.settings
            .get(&0, 0)
            .map_err(DatapathError::table("read", map::SETTINGS))
    }

    /// Connections that fit.
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// A connection.
    pub fn connection(&self, key: &FiveTuple) -> Result<Option<Conntrack>, DatapathError> {
        get(&self.connections, key, map::CONNTRACK)
    }

    /// Shows every connection that is there all the time, once. One that comes or goes meanwhile is shown
    /// once or not at all.
    pub fn visit_connections(
        &self,
        visit: impl FnMut(FiveTuple, Conntrack),
    ) -> Result<(), DatapathError> {
        batch::visit(&self.connections, map::CONNTRACK, visit)
    }

    /// Adds a connection, and what packets of its client find it by.
    pub(super) fn add_connection(
        &mut self,
        key: &FiveTuple,
        entry: &Conntrack,
    ) -> Result<Added, DatapathError> {
        let (hash, bits) = Self::tried_by(key, entry);
        if bits != 0 {
            // The kernel program writes the other half.
            let half = 1 - (self.read_tried(nat::TRIED_WRITTEN)? & 1);
            let position = nat::tried_position(hash, half);
            self.write_tried(position, self.read_tried(position)? | bits)?;
        }
        add(&mut self.connections, key, *entry, map::CONNTRACK)
    }

    /// Notes that a connection stays with a target.
    pub(super) fn add_moved(
        &mut self,
        original: &FiveTuple,
        number: u32,
    ) -> Result<Added, DatapathError> {
        add(&mut self.moved, original, number, map::MOVED)
    }

    /// Forgets a connection; whether it was there.
    pub fn remove_connection(&mut self, key: &FiveTuple) -> Result<bool, DatapathError> {
        remove(&mut self.connections, key, map::CONNTRACK)
    }

    /// Connections that stay with a target.
    pub fn moved(&self) -> Result<Vec<(FiveTuple, u32)>, DatapathError> {
        entries(&self.moved, map::MOVED)
    }

    /// Forgets that a connection stays with a target; whether it was known.
    pub fn remove_moved(&mut self, original: &FiveTuple) -> Result<bool, DatapathError> {
        remove(&mut self.moved, original, map::MOVED)
    }

    /// The candidate source ports that connections with such a hash were given, a bit each.
    pub fn tried(&self, hash: u64) -> Result<u32, DatapathError> {
        let half = |half| self.read_tried(nat::tried_position(hash, half));
        Ok(half(0)? | half(1)?)
    }

    /// The hash of what a connection's client sees, and the bits by which it is found there.
    pub fn tried_by(key: &FiveTuple, entry: &Conntrack) -> (u64, u32) {
        let is_direct = entry.flags & conntrack_flags::DIRECT != 0;
        let bits = nat::tried_bits(entry.tries.into(), is_direct);
        (nat::hash(&entry.original(key.protocol)), bits)
    }

    /// All of a half of them.
    pub fn tried_half(&self, half: u32) -> Result<Vec<u32>, DatapathError> {
        let first = nat::tried_position(0, half);
        batch::range(
            &self.tried,
            first..first + nat::TRIED_HALF,
            map::PORT_BITMAP,
        )
    }

    /// Has the kernel program write the other half of them. Returns the one that nobody writes any more.
    pub fn turn_tried(&mut self) -> Result<u32, DatapathError> {
        let half = self.read_tried(nat::TRIED_WRITTEN)? & 1;
        self.write_tried(nat::TRIED_WRITTEN, 1 - half)?;
        // A connection that a processor begins with a bit of the half before is in its table then.
        sys::wait_for_programs().map_err(DatapathError::Barrier)?;
        Ok(half)
    }

    /// Replaces the bits at a position.
    pub fn write_tried(&mut self, position: u32, bits: u32) -> Result<(), DatapathError> {
        self.tried
            .set(position, bits, 0)
            .map_err(DatapathError::table("write", map::PORT_BITMAP))
    }

    fn read_tried(&self, position: u32) -> Result<u32, DatapathError> {
        self.tried
            .get(&position, 0)
            .map_err(DatapathError::table("read", map::PORT_BITMAP))
    }

    /// Connections by the tries that their source port took; the last element counts those that got
    /// none.
    pub fn tries(&self) -> Result<Vec<u64>, DatapathError> {
        let read = |index| Ok(self.tries.get(&index, 0)?.iter().sum());
        (0..=nat::MAX_PORT_TRIES)
            .map(read)
            .collect::<Result<_, MapError>>()
            .map_err(DatapathError::table("read", map::PORT_TRY_HISTOGRAM))
    }
}

impl nat::Tables for ServiceTables {
    fn slot(&self, position: u32) -> Option<u32> {
        self.slots.get(&position, 0).ok()
    }

    fn moved(&self, original: &FiveTuple) -> Option<u32> {
        self.moved.get(original, 0).ok()
    }

    fn target(&self, number: u32) -> Option<Target> {
        self.targets.get(&number, 0).ok()
    }
}
