//! What aya does not ask of the kernel: where a pinned link hangs, to detach it at once, and to wait for
//! running programs.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::thread::{MembarrierCommand, membarrier};

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The interface number that a pinned tcx link hangs on: 0 if the interface is gone.
///
/// The number is that of the interface's own namespace.
pub fn link_ifindex(path: &Path) -> io::Result<u32> {
    let fd = obj_get(path)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("ifindex:"))
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a tcx link"))
}

/// Detaches a pinned link. Removing the pin alone lets the kernel do it some time later, in a work
/// queue.
pub fn detach_link(path: &Path) -> io::Result<()> {
    let fd = obj_get(path)?;
    let link = fd.as_raw_fd() as u32;
    // SAFETY: the command reads a link's descriptor, which is open, and the size is that of it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_DETACH,
            &raw const link,
            size_of::<u32>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Waits until every program that runs now has ended: `membarrier` waits for a grace period of RCU, in
/// which programs run.
pub fn wait_for_programs() -> io::Result<()> {
    Ok(membarrier(MembarrierCommand::Global)?)
}

fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: attr has the layout that the command reads, `path` outlives the call, and the size
    // is that of attr; the kernel takes the rest of the union as zero.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const attr,
            size_of::<ObjGet>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
