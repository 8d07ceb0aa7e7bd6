//! Opening, listing and changing single tables.

use std::{io::ErrorKind, path::Path};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};

use super::{Pins, batch, error::DatapathError};

/// A hash table.
pub type Table<K, V> = HashMap<MapData, K, V>;

/// A pinned table, whatever it holds.
pub fn map_data(path: &Path) -> Result<MapData, DatapathError> {
    MapData::from_pin(path).map_err(DatapathError::pinned_table(path))
}

/// A pinned table of a type.
pub fn open<T: TryFrom<Map, Error = MapError>>(
    pins: &Pins,
    name: &'static str,
) -> Result<T, DatapathError> {
    let path = pins.map(name);
    let wrong = DatapathError::pinned_table(&path);
    let map = Map::from_map_data(map_data(&path)?).map_err(&wrong)?;
    T::try_from(map).map_err(&wrong)
}

/// The entries of a table, as [`batch::visit`] shows them.
pub fn entries<K: Pod, V: Pod>(
    table: &Table<K, V>,
    name: &'static str,
) -> Result<Vec<(K, V)>, DatapathError> {
    let mut all = Vec::new();
    batch::visit(table, name, |key, value| all.push((key, value)))?;
    Ok(all)
}

/// Sets an entry.
pub fn insert<K: Pod, V: Pod>(
    table: &mut Table<K, V>,
    key: &K,
    value: V,
    name: &'static str,
) -> Result<(), DatapathError> {
    table
        .insert(key, value, 0)
        .map_err(DatapathError::table("write", name))
}

/// Sets an entry, if it exists.
pub fn replace<K: Pod, V: Pod>(
    table: &mut Table<K, V>,
    key: &K,
    value: V,
    name: &'static str,
) -> Result<(), DatapathError> {
    /// `BPF_EXIST` (include/uapi/linux/bpf.h).
    const EXISTING: u64 = 2;
    match table.insert(key, value, EXISTING) {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {
            Ok(())
        }
        set => set.map_err(DatapathError::table("write", name)),
    }
}

/// What came of adding an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is new.
    New,
    /// There was one with its key, which stays.
    Present,
    /// The table is full.
    Full,
}

/// Adds an entry, unless there is one with its key.
pub fn add<K: Pod, V: Pod>(
    table: &mut Table<K, V>,
    key: &K,
    value: V,
    name: &'static str,
) -> Result<Added, DatapathError> {
    /// `BPF_NOEXIST` (include/uapi/linux/bpf.h).
    const NEW: u64 = 1;
    match table.insert(key, value, NEW) {
        Ok(()) => Ok(Added::New),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::AlreadyExists => {
            Ok(Added::Present)
        }
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
        {
            Ok(Added::Full)
        }
        Err(error) => Err(DatapathError::table("write", name)(error)),
    }
}

/// Removes an entry that need not exist; whether it did.
pub fn remove<K: Pod, V: Pod>(
    table: &mut Table<K, V>,
    key: &K,
    name: &'static str,
) -> Result<bool, DatapathError> {
    match table.remove(key) {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {
            Ok(false)
        }
        Err(error) => Err(DatapathError::table("change", name)(error)),
    }
}

/// The value of a key, if it is there.
pub fn get<K: Pod, V: Pod>(
    table: &Table<K, V>,
    key: &K,
    name: &'static str,
) -> Result<Option<V>, DatapathError> {
    match table.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(DatapathError::table("read", name)(error)),
    }
}

/// How many entries fit a pinned table.
pub fn capacity(pins: &Pins, name: &'static str) -> Result<u32, DatapathError> {
    let data = map_data(&pins.map(name))?;
    let info = data.info();
    Ok(info
        .map_err(DatapathError::table("describe", name))?
        .max_entries())
}
