//! Sockets that std cannot make: bound before they connect, and never blocking for ever.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use crate::sys;

/// An exchange that takes longer has stalled.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A TCP socket of the family of `address`, which may use a port in `TIME_WAIT` again; `connect` on it is
/// bounded.
pub(crate) fn stream(address: SocketAddr) -> io::Result<OwnedFd> {
    let domain = if address.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let socket = sys::socket(domain, libc::SOCK_STREAM, 0)?;
    sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    sys::set_timeout(&socket, libc::SO_SNDTIMEO, DEADLINE)?;
    Ok(socket)
}

/// A TCP listener; `accept` on it is bounded.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = stream(address)?;
    sys::bind(&socket, address)?;
    sys::listen(&socket, 128)?;
    sys::set_timeout(&socket, libc::SO_RCVTIMEO, DEADLINE)?;
    Ok(TcpListener::from(socket))
}

/// Connects from a given address and port; port 0 is any.
pub(crate) fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = stream(to)?;
    sys::bind(&socket, from)?;
    sys::connect(&socket, to)?;
    Ok(TcpStream::from(socket))
}
