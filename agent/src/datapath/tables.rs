//! The kernel tables, opened from their pins.

use std::path::Path;

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use truename_common::layout::{
    AliasKey, AliasStat, Counter, Endpoint, FiveTuple, ListedAlias, Names, Peer, PeerKey, RpcFlow,
    Socket, map,
};

use super::{Pins, error::DatapathError};
use crate::reconcile::{Change, Present};

type Table<K, V> = HashMap<MapData, K, V>;

/// Every pinned table, in the order of the catalogue.
pub const PINNED: [&str; 9] = [
    map::PORTS,
    map::ENDPOINTS,
    map::NAMES,
    map::LISTED,
    map::RPC_FLOWS,
    map::PEERS,
    map::ALIASES,
    map::COUNTERS,
    map::EVENTS,
];

/// The tables that are only read, or whose entries are only removed.
pub struct Tables {
    names: Table<Socket, Names>,
    flows: Table<FiveTuple, RpcFlow>,
    flow_capacity: u32,
    peers: Table<PeerKey, Peer>,
    aliases: Table<AliasKey, AliasStat>,
    counters: PerCpuArray<MapData, u64>,
}

/// The tables that the agent owns.
pub struct TablesMut {
    ports: Array<MapData, u8>,
    endpoints: Table<Socket, Endpoint>,
    names: Table<Socket, Names>,
    listed: Table<ListedAlias, u8>,
}

impl Tables {
    /// Opens the tables.
    ///
    /// # Errors
    /// When one is not pinned or looks different.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let data = map_data(&pins.map(map::RPC_FLOWS))?;
        let failed = DatapathError::table("describe", map::RPC_FLOWS);
        let flow_capacity = data.info().map_err(failed)?.max_entries();
        Ok(Self {
            names: open(pins, map::NAMES)?,
            flows: open(pins, map::RPC_FLOWS)?,
            flow_capacity,
            peers: open(pins, map::PEERS)?,
            aliases: open(pins, map::ALIASES)?,
            counters: open(pins, map::COUNTERS)?,
        })
    }

    /// Names, configured and learned.
    pub fn names(&self) -> Result<Vec<(Socket, Names)>, DatapathError> {
        entries(&self.names, map::NAMES)
    }

    /// RPC flows.
    pub fn flows(&self) -> Result<Vec<(FiveTuple, RpcFlow)>, DatapathError> {
        entries(&self.flows, map::RPC_FLOWS)
    }

    /// RPC flows that fit.
    pub const fn flow_capacity(&self) -> u32 {
        self.flow_capacity
    }

    /// The keys of the RPC flows, without their values, which are large.
    pub fn flow_keys(&self) -> Result<Vec<FiveTuple>, DatapathError> {
        let keys: Result<Vec<_>, _> = self.flows.keys().collect();
        keys.map_err(DatapathError::table("list", map::RPC_FLOWS))
    }

    /// One RPC flow, if it is still there.
    pub fn flow(&self, key: &FiveTuple) -> Result<Option<RpcFlow>, DatapathError> {
        match self.flows.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(DatapathError::table("read", map::RPC_FLOWS)(error)),
        }
    }

    /// Forgets an RPC flow.
    pub fn remove_flow(&mut self, key: &FiveTuple) -> Result<(), DatapathError> {
        remove(&mut self.flows, key, map::RPC_FLOWS)
    }

    /// Clients.
    pub fn peers(&self) -> Result<Vec<(PeerKey, Peer)>, DatapathError> {
        entries(&self.peers, map::PEERS)
    }

    /// Aliases in use.
    pub fn aliases(&self) -> Result<Vec<(AliasKey, AliasStat)>, DatapathError> {
        entries(&self.aliases, map::ALIASES)
    }

    /// The counters, summed over the processors.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, DatapathError> {
        let read = |counter: &Counter| match self.counters.get(&(*counter as u32), 0) {
            Ok(values) => Ok((*counter, values.iter().sum())),
            Err(error) => Err(DatapathError::table("read", map::COUNTERS)(error)),
        };
        Counter::ALL.iter().map(read).collect()
    }

    /// The ring buffer of events. It has one reader.
    ///
    /// # Errors
    /// When it is not pinned.
    pub fn events(pins: &Pins) -> Result<RingBuf<MapData>, DatapathError> {
        open(pins, map::EVENTS)
    }
}

impl TablesMut {
    /// Opens the tables.
    ///
    /// # Errors
    /// When one is not pinned or looks different.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            ports: open(pins, map::PORTS)?,
            endpoints: open(pins, map::ENDPOINTS)?,
            names: open(pins, map::NAMES)?,
            listed: open(pins, map::LISTED)?,
        })
    }

    /// What the tables hold now.
    pub fn present(&self) -> Result<Present, DatapathError> {
        let mut present = Present {
            endpoints: entries(&self.endpoints, map::ENDPOINTS)?
                .into_iter()
                .collect(),
            names: entries(&self.names, map::NAMES)?.into_iter().collect(),
            listed: entries(&self.listed, map::LISTED)?
                .into_iter()
                .map(|(key, _)| (key.endpoint, key.alias))
                .collect(),
            ..Present::default()
        };
        for port in 0..=u16::MAX {
            let flags = self.ports.get(&u32::from(port), 0);
            match flags.map_err(DatapathError::table("read", map::PORTS))? {
                0 => {}
                flags => drop(present.ports.insert(port, flags)),
            }
        }
        Ok(present)
    }

    /// Makes one change.
    pub fn apply(&mut self, change: &Change) -> Result<(), DatapathError> {
        match *change {
            Change::List(key) => insert(&mut self.listed, &key, 1, map::LISTED),
            Change::Name(socket, names) => insert(&mut self.names, &socket, names, map::NAMES),
            Change::Endpoint(socket, endpoint) => {
                insert(&mut self.endpoints, &socket, endpoint, map::ENDPOINTS)
            }
            Change::Port(port, flags) => self
                .ports
                .set(u32::from(port), flags, 0)
                .map_err(DatapathError::table("write", map::PORTS)),
            Change::RemoveEndpoint(socket) => remove(&mut self.endpoints, &socket, map::ENDPOINTS),
            Change::RemoveName(socket) => remove(&mut self.names, &socket, map::NAMES),
            Change::Unlist(key) => remove(&mut self.listed, &key, map::LISTED),
        }
    }
}

/// That the tables that are pinned already look as this version expects.
///
/// # Errors
/// Names the first that does not.
pub(super) fn check_pinned(pins: &Pins) -> Result<(), DatapathError> {
    let pinned = |name| pins.map(name).exists();
    for name in PINNED {
        if !pinned(name) {
            continue;
        }
        match name {
            map::PORTS => drop(open::<Array<MapData, u8>>(pins, name)?),
            map::ENDPOINTS => drop(open::<Table<Socket, Endpoint>>(pins, name)?),
            map::NAMES => drop(open::<Table<Socket, Names>>(pins, name)?),
            map::LISTED => drop(open::<Table<ListedAlias, u8>>(pins, name)?),
            map::RPC_FLOWS => drop(open::<Table<FiveTuple, RpcFlow>>(pins, name)?),
            map::PEERS => drop(open::<Table<PeerKey, Peer>>(pins, name)?),
            map::ALIASES => drop(open::<Table<AliasKey, AliasStat>>(pins, name)?),
            map::COUNTERS => drop(open::<PerCpuArray<MapData, u64>>(pins, name)?),
            _ => drop(open::<RingBuf<MapData>>(pins, name)?),
        }
    }
    Ok(())
}

fn map_data(path: &Path) -> Result<MapData, DatapathError> {
    MapData::from_pin(path).map_err(|source| DatapathError::ForeignTable {
        path: path.to_owned(),
        source,
    })
}

fn open<T: TryFrom<Map, Error = MapError>>(
    pins: &Pins,
    name: &'static str,
) -> Result<T, DatapathError> {
    let path = pins.map(name);
    let foreign = |source| DatapathError::ForeignTable {
        path: path.clone(),
        source,
    };
    let map = Map::from_map_data(map_data(&path)?).map_err(foreign)?;
    T::try_from(map).map_err(foreign)
}

/// The entries of a table. One that vanishes while they are listed is left out.
fn entries<K: Pod, V: Pod>(
    table: &Table<K, V>,
    name: &'static str,
) -> Result<Vec<(K, V)>, DatapathError> {
    let mut all = Vec::new();
    for entry in table.iter() {
        match entry {
            Ok(entry) => all.push(entry),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(DatapathError::table("list", name)(error)),
        }
    }
    Ok(all)
}

fn insert<K: Pod, V: Pod>(
    table: &mut Table<K, V>,
    key: &K,
    value: V,
    name: &'static str,
) -> Result<(), DatapathError> {
    table
        .insert(key, value, 0)
        .map_err(DatapathError::table("write", name))
}

/// Removes an entry that need not exist.
fn remove<K: Pod, V: Pod>(
    table: &mut Table<K, V>,
    key: &K,
    name: &'static str,
) -> Result<(), DatapathError> {
    match table.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(error) => Err(DatapathError::table("change", name)(error)),
    }
}
