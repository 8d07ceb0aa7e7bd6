//! The parts of the translator as global functions, each of which the verifier checks once; see
//! [`crate::rpc::stages`].
//!
//! All take the working memory from its table, as it is key and value of other tables.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_action},
    programs::XdpContext,
};

use truename_common::layout::Conntrack;

use super::{allocate, conntrack, entry, forward, icmp, icmp_error, receive, room};
use crate::{
    bpf::helper::changed,
    maps::{CONNTRACK, SETTINGS},
    packet::{DROP, NEXT},
    scratch::{Headers, Scratch, scratch},
};

/// What [`tn_route`] returns when the packet can go on; no verdict of the kernel's.
const GO_ON: i32 = i32::MIN;

macro_rules! stage {
    ($(#[$doc:meta])* $name:ident, $global:ident, $function:path) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(skb: *mut __sk_buff, _: &mut Scratch) -> i32 {
            $global(skb)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $global(skb: *mut __sk_buff) -> i32 {
            // SAFETY: the only caller lends it.
            let Some(scratch) = (unsafe { scratch() }) else {
                return NEXT;
            };
            $function(skb, scratch)
        }
    };
}

stage!(
    /// [`super::from_client`].
    from_client, tn_from_client, super::from_client
);
stage!(
    /// [`super::to_client`].
    to_client, tn_to_client, super::to_client
);
stage!(
    /// [`super::direct`].
    direct, tn_direct, super::direct
);
stage!(
    /// [`icmp::from_client`].
    icmp_from_client, tn_icmp_from_client, icmp::from_client
);
stage!(
    /// [`icmp::to_client`].
    icmp_to_client, tn_icmp_to_client, icmp::to_client
);

stage!(
    /// [`conntrack::note_asked`].
    note_asked, tn_note_asked, conntrack::note_asked
);
stage!(
    /// [`conntrack::is_for_own_program`].
    is_for_own_program, tn_is_for_own_program, conntrack::is_for_own_program
);

stage!(
    /// [`conntrack::set_by_stack`].
    set_by_stack, tn_set_by_stack, conntrack::set_by_stack
);
stage!(
    /// [`receive::leaves`].
    leaves, tn_leaves, receive::leaves
);
stage!(
    /// [`forward::enter`].
    enter, tn_enter, forward::enter
);
stage!(
    /// [`forward::is_spoofed`].
    is_spoofed, tn_is_spoofed, forward::is_spoofed
);

/// [`forward::route`].
///
/// # Errors
/// What is returned to the kernel instead.
#[inline(always)]
pub fn route(skb: *mut __sk_buff, _: &mut Scratch) -> Result<(), i32> {
    match tn_route(skb) {
        GO_ON => Ok(()),
        verdict => Err(verdict),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tn_route(skb: *mut __sk_buff) -> i32 {
    // SAFETY: `route`, the only caller, lends it.
    let Some(scratch) = (unsafe { scratch() }) else {
        return DROP;
    };
    match forward::route(skb, scratch) {
        Ok(()) => GO_ON,
        Err(verdict) => verdict,
    }
}

/// [`allocate::allocate`]. Returns a [`conntrack::Outcome`]: the compiler may think that the working memory is as it was
/// before the call.
#[inline(always)]
pub fn create(skb: *mut __sk_buff, _: &mut Scratch, flags: u32) -> u32 {
    tn_create(skb, flags) as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tn_create(skb: *mut __sk_buff, flags: u32) -> i32 {
    // SAFETY: `create`, the only caller, lends it.
    let (Some(scratch), Some(settings)) = (unsafe { scratch() }, SETTINGS.get(0)) else {
        return 0;
    };
    allocate::allocate(skb, scratch, settings, flags as u8);
    scratch.nat.outcome as i32
}

/// [`entry::note_segment`].
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
    i32::from(entry::note_segment(connection, headers, from_client != 0))
}

/// [`entry::is_overdue`].
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
    i32::from(entry::is_overdue(unsafe { &*connection }))
}

/// [`conntrack::find`]; `nat.key` is the connection's key.
#[inline(always)]
pub fn find(scratch: &mut Scratch) -> Option<*mut Conntrack> {
    changed(&mut scratch.nat);
    let is_found = tn_find_connection() != 0;
    changed(&mut scratch.nat);
    if is_found {
        CONNTRACK.get_ptr_mut(&scratch.nat.key)
    } else {
        None
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tn_find_connection() -> i32 {
    // SAFETY: `find`, the only caller, lends it.
    let (Some(scratch), Some(settings)) = (unsafe { scratch() }, SETTINGS.get(0)) else {
        return 0;
    };
    i32::from(conntrack::find(scratch, settings).is_some())
}

/// [`conntrack::has_others`].
#[inline(always)]
pub fn has_others(scratch: &mut Scratch) -> bool {
    changed(&mut scratch.nat);
    let has_others = tn_has_others() != 0;
    changed(&mut scratch.nat);
    has_others
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tn_has_others() -> i32 {
    // SAFETY: `has_others`, the only caller, lends it.
    let (Some(scratch), Some(settings)) = (unsafe { scratch() }, SETTINGS.get(0)) else {
        return 0;
    };
    i32::from(conntrack::has_others(&mut scratch.nat, settings))
}

/// [`room::make_room`].
#[inline(always)]
pub fn make_room(_: &mut Scratch) -> bool {
    tn_make_room() != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tn_make_room() -> i32 {
    // SAFETY: `make_room`, the only caller, lends it.
    let (Some(scratch), Some(settings)) = (unsafe { scratch() }, SETTINGS.get(0)) else {
        return 0;
    };
    // SAFETY: it is that of the working memory.
    i32::from(unsafe { room::make_room(&raw mut scratch.nat.removal, settings) })
}

/// [`icmp_error::answer`].
#[inline(always)]
pub fn answer(skb: *mut __sk_buff, _: &mut Scratch, what: u32) -> i32 {
    tn_answer(skb, what)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tn_answer(skb: *mut __sk_buff, what: u32) -> i32 {
    // SAFETY: `answer`, the only caller, lends it.
    let Some(scratch) = (unsafe { scratch() }) else {
        return DROP;
    };
    icmp_error::answer(skb, scratch, what)
}

/// [`super::xdp::forward`].
#[inline(always)]
pub fn xdp(ctx: &XdpContext) -> u32 {
    // SAFETY: no other call of this packet precedes.
    match unsafe { scratch() } {
        Some(scratch) => super::xdp::forward(ctx, scratch),
        None => xdp_action::XDP_PASS,
    }
}
