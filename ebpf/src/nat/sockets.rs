//! Sockets of this host that stand in the way of a connection.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_sock_tuple},
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_sock},
};
use truename_common::{
    layout::{FiveTuple, TCP},
    nat,
};

use super::segment;
use crate::{
    packet::{fragment, tcp_flag},
    scratch::Headers,
};

/// Which end of a connection, as the target sees it, is this host's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Target,
    Source,
    Elsewhere,
    /// None: the host has a socket where the client sees the alias.
    Alias,
}

/// Whether the packet is the first one of a connection.
#[inline(always)]
pub fn is_first(headers: &Headers) -> bool {
    headers.fragment != fragment::LATER && nat::is_first(headers.protocol, segment(headers))
}

/// Whether the host's stack has a socket for another connection with this key. At the target's end even
/// one in TIME_WAIT: a SYN with other sequence numbers would be answered with an old acknowledgement. At
/// the source's end it is the host's own connection to the target, whose answers would be taken for the
/// other's.
#[inline(always)]
pub fn has_socket(skb: *mut __sk_buff, headers: &Headers, key: &FiveTuple, end: End) -> bool {
    const LISTEN: u32 = 10;
    let is_udp = key.protocol != TCP;
    // Of the packet that the socket would receive: its source first.
    let (from, from_port, to, to_port) = match end {
        End::Target | End::Alias if !is_udp => (
            &key.client,
            key.client_port,
            &key.endpoint,
            key.endpoint_port,
        ),
        End::Source => (
            &key.endpoint,
            key.endpoint_port,
            &key.client,
            key.client_port,
        ),
        // One socket serves all clients over UDP.
        _ => return false,
    };
    let mut tuple = [0u8; 36];
    let ([a, b], [c, d]) = (from_port.to_be_bytes(), to_port.to_be_bytes());
    let len = if from.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]) {
        tuple[..4].copy_from_slice(&from[12..]);
        tuple[4..8].copy_from_slice(&to[12..]);
        tuple[8..12].copy_from_slice(&[a, b, c, d]);
        12
    } else {
        tuple[..16].copy_from_slice(from);
        tuple[16..32].copy_from_slice(to);
        tuple[32..].copy_from_slice(&[a, b, c, d]);
        36
    };
    let tuple = tuple.as_mut_ptr().cast::<bpf_sock_tuple>();
    // SAFETY: the tuple has `len` bytes. The socket that is returned is released on every way. It is looked
    // for in the network namespace of the packet's device (BPF_F_CURRENT_NETNS).
    unsafe {
        if is_udp {
            let socket = bpf_sk_lookup_udp(skb.cast(), tuple, len, u64::MAX, 0);
            if socket.is_null() {
                return false;
            }
            bpf_sk_release(socket.cast());
            return true;
        }
        let socket = bpf_skc_lookup_tcp(skb.cast(), tuple, len, u64::MAX, 0);
        if socket.is_null() {
            return false;
        }
        let is_its = end == End::Target && expects(socket, headers);
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state != LISTEN && !is_its
    }
}

/// Whether a socket may be that of a segment, which is not the first one of its connection.
///
/// # Safety
/// The socket is one that a helper found, and not released.
#[inline(always)]
unsafe fn expects(socket: *mut bpf_sock, headers: &Headers) -> bool {
    const WINDOW: u32 = 1 << 16;
    let is_near = |a: u32, b: u32| a.wrapping_sub(b).wrapping_add(WINDOW) < 2 * WINDOW;
    if is_first(headers) || !headers.has(tcp_flag::ACK) {
        return false;
    }
    // SAFETY: as the caller says; the helper answers null for one that is not connected.
    unsafe {
        let tcp = bpf_tcp_sock(socket);
        !tcp.is_null()
            && is_near(headers.seq, (*tcp).rcv_nxt)
            && is_near(headers.ack, (*tcp).snd_una)
    }
}
