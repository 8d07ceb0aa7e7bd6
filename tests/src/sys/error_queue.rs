//! What the network said about a socket's packets (`IP_RECVERR`).

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd as _},
};

/// An ICMP error as a socket gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError {
    /// The error that the next call gives.
    pub errno: i32,
    /// Type of the ICMP message.
    pub kind: u8,
    /// Code of the ICMP message.
    pub code: u8,
    /// The MTU, if that is what it is about.
    pub info: u32,
    /// Who sent the message.
    pub offender: Option<IpAddr>,
}

/// Takes the oldest error of a socket; an error of kind `WouldBlock` if there is none.
pub(crate) fn take_error(socket: &impl AsFd) -> io::Result<NetworkError> {
    // The kernel gives back the packet as well: its bytes are not wanted, but need a place.
    let mut packet = [0_u8; 64];
    let mut part = libc::iovec {
        iov_base: packet.as_mut_ptr().cast(),
        iov_len: packet.len(),
    };
    // u64: aligned for control messages.
    let mut control = [0_u64; 64];
    // SAFETY: msghdr is integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message and all that it points to live for the whole call, with the sizes it names.
    let result = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &raw mut message,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled the message; its control buffer is still there.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: the macros give null or a header within the buffer.
    while let Some(header) = unsafe { next.as_ref() } {
        if matches!(
            (header.cmsg_level, header.cmsg_type),
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        ) {
            // SAFETY: a message of this type holds the error, followed by the offender's address.
            return Ok(unsafe { network_error(libc::CMSG_DATA(header).cast()) });
        }
        // SAFETY: `header` is one of the message's.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Err(io::Error::other("an error without a cause"))
}

/// # Safety
/// An address of the family that it names follows the error.
unsafe fn network_error(at: *const libc::sock_extended_err) -> NetworkError {
    // SAFETY: the caller vouches for it; the buffer may not be aligned for it.
    let error = unsafe { at.read_unaligned() };
    let behind = at.wrapping_add(1);
    // SAFETY: every address begins with its family.
    let family = unsafe { behind.cast::<libc::sa_family_t>().read_unaligned() };
    let offender = match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: it is an IPv4 address.
            let address = unsafe { behind.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: it is an IPv6 address.
            let address = unsafe { behind.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    };
    NetworkError {
        errno: error.ee_errno.cast_signed(),
        kind: error.ee_type,
        code: error.ee_code,
        info: error.ee_info,
        offender,
    }
}
