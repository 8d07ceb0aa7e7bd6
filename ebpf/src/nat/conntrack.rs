//! Finding and beginning connections.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST, bpf_sock, bpf_sock_tuple},
    helpers::generated::{
        bpf_for_each_map_elem, bpf_ktime_get_coarse_ns, bpf_map_delete_elem, bpf_sk_lookup_udp,
        bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_sock,
    },
};
use truename_common::{
    layout::{
        Conntrack, ConntrackState, Counter, FiveTuple, Settings, Socket, TCP, conntrack_flags,
        conntrack_marks, service_flags, settings_flags, target_flags,
    },
    nat::{self, Choice, Spare, TRIES},
    wire::stream::Steps,
};

use super::{Nat, forward, receive, segment, segment_of, stages};
use crate::{
    maps::{
        ASKED, CONNTRACK, KernelTables, SERVICES, SETTINGS, Scratch, TRIED, count, count_tries,
        scratch, target,
    },
    packet::{Headers, add, or, payload::repeat, tcp_flag},
};

/// How the search for a connection ended without one.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The packet begins none.
    NotBeginning = 0,
    /// The service has no target.
    NoTarget = 1,
    /// The table is full.
    TableFull = 2,
    /// No candidate source port is free.
    Exhausted = 3,
    /// Another hook has to translate this packet.
    Elsewhere = 4,
    /// There is one.
    Found = 5,
}

impl Outcome {
    #[inline(always)]
    pub fn from_number(number: u32) -> Self {
        match number {
            1 => Self::NoTarget,
            2 => Self::TableFull,
            3 => Self::Exhausted,
            4 => Self::Elsewhere,
            5 => Self::Found,
            _ => Self::NotBeginning,
        }
    }

    /// What counts connections refused for this.
    #[inline(always)]
    pub fn counter(self) -> Counter {
        match self {
            Self::NoTarget => Counter::NatNoTarget,
            Self::TableFull => Counter::NatTableFull,
            _ => Counter::NatPortsExhausted,
        }
    }
}

/// The connection of a packet from a client to `nat.service`, a new one if it begins one. `nat.key`
/// becomes its key.
#[inline(always)]
pub fn of_client(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    settings: &Settings,
) -> Option<*mut Conntrack> {
    stages::set_by_stack(skb, scratch);
    let headers = &scratch.headers;
    let begins = nat::begins(&scratch.nat.service, headers.protocol, segment(headers));
    let Some(entry) = find(scratch, settings).filter(|entry| !is_left(*entry, scratch)) else {
        if !begins {
            scratch.nat.outcome = Outcome::NotBeginning as u32;
            return None;
        }
        if receive::is_from_outside(skb, settings)
            && receive::is_loopback_address(&scratch.headers.source)
        {
            count(Counter::NatStrangers, 1);
            scratch.nat.outcome = Outcome::Elsewhere as u32;
            return None;
        }
        if receive::is_from_outside(skb, settings) && stages::is_spoofed(skb, scratch) != 0 {
            count(Counter::NatStrangers, 1);
            scratch.nat.outcome = Outcome::Elsewhere as u32;
            return None;
        }
        if stages::is_for_own_program(skb, scratch) != 0 {
            scratch.nat.outcome = Outcome::Elsewhere as u32;
            return None;
        }
        let nat = &mut scratch.nat;
        if !set_target(nat, Choice::Current) {
            nat.outcome = Outcome::NoTarget as u32;
            return None;
        }
        if nat.target.flags & target_flags::LOCAL == 0 && forward::is_vlan(skb, &scratch.headers) {
            scratch.nat.outcome = Outcome::Elsewhere as u32;
            return None;
        }
        return create(skb, scratch, 0);
    };
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let is_local = unsafe { (*entry).flags } & conntrack_flags::LOCAL != 0;
    if !is_local && forward::is_vlan(skb, &scratch.headers) {
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
    if !forward::is_own(skb) {
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
    let nat = &mut scratch.nat;
    nat.hash = nat::hash(&nat.original);
    nat.tried = TRIED.get(nat.hash as u16 as u32).map_or(0, |bits| *bits) | 1;
    for choice in Choice::ALL {
        if set_target(nat, choice) {
            nat.choice = choice as u32;
            let entry = candidates(nat, settings);
            if entry.is_some() {
                return entry;
            }
        }
    }
    None
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
    let nat = &mut scratch.nat;
    let tried = TRIED.get(nat.hash as u16 as u32).map_or(0, |bits| *bits);
    // Connections through aliases leave many bits, and most packets to a target are of neither kind.
    if tried & nat::TRIED_DIRECT != 0 {
        nat.tried = tried & !nat::TRIED_DIRECT;
        let entry = candidates(nat, settings);
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

/// Whether the packet is the first one of a connection.
#[inline(always)]
fn is_first(headers: &Headers) -> bool {
    nat::is_first(headers.protocol, segment(headers))
}

/// Looks through the candidates of `nat.tried` for the client's connection to `nat.target`.
#[inline(always)]
fn candidates(nat: &mut Nat, settings: &Settings) -> Option<*mut Conntrack> {
    if nat.tried & 1 != 0 {
        set_key(nat, settings, 0);
        if let Some(entry) = of_original(nat) {
            return Some(entry);
        }
    }
    if nat.tried & !1 == 0 {
        return None;
    }
    nat.index = 1;
    nat.outcome = Outcome::NotBeginning as u32;
    let mut search = Search {
        nat: ptr::from_mut(nat),
        settings,
    };
    repeat(&mut search, TRIES - 1);
    if nat.outcome == Outcome::Found as u32 {
        CONNTRACK.get_ptr_mut(&nat.key)
    } else {
        None
    }
}

/// Makes `nat.key` that of the `index`-th candidate.
#[inline(always)]
fn set_key(nat: &mut Nat, settings: &Settings, index: u32) {
    let Nat {
        key,
        original,
        target,
        ..
    } = nat;
    nat::set_key(key, original, target, settings, nat.hash, index);
}

/// The entry at `nat.key`, if it is the client's.
#[inline(always)]
fn of_original(nat: &Nat) -> Option<*mut Conntrack> {
    let entry = CONNTRACK.get_ptr_mut(&nat.key)?;
    // SAFETY: the pointer is to a map value, valid until the program ends; these fields never change
    // while it is in use, and a reused entry has others.
    let entry_ref = unsafe { &*entry };
    let original = &nat.original;
    let same = entry_ref.client == original.client
        && entry_ref.alias == original.endpoint
        && entry_ref.client_port == original.client_port
        && entry_ref.alias_port == original.endpoint_port;
    same.then_some(entry)
}

/// A step of [`candidates`].
struct Search<'a> {
    nat: *mut Nat,
    settings: &'a Settings,
}

impl Steps for Search<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        // SAFETY: `candidates` lends it for the loop.
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
    let mut outcome = stages::create(skb, scratch, u32::from(flags));
    if outcome == Outcome::TableFull as u32 && stages::make_room(scratch) {
        outcome = stages::create(skb, scratch, u32::from(flags));
    }
    let nat = &mut scratch.nat;
    nat.outcome = outcome;
    if outcome != Outcome::Found as u32 {
        return None;
    }
    CONNTRACK.get_ptr_mut(&nat.key)
}

/// See [`create`]; `nat.outcome` says how it went.
#[inline(always)]
pub fn allocate(skb: *mut __sk_buff, scratch: &mut Scratch, settings: &Settings, flags: u8) {
    let now_ns = now();
    let protocol = scratch.headers.protocol;
    let is_own = forward::is_own(skb);
    let Scratch { nat, .. } = &mut *scratch;
    let is_local = nat.target.flags & target_flags::LOCAL != 0;
    let mut flags = flags;
    if is_local {
        flags |= conntrack_flags::LOCAL;
    }
    if is_own && forward::is_loopback(skb, settings) {
        flags |= conntrack_flags::LOOPBACK;
    }
    let by_stack = (nat.by_stack as u8 & u8::from(!is_local)) * conntrack_marks::BY_STACK;
    nat.entry = Conntrack {
        client: nat.original.client,
        alias: nat.original.endpoint,
        client_port: nat.original.client_port,
        alias_port: nat.original.endpoint_port,
        service: nat.service.id,
        seen_ns: now_ns,
        sent: 0,
        received: 0,
        created_s: (now_ns / 1_000_000_000) as u32,
        state: if protocol == TCP {
            ConntrackState::SynSent as u8
        } else {
            ConntrackState::Unreplied as u8
        },
        flags,
        tries: 0,
        marks: nat::take_turn(nat::take_turn(by_stack, true, now_ns), false, now_ns),
    };
    nat.now_ns = now_ns;
    // A direct connection comes here because its own port is taken.
    nat.index = u32::from(flags & conntrack_flags::DIRECT != 0);
    nat.is_pressed = 0;
    nat.outcome = Outcome::Exhausted as u32;
    let end = if is_local {
        End::Target
    } else if nat.target.flags & target_flags::SNAT != 0 {
        End::Source
    } else {
        End::Elsewhere
    };
    let mut allocation = Allocation {
        skb,
        scratch: ptr::from_mut(scratch),
        settings,
        end,
    };
    // A candidate whose leftover was removed is tried again; so are all if none is free.
    repeat(&mut allocation, 3 * TRIES);
    let nat = &scratch.nat;
    let tries = match Outcome::from_number(nat.outcome) {
        Outcome::Found => u32::from(nat.entry.tries),
        Outcome::Exhausted => TRIES,
        _ => return,
    };
    count_tries(tries);
    if tries < TRIES {
        count(Counter::NatNew, 1);
        if tries > 0 && is_local {
            count(Counter::NatRemapped, 1);
        }
    }
}

/// A step of [`allocate`].
struct Allocation<'a> {
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    settings: &'a Settings,
    end: End,
}

/// Which end of a connection, as the target sees it, is this host's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Target,
    Source,
    Elsewhere,
    /// None: the host has a socket where the client sees the alias.
    Alias,
}

impl Steps for Allocation<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        // SAFETY: `allocate` lends it for the loop.
        let Scratch { headers, nat, .. } = unsafe { &mut *self.scratch };
        let index = nat.index;
        if index >= TRIES {
            if nat.is_pressed != 0 {
                return false;
            }
            // All over again, and harder.
            nat.is_pressed = 1;
            nat.index = u32::from(nat.entry.flags & conntrack_flags::DIRECT != 0);
            return true;
        }
        nat.index += 1;
        set_key(nat, self.settings, index);
        if has_socket(self.skb, headers, &nat.key, self.end) {
            return true;
        }
        nat.entry.tries = index as u8;
        nat.entry.flags &= !(conntrack_flags::SNAT | conntrack_flags::MASKED);
        if nat.key.client_port != nat.original.client_port || nat.key.client != nat.original.client
        {
            nat.entry.flags |= conntrack_flags::SNAT;
        }
        if nat.key.client != nat.original.client {
            nat.entry.flags |= conntrack_flags::MASKED;
        }
        if index > 0
            && let Some(bits) = TRIED.get_ptr_mut(nat.hash as u16 as u32)
        {
            // Before the entry exists, so that no packet can miss it.
            let is_direct = nat.entry.flags & conntrack_flags::DIRECT != 0;
            or(
                bits,
                (1 << (index & 31)) | (u32::from(is_direct) * nat::TRIED_DIRECT),
            );
        }
        match CONNTRACK.insert(&nat.key, &nat.entry, u64::from(BPF_NOEXIST)) {
            Ok(()) => nat.outcome = Outcome::Found as u32,
            Err(EEXIST) => return taken(nat, self.settings),
            Err(_) => nat.outcome = Outcome::TableFull as u32,
        }
        false
    }
}

const EEXIST: i32 = -17;

/// What to do about an entry that has the wanted key: true to go on to the next candidate.
#[inline(always)]
fn taken(nat: &mut Nat, settings: &Settings) -> bool {
    if of_original(nat).is_some() {
        // Another CPU has a copy of the same packet.
        nat.outcome = Outcome::Found as u32;
        return false;
    }
    let Some(entry) = CONNTRACK.get_ptr(&nat.key) else {
        return true;
    };
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let entry = unsafe { &*entry };
    let gives_way = nat.is_pressed != 0 && nat::gives_way(entry, nat.now_ns);
    if gives_way || nat::is_replaceable(entry, settings, nat.now_ns) {
        // A leftover that the agent has not collected yet. The candidate is tried once more.
        let _ = CONNTRACK.remove(&nat.key);
        nat.index -= 1;
    }
    true
}

/// What [`make_room`] looks for.
#[repr(C)]
pub struct Removal {
    now_ns: u64,
    /// When it last found nothing. This outlives the packet.
    in_vain_ns: u64,
    /// A [`Spare`].
    spare: u32,
    /// How many more entries may be removed.
    left: u32,
}

/// Removes entries that the agent would, of those that go first: it may be away, or slower than connections come.
/// Whether there were any.
///
/// # Safety
/// `removal` is that of the working memory. It is a pointer because the callback changes it, too.
#[inline(always)]
pub unsafe fn make_room(removal: *mut Removal, settings: &Settings) -> bool {
    /// How long nothing is looked for after nothing was found: to look at all entries takes milliseconds.
    const PAUSE_NS: u64 = 100_000_000;
    /// Entries that are removed at once: few enough for one packet, many enough to be worth the search.
    const AT_ONCE: u32 = 256;
    let now_ns = now();
    // SAFETY: the caller's. A write that nothing here reads is for the callback.
    let (in_vain_ns, left) = unsafe { ((*removal).in_vain_ns, &raw mut (*removal).left) };
    if now_ns.wrapping_sub(in_vain_ns) < PAUSE_NS {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        (&raw mut (*removal).now_ns).write_volatile(now_ns);
        left.write_volatile(AT_ONCE);
    }
    for spare in Spare::ALL {
        if spare != Spare::Replaceable && settings.flags & settings_flags::EVICT == 0 {
            break;
        }
        // SAFETY: as above. The callback has the type that the helper calls for a hash (Linux 5.13). A map is a static
        // of which the helper is given the address. The callback takes its state from the working memory: Linux 6.18's
        // verifier fails (EFAULT) where it has to follow it to the caller's stack.
        let removed = unsafe {
            (&raw mut (*removal).spare).write_volatile(spare as u32);
            bpf_for_each_map_elem(
                (&raw const CONNTRACK).cast_mut().cast(),
                remove as *mut c_void,
                ptr::null_mut(),
                0,
            );
            AT_ONCE.wrapping_sub(left.read_volatile())
        };
        if removed > 0 {
            count(Counter::NatCollected, u64::from(removed));
            return true;
        }
    }
    // SAFETY: as above.
    unsafe { (*removal).in_vain_ns = now_ns };
    false
}

/// A step of [`make_room`]: 1 ends it.
#[inline(never)]
unsafe extern "C" fn remove(
    map: *mut c_void,
    key: *mut c_void,
    entry: *const Conntrack,
    _: *mut c_void,
) -> i64 {
    // SAFETY: `make_room` lends the working memory while the helper runs.
    let (Some(scratch), Some(settings)) = (unsafe { scratch() }, SETTINGS.get(0)) else {
        return 1;
    };
    let removal = &mut scratch.nat.removal;
    let spare = match removal.spare {
        0 => Spare::Replaceable,
        1 => Spare::Over,
        _ => Spare::Unanswered,
    };
    // SAFETY: the helper gives the entry, which is valid for the call.
    if !spare.has(unsafe { &*entry }, settings, removal.now_ns) {
        return 0;
    }
    // SAFETY: map and key are the helper's.
    if unsafe { bpf_map_delete_elem(map, key) } == 0 {
        removal.left = removal.left.wrapping_sub(1);
    }
    i64::from(removal.left == 0)
}

/// Whether the host's stack has a socket for another connection with this key. At the target's end even
/// one in TIME_WAIT: a SYN with other sequence numbers would be answered with an old acknowledgement. At
/// the source's end it is the host's own connection to the target, whose answers would be taken for the
/// other's.
#[inline(always)]
fn has_socket(skb: *mut __sk_buff, headers: &Headers, key: &FiveTuple, end: End) -> bool {
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

/// Notes who reset a connection, or that nobody has, by a segment with these flags.
#[inline(always)]
pub fn note_reset(connection: &mut Conntrack, flags: u32, from_client: bool) {
    let (state, marks) = nat::reset_by(
        connection.state,
        connection.marks,
        from_client,
        segment_of(flags),
    );
    connection.state = state;
    connection.marks = marks;
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
    let is_over = connection.state == ConntrackState::Closed as u8;
    if headers.protocol == TCP && (is_over || headers.has(tcp_flag::RST)) {
        stages::note_reset(connection, headers.flags, from_client);
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
    add(bytes, u64::from(headers.network_len));
    flags
}

/// Whether the target has had time to answer the connection, and did not: as long as Linux asks for a neighbour.
#[inline(always)]
pub fn is_overdue(entry: &Conntrack) -> bool {
    const PATIENCE_S: u32 = 2;
    let is_unanswered = entry.state == ConntrackState::SynSent as u8
        || entry.state == ConntrackState::Unreplied as u8;
    let now_s = || (now() / 1_000_000_000) as u32;
    is_unanswered && now_s().wrapping_sub(entry.created_s) >= PATIENCE_S
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
    to.pad = [0; 3];
}

/// `CLOCK_MONOTONIC` nanoseconds, to a timer tick (Linux 5.11).
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper only reads the clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}
