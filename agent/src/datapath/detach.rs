//! Removing every trace.

use truename_common::layout::VERSION;

use super::{
    Direction, Lock, Mode, Pins,
    bpffs::{list, remove_empty},
    clsact,
    error::DatapathError,
    sys,
};
use crate::{
    netlink::{Inventory, Requests},
    sysctl,
};

/// What a detach found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Links and filters that were removed.
    pub links: usize,
    /// Switches of the kernel that have again the value that they had before truename set them, a sentence each.
    pub restored: Vec<String>,
    /// What is still there, as a thing and its place.
    pub left: Vec<String>,
}

/// Removes links, filters, programs and tables of this version and older ones, filters also if there are no pins
/// any more, and restores switches. Without a lock, takes it.
///
/// # Errors
/// When another agent uses the pins, they are a newer version's or another network namespace's, or the kernel
/// refuses.
pub fn detach(
    pins: &Pins,
    requests: &mut Requests,
    inventory: &Inventory,
    lock: Option<&Lock>,
) -> Result<Detached, DatapathError> {
    let mut detached = Detached::default();
    let exist = pins.exist_on_bpffs()?;
    let _taken = (exist && lock.is_none()).then(|| pins.lock()).transpose()?;
    if exist {
        pins.refuse_newer()?;
        pins.refuse_other_namespace()?;
        detached.links = pins.links()?.len();
    }
    let qdiscs = pins.clsact_marks()?;
    let (own, mut others) = pins.programs()?;
    others.retain(|id| !own.contains(id));
    for interface in inventory.interfaces.values() {
        let interface = (interface.index, interface.name.as_str());
        detached.links += clsact::remove(requests, interface, &others)?;
    }
    for link in pins.links()? {
        // Fails for a link whose interface is gone, which needs no detaching.
        let _ = sys::detach_link(&link.path);
    }
    for path in list(&pins.relays())? {
        // Fails for a namespace that is gone, and for what is no link of ours.
        let _ = sys::detach_link(&path);
    }
    let switches = pins.switches()?;
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
    requests.remove_empty_clsact(&qdiscs)?;
    for (switch, before) in switches {
        restore(switch, &before, &mut detached);
    }
    for interface in inventory.interfaces.values() {
        for direction in Direction::BOTH {
            let filter = clsact::program(requests, interface.index, direction)?;
            if filter.is_some_and(|id| !others.contains(&id)) {
                detached.left.push(format!(
                    "a filter on {} ({})",
                    interface.name,
                    direction.name()
                ));
            }
        }
    }
    Ok(detached)
}

/// Gives a switch the value that it had, unless somebody else changed it since.
fn restore(switch: &'static str, before: &str, detached: &mut Detached) {
    let name = sysctl::dotted(switch);
    if sysctl::read(switch).is_ok_and(|now| now != "1") {
        return;
    }
    match sysctl::set(switch, before) {
        Ok(_) => detached.restored.push(format!("{name} is {before} again")),
        Err(error) => detached.left.push(format!(
            "{name}, which is 1 and was {before} before truename set it, and cannot be set: {error}"
        )),
    }
}

/// Undoes a start that failed, if nothing of this version was there before. What an older version
/// attached stays as it is, for an agent of that version.
///
/// # Errors
/// When the kernel refuses.
pub fn undo(
    pins: &Pins,
    requests: &mut Requests,
    inventory: &Inventory,
    lock: &Lock,
    mode: Mode,
) -> Result<(), DatapathError> {
    let has_older = pins.versions()?.iter().any(|(number, _)| *number < VERSION);
    match (has_older, mode) {
        (false, _) => detach(pins, requests, inventory, Some(lock)).map(drop),
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
