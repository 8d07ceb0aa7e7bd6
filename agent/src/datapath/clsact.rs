//! Filters on a clsact qdisc, for kernels without tcx links.
//!
//! A filter outlives the process that added it. Ours are found again by a fixed priority and
//! handle, and by their name, which is the program's.

use std::{fs, io};

use aya::programs::{
    ProgramError, SchedClassifier,
    tc::{
        NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        qdisc_detach_program,
    },
};

use super::{Direction, PROGRAMS, Pins, error::DatapathError, pins::make_directory};
use crate::links::Interface;

const PRIORITY: u16 = 10;
/// "tn".
const HANDLE: TcHandle = TcHandle::new(0, 0x746e);

/// Adds a clsact qdisc if there is none, and marks it as ours.
pub(super) fn ensure_qdisc(pins: &Pins, interface: &Interface) -> Result<(), DatapathError> {
    match qdisc_add_clsact(&interface.name) {
        Ok(()) => make_directory(&pins.clsact(interface.index)),
        Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(DatapathError::Attach {
            interface: interface.name.clone(),
            direction: "clsact",
            source: Box::new(error),
        }),
    }
}

/// Adds the filter, or replaces the program of ours that is there; whether one was there.
pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &Interface,
    direction: Direction,
) -> Result<bool, ProgramError> {
    let options = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    };
    let kind = direction.attach_type();
    let added =
        program.attach_with_options(&interface.name, kind, TcAttachOptions::Netlink(options));
    let (id, replaced) = match added {
        Err(ProgramError::TcError(error)) if errno(&error) == Some(libc::EEXIST) => {
            let link = SchedClassifierLink::attached(&interface.name, kind, PRIORITY, HANDLE, None)
                .map_err(TcError::IoError)?;
            (program.attach_to_link(link)?, true)
        }
        other => (other?, false),
    };
    // The filter stays when the agent ends; dropping the link would remove it.
    std::mem::forget(program.take_link(id)?);
    Ok(replaced)
}

/// Removes our filters from one side of an interface; how many there were.
pub(super) fn remove(interface: &str, direction: Direction) -> Result<usize, TcError> {
    let mut removed = 0;
    for name in PROGRAMS {
        match qdisc_detach_program(interface, direction.attach_type(), name) {
            Ok(()) => removed += 1,
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            // No qdisc, or no such interface any more: no filter.
            Err(error)
                if matches!(
                    errno(&error),
                    Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Forgets that a qdisc is ours.
pub(super) fn unmark(pins: &Pins, ifindex: u32) {
    // The mark may never have been there.
    let _ = fs::remove_dir(pins.clsact(ifindex));
}

fn errno(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}
