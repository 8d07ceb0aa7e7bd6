//! A segment of a flow to an endpoint.

use aya_ebpf::programs::TcContext;
use truename_common::{
    insertion::Refusal,
    layout::{Counter, DirectionState, EventKind, FiveTuple, RpcFlow, steered},
    wire::{
        flow::state,
        handshake::state as opened,
        stream::{self, Direction, Verdict, flag, found, reset, window},
    },
};

use super::{direction, handshake, learn, lock, payload::Payload};
use crate::{
    bpf::clock::now,
    events::raise,
    maps::{HANDSHAKES, ONE_SIDED_FLOWS, RPC_FLOWS, STEERED, count},
    packet::{NEXT, lose, tcp_flag},
    scratch::{Headers, Scratch, blank_flow},
};

/// How often the endpoint of a flow is looked up again: it may have been removed.
const CHECK_NS: u64 = 1_000_000_000;
/// How often a flow brings the statistics of its alias up to date; the agent adds up what is not reported.
const REPORT_NS: u64 = 100_000_000;
/// Another connection with the same addresses replaces one that has been silent for so long.
const SILENT_NS: u64 = 60_000_000_000;

/// Translates the segment in the working memory, if it is of an endpoint.
#[inline(always)]
pub fn segment(ctx: &TcContext, scratch: &mut Scratch) -> i32 {
    let flow = match flow_of(ctx, scratch) {
        Ok(flow) => flow,
        Err(action) => return action,
    };
    let headers = &scratch.headers;
    let is_control = headers.has(tcp_flag::FIN | tcp_flag::RST);
    // SAFETY: the pointer is to a map value, valid until the program ends. What is written here are single
    // values, and what is read may be as old as the packet before.
    let entry = unsafe { &mut *flow };
    if headers.payload_len == 0 && !is_control && entry.flags & state::CONFIRMED != 0 {
        acknowledge(entry, headers, scratch.found.way);
        return NEXT;
    }
    if headers.fragment != 0 {
        count(Counter::Fragment, 1);
        return NEXT;
    }
    if !lock::take(flow) {
        count(Counter::DroppedContended, 1);
        return lose(ctx);
    }
    let action = locked(ctx, entry, scratch);
    lock::release(flow);
    action
}

/// The entry of the segment's flow: most have one, and one look-up finds it. Only data of an endpoint makes a new one.
/// Otherwise what to do with the packet.
#[inline(always)]
fn flow_of(ctx: &TcContext, scratch: &mut Scratch) -> Result<*mut RpcFlow, i32> {
    // SAFETY: the context is valid while the program runs.
    let place = unsafe { &*ctx.skb.skb };
    scratch.found.interface = place.ifindex;
    scratch.found.came_by = place.ingress_ifindex;
    let is_syn = scratch.headers.has(tcp_flag::SYN);
    if !is_syn {
        for way in [Direction::Inbound, Direction::Outbound] {
            if direction::set(&mut scratch.found, &scratch.headers, way)
                && let Some(flow) = RPC_FLOWS.get_ptr_mut(&scratch.found.key)
            {
                count(Counter::RpcPackets, 1);
                return Ok(flow);
            }
        }
    }
    if !direction::global::find(scratch) {
        return Err(NEXT);
    }
    count(Counter::RpcPackets, 1);
    if is_syn {
        handshake::global::take(ctx.skb.skb, scratch);
        if scratch.headers.payload_len == 0 {
            return Err(NEXT);
        }
    }
    let key = &scratch.found.key;
    if let Some(flow) = ONE_SIDED_FLOWS.get_ptr_mut(key) {
        return Ok(flow);
    }
    if scratch.headers.has(tcp_flag::RST) {
        let is_held = scratch.found.way == Direction::Outbound && is_held(key);
        return Err(if is_held { lose(ctx) } else { NEXT });
    }
    if scratch.headers.payload_len == 0 {
        return Err(NEXT);
    }
    let flow = match global::create(ctx.skb.skb, scratch) {
        CONFIRMED => RPC_FLOWS.get_ptr_mut(&scratch.found.key),
        ONE_SIDED => ONE_SIDED_FLOWS.get_ptr_mut(&scratch.found.key),
        _ => None,
    };
    flow.ok_or(NEXT)
}

/// What [`create`] has made.
const NOTHING: i32 = 0;
const CONFIRMED: i32 = 1;
const ONE_SIDED: i32 = 2;

/// Sequence number of the first byte of data: it follows that of a SYN.
#[inline(always)]
fn first_byte(headers: &Headers) -> u32 {
    headers
        .seq
        .wrapping_add(u32::from(headers.has(tcp_flag::SYN)))
}

/// A new entry, if the data is plausible: of a connection whose handshake was seen whole, or one that is
/// one-sided so far.
#[inline(always)]
pub fn create(ctx: &TcContext, scratch: &mut Scratch) -> i32 {
    if is_relayed(scratch) {
        return NOTHING;
    }
    let (way, seq) = (scratch.found.way, first_byte(&scratch.headers));
    // SAFETY: the entry is copied at once; it changes with SYNs only.
    let known = unsafe { HANDSHAKES.get(&scratch.found.key) };
    scratch.handshake = known.copied().unwrap_or_default();
    let opened = &mut scratch.handshake;
    opened.settle(way, seq);
    if opened.is_left_alone() {
        return NOTHING;
    }
    let offset = opened.offset(way, seq);
    let is_confirmed = opened.is_confirmed();
    if is_confirmed && offset.is_none() {
        // A stranger's: the connection's own data is still to come.
        count(Counter::NotAccepted, 1);
        return NOTHING;
    }
    // If they are not the first bytes, those are still to come.
    let is_later = offset != Some(0) && is_confirmed;
    if is_later || begins_frame(ctx, scratch) {
        return insert(scratch, is_confirmed);
    }
    if is_confirmed {
        leave_alone(scratch);
    } else {
        count(Counter::Unsynchronised, 1);
    }
    NOTHING
}

/// Whether the connection goes to the relay, or comes from it.
#[inline(always)]
fn is_relayed(scratch: &mut Scratch) -> bool {
    let key = &mut scratch.found.key;
    // SAFETY: the values are numbers, which are read at once.
    unsafe {
        if STEERED.get(&*key).is_some() {
            return true;
        }
        let port = core::mem::take(&mut key.client_port);
        let is_steered = STEERED.get(&*key).copied() == Some(steered::RELAYED);
        key.client_port = port;
        is_steered
    }
}

/// Whether the connection of an RST is one that waits for a relay.
#[inline(always)]
fn is_held(key: &FiveTuple) -> bool {
    // SAFETY: the value is one number, which is read at once.
    let mark = unsafe { STEERED.get(key) }.copied().unwrap_or(0);
    steered::kind(mark) == steered::HELD && steered::age_ns(mark, now()) < steered::HELD_NS
}

/// The connection does not begin with a frame: nothing of it is looked at any more.
#[inline(always)]
fn leave_alone(scratch: &mut Scratch) {
    let first = scratch.work.chunk.word(0);
    // The type of a TLS record, and its version if that came with it.
    let is_tls = first as u16 == 0x0316 || scratch.headers.payload_len == 1 && first as u8 == 0x16;
    let why = if is_tls {
        Counter::Tls
    } else {
        Counter::TooLong
    };
    count(why, 1);
    if let Some(handshake) = HANDSHAKES.get_ptr_mut(&scratch.found.key) {
        // SAFETY: the pointer is to a map value; the flag is never taken back.
        unsafe { (*handshake).flags |= opened::LEFT_ALONE };
    }
    scratch.alias.alias.len = 0;
    raise(
        EventKind::LeftAlone,
        why as u32,
        &scratch.found.key,
        &scratch.alias.alias,
    );
}

/// Whether the payload begins with a frame.
#[inline(always)]
fn begins_frame(ctx: &TcContext, scratch: &mut Scratch) -> bool {
    let Scratch {
        headers,
        work,
        buffers,
        ..
    } = &mut *scratch;
    buffers.transport = headers.transport;
    buffers.payload = headers.payload;
    let mut payload = Payload {
        skb: ctx.skb.skb,
        buffers,
    };
    stream::begins_frame(&mut payload, work, headers.payload_len)
}

/// Counts a flow that could not be noted.
#[inline(always)]
fn count_refused(refusal: Refusal) {
    let why = match refusal {
        Refusal::Full => Counter::TableFull,
        _ => Counter::FlowStore,
    };
    count(why, 1);
}

/// A blank entry, unless another CPU has just made one.
#[inline(always)]
fn insert(scratch: &Scratch, is_confirmed: bool) -> i32 {
    let Some(blank) = blank_flow() else {
        return NOTHING;
    };
    let key = &scratch.found.key;
    /// Linux: an entry that is there stays.
    const BPF_NOEXIST: u64 = 1;
    if is_confirmed {
        match RPC_FLOWS.insert(key, blank, BPF_NOEXIST) {
            Ok(()) => return CONFIRMED,
            Err(error) => match Refusal::of(error) {
                Refusal::Present => return CONFIRMED,
                refusal => count_refused(refusal),
            },
        }
        return NOTHING;
    }
    let _ = ONE_SIDED_FLOWS.insert(key, blank, BPF_NOEXIST);
    ONE_SIDED
}

/// Takes the acknowledgement of a segment. False if TCP would not accept it.
#[inline(always)]
fn acknowledge(flow: &mut RpcFlow, headers: &Headers, way: Direction) -> bool {
    let (own, other) = match way {
        Direction::Inbound => (&mut flow.inbound, &mut flow.outbound),
        Direction::Outbound => (&mut flow.outbound, &mut flow.inbound),
    };
    if !headers.has(tcp_flag::ACK) || other.flags & flag::SYNCED == 0 {
        return true;
    }
    let is_own = own.flags & flag::SYNCED == 0 || window::is_near(own, headers.seq, 0);
    let is_accepted = is_own && stream::acknowledge(other, headers.ack, headers.window);
    if !is_accepted {
        count(Counter::NotAccepted, 1);
    }
    is_accepted
}

#[inline(always)]
fn locked(ctx: &TcContext, flow: &mut RpcFlow, scratch: &mut Scratch) -> i32 {
    let way = scratch.found.way;
    let now_ns = now();
    if flow.created_ns == 0 || flow.flags & state::SUCCEEDED != 0 {
        global::begin(flow, scratch);
    }
    if !is_of(flow, scratch, way) {
        count(Counter::NotAccepted, 1);
        return NEXT;
    }
    acknowledge(flow, &scratch.headers, way);
    control(flow, &scratch.headers, way);
    flow.seen_ns = now_ns;
    if flow.flags & state::CONFIRMED == 0 {
        global::confirm(flow, scratch);
    }
    if scratch.headers.payload_len == 0 || scratch.headers.has(tcp_flag::RST) {
        return NEXT;
    }
    scratch.buffers.transport = scratch.headers.transport;
    scratch.buffers.payload = scratch.headers.payload;
    if flow.flags & state::LEFT_ALONE != 0 {
        if flow.flags & state::NO_FIT == 0 {
            return NEXT;
        }
        if flow.flags & state::RST_SENT != 0 && now_ns.wrapping_sub(flow.checked_ns) < CHECK_NS {
            return NEXT;
        }
        scratch.work.reset = 0;
        learn::global::relay(flow, scratch);
        if scratch.work.reset != 0 {
            ruin(ctx, flow, scratch);
        }
        return NEXT;
    }
    if now_ns.wrapping_sub(flow.checked_ns) > CHECK_NS {
        flow.checked_ns = now_ns;
        if !direction::global::check(scratch) {
            // It is no endpoint any more.
            return NEXT;
        }
        flow.endpoint = scratch.found.endpoint.id;
        flow.policy = u32::from(scratch.found.endpoint.policy);
    }
    if flow.names.prepared == 0 || flow.names.alias.is_empty() {
        learn::global::names(flow, scratch);
    }
    let seq = first_byte(&scratch.headers);
    let Scratch {
        headers,
        work,
        buffers,
        ..
    } = &mut *scratch;
    buffers.endpoint = flow.endpoint;
    work.now_ns = now_ns;
    let mut payload = Payload {
        skb: ctx.skb.skb,
        buffers,
    };
    if flow.flags & state::RUINED != 0 {
        payload.reset();
        return NEXT;
    }
    let verdict = stream::process(&mut payload, flow, work, way, seq, headers.payload_len);
    if scratch.work.found != 0 {
        global::account(flow, scratch);
    }
    counts(flow, scratch);
    if scratch.work.reset != 0 {
        ruin(ctx, flow, scratch);
        return NEXT;
    }
    let Verdict::Drop(why) = verdict else {
        return NEXT;
    };
    count(why, 1);
    lose(ctx)
}

/// Resets the connection.
#[inline(always)]
fn ruin(ctx: &TcContext, flow: &mut RpcFlow, scratch: &mut Scratch) {
    let mut payload = Payload {
        skb: ctx.skb.skb,
        buffers: &mut scratch.buffers,
    };
    payload.reset();
    let why = scratch.work.reset;
    flow.flags |= state::RESET;
    if why == reset::RELAY {
        // What was sent is harmless: the node drops it.
        flow.flags |= state::LEFT_ALONE | state::NO_FIT | state::RST_SENT;
        flow.checked_ns = now();
    } else {
        flow.flags = flow.flags & !state::LEFT_ALONE | state::RUINED;
    }
    let counter = match why {
        reset::MEMORY | reset::MARKS => Counter::ResetMemory,
        reset::RELAY => Counter::ResetRelay,
        _ => Counter::ResetMisguess,
    };
    count(counter, 1);
    raise(EventKind::Reset, why, &scratch.found.key, &flow.names.alias);
}

/// Begins a new flow, or one that follows on another one with the same addresses.
#[inline(always)]
pub fn begin(flow: &mut RpcFlow, scratch: &mut Scratch) {
    let now_ns = now();
    if flow.created_ns == 0 {
        // Another CPU may have made the entry.
        // SAFETY: the entry is copied at once; it changes with SYNs only.
        let opened = unsafe { HANDSHAKES.get(&scratch.found.key) };
        scratch.handshake = opened.copied().unwrap_or_default();
        if direction::find_endpoint(&mut scratch.found) {
            start(flow, scratch, now_ns);
        }
    } else if is_next(flow, scratch, now_ns) {
        renew(flow);
        start(flow, scratch, now_ns);
    }
}

/// Begins a flow at its handshake, as far as that was seen.
#[inline(always)]
fn start(flow: &mut RpcFlow, scratch: &mut Scratch, now_ns: u64) {
    let key = &scratch.found.key;
    flow.created_ns = now_ns;
    flow.checked_ns = now_ns;
    flow.endpoint = scratch.found.endpoint.id;
    flow.policy = u32::from(scratch.found.endpoint.policy);
    // Flows of one nanosecond differ by their ports.
    flow.id = now_ns ^ u64::from(key.client_port) << 48 ^ u64::from(key.endpoint_port) << 32;
    for direction in [&mut flow.inbound, &mut flow.outbound] {
        // A blank entry is all zeros.
        direction.position = DirectionState::ORIGIN;
        direction.oldest_page = DirectionState::FIRST_PAGE;
        direction.scale = DirectionState::NO_SCALE;
    }
    let seq = first_byte(&scratch.headers);
    let opened = &mut scratch.handshake;
    opened.settle(scratch.found.way, seq);
    if opened.offset(scratch.found.way, seq).is_none() {
        flow.flags = state::ADOPTED;
        count(Counter::Adopted, 1);
        raise(
            EventKind::Adopted,
            scratch.found.way as u32,
            key,
            &flow.names.alias,
        );
        return;
    }
    flow.inbound.scale = opened.scales[1];
    flow.outbound.scale = opened.scales[0];
    stream::begin(&mut flow.inbound, opened.client_next, Direction::Inbound);
    flow.flags = 0;
    if opened.is_confirmed() {
        stream::begin(
            &mut flow.outbound,
            opened.endpoint_next,
            Direction::Outbound,
        );
        flow.flags = state::CONFIRMED;
        let _ = HANDSHAKES.remove(key);
    }
}

/// Whether the segment is the first data of another connection with the same addresses, which the endpoint has
/// accepted. The old one must be over, or silent: whoever makes up both sides of a handshake ends none that lives.
#[inline(always)]
fn is_next(flow: &RpcFlow, scratch: &mut Scratch, now_ns: u64) -> bool {
    let is_over = state::is_closed(flow.flags) || now_ns.wrapping_sub(flow.seen_ns) > SILENT_NS;
    if !is_over || scratch.headers.payload_len == 0 {
        return false;
    }
    // SAFETY: the entry is copied at once; it changes with SYNs only.
    let Some(opened) = (unsafe { HANDSHAKES.get(&scratch.found.key) }) else {
        return false;
    };
    let (way, seq) = (scratch.found.way, first_byte(&scratch.headers));
    scratch.handshake = *opened;
    let opened = &mut scratch.handshake;
    opened.settle(way, seq);
    if !opened.is_confirmed() || opened.offset(way, seq).is_none() {
        return false;
    }
    direction::find_endpoint(&mut scratch.found)
}

/// Makes the entry blank again. Texts stay where they are: without a length they are nothing.
#[inline(always)]
fn renew(flow: &mut RpcFlow) {
    for direction in [&mut flow.inbound, &mut flow.outbound] {
        direction.flags = 0;
        direction.acked = 0;
        direction.claimed = 0;
        direction.sweep_at = 0;
        direction.window = 0;
        direction.hole_drops = 0;
        direction.held_drops = 0;
        direction.held_beyond = 0;
        direction.short_since = 0;
        direction.near = [0; 2];
        direction.hits = [0; 2];
        direction.heads = 0;
        for kind in &mut direction.pages {
            for word in kind {
                *word = 0;
            }
        }
        direction.clear_ranges();
    }
    let names = &mut flow.names;
    names.canonical.len = 0;
    names.alias.len = 0;
    names.peer_alias.len = 0;
    names.origin.len = 0;
    names.system.len = 0;
    names.pattern.len = 0;
    names.needle.len = 0;
    names.is_local = 0;
    names.front.len = 0;
    names.front_canonical.len = 0;
    names.scheme = 0;
    names.prepared = 0;
    for text in &mut names.texts {
        text.len = 0;
    }
    flow.alias_hash = 0;
    flow.origin_hash = 0;
    flow.unreported = [0; 2];
}

/// Whether the segment can be of this connection.
#[inline(always)]
fn is_of(flow: &RpcFlow, scratch: &Scratch, way: Direction) -> bool {
    let direction = match way {
        Direction::Inbound => &flow.inbound,
        Direction::Outbound => &flow.outbound,
    };
    let headers = &scratch.headers;
    if direction.flags & flag::SYNCED == 0 {
        return true;
    }
    if headers.has(tcp_flag::RST) {
        // RFC 5961 3.2: exactly what is expected next. What was lost behind us is not known here, so it may be
        // anything that is not acknowledged.
        let from = direction
            .acknowledged()
            .unwrap_or_else(|| direction.cursor());
        let offset = headers.seq.wrapping_sub(from);
        return offset <= direction.high.wrapping_sub(from) || headers.seq == direction.cursor();
    }
    let seq = first_byte(headers);
    if headers.payload_len == 0 || headers.has(tcp_flag::FIN) {
        window::is_near(direction, seq, headers.payload_len)
    } else {
        window::is_in_reach(direction, seq)
    }
}

/// Takes FIN and RST. New data takes a forged one back.
#[inline(always)]
fn control(flow: &mut RpcFlow, headers: &Headers, way: Direction) {
    let direction = match way {
        Direction::Inbound => &flow.inbound,
        Direction::Outbound => &flow.outbound,
    };
    let (fin, cursor) = (
        match way {
            Direction::Inbound => state::FIN_INBOUND,
            Direction::Outbound => state::FIN_OUTBOUND,
        },
        direction.cursor(),
    );
    if headers.has(tcp_flag::FIN) {
        flow.flags |= fin;
    } else if headers.payload_len != 0 && headers.seq == cursor {
        flow.flags &= !(fin | state::RESET);
    }
    if headers.has(tcp_flag::RST) {
        flow.flags |= state::RESET;
    }
}

/// The other side has acknowledged what was seen of this one: the flow moves to the table of those that both
/// sides take part in.
#[inline(always)]
pub fn confirm(flow: &mut RpcFlow, scratch: &mut Scratch) {
    let (headers, way) = (&scratch.headers, scratch.found.way);
    let other = match way {
        Direction::Inbound => &flow.outbound,
        Direction::Outbound => &flow.inbound,
    };
    let start = other.ranges[truename_common::layout::MAIN].start;
    let acknowledged = headers.ack.wrapping_sub(start);
    let seen = other.high.wrapping_sub(start);
    if other.flags & flag::SYNCED == 0
        || !headers.has(tcp_flag::ACK)
        || acknowledged == 0
        || acknowledged > seen
    {
        return;
    }
    flow.flags |= state::CONFIRMED;
    flow.lock = 0;
    let key = &scratch.found.key;
    // The same entry once more: the verifier of Linux 6.1 takes no value from memory behind an argument.
    let moved = match ONE_SIDED_FLOWS.get_ptr(key) {
        // SAFETY: the pointer is to a map value, which this CPU has the lock of.
        Some(entry) => RPC_FLOWS.insert(key, unsafe { &*entry }, 0),
        None => return,
    };
    flow.lock = 1;
    match moved {
        Ok(()) => {
            let _ = ONE_SIDED_FLOWS.remove(&scratch.found.key);
        }
        Err(error) => count_refused(Refusal::of(error)),
    }
}

/// Counts frames and names.
#[inline(always)]
fn counts(flow: &mut RpcFlow, scratch: &mut Scratch) {
    let (edits, frames) = (scratch.work.made, scratch.work.frames);
    if frames != 0 {
        count(Counter::Frames, u64::from(frames));
    }
    if edits == 0 {
        return;
    }
    match scratch.found.way {
        Direction::Inbound => {
            count(Counter::RewrittenInbound, u64::from(edits));
            flow.unreported[0] += edits;
        }
        Direction::Outbound => {
            count(Counter::RewrittenOutbound, u64::from(edits));
            flow.unreported[1] += edits;
        }
    }
    if flow.seen_ns.wrapping_sub(flow.reported_ns) > REPORT_NS {
        learn::global::report(flow, scratch);
    }
}

/// Counts what the walk came upon, and tells the agent.
#[inline(always)]
pub fn account(flow: &mut RpcFlow, scratch: &mut Scratch) {
    let (way, seen) = (scratch.found.way, scratch.work.found);
    reasons(seen, flow, scratch);
    if seen & found::SENDER != 0 {
        learn::sender(flow, scratch);
    }
    if seen & found::ASSOCIATE != 0 {
        learn::announced(flow, way, scratch);
    }
    if seen & found::ALIAS != 0 {
        learn::alias(flow, scratch);
    }
}

/// Counters and events of what needs nothing else.
#[inline(never)]
fn reasons(seen: u32, flow: &RpcFlow, scratch: &Scratch) {
    const COUNTED: [(u32, Counter); 11] = [
        (found::MALFORMED, Counter::Malformed),
        (found::NO_AUTHORITY, Counter::NoAuthority),
        (found::OTHER_SYSTEM, Counter::OtherSystem),
        (found::NOT_ADMITTED, Counter::NotAdmitted),
        (found::RESYNCHRONISED, Counter::Resynchronised),
        (found::TOO_LONG, Counter::TooLong),
        (found::TLS, Counter::Tls),
        (found::GUESSED, Counter::Guessed),
        (found::REAPPLIED, Counter::Reapplied),
        (found::UNSYNCHRONISED, Counter::Unsynchronised),
        (found::CUT, Counter::Cut),
    ];
    let (key, way, alias) = (&scratch.found.key, scratch.found.way, &flow.names.alias);
    for (bit, counter) in COUNTED {
        if seen & bit != 0 {
            count(counter, 1);
        }
    }
    if seen & found::RESYNCHRONISED != 0 {
        raise(EventKind::Resynchronised, way as u32, key, alias);
    }
    if seen & (found::TLS | found::TOO_LONG) != 0 {
        let why = if seen & found::TLS != 0 {
            Counter::Tls
        } else {
            Counter::TooLong
        };
        raise(EventKind::LeftAlone, why as u32, key, alias);
    }
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use crate::{
        bpf::global::{flow_part, packet_part},
        packet::NEXT,
    };

    packet_part!(
        /// [`super::segment`].
        translate, tn_translate = super::segment, NEXT;
        /// [`super::create`].
        create, tn_new_flow = super::create, 0;
    );

    flow_part!(
        /// [`super::begin`].
        begin, tn_begin = super::begin;
        /// [`super::confirm`].
        confirm, tn_confirm = super::confirm;
        /// [`super::account`].
        account, tn_account = super::account;
    );
}
