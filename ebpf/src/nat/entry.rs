//! What packets of a connection say about it, and what its entry says about packets.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use truename_common::{
    layout::{Conntrack, ConntrackState, FiveTuple, TCP},
    nat::{self, Numbers},
};

use super::segment;
use crate::{
    bpf::atomic,
    packet::fragment,
    scratch::{Headers, Scratch},
};

/// Notes the numbers of the segment, and whether it resets the connection; see [`nat::note_segment`].
#[inline(always)]
pub fn note_segment(connection: &mut Conntrack, headers: &Headers, from_client: bool) -> bool {
    let numbers = Numbers {
        seq: headers.seq,
        len: headers.payload_len,
        ack: headers.ack,
    };
    nat::note_segment(connection, from_client, segment(headers), numbers)
}

/// Notes a packet of a connection; the connection's flags.
#[inline(always)]
pub fn touch(entry: *mut Conntrack, scratch: &Scratch, from_client: bool) -> u8 {
    /// How old a time may become before it is written: another CPU may be reading it.
    const STALE_NS: u64 = 1 << 27;
    // SAFETY: the pointer is to a map value, valid until the program ends. Another CPU may write the
    // same fields: a lost update of a state is made up for by the next packet.
    let connection = unsafe { &mut *entry };
    let headers = &scratch.headers;
    if headers.protocol == TCP
        && headers.fragment != fragment::LATER
        && !global::note_segment(connection, headers, from_client)
    {
        return connection.flags;
    }
    let (state, flags) = nat::advance(
        headers.protocol,
        connection.state,
        connection.flags,
        from_client,
        segment(headers),
    );
    if state != connection.state {
        connection.state = state;
    }
    if flags != connection.flags {
        connection.flags = flags;
    }
    let now_ns = now();
    if now_ns.wrapping_sub(connection.seen_ns) > STALE_NS {
        connection.seen_ns = now_ns;
    }
    let bytes = if from_client {
        &raw mut connection.sent
    } else {
        &raw mut connection.received
    };
    atomic::add(bytes, u64::from(headers.network_len));
    flags
}

/// Whether the target has had time to answer the connection, and did not: as long as Linux asks for a neighbour.
#[inline(always)]
pub fn is_overdue(entry: &Conntrack) -> bool {
    const PATIENCE_S: u32 = 2;
    let now_s = || (now() / 1_000_000_000) as u32;
    is_unanswered(entry) && now_s().wrapping_sub(entry.created_s) >= PATIENCE_S
}

/// Whether the target has not answered the connection.
#[inline(always)]
pub fn is_unanswered(entry: &Conntrack) -> bool {
    entry.state == ConntrackState::SynSent as u8 || entry.state == ConntrackState::Unreplied as u8
}

/// Whether a packet is one that XDP leaves to tc, so that the kernel looks after the neighbour.
#[inline(always)]
pub fn is_turn(entry: *mut Conntrack, from_client: bool) -> bool {
    // SAFETY: the pointer is to a map value, valid until the program ends. A turn that another CPU takes at the same time
    // is one packet more or less in tc.
    let marks = unsafe { &mut (*entry).marks };
    let taken = nat::take_turn(*marks, from_client, now());
    let is_turn = taken != *marks;
    if is_turn {
        *marks = taken;
    }
    is_turn
}

/// What a reply of the connection becomes: from the alias to the client.
#[inline(always)]
pub fn towards_client(entry: *const Conntrack, to: &mut FiveTuple, protocol: u8) {
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let entry = unsafe { &*entry };
    to.client = entry.alias;
    to.endpoint = entry.client;
    to.client_port = entry.alias_port;
    to.endpoint_port = entry.client_port;
    to.protocol = protocol;
}

/// `CLOCK_MONOTONIC` nanoseconds, to a timer tick (Linux 5.11).
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper only reads the clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use truename_common::layout::Conntrack;

    use crate::scratch::Headers;

    /// [`super::note_segment`].
    #[inline(always)]
    pub fn note_segment(connection: &mut Conntrack, headers: &Headers, from_client: bool) -> bool {
        let connection = &raw mut *connection;
        tn_note_segment(connection, &raw const *headers, u32::from(from_client)) != 0
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn tn_note_segment(
        connection: *mut Conntrack,
        headers: *const Headers,
        from_client: u32,
    ) -> i32 {
        if connection.is_null() || headers.is_null() {
            return 1;
        }
        // SAFETY: `note_segment`, the only caller, lends both.
        let (connection, headers) = unsafe { (&mut *connection, &*headers) };
        i32::from(super::note_segment(connection, headers, from_client != 0))
    }

    /// [`super::is_overdue`].
    #[inline(always)]
    pub fn is_overdue(connection: *const Conntrack) -> u32 {
        tn_is_overdue(connection) as u32
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn tn_is_overdue(connection: *const Conntrack) -> i32 {
        if connection.is_null() {
            return 0;
        }
        // SAFETY: `is_overdue`, the only caller, lends it.
        i32::from(super::is_overdue(unsafe { &*connection }))
    }
}
