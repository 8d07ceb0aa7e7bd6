//! Filters on a clsact qdisc, for kernels without tcx links.
//!
//! A filter outlives the process that added it. Ours are found again by a fixed priority and
//! handle, and by their name, which is the program's.

use std::{collections::BTreeSet, fs, os::fd::BorrowedFd};

use super::{
    Direction, PROGRAMS, Pins,
    bpffs::make_directory,
    error::{Cause, DatapathError},
};
use crate::netlink::{Filter, Interface, NetlinkError, Requests, Side, Slot};

/// Where our filters are; the handle is "tn".
const SLOT: Slot = Slot {
    priority: 10,
    handle: 0x746e,
};

/// Adds a clsact qdisc if there is none, and marks it as ours.
pub(super) fn ensure_qdisc(
    pins: &Pins,
    requests: &mut Requests,
    interface: &Interface,
) -> Result<(), DatapathError> {
    let failed = |error| failed(interface, "clsact", error);
    if requests.add_clsact(interface.index).map_err(failed)? {
        make_directory(&pins.clsact(interface.index))?;
    }
    Ok(())
}

/// Adds the filter, or replaces the program of ours that is there; whether one was there.
pub(super) fn attach(
    requests: &mut Requests,
    name: &str,
    program: BorrowedFd<'_>,
    interface: &Interface,
    direction: Direction,
) -> Result<bool, DatapathError> {
    let side = side(direction);
    let mut set = || {
        let present = requests.filters(interface.index, side)?;
        requests.set_filter(interface.index, side, SLOT, name, program)?;
        Ok(present.iter().any(is_ours))
    };
    set().map_err(|error| failed(interface, direction.name(), error))
}

/// The number of the program of our filter on a side of an interface.
pub(super) fn program(
    requests: &mut Requests,
    ifindex: u32,
    direction: Direction,
) -> Result<Option<u32>, NetlinkError> {
    let filters = requests.filters(ifindex, side(direction))?;
    Ok(filters
        .into_iter()
        .find(is_ours)
        .and_then(|filter| filter.program))
}

/// Removes our filters from both sides of an interface, except those with programs of `others`; how many
/// there were.
pub(super) fn remove(
    requests: &mut Requests,
    interface: (u32, &str),
    others: &BTreeSet<u32>,
) -> Result<usize, DatapathError> {
    let (index, name) = interface;
    let mut removed = 0;
    for direction in Direction::BOTH {
        let mut remove = || {
            for filter in requests.filters(index, side(direction))? {
                let is_other = filter.program.is_some_and(|id| others.contains(&id));
                if is_ours(&filter) && !is_other {
                    requests.remove_filter(index, side(direction), filter.slot)?;
                    removed += 1;
                }
            }
            Ok(())
        };
        match remove() {
            Ok(()) => {}
            // No such filter or interface any more.
            Err(NetlinkError::Refused { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)
                ) => {}
            Err(error) => {
                return Err(DatapathError::Attach {
                    interface: name.to_owned(),
                    direction: direction.name(),
                    source: error.into(),
                });
            }
        }
    }
    Ok(removed)
}

/// Forgets that a qdisc is ours.
pub(super) fn unmark(pins: &Pins, ifindex: u32) {
    // The mark may never have been there.
    let _ = fs::remove_dir(pins.clsact(ifindex));
}

fn is_ours(filter: &Filter) -> bool {
    let name = filter.name.as_deref();
    filter.slot == SLOT && name.is_some_and(|name| PROGRAMS.contains(&name))
}

const fn side(direction: Direction) -> Side {
    match direction {
        Direction::Ingress => Side::Ingress,
        Direction::Egress => Side::Egress,
    }
}

fn failed(interface: &Interface, direction: &'static str, error: NetlinkError) -> DatapathError {
    DatapathError::Attach {
        interface: interface.name.clone(),
        direction,
        source: Cause::from(error),
    }
}
