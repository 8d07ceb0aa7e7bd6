//! Removing every trace.

use truename_common::layout::VERSION;

use super::{
    Lock, Mode, Pins, attach::remove_filters, error::DatapathError, pins::remove_empty, sys,
};
use crate::links::Inventory;

/// What a detach found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Links and filters that were removed.
    pub links: usize,
    /// Interfaces whose clsact qdisc was ours; remove it if it is empty.
    pub qdiscs: Vec<u32>,
    /// What is still there, as a thing and its place.
    pub left: Vec<String>,
}

/// Removes links, filters, programs and tables of this version and older ones. Without a lock,
/// takes it.
///
/// # Errors
/// When another agent uses the pins, they are a newer version's, or the kernel refuses.
pub fn detach(
    pins: &Pins,
    inventory: &Inventory,
    lock: Option<&Lock>,
) -> Result<Detached, DatapathError> {
    let mut detached = Detached::default();
    if !pins.exist_on_bpffs()? {
        return Ok(detached);
    }
    let _taken = lock.is_none().then(|| pins.lock()).transpose()?;
    pins.refuse_newer()?;
    detached.links = pins.links()?.len();
    detached.qdiscs = pins.clsact_marks()?;
    for interface in inventory.interfaces.values() {
        detached.links += remove_filters(&interface.name)?;
    }
    for link in pins.links()? {
        // Fails for a link whose interface is gone, which needs no detaching.
        let _ = sys::detach_link(&link.path);
    }
    let versions = pins.versions()?;
    for (_, path) in &versions {
        let foreign = pins.remove_version(path)?;
        let foreign = foreign.iter().map(|path| path.display());
        detached
            .left
            .extend(foreign.map(|path| format!("{path}, which truename did not make")));
    }
    // Somebody else's pins may be in it.
    if !versions.is_empty() {
        remove_empty(pins.root())?;
    }
    Ok(detached)
}

/// Undoes a start that failed, if nothing of this version was there before. What an older version
/// attached stays as it is, for an agent of that version.
///
/// # Errors
/// When the kernel refuses.
pub fn undo(
    pins: &Pins,
    inventory: &Inventory,
    lock: &Lock,
    mode: Mode,
) -> Result<(), DatapathError> {
    let has_older = pins.versions()?.iter().any(|(number, _)| *number < VERSION);
    match (has_older, mode) {
        (false, _) => detach(pins, inventory, Some(lock)).map(drop),
        (true, Mode::Tcx) => pins.remove_version(&pins.version()).map(drop),
        // A filter may be this version's already, and needs its pins.
        (true, Mode::Clsact) => Ok(()),
    }
}

/// Removes what older versions pinned. To be called when everything of this version is attached.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_old_versions(pins: &Pins) -> Result<(), DatapathError> {
    for (number, path) in pins.versions()? {
        if number < VERSION {
            log::info!("Removing the pins of table version {number}");
            for path in pins.remove_version(&path)? {
                log::warn!("Left {}, which truename did not make", path.display());
            }
        }
    }
    Ok(())
}
