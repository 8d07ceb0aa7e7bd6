//! A kernel program of a few instructions, for what the kernel of a test machine lacks.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// `register = value`
    pub(crate) const fn set(register: u8, value: i32) -> Self {
        Self::new(0xb7, register, value)
    }

    /// `*(u32 *)(to + offset) = from`, of registers.
    pub(crate) const fn store(to: u8, offset: i16, from: u8) -> Self {
        Self {
            offset,
            ..Self::new(0x63, to | from << 4, 0)
        }
    }

    /// Calls a helper by its number.
    pub(crate) const fn call(helper: i32) -> Self {
        Self::new(0x85, 0, helper)
    }

    /// Ends the program with the value of register 0.
    pub(crate) const fn exit() -> Self {
        Self::new(0x95, 0, 0)
    }

    const fn new(code: u8, registers: u8, immediate: i32) -> Self {
        Self {
            code,
            registers,
            offset: 0,
            immediate,
        }
    }
}

/// Loads a classifier of tc and pins it.
pub(crate) fn pin_classifier(instructions: &[Instruction], path: &Path) -> io::Result<()> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_OBJ_PIN: libc::c_int = 6;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    /// The part of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
    }
    let load = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the attributes are those of the command; they, the instructions and the licence live for the call.
    let program = unsafe { bpf(BPF_PROG_LOAD, &load) }?;
    // SAFETY: the descriptor is new and owned by nobody else.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let pin = Pin {
        path: path.as_ptr() as u64,
        object: program.as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command; they and the path live for the call.
    unsafe { bpf(BPF_OBJ_PIN, &pin) }.map(drop)
}

/// Detaches a pinned link, which stays where it is pinned.
pub(crate) fn detach_link(path: &Path) -> io::Result<()> {
    const BPF_OBJ_GET: libc::c_int = 7;
    const BPF_LINK_DETACH: libc::c_int = 34;
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let pin = Pin {
        path: path.as_ptr() as u64,
        object: 0,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command; they and the path live for the call.
    let link = unsafe { bpf(BPF_OBJ_GET, &pin) }?;
    // SAFETY: the descriptor is new and owned by nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    // SAFETY: the command reads a descriptor, which is open.
    unsafe { bpf(BPF_LINK_DETACH, &link.as_raw_fd()) }.map(drop)
}

/// The part of `union bpf_attr` for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct Pin {
    path: u64,
    object: u32,
    flags: u32,
}

/// # Safety
/// `attributes` have the layout of `command`, and what they point to is there.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: see above.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, mem::size_of::<T>()) };
    super::check(result as libc::c_int)
}
