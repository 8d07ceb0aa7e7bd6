//! Taking over the tables of the version before.
//!
//! The tables that both versions have alike are pinned a second time, so that the old programs and the new ones
//! share them for as long as both are attached. Connections through services are copied: their entries have
//! another layout. So have RPC flows: the new program adopts them.
//!
//! The new program sees a packet first. What it has translated is nothing to translate for the old one, which goes on
//! with what only it knows.

use std::cmp::Reverse;

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapType},
};
use aya_obj::{Object, generated::bpf_map_type};
use truename_common::layout::{Conntrack, FiveTuple, VERSION, map};

use super::{
    OBJECT, Pins, ServiceTables,
    access::{Added, Table, entries, map_data},
    bpffs::{list, make_directory},
    error::DatapathError,
    load::configured_entries,
    pins::pin_name,
    sys,
};
use crate::config::Datapath;

/// The version whose tables are taken over.
const BEFORE: u32 = VERSION - 1;

/// The tables that have the same layout in both versions. Every new [`VERSION`] writes this anew.
const ALIKE: [&str; 18] = [
    map::PORTS,
    map::ENDPOINTS,
    map::NAMES,
    map::LISTED,
    map::PEERS,
    map::ALIASES,
    map::SERVICES,
    map::SLOTS,
    map::TARGETS,
    map::MOVED,
    map::XDP_DEVICES,
    map::SETTINGS,
    map::PORT_TRY_HISTOGRAM,
    map::LINKS,
    map::ASKED,
    map::ADDRESSES,
    map::COUNTERS,
    map::EVENTS,
];

/// An entry of [`map::CONNTRACK`] in the version before, where its layout is another one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OldConntrack {
    client: [u8; 16],
    alias: [u8; 16],
    client_port: u16,
    alias_port: u16,
    service: u32,
    seen_ns: u64,
    sent: u64,
    received: u64,
    created_s: u32,
    state: u8,
    flags: u8,
    tries: u8,
    /// Zero where the program has no marks.
    marks: u8,
}

const _: () = assert!(size_of::<OldConntrack>() == 72);

// SAFETY: repr(C), Copy, no padding (the size is the sum of the fields), and every bit pattern is a value.
unsafe impl Pod for OldConntrack {}

impl From<OldConntrack> for Conntrack {
    fn from(old: OldConntrack) -> Self {
        let OldConntrack {
            client,
            alias,
            client_port,
            alias_port,
            service,
            seen_ns,
            sent,
            received,
            created_s,
            state,
            flags,
            tries,
            marks,
        } = old;
        Self {
            client,
            alias,
            client_port,
            alias_port,
            service,
            seen_ns,
            sent,
            received,
            created_s,
            state,
            flags,
            tries,
            marks,
            // Not known: the next segment of each side tells them, and until then any reset counts.
            ends: [0; 2],
            acked: [0; 2],
        }
    }
}

/// Pins the tables of the version before as those of this one, unless this one has its own. A start
/// that was interrupted goes on here.
///
/// # Errors
/// When a pin cannot be read or made.
pub fn migrate(pins: &Pins, sizes: &Datapath) -> Result<(), DatapathError> {
    if !pins.of_version(BEFORE).join("maps").is_dir() {
        return Ok(());
    }
    let object = Object::parse(OBJECT).map_err(aya::EbpfError::from)?;
    let mut count = 0;
    for name in ALIKE {
        let old = pins.of_version(BEFORE).join("maps").join(pin_name(name));
        let new = pins.map(name);
        if new.exists() || !old.exists() {
            continue;
        }
        let table = map_data(&old)?;
        if !is_alike(&object, name, &table, sizes)? {
            if name == map::MOVED {
                // Its entries are copied.
                continue;
            }
            log::warn!(
                "{} is not as version {BEFORE} made it; the table begins empty",
                old.display()
            );
            continue;
        }
        table.pin(&new).map_err(|source| DatapathError::Pin {
            path: new.clone(),
            source,
        })?;
        count += 1;
    }
    // A qdisc that was ours stays ours, and so does a switch that was set.
    for marks in ["clsact", "sysctl"] {
        for mark in list(&pins.of_version(BEFORE).join(marks))? {
            if let Some(name) = mark.file_name() {
                make_directory(&pins.version().join(marks).join(name))?;
            }
        }
    }
    if count > 0 {
        log::info!("Took over {count} table(s) of table version {BEFORE}");
    }
    Ok(())
}

/// Copies what the version before has in tables that are not shared, except RPC flows. To be called when this version's
/// tables are pinned, and its programs are not attached. Returns when the last of the connections began, for
/// [`copy_connections`].
///
/// # Errors
/// When a table cannot be read or written.
pub fn copy_tables(pins: &Pins) -> Result<u32, DatapathError> {
    if let Some(old) = unshared::<u32>(pins, map::MOVED)? {
        let mut services = ServiceTables::open(pins)?;
        let copied = copy(entries(&old, map::MOVED)?, |original, number| {
            services.add_moved(original, number)
        })?;
        copied.report("connection(s) that stay with a former target");
    }
    copy_connections(pins, 0)
}

/// Copies the connections of the version before that began in this second of `CLOCK_MONOTONIC` or later, and that this
/// version does not know: those that were used last, as many as fit. Returns when the last of them began.
///
/// [`map::PORT_BITMAP`] is not copied. The bits by which a connection is found follow from its entry, and are written with
/// it; others are of connections that are gone.
///
/// # Errors
/// When a table cannot be read or written.
pub fn copy_connections(pins: &Pins, since_s: u32) -> Result<u32, DatapathError> {
    let Some(old) = unshared::<OldConntrack>(pins, map::CONNTRACK)? else {
        return Ok(0);
    };
    let mut connections = entries(&old, map::CONNTRACK)?;
    connections.retain(|(_, entry)| entry.created_s >= since_s);
    let began = connections.iter().map(|(_, entry)| entry.created_s);
    let last_s = began.max().unwrap_or(since_s);
    connections.sort_unstable_by_key(|(_, entry)| Reverse(entry.seen_ns));
    let mut services = ServiceTables::open(pins)?;
    let copied = copy(connections, |key, entry| {
        services.add_connection(key, &entry.into())
    })?;
    copied.report("connection(s) through services");
    Ok(last_s)
}

/// The table of the version before, if this version has one of its own.
fn unshared<V: Pod>(
    pins: &Pins,
    name: &'static str,
) -> Result<Option<Table<FiveTuple, V>>, DatapathError> {
    let path = pins.of_version(BEFORE).join("maps").join(name);
    if !path.exists() {
        return Ok(None);
    }
    let id = |path| sys::object_id(path).map_err(DatapathError::pins("read", path));
    if id(&path)? == id(&pins.map(name))? {
        return Ok(None);
    }
    let table = Map::from_map_data(map_data(&path)?).and_then(HashMap::try_from);
    match table {
        Ok(table) => Ok(Some(table)),
        Err(error) => {
            log::warn!(
                "{} is not as version {BEFORE} made it ({error}); the table begins empty",
                path.display()
            );
            Ok(None)
        }
    }
}

/// How many entries were copied.
#[derive(Clone, Copy, Debug, Default)]
struct Copied {
    new: usize,
    lost: usize,
}

impl Copied {
    fn report(self, what: &str) {
        let Self { new, lost } = self;
        if new > 0 {
            log::info!("Took over {new} {what} of table version {BEFORE}");
        }
        if lost > 0 {
            log::warn!(
                "No room for {lost} {what} of table version {BEFORE}, which break: max_flows is too small"
            );
        }
    }
}

fn copy<V>(
    entries: Vec<(FiveTuple, V)>,
    mut add: impl FnMut(&FiveTuple, V) -> Result<Added, DatapathError>,
) -> Result<Copied, DatapathError> {
    let mut copied = Copied::default();
    for (key, value) in entries {
        match add(&key, value)? {
            Added::New => copied.new += 1,
            Added::Present => {}
            Added::Full => copied.lost += 1,
        }
    }
    Ok(copied)
}

/// Whether a table is what the object declares, with as many entries as are configured.
fn is_alike(
    object: &Object,
    name: &'static str,
    table: &MapData,
    sizes: &Datapath,
) -> Result<bool, DatapathError> {
    let Some(declared) = object.maps.get(name) else {
        return Ok(false);
    };
    let failed = || DatapathError::table("describe", name);
    let info = table.info().map_err(failed())?;
    let kind = info.map_type().map_err(failed())?;
    let wanted = bpf_map_type::try_from(declared.map_type()).ok();
    let wanted = wanted.and_then(|kind| MapType::try_from(kind).ok());
    let size = configured_entries(name, sizes).unwrap_or_else(|| declared.max_entries());
    Ok(wanted == Some(kind)
        && declared.key_size() == info.key_size()
        && declared.value_size() == info.value_size()
        && size == info.max_entries())
}
