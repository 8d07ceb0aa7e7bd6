//! Taking over the tables of the version before.
//!
//! Nothing is copied: the tables that both versions have alike are pinned a second time, so that the old
//! programs and the new ones work with the same connections for as long as both are attached. RPC flows have another layout:
//! the new program adopts them. What the old one has translated is nothing to translate for the new one.

use aya::maps::{MapData, MapType};
use aya_obj::{Object, generated::bpf_map_type};
use truename_common::layout::{VERSION, map};

use super::{
    OBJECT, Pins,
    access::map_data,
    bpffs::{list, make_directory},
    error::DatapathError,
};

/// The version whose tables are taken over.
const BEFORE: u32 = VERSION - 1;

/// The tables that have the same layout in both versions. Every new [`VERSION`] writes this anew.
const ALIKE: [&str; 20] = [
    map::PORTS,
    map::ENDPOINTS,
    map::NAMES,
    map::LISTED,
    map::PEERS,
    map::ALIASES,
    map::SERVICES,
    map::SLOTS,
    map::TARGETS,
    map::CONNTRACK,
    map::MOVED,
    map::XDP_DEVICES,
    map::TRIED,
    map::SETTINGS,
    map::TRIES,
    map::LINKS,
    map::ASKED,
    map::ADDRESSES,
    map::COUNTERS,
    map::EVENTS,
];

/// Pins the tables of the version before as those of this one, unless this one has its own. A start
/// that was interrupted goes on here.
///
/// # Errors
/// When a pin cannot be read or made.
pub fn migrate(pins: &Pins) -> Result<(), DatapathError> {
    if !pins.of_version(BEFORE).join("maps").is_dir() {
        return Ok(());
    }
    let object = Object::parse(OBJECT).map_err(aya::EbpfError::from)?;
    let mut count = 0;
    for name in ALIKE {
        let old = pins.of_version(BEFORE).join("maps").join(name);
        let new = pins.map(name);
        if new.exists() || !old.exists() {
            continue;
        }
        let table = map_data(&old)?;
        if !is_alike(&object, name, &table)? {
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
        log::info!("Took over {count} table(s) of table version {BEFORE}, with all connections");
    }
    Ok(())
}

/// Whether a table is what the object declares, but for how many flows it holds, which is configured.
fn is_alike(object: &Object, name: &'static str, table: &MapData) -> Result<bool, DatapathError> {
    let Some(declared) = object.maps.get(name) else {
        return Ok(false);
    };
    let failed = || DatapathError::table("describe", name);
    let info = table.info().map_err(failed())?;
    let kind = info.map_type().map_err(failed())?;
    let wanted = bpf_map_type::try_from(declared.map_type()).ok();
    let wanted = wanted.and_then(|kind| MapType::try_from(kind).ok());
    Ok(wanted == Some(kind)
        && declared.key_size() == info.key_size()
        && declared.value_size() == info.value_size()
        && (name == map::RPC_FLOWS || declared.max_entries() == info.max_entries()))
}
