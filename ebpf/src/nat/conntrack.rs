//! Finding connections.

use core::ptr;

use aya_ebpf::bindings::__sk_buff;
use truename_common::{
    layout::{
        Conntrack, ConntrackState, Counter, Settings, Socket, TCP, conntrack_flags,
        conntrack_marks, service_flags, settings_flags, target_flags,
    },
    nat::{self, Choice, MAX_PORT_TRIES},
    wire::steps::Steps,
};

use super::{
    allocate,
    candidate::{Outcome, of_original, set_key},
    entry::now,
    forward, receive, room, route, segment,
    sockets::{End, has_socket, is_first},
};
use crate::{
    bpf::repeat::repeat,
    maps::{ASKED, CONNTRACK, PORT_BITMAP, SERVICES, SETTINGS, count},
    nat::tables::{KernelTables, target},
    packet::{fragment, is_loopback_address},
    scratch::{Nat, Scratch},
};

/// The connection of a packet from a client to `nat.service`, a new one if it begins one. `nat.key`
/// becomes its key.
#[inline(always)]
pub fn of_client(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    settings: &Settings,
) -> Option<*mut Conntrack> {
    scratch.nat.by_stack = 0;
    if settings.flags & settings_flags::HONOUR != 0 {
        global::set_by_stack(skb, scratch);
    }
    let headers = &scratch.headers;
    let begins = headers.fragment != fragment::LATER
        && nat::begins(&scratch.nat.service, headers.protocol, segment(headers));
    let Some(entry) = find(scratch, settings).filter(|entry| !is_left(*entry, scratch)) else {
        if !begins {
            scratch.nat.outcome = Outcome::NotBeginning as u32;
            return None;
        }
        if receive::is_from_outside(skb, settings) && is_loopback_address(&scratch.headers.source) {
            count(Counter::NatStrangers, 1);
            scratch.nat.outcome = Outcome::Elsewhere as u32;
            return None;
        }
        if receive::is_from_outside(skb, settings) && forward::global::is_spoofed(skb, scratch) != 0
        {
            count(Counter::NatStrangers, 1);
            scratch.nat.outcome = Outcome::Elsewhere as u32;
            return None;
        }
        if global::is_for_own_program(skb, scratch) != 0 {
            scratch.nat.outcome = Outcome::Elsewhere as u32;
            return None;
        }
        let nat = &mut scratch.nat;
        if !set_target(nat, Choice::Current) {
            nat.outcome = Outcome::NoTarget as u32;
            return None;
        }
        if nat.target.flags & target_flags::LOCAL == 0 && route::is_vlan(skb, &scratch.headers) {
            scratch.nat.outcome = Outcome::Elsewhere as u32;
            return None;
        }
        return create(skb, scratch, 0);
    };
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let is_local = unsafe { (*entry).flags } & conntrack_flags::LOCAL != 0;
    if !is_local && route::is_vlan(skb, &scratch.headers) {
        scratch.nat.outcome = Outcome::Elsewhere as u32;
        return None;
    }
    Some(entry)
}

/// Notes whether the host's stack would forward the packet.
#[inline(always)]
pub fn set_by_stack(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return 0;
    };
    let is_honoured = settings.flags & settings_flags::HONOUR != 0;
    scratch.nat.by_stack = u32::from(is_honoured && receive::is_from_outside(skb, settings));
    0
}

/// Notes that a program of this host sends a datagram, if it does so from the socket of an alias.
#[inline(always)]
pub fn note_asked(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    /// How old a note may become before it is written again.
    const STALE_NS: u64 = 1 << 30;
    if !route::is_own(skb) {
        return 0;
    }
    // A translated answer of a service has the alias' port, too.
    let is_seen = SETTINGS
        .get(0)
        .is_none_or(|settings| receive::was_seen(skb, settings));
    if is_seen {
        return 0;
    }
    let Scratch { headers, nat, .. } = scratch;
    headers.tuple(&mut nat.original);
    super::swap(&mut nat.original);
    let alias: Socket = nat.original.endpoint();
    let now_ns = now();
    // SAFETY: the value is a number; an entry that is used again meanwhile is another's note, no worse than none.
    let is_fresh = unsafe { ASKED.get(&nat.original) }
        .is_some_and(|asked_ns| now_ns.wrapping_sub(*asked_ns) < STALE_NS);
    // SAFETY: only whether there is one is asked.
    if !is_fresh && unsafe { SERVICES.get(&alias) }.is_some() {
        nat.now_ns = now_ns;
        let _ = ASKED.insert(&nat.original, &nat.now_ns, 0);
    }
    0
}

/// Whether the packet, which may begin a connection, belongs to what a program of this host does with the alias'
/// socket: over UDP the answer to what it asked, over TCP a segment of its connection. 1 if so.
#[inline(always)]
pub fn is_for_own_program(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    i32::from(
        SETTINGS
            .get(0)
            .is_some_and(|settings| is_own_programs(skb, scratch, settings)),
    )
}

#[inline(always)]
fn is_own_programs(skb: *mut __sk_buff, scratch: &Scratch, settings: &Settings) -> bool {
    let Scratch { headers, nat, .. } = scratch;
    if nat.service.flags & service_flags::UNASSIGNED != 0 {
        return false;
    }
    if headers.protocol == TCP {
        return !is_first(headers) && has_socket(skb, headers, &nat.original, End::Alias);
    }
    let seconds = settings.timeouts[ConntrackState::Unreplied as usize];
    // SAFETY: as in `note_asked`.
    unsafe { ASKED.get(&nat.original) }
        .is_some_and(|asked_ns| now().wrapping_sub(*asked_ns) < u64::from(seconds) * 1_000_000_000)
}

/// Whether the packet begins a new connection in place of this one, whose target the service does not choose
/// any more. The entry is removed.
#[inline(always)]
fn is_left(entry: *mut Conntrack, scratch: &Scratch) -> bool {
    let nat = &scratch.nat;
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let state = unsafe { (*entry).state };
    let choice = match nat.choice {
        0 => Choice::Moved,
        1 => Choice::Current,
        _ => Choice::Previous,
    };
    if !nat::is_left(state, choice) || !is_first(&scratch.headers) {
        return false;
    }
    let _ = CONNTRACK.remove(&nat.key);
    true
}

/// The existing connection of a client; `nat.original` is what it sees.
#[inline(always)]
pub fn find(scratch: &mut Scratch, settings: &Settings) -> Option<*mut Conntrack> {
    scratch.nat.hash = nat::hash(&scratch.nat.original);
    for choice in Choice::ALL {
        let nat = &mut scratch.nat;
        if set_target(nat, choice) {
            nat.choice = choice as u32;
            set_key(nat, settings, 0);
            let mut entry = of_original(nat);
            if entry.is_none() {
                entry = others(scratch);
            }
            if entry.is_some() {
                return entry;
            }
        }
    }
    None
}

/// The client's connection to `nat.target`, if it has another source port than the first candidate.
#[inline(always)]
fn others(scratch: &mut Scratch) -> Option<*mut Conntrack> {
    if tried(scratch.nat.hash) <= nat::TRIED_DIRECT || !global::has_others(scratch) {
        return None;
    }
    CONNTRACK.get_ptr_mut(&scratch.nat.key)
}

/// The candidates that connections with such a hash were given, a bit each.
#[inline(always)]
fn tried(hash: u64) -> u32 {
    let half = |half| {
        PORT_BITMAP
            .get(nat::tried_position(hash, half))
            .map_or(0, |bits| *bits)
    };
    half(0) | half(1)
}

/// Makes `nat.target` the one that `choice` gives the connection.
#[inline(always)]
fn set_target(nat: &mut Nat, choice: Choice) -> bool {
    let number = nat::choose_number(&KernelTables, &nat.service, choice, &nat.original, nat.hash);
    match number.and_then(target) {
        Some(target) => {
            nat.target = *target;
            // Of one elsewhere. Without a branch, which the verifier would follow for every choice.
            const { assert!(target_flags::SNAT == target_flags::LOCAL << 1) };
            let elsewhere = !(target.flags << 1);
            nat.target.flags &= !((nat.by_stack as u16 * target_flags::SNAT) & elsewhere);
            true
        }
        None => false,
    }
}

/// The connection of a packet that goes directly to a target: only if it had to give up its source port.
#[inline(always)]
pub fn of_direct(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    settings: &Settings,
) -> Option<*mut Conntrack> {
    // Connections through aliases leave many bits, and most packets to a target are of neither kind.
    if tried(scratch.nat.hash) & nat::TRIED_DIRECT != 0 {
        let entry = others(scratch);
        if entry.is_some() {
            // Else it is a translated packet of the connection whose port this one had.
            return entry.filter(|_| !receive::was_seen(skb, settings));
        }
    }
    if !is_first(&scratch.headers) {
        return None;
    }
    let nat = &mut scratch.nat;
    let taken = CONNTRACK.get_ptr_mut(&nat.original)?;
    // SAFETY: the pointer is to a map value, valid until the program ends.
    if nat::is_replaceable(unsafe { &*taken }, settings, now()) {
        // Its answers would be taken for the other connection's.
        let _ = CONNTRACK.remove(&nat.original);
        return None;
    }
    if receive::was_seen(skb, settings) {
        return None;
    }
    // SAFETY: as above; the bit is only ever set.
    unsafe { (*taken).marks |= conntrack_marks::TWIN };
    nat.by_stack = 0;
    nat.service.id = u32::MAX;
    create(skb, scratch, conntrack_flags::DIRECT)
}

/// Looks through the candidates that were given, all but the first. 1 if one is the client's connection to `nat.target`;
/// `nat.key` is then its key.
#[inline(always)]
pub fn has_others(nat: &mut Nat, settings: &Settings) -> bool {
    nat.tried = tried(nat.hash);
    nat.index = 1;
    nat.outcome = Outcome::NotBeginning as u32;
    let mut search = Search {
        nat: ptr::from_mut(nat),
        settings,
    };
    repeat(&mut search, MAX_PORT_TRIES - 1);
    nat.outcome == Outcome::Found as u32
}

/// A step of [`has_others`].
struct Search<'a> {
    nat: *mut Nat,
    settings: &'a Settings,
}

impl Steps for Search<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        // SAFETY: `has_others` lends it for the loop.
        let nat = unsafe { &mut *self.nat };
        let index = nat.index;
        nat.index += 1;
        if nat.tried & (1 << (index & 31)) == 0 {
            return true;
        }
        set_key(nat, self.settings, index);
        if of_original(nat).is_some() {
            nat.outcome = Outcome::Found as u32;
            return false;
        }
        true
    }
}

/// A new connection to `nat.target`, with the first candidate source port that is free.
#[inline(always)]
fn create(skb: *mut __sk_buff, scratch: &mut Scratch, flags: u8) -> Option<*mut Conntrack> {
    let mut outcome = allocate::global::create(skb, scratch, u32::from(flags));
    if outcome == Outcome::TableFull as u32 && room::global::make_room(scratch) {
        outcome = allocate::global::create(skb, scratch, u32::from(flags));
    }
    let nat = &mut scratch.nat;
    nat.outcome = outcome;
    if outcome != Outcome::Found as u32 {
        return None;
    }
    CONNTRACK.get_ptr_mut(&nat.key)
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use truename_common::layout::Conntrack;

    use crate::{
        bpf::{global::part, helper::changed},
        maps::{CONNTRACK, SETTINGS},
        scratch::{Scratch, scratch},
    };

    part!(
        /// [`super::note_asked`].
        note_asked, tn_note_asked, super::note_asked
    );
    part!(
        /// [`super::is_for_own_program`].
        is_for_own_program, tn_is_for_own_program, super::is_for_own_program
    );
    part!(
        /// [`super::set_by_stack`].
        set_by_stack, tn_set_by_stack, super::set_by_stack
    );

    /// [`super::find`]; `nat.key` is the connection's key.
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
        i32::from(super::find(scratch, settings).is_some())
    }

    /// [`super::has_others`].
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
        i32::from(super::has_others(&mut scratch.nat, settings))
    }
}
