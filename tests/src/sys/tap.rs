//! TAP devices: the other end of a network interface is a file of this process.

use std::{fs::File, io, os::fd::AsRawFd as _, os::unix::fs::OpenOptionsExt as _};

use super::{check, interface_request};

/// Length of the `virtio_net_hdr` in front of every frame.
pub(crate) const VIRTIO_HEADER: usize = 10;

/// Makes the interface `name` in the thread's namespace. Frames are read from the file and written to it
/// without blocking, each behind a `virtio_net_hdr`. With `segmentation`, the stack hands over TCP packets
/// of up to 64 KiB and leaves checksums open; without, segments as they are on a wire.
pub(crate) fn tap(name: &str, segmentation: bool) -> io::Result<File> {
    /// `TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6` and `TUN_F_TSO_ECN` of linux/if_tun.h.
    const OFFLOADS: libc::c_ulong = 1 | 2 | 4 | 8;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the request has the layout of TUNSETIFF and lives for the whole call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    let offloads = if segmentation { OFFLOADS } else { 0 };
    // SAFETY: TUNSETOFFLOAD takes an integer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, offloads) })?;
    Ok(file)
}

/// Gives a TAP device that is down this `ARPHRD_*`.
pub(crate) fn set_link_type(tap: &File, kind: u16) -> io::Result<()> {
    /// Of linux/if_tun.h.
    const TUNSETLINK: libc::c_ulong = 0x4004_54cd;
    let kind = libc::c_ulong::from(kind);
    // SAFETY: TUNSETLINK takes an integer.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETLINK as _, kind) }).map(drop)
}
