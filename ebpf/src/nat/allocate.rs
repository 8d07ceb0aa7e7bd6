//! Beginning a connection: its entry, with the first source port that is free.

use core::ptr;

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use truename_common::{
    insertion::Refusal,
    layout::{
        Conntrack, ConntrackState, Counter, Settings, TCP, conntrack_flags, conntrack_marks,
        target_flags,
    },
    nat::{self, MAX_PORT_TRIES},
    wire::steps::Steps,
};

use super::{
    candidate::{Outcome, of_original, set_key},
    entry::now,
    route,
    sockets::{End, has_socket},
};
use crate::{
    bpf::{atomic, repeat::repeat},
    maps::{CONNTRACK, PORT_BITMAP, count, count_tries},
    scratch::{Nat, Scratch},
};

/// A new connection to `nat.target`, with the first candidate source port that is free; `nat.outcome` says how it went.
#[inline(always)]
pub fn allocate(skb: *mut __sk_buff, scratch: &mut Scratch, settings: &Settings, flags: u8) {
    let now_ns = now();
    let protocol = scratch.headers.protocol;
    let is_own = route::is_own(skb);
    let Scratch { nat, .. } = &mut *scratch;
    let is_local = nat.target.flags & target_flags::LOCAL != 0;
    let mut flags = flags;
    if is_local {
        flags |= conntrack_flags::LOCAL;
    }
    if is_own && route::is_loopback(skb, settings) {
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
        ends: [0; 2],
        acked: [0; 2],
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
    repeat(&mut allocation, 3 * MAX_PORT_TRIES);
    let nat = &scratch.nat;
    let tries = match Outcome::from_number(nat.outcome) {
        Outcome::Found => u32::from(nat.entry.tries),
        Outcome::Exhausted => MAX_PORT_TRIES,
        _ => return,
    };
    count_tries(tries);
    if tries < MAX_PORT_TRIES {
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

impl Steps for Allocation<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        // SAFETY: `allocate` lends it for the loop.
        let Scratch { headers, nat, .. } = unsafe { &mut *self.scratch };
        let index = nat.index;
        if index >= MAX_PORT_TRIES {
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
        let half = PORT_BITMAP.get(nat::TRIED_WRITTEN).map_or(0, |half| *half);
        if index > 0
            && let Some(bits) = PORT_BITMAP.get_ptr_mut(nat::tried_position(nat.hash, half))
        {
            // Before the entry exists, so that no packet can miss it.
            let is_direct = nat.entry.flags & conntrack_flags::DIRECT != 0;
            atomic::or(bits, nat::tried_bits(index, is_direct));
        }
        match CONNTRACK.insert(&nat.key, &nat.entry, u64::from(BPF_NOEXIST)) {
            Ok(()) => nat.outcome = Outcome::Found as u32,
            Err(error) => match Refusal::of(error) {
                Refusal::Present => return taken(nat, self.settings),
                Refusal::Full => nat.outcome = Outcome::TableFull as u32,
                Refusal::Failed => nat.outcome = Outcome::Busy as u32,
            },
        }
        false
    }
}

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

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use aya_ebpf::bindings::__sk_buff;

    use crate::{
        maps::SETTINGS,
        scratch::{Scratch, scratch},
    };

    /// [`super::allocate`]. Returns a [`super::Outcome`]: the compiler may think that the working memory is as it was
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
        super::allocate(skb, scratch, settings, flags as u8);
        scratch.nat.outcome as i32
    }
}
