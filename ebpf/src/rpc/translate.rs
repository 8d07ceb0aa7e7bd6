//! A segment of a flow to an endpoint.

use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::TcContext};
use truename_common::{
    layout::{Counter, EventKind, MAIN, RpcFlow},
    wire::{
        flow::state,
        stream::{self, Verdict, Way, found},
    },
};

use super::{learn, lock, stages};
use crate::{
    events::raise,
    maps::{RPC_FLOWS, Scratch, blank_flow, count},
    packet::{DROP, Headers, NEXT, payload::Payload, tcp_flag},
};

/// Translates the segment in the working memory.
#[inline(always)]
pub fn segment(ctx: &TcContext, scratch: &mut Scratch) -> i32 {
    let Some(flow) = flow_of(ctx, scratch) else {
        return NEXT;
    };
    let segment = &scratch.headers;
    if segment.fragment != 0 {
        count(Counter::Fragment, 1);
        return NEXT;
    }
    if segment.payload_len == 0 && !segment.has(tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) {
        acknowledge(flow, segment, scratch.found.way);
        return NEXT;
    }
    if !lock::take(flow) {
        count(Counter::DroppedContended, 1);
        return DROP;
    }
    let action = locked(ctx, flow, scratch);
    lock::release(flow);
    action
}

/// The entry of the segment's flow: a new one for a SYN, or for a plausible frame without one.
#[inline(always)]
fn flow_of(ctx: &TcContext, scratch: &mut Scratch) -> Option<*mut RpcFlow> {
    let (segment, way) = (&scratch.headers, scratch.found.way);
    let known = RPC_FLOWS.get_ptr_mut(&scratch.found.key);
    if let Some(flow) = known {
        match relation(flow, segment, way) {
            Relation::Same => return Some(flow),
            Relation::Stray => return None,
            Relation::Later => return create(scratch),
        }
    }
    if segment.has(tcp_flag::SYN) && segment.has(tcp_flag::ACK) == (way == Way::Outbound) {
        return create(scratch);
    }
    if segment.payload_len == 0 || segment.has(tcp_flag::RST) {
        return None;
    }
    adopt(ctx, scratch)
}

/// What a segment has to do with the flow of its addresses.
enum Relation {
    Same,
    /// A SYN that the endpoint has not accepted: of an earlier connection, or forged.
    Stray,
    /// It begins the next connection.
    Later,
}

/// The end of a connection can pass unseen, so a SYN on an open flow may begin the next one; only the
/// endpoint knows, and tells by its answer.
#[inline(always)]
fn relation(flow: *mut RpcFlow, segment: &Headers, way: Way) -> Relation {
    if !segment.has(tcp_flag::SYN) {
        return Relation::Same;
    }
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let flow = unsafe { &*flow };
    let next = segment.seq.wrapping_add(1);
    let (inbound, outbound) = (&flow.inbound.ranges[MAIN], &flow.outbound.ranges[MAIN]);
    if segment.has(tcp_flag::ACK) {
        // It may acknowledge data of the SYN.
        let accepted = segment.ack.wrapping_sub(inbound.start);
        let is_same = way == Way::Inbound
            || outbound.start == next
            || accepted <= inbound.end.wrapping_sub(inbound.start);
        return if is_same {
            Relation::Same
        } else {
            Relation::Later
        };
    }
    let closed = state::is_closed(flow.flags);
    if way == Way::Outbound || inbound.start == next && !closed {
        Relation::Same
    } else if closed || flow.outbound.flags & stream::flag::SYNCED == 0 {
        Relation::Later
    } else {
        Relation::Stray
    }
}

/// A new entry, in place of any old one.
#[inline(never)]
fn create(scratch: &Scratch) -> Option<*mut RpcFlow> {
    let blank = blank_flow()?;
    if RPC_FLOWS.insert(&scratch.found.key, blank, 0).is_err() {
        count(Counter::TableFull, 1);
        return None;
    }
    let flow = RPC_FLOWS.get_ptr_mut(&scratch.found.key)?;
    // SAFETY: the pointer is to a map value, valid until the program ends. Another CPU can reach it
    // already, but has no packet of a flow that begins with this one.
    let entry = unsafe { &mut *flow };
    entry.endpoint = scratch.found.endpoint.id;
    entry.policy = u32::from(scratch.found.endpoint.policy);
    // SAFETY: the helper only reads the clock.
    entry.created_ns = unsafe { bpf_ktime_get_ns() };
    Some(flow)
}

/// A flow found in the middle, if the segment begins with a plausible frame.
#[inline(never)]
fn adopt(ctx: &TcContext, scratch: &mut Scratch) -> Option<*mut RpcFlow> {
    let Scratch {
        headers: segment,
        work,
        buffers,
        ..
    } = &mut *scratch;
    buffers.transport = segment.transport;
    buffers.payload = segment.payload;
    let mut payload = Payload {
        skb: ctx.skb.skb,
        buffers,
    };
    if !stream::begins_frame(&mut payload, work, segment.payload_len) {
        count(Counter::Unsynchronised, 1);
        return None;
    }
    let flow = create(scratch)?;
    // SAFETY: as in `create`.
    let entry = unsafe { &mut *flow };
    entry.flags = state::ADOPTED;
    count(Counter::Adopted, 1);
    let found = &scratch.found;
    raise(
        EventKind::Adopted,
        found.way as u32,
        &found.key,
        &entry.names.alias,
    );
    Some(flow)
}

/// Takes the acknowledgement: one store, which needs no lock.
#[inline(always)]
fn acknowledge(flow: *mut RpcFlow, segment: &Headers, way: Way) {
    // SAFETY: the pointer is to a map value, valid until the program ends.
    let flow = unsafe { &mut *flow };
    if segment.has(tcp_flag::ACK) {
        let acknowledged = match way {
            Way::Inbound => &mut flow.outbound,
            Way::Outbound => &mut flow.inbound,
        };
        stream::acknowledge(acknowledged, segment.ack);
    }
}

#[inline(always)]
fn locked(ctx: &TcContext, entry: *mut RpcFlow, scratch: &mut Scratch) -> i32 {
    let way = scratch.found.way;
    acknowledge(entry, &scratch.headers, way);
    // SAFETY: the pointer is to a map value, valid until the program ends, and this CPU has the lock.
    let flow = unsafe { &mut *entry };
    // SAFETY: the helper only reads the clock.
    flow.seen_ns = unsafe { bpf_ktime_get_ns() };
    control(flow, &scratch.headers, way);
    if scratch.headers.payload_len == 0
        || scratch.headers.has(tcp_flag::RST)
        || flow.flags & state::LEFT_ALONE != 0
    {
        return NEXT;
    }
    stages::tn_names(flow, scratch);
    let Scratch {
        headers: segment,
        work,
        buffers,
        ..
    } = &mut *scratch;
    buffers.transport = segment.transport;
    buffers.payload = segment.payload;
    buffers.endpoint = flow.endpoint;
    work.now_ns = flow.seen_ns;
    let mut payload = Payload {
        skb: ctx.skb.skb,
        buffers,
    };
    // Data of a SYN follows the SYN's own sequence number.
    let seq = segment
        .seq
        .wrapping_add(u32::from(segment.has(tcp_flag::SYN)));
    let verdict = stream::process(&mut payload, flow, work, way, seq, segment.payload_len);
    if verdict == Verdict::Reset {
        payload.reset();
    }
    stages::account(flow, scratch);
    match verdict {
        Verdict::Pass => NEXT,
        Verdict::Drop(why) => {
            count(why, 1);
            DROP
        }
        Verdict::Reset => {
            flow.flags |= state::RESET;
            count(Counter::ResetMisguess, 1);
            raise(EventKind::Reset, 0, &scratch.found.key, &flow.names.alias);
            NEXT
        }
    }
}

/// SYN, FIN and RST.
#[inline(always)]
fn control(flow: &mut RpcFlow, segment: &Headers, way: Way) {
    if segment.has(tcp_flag::SYN) {
        let direction = match way {
            Way::Inbound => &mut flow.inbound,
            Way::Outbound => &mut flow.outbound,
        };
        if direction.flags & stream::flag::SYNCED == 0 {
            stream::begin(direction, segment.seq.wrapping_add(1), way);
        }
        // The SYN was taken for a stray one, or passed unseen.
        if way == Way::Outbound
            && segment.has(tcp_flag::ACK)
            && flow.inbound.flags & stream::flag::SYNCED == 0
            && flow.flags & state::LEFT_ALONE == 0
        {
            stream::begin(&mut flow.inbound, segment.ack, Way::Inbound);
        }
    }
    if segment.has(tcp_flag::FIN) {
        flow.flags |= match way {
            Way::Inbound => state::FIN_INBOUND,
            Way::Outbound => state::FIN_OUTBOUND,
        };
    }
    if segment.has(tcp_flag::RST) {
        flow.flags |= state::RESET;
    }
}

/// Counts what the walk came upon, and tells the agent.
#[inline(always)]
pub fn account(flow: &mut RpcFlow, scratch: &mut Scratch) {
    let way = scratch.found.way;
    let (seen, edits, frames) = (scratch.work.found, scratch.work.edits, scratch.work.frames);
    if frames != 0 {
        count(Counter::Frames, u64::from(frames));
    }
    if seen != 0 {
        reasons(seen, flow, scratch);
        if seen & found::ASSOCIATE != 0 {
            learn::announced(flow, way, scratch);
        }
        if seen & found::ALIAS != 0 {
            learn::alias(flow, scratch);
        }
    }
    if edits != 0 {
        let counter = match way {
            Way::Inbound => Counter::RewrittenInbound,
            Way::Outbound => Counter::RewrittenOutbound,
        };
        count(counter, u64::from(edits));
        learn::used(flow, way, edits, scratch);
    }
}

/// Counters and events of what needs nothing else.
#[inline(never)]
fn reasons(seen: u32, flow: &RpcFlow, scratch: &Scratch) {
    const COUNTED: [(u32, Counter); 10] = [
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
    ];
    let (key, way, alias) = (&scratch.found.key, scratch.found.way, &flow.names.alias);
    for (bit, counter) in COUNTED {
        if seen & bit != 0 {
            count(counter, 1);
        }
    }
    if seen & found::CUT != 0 {
        count(Counter::Cut, 1);
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
