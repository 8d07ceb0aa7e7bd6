//! Reading tables many entries at a time.

use std::{io, ops::Range, os::fd::AsFd as _};

use aya::{
    Pod,
    maps::{Array, IterableMap, MapData, MapError},
    sys::SyscallError,
};

use super::{error::DatapathError, sys};

/// About how many bytes are read at a time.
const BYTES: usize = 256 * 1024;
/// How many entries at least. A bucket of a hash table has seldom more than five.
const ENTRIES: usize = 16;

/// A table that is being read.
struct Reader<'a, K, V> {
    table: &'a MapData,
    name: &'static str,
    keys: Vec<K>,
    values: Vec<V>,
    /// Where the next entries are.
    from: Option<u32>,
}

impl<'a, K: Pod, V: Pod> Reader<'a, K, V> {
    /// From the beginning, or from behind a position of an array.
    fn new(
        table: &'a MapData,
        from: Option<u32>,
        capacity: usize,
        name: &'static str,
    ) -> Result<Self, DatapathError> {
        let info = table.info();
        let info = info.map_err(DatapathError::table("describe", name))?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        if sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(failed(name)(io::ErrorKind::InvalidData.into()));
        }
        Ok(Self {
            table,
            name,
            keys: Vec::with_capacity(capacity),
            values: Vec::with_capacity(capacity),
            from,
        })
    }

    /// Reads the next entries; whether there may be more.
    fn read(&mut self) -> Result<bool, DatapathError> {
        loop {
            // SAFETY: the sizes are those of the table, and only arrays and hash tables are read here.
            let next = unsafe {
                let table = self.table.fd().as_fd();
                sys::lookup_batch(table, self.from, &mut self.keys, &mut self.values)
            };
            match next {
                Ok(next) => {
                    self.from = next;
                    return Ok(next.is_some());
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    let more = 2 * self.keys.capacity().max(ENTRIES);
                    self.keys.reserve(more);
                    self.values.reserve(more);
                }
                Err(error) => return Err(failed(self.name)(error)),
            }
        }
    }

    fn entries(&mut self) -> impl Iterator<Item = (K, V)> {
        self.keys.drain(..).zip(self.values.drain(..))
    }
}

/// Shows every entry that is there all the time once: of a hash table, whole buckets are read, each under
/// its lock. One that comes or goes meanwhile is shown once or not at all.
///
/// # Errors
/// When the table cannot be read.
pub fn visit<K: Pod, V: Pod>(
    table: &impl IterableMap<K, V>,
    name: &'static str,
    mut visit: impl FnMut(K, V),
) -> Result<(), DatapathError> {
    let capacity = (BYTES / (size_of::<K>() + size_of::<V>())).max(ENTRIES);
    let mut reader = Reader::new(table.map(), None, capacity, name)?;
    loop {
        let is_more = reader.read()?;
        reader.entries().for_each(|(key, value)| visit(key, value));
        if !is_more {
            return Ok(());
        }
    }
}

/// What an array holds at these positions, as far as it has them.
///
/// # Errors
/// When the table cannot be read.
pub fn range<V: Pod>(
    table: &Array<MapData, V>,
    positions: Range<u32>,
    name: &'static str,
) -> Result<Vec<V>, DatapathError> {
    let positions = positions.start..positions.end.min(table.len());
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    let before = positions.start.checked_sub(1);
    let mut reader = Reader::<u32, V>::new(table.map(), before, positions.len(), name)?;
    reader.read()?;
    reader.keys.truncate(positions.len());
    reader.values.truncate(positions.len());
    if reader.keys.iter().copied().eq(positions) {
        Ok(reader.values)
    } else {
        Err(failed(name)(io::ErrorKind::InvalidData.into()))
    }
}

fn failed(name: &'static str) -> impl FnOnce(io::Error) -> DatapathError {
    move |io_error| {
        let source = SyscallError {
            call: "bpf_map_lookup_batch",
            io_error,
        };
        DatapathError::table("list", name)(MapError::SyscallError(source))
    }
}
