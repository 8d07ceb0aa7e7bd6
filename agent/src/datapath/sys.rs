//! What aya does not ask of the kernel: to attach to an interface by its number, where a pinned link hangs, to
//! detach it at once, to wait for running programs, which program a table of programs has, and to read many
//! entries of a table at a time.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    thread,
    time::Duration,
};

use aya::Pod;
use rustix::{
    io::Errno,
    thread::{MembarrierCommand, membarrier},
};

use super::Direction;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;
const BPF_F_LINK: u32 = 1 << 13;

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads for a tcx link.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET` and `BPF_OBJ_PIN` read.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_MAP_LOOKUP_BATCH` reads and writes.
#[repr(C)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that `BPF_MAP_LOOKUP_ELEM` reads.
#[repr(C)]
struct Lookup {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A link, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The number of its interface, in the interface's own namespace: 0 if the link is detached, or the
    /// interface gone.
    pub ifindex: u32,
    /// The number of its program.
    pub program: u32,
}

/// What a pinned tcx or XDP link is; nothing if nothing is pinned there, or something else.
///
/// An error is no answer: without a free descriptor, for example, nobody knows what is there.
pub fn link_info(path: &Path) -> io::Result<Option<LinkInfo>> {
    let Some(info) = describe_pin(path)? else {
        return Ok(None);
    };
    let link = |(ifindex, program)| LinkInfo { ifindex, program };
    Ok(field(&info, "ifindex:")
        .zip(field(&info, "prog_id:"))
        .map(link))
}

/// The inode of the network namespace that a pinned link is attached to; nothing if nothing is pinned there, or the link
/// is detached.
pub fn link_namespace(path: &Path) -> io::Result<Option<u32>> {
    let info = describe_pin(path)?.unwrap_or_default();
    Ok(field(&info, "netns_ino:").filter(|inode| *inode != 0))
}

/// What the kernel says of a pinned object; nothing if nothing is pinned there.
fn describe_pin(path: &Path) -> io::Result<Option<String>> {
    match obj_get(path) {
        Ok(fd) => describe(&fd).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The number of a pinned table or program.
pub fn object_id(path: &Path) -> io::Result<u32> {
    let fd = obj_get(path)?;
    let info = describe(&fd)?;
    let id = field(&info, "map_id:").or_else(|| field(&info, "prog_id:"));
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "neither a table nor a program"))
}

/// The number of the program at a place of a table of programs, if there is one.
pub fn program_at(table: BorrowedFd<'_>, place: u32) -> io::Result<Option<u32>> {
    let mut id = 0_u32;
    let attr = Lookup {
        map_fd: table.as_raw_fd().cast_unsigned(),
        pad: 0,
        key: &raw const place as u64,
        value: &raw mut id as u64,
        flags: 0,
    };
    // SAFETY: attr has the layout that the command reads, and the size is that of it; keys and values of a table of
    // programs have four bytes, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_ELEM,
            &raw const attr,
            size_of::<Lookup>(),
        )
    };
    match (result, io::Error::last_os_error()) {
        (0.., _) => Ok(Some(id)),
        (_, error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        (_, error) => Err(error),
    }
}

fn describe(fd: &OwnedFd) -> io::Result<String> {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
}

fn field(info: &str, name: &str) -> Option<u32> {
    let mut lines = info.lines();
    let value = lines.find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

/// Attaches a program to a side of an interface and pins the link: in front of the pinned link `before`, or behind all
/// programs that are there.
pub fn attach_tcx(
    program: BorrowedFd<'_>,
    ifindex: u32,
    direction: Direction,
    path: &Path,
    before: Option<&Path>,
) -> io::Result<()> {
    let before = before.map(obj_get).transpose()?;
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type: match direction {
            Direction::Ingress => BPF_TCX_INGRESS,
            Direction::Egress => BPF_TCX_EGRESS,
        },
        flags: match before {
            Some(_) => BPF_F_BEFORE | BPF_F_LINK,
            None => BPF_F_AFTER,
        },
        relative_fd: before
            .as_ref()
            .map_or(0, |link| link.as_raw_fd().cast_unsigned()),
        pad: 0,
        expected_revision: 0,
    };
    // SAFETY: attr has the layout that the command reads, and the size is that of it; the kernel takes the
    // rest of the union as zero. `before` outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw const attr,
            size_of::<LinkCreate>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    let link = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjGet {
        pathname: name.as_ptr() as u64,
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    // SAFETY: as above; `name` outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_PIN,
            &raw const attr,
            size_of::<ObjGet>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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
/// which programs run. With `nohz_full` Linux refuses that; then a second is waited for, since a program neither
/// sleeps nor is interrupted for long.
pub fn wait_for_programs() -> io::Result<()> {
    match membarrier(MembarrierCommand::Global) {
        Err(Errno::INVAL) => {
            thread::sleep(Duration::from_secs(1));
            Ok(())
        }
        done => Ok(done?),
    }
}

/// Reads as many entries as both vectors have capacity for, in place of what they hold, beginning at a
/// place in the table; where the next ones are, or None if these are the last.
///
/// The place in an array is the position before; that in a hash table, the number of a bucket, of which
/// entries are read all or none: `ENOSPC` if not even one bucket fits.
///
/// # Safety
/// The table is an array or a hash table with one value a key, whose keys have the size of `K` and whose
/// values have that of `V`.
pub unsafe fn lookup_batch<K: Pod, V: Pod>(
    table: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> io::Result<Option<u32>> {
    keys.clear();
    values.clear();
    let capacity = keys.capacity().min(values.capacity());
    let mut next = 0_u32;
    let mut attr = LookupBatch {
        in_batch: from.as_ref().map_or(0, |from| &raw const *from as u64),
        out_batch: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(capacity).unwrap_or(u32::MAX),
        map_fd: table.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: attr has the layout that the command reads and writes; the places are of four bytes, as
    // both kinds of tables have them; and at most `count` entries of the table's sizes are written,
    // for which both vectors have the capacity.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            &raw mut attr,
            size_of::<LookupBatch>(),
        )
    };
    let is_last = match (result, io::Error::last_os_error()) {
        (0.., _) => false,
        (_, error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        (_, error) => return Err(error),
    };
    let count = (attr.count as usize).min(capacity);
    // SAFETY: the kernel wrote so many, and any bytes are a value of either type.
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    Ok((!is_last).then_some(next))
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
