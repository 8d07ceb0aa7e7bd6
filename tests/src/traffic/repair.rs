//! Sockets under `TCP_REPAIR`: sequence numbers of one's choice, and connections without a handshake.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};

use crate::{socket, sys};

/// `TCP_RECV_QUEUE` and `TCP_SEND_QUEUE` of linux/tcp.h.
const RECEIVE_QUEUE: libc::c_int = 1;
const SEND_QUEUE: libc::c_int = 2;
/// Ends the repair without sending a window probe.
const TCP_REPAIR_OFF_NO_WP: libc::c_int = -1;

/// Lets a socket begin with this sequence number.
pub(super) fn begin_at(socket: &OwnedFd, sequence: u32) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR, 1)?;
    set_queue(socket, SEND_QUEUE, sequence)?;
    set(socket, libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
}

/// A socket of a connection that exists without a handshake, with the next sequence numbers that it sends
/// and receives. It is silent until [`speak`].
pub(super) fn restore(
    from: SocketAddr,
    to: SocketAddr,
    sequences: (u32, u32),
) -> io::Result<OwnedFd> {
    let socket = socket::stream(from)?;
    set(&socket, libc::TCP_REPAIR, 1)?;
    set_queue(&socket, SEND_QUEUE, sequences.0)?;
    set_queue(&socket, RECEIVE_QUEUE, sequences.1)?;
    sys::bind(&socket, from)?;
    sys::connect(&socket, to)?;
    // What a handshake would have agreed on.
    const SEGMENT: u32 = 1460;
    const WINDOW_SCALE: u32 = 7;
    sys::set_repaired_options(&socket, SEGMENT, WINDOW_SCALE)?;
    Ok(socket)
}

/// Ends the repair of a socket.
pub(super) fn speak(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR, 0)
}

/// The sequence number that a connected socket sends next.
pub(super) fn next_sequence(socket: &impl AsFd) -> io::Result<u32> {
    set(socket, libc::TCP_REPAIR, 1)?;
    set(socket, libc::TCP_REPAIR_QUEUE, SEND_QUEUE)?;
    let sequence = sys::option(socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ)?;
    set(socket, libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)?;
    Ok(sequence.cast_unsigned())
}

fn set_queue(socket: &OwnedFd, queue: libc::c_int, sequence: u32) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR_QUEUE, queue)?;
    set(socket, libc::TCP_QUEUE_SEQ, sequence.cast_signed())
}

fn set(socket: &impl AsFd, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    sys::set_option(socket, libc::IPPROTO_TCP, name, value)
}
