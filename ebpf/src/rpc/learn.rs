//! What the translator learns: names, clients, aliases. Told to the agent by tables and events.

use truename_common::{
    layout::{Authority, Counter, EventKind, PeerKey, RpcFlow, steered},
    wire::{
        authority,
        flow::{self, state},
        steps::Steps,
        stream::{Direction, reset},
    },
};

use crate::{
    bpf::{clock::now, repeat::repeat},
    events::raise,
    maps::{ALIASES, NAMES, PEERS, RELAYS, STEERED, count},
    scratch::Scratch,
};

/// Fills the names that the flow lacks from what is known of the endpoint and of the client.
#[inline(always)]
pub fn names(flow: &mut RpcFlow, scratch: &mut Scratch) {
    let (key, way) = (&scratch.found.key, scratch.found.way);
    if flow.names.canonical.is_empty() || flow.names.system.is_empty() {
        let endpoint = key.endpoint();
        // SAFETY: names are replaced whole; a torn read is possible only while an endpoint changes
        // its name, which ends its flows.
        let found = unsafe { NAMES.get(&endpoint).or_else(|| NAMES.get(&endpoint.any())) };
        if let Some(found) = found {
            if flow.names.canonical.is_empty() && !found.canonical.is_empty() {
                flow.names.canonical = found.canonical;
                flow.names.prepared = 0;
            }
            if flow.names.system.is_empty() && !found.system.is_empty() {
                flow.names.system = found.system;
                flow.names.prepared = 0;
            }
        }
    }
    let unaddressed = flow.names.alias.is_empty()
        && flow.names.peer_alias.is_empty()
        && flow.flags & state::CANONICAL_USED == 0;
    if way == Direction::Outbound && unaddressed {
        // A connection on which the client has addressed nothing: replies to another one of its.
        let client = PeerKey {
            endpoint: key.endpoint(),
            client: key.client,
            pad: 0,
            origin: flow.origin_hash,
        };
        // SAFETY: as above; the alias of a client rarely changes.
        if let Some(peer) = unsafe { PEERS.get(&client) }
            && !peer.alias.is_empty()
        {
            flow.names.peer_alias = peer.alias;
            flow.names.prepared = 0;
        }
    }
}

/// An Associate was read: `direction.captured` and `captured_system` hold what it announced.
#[inline(never)]
pub fn announced(entry: &mut RpcFlow, way: Direction, scratch: &mut Scratch) {
    match way {
        Direction::Inbound => {
            flow::learn_origin(entry);
            entry.origin_hash = hash(&entry.names.origin, scratch);
            remember_peer(entry, scratch);
            raise(
                EventKind::PeerSeen,
                0,
                &scratch.found.key,
                &entry.names.origin,
            );
        }
        Direction::Outbound => {
            if flow::learn_canonical(entry) {
                proves_too_long(entry, scratch);
            }
            if entry.flags & state::CONFIRMED == 0 {
                // Whoever makes up what the endpoint says teaches others nothing.
                return;
            }
            let endpoint = scratch.found.key.endpoint();
            let names = &mut scratch.names;
            names.canonical = entry.outbound.captured;
            names.system = entry.outbound.captured_system;
            names.configured = 0;
            names.learned_ns = now();
            // SAFETY: only two integers are read.
            let (configured, known) = match unsafe { NAMES.get(&endpoint) } {
                Some(found) => (found.configured != 0, found.canonical.len != 0),
                // SAFETY: as above.
                None => match unsafe { NAMES.get(&endpoint.any()) } {
                    Some(found) => (found.configured != 0, false),
                    None => (false, false),
                },
            };
            if configured {
                names.canonical = entry.names.canonical;
                names.configured = 1;
            }
            // A table that is full learns again from the next connection.
            let _ = NAMES.insert(&endpoint, &*names, 0);
            if !known {
                raise(
                    EventKind::CanonicalLearned,
                    0,
                    &scratch.found.key,
                    &entry.outbound.captured,
                );
            }
        }
    }
}

/// The sender of what the endpoint says was read: it is what the endpoint is called. It counts for this connection only,
/// as a message that is passed on has another's sender.
#[inline(never)]
pub fn sender(entry: &mut RpcFlow, scratch: &mut Scratch) {
    if flow::learn_canonical(entry) {
        proves_too_long(entry, scratch);
    }
}

/// Recipients were translated whose alias proves too long for the answers.
#[inline(never)]
fn proves_too_long(entry: &mut RpcFlow, scratch: &mut Scratch) {
    entry.flags |= state::LEFT_ALONE | state::NO_FIT;
    scratch.work.reset = reset::NO_FIT;
    if let Some(stat) = ALIASES.get_ptr_mut(entry.alias_key(&scratch.found.key)) {
        // SAFETY: the pointer is to a map value; the flag is never taken back.
        unsafe { (*stat).no_fit = 1 };
    }
    no_fit(entry, scratch);
}

/// Tells that the alias does not fit, and has the client relayed if that is possible.
#[inline(always)]
fn no_fit(entry: &mut RpcFlow, scratch: &mut Scratch) {
    count(Counter::NoFit, 1);
    raise(EventKind::NoFit, 0, &scratch.found.key, &entry.names.alias);
    relay(entry, scratch);
}

/// Has the client's new connections relayed, and this one reset, if the endpoint has a relay.
#[inline(always)]
pub fn relay(_: &mut RpcFlow, scratch: &mut Scratch) {
    let endpoint = scratch.found.key.endpoint();
    // SAFETY: the value is a number, which is not read.
    if unsafe { RELAYS.get(&endpoint) }.is_none() {
        return;
    }
    scratch.hash = steered::RELAYED;
    let key = &mut scratch.found.key;
    let port = core::mem::take(&mut key.client_port);
    // A least-recently-used table takes every entry, unless memory is short: the flow's next segment tries again.
    let is_steered = STEERED.insert(&*key, &scratch.hash, 0).is_ok();
    key.client_port = port;
    if is_steered {
        scratch.work.reset = reset::RELAY;
    }
}

/// The flow's alias was learned.
#[inline(never)]
pub fn alias(entry: &mut RpcFlow, scratch: &mut Scratch) {
    entry.alias_hash = hash(&entry.names.alias, scratch);
    remember_peer(entry, scratch);
    let stat = &mut scratch.alias;
    stat.alias = entry.names.alias;
    stat.first_ns = now();
    stat.seen_ns = stat.first_ns;
    stat.inbound = 0;
    stat.outbound = 0;
    stat.no_fit = u8::from(entry.names.is_too_long(&entry.names.alias));
    // BPF_NOEXIST: an alias that is known keeps its numbers.
    if ALIASES
        .insert(entry.alias_key(&scratch.found.key), &*stat, 1)
        .is_ok()
    {
        raise(
            EventKind::AliasSeen,
            0,
            &scratch.found.key,
            &entry.names.alias,
        );
    }
    if stat.no_fit != 0 {
        no_fit(entry, scratch);
    }
}

/// Brings the statistics of the flow's alias up to date.
#[inline(always)]
pub fn report(entry: &mut RpcFlow, scratch: &mut Scratch) {
    if entry.alias_hash == 0 {
        // On a connection of replies the alias is the one of the client's other connection.
        if entry.names.alias.is_empty() && entry.names.peer_alias.is_empty() {
            return;
        }
        entry.alias_hash = if entry.names.alias.is_empty() {
            hash(&entry.names.peer_alias, scratch)
        } else {
            hash(&entry.names.alias, scratch)
        };
    }
    if let Some(stat) = ALIASES.get_ptr_mut(entry.alias_key(&scratch.found.key)) {
        // SAFETY: the pointer is to a map value. Two flows of one client may count at once and lose a
        // count; these are statistics.
        entry.report(unsafe { &mut *stat });
        entry.unreported = [0; 2];
        entry.reported_ns = entry.seen_ns;
    }
}

/// Writes what is known of the client under what it announced, and as the latest at its address.
#[inline(never)]
fn remember_peer(entry: &RpcFlow, scratch: &mut Scratch) {
    let peer = &mut scratch.peer;
    peer.seen_ns = now();
    peer.announced = entry.names.origin;
    peer.alias = entry.names.alias;
    peer.system = entry.inbound.captured_system;
    let key = &scratch.found.key;
    let mut to = PeerKey {
        endpoint: key.endpoint(),
        client: key.client,
        pad: 0,
        origin: entry.origin_hash,
    };
    if to.origin != 0 && peer.alias.is_empty() {
        // Another connection of the client may have told its alias.
        // SAFETY: as in `names`.
        if let Some(known) = unsafe { PEERS.get(&to) } {
            peer.alias = known.alias;
        }
    }
    // A least-recently-used table takes every entry, unless memory is short.
    let _ = PEERS.insert(&to, &*peer, 0);
    if to.origin != 0 && !peer.alias.is_empty() {
        to.origin = 0;
        let _ = PEERS.insert(&to, &*peer, 0);
    }
}

/// The hash of a text: a byte a step.
struct Hash<'a> {
    text: &'a Authority,
    hash: &'a mut u64,
    index: &'a mut u32,
}

impl Steps for Hash<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        if *self.index >= u32::from(self.text.len) {
            return false;
        }
        *self.hash = authority::hash_step(*self.hash, self.text.at(*self.index as usize));
        *self.index += 1;
        true
    }
}

#[inline(never)]
fn hash(text: &Authority, scratch: &mut Scratch) -> u64 {
    scratch.hash = authority::HASH_SEED;
    scratch.index = 0;
    repeat(
        &mut Hash {
            text,
            hash: &mut scratch.hash,
            index: &mut scratch.index,
        },
        256,
    );
    scratch.hash | 1
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use crate::bpf::global::flow_part;

    flow_part!(
        /// [`super::names`].
        names, tn_names = super::names;
        /// [`super::report`].
        report, tn_report = super::report;
        /// [`super::relay`].
        relay, tn_relay = super::relay;
    );
}
