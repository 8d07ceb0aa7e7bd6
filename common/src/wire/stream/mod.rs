//! Translates one direction of a TCP stream, a segment at a time.
//!
//! A **range** is a part of the stream that was walked. The main range ends at the **cursor**; the others
//! lie beyond holes. The bytes that were edited are marked in **pages**, a bit a byte, which are kept
//! outside the flow until the receiver has acknowledged them.
//!
//! The properties, and the tests in `common/tests/stream.rs` that show them:
//!
//! 1. *A byte has one translated value.* What was walked is never walked again: the marks say what was
//!    written there, in any cut, order and repetition. `a_byte_has_one_translated_value`
//! 2. *The segment at the cursor passes.* One that ends inside an ambiguous name is held three times at most.
//!    `progress`
//! 3. *Any amount in flight.* Marks need an eighth of the bytes that they are about. If memory for them
//!    ends, segments are dropped for three seconds at most, then the connection is reset. `any_amount_in_flight`
//! 4. *A cut name passes.* What was read of it is translated at once, and checked when the rest comes,
//!    before the frame is complete. It is held early in a connection, and where near misses were seen.
//!    `cut_names_pass`
//! 5. *Behind a hole* a segment passes if it can be read alone: if it does not begin inside a name. Its first
//!    bytes are kept, and checked when the hole is filled. `behind_a_hole`
//! 6. *Only what TCP would accept changes state.* See [`window`]. `only_what_tcp_accepts_changes_state`
//! 7. *Work is bounded*: a segment costs time in proportion to its bytes, and bytes of bodies that need not
//!    be looked at cost none. `bounded_work`
//! 8. *The fast ways and the byte machine come to the same* bytes, verdicts and state.
//!    `fast_path_equals_byte_machine`
//! 9. *Adopted flows learn as much* as those whose handshake was seen. `adopted_flows_learn_as_much`
//! 10. *What is no frame is left alone*: TLS, text, frames that are too long. `noise`
//! 11. *Sequence numbers wrap*, and a byte may come in any cut, any order, and any number of times: the first
//!     test, too.
//!
//! `cargo xtask fuzz` searches for streams and segments that break one of them.

mod apply;
mod block;
mod frames;
mod front;
mod guess;
mod head;
mod job;
mod marks;
mod place;
mod rest;
mod search;
mod undo;
pub mod window;

pub use block::{BLOCK, Block, equal};
pub use head::begins_frame;
pub use job::{Direction, EDITS, Packet, Stage, Verdict, Work, flag, found, reset};
pub use window::acknowledge;

use self::job::{Job, more, step};
use super::flow::{Filter, Prepare};
use crate::layout::{Counter, DirectionState, FlowNames, MAIN, Range, RpcFlow, Walker};

/// Chunks or header bytes that a segment can have: more than a 64 KiB packet needs.
const WALK_STEPS: u32 = 1 << 17;
/// Places of a segment that are looked at: ranges that it meets, and a new one. One that has more is dropped, and finds
/// fewer when it comes again.
const PLACES: usize = 18;
/// Rounds of edits that a segment can need: one of 64 KiB has 2,200 recipients at the most.
const ROUNDS: usize = 64;
/// How long segments are dropped because memory for marks is short, before their connection is reset: in units of 2^20
/// nanoseconds. The kernel refills its caches in less than a millisecond.
const MEMORY_PATIENCE: u32 = 3000;

/// Runs a stage.
#[inline(always)]
pub fn run<P: Packet>(stage: Stage, packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    match stage {
        Stage::Prepare => prepare::<P>(&mut flow.names, work),
        Stage::Walk => round(packet, flow, work),
        Stage::Keep => Job::new(packet, flow, work).keep_ranges(),
        Stage::Place => Job::new(packet, flow, work).place(),
        Stage::Head => Job::new(packet, flow, work).read_head(),
        Stage::Rest => Job::new(packet, flow, work).look_at_rest(),
        Stage::Open => Job::new(packet, flow, work).look(),
        Stage::Frames => P::repeat(
            &mut frames::Frames(Job::new(packet, flow, work)),
            WALK_STEPS,
        ),
        Stage::Search => {
            let mut job = Job::new(packet, flow, work);
            if job.must_search() {
                P::repeat(&mut search::Search(job), WALK_STEPS);
            }
        }
        Stage::Arrive => Job::new(packet, flow, work).arrive(),
        Stage::Join => Job::new(packet, flow, work).join(),
        Stage::Settle => Job::new(packet, flow, work).settle(),
        Stage::Sweep => marks::sweep(packet, flow, work),
        Stage::Mark => marks::mark(packet, flow, work),
        Stage::Recall => marks::recall(packet, flow, work),
        Stage::Apply => Job::new(packet, flow, work).apply(),
    }
}

/// Begins a direction at a SYN: `next` is the sequence number behind it.
#[inline(always)]
pub fn begin(direction: &mut DirectionState, next: u32, way: Direction) {
    direction.ranges[MAIN] = Range {
        start: next,
        end: next,
        walker: Walker::at(next),
        ..Range::default()
    };
    direction.high = next;
    direction.careful = search::CAREFUL;
    direction.flags = flag::SYNCED;
    if way == Direction::Outbound {
        direction.flags |= flag::HANDSHAKE;
    }
}

/// Processes the payload of a segment: `len` bytes (at least 1) from `seq`.
#[inline(always)]
pub fn process<P: Packet>(
    packet: &mut P,
    flow: &mut RpcFlow,
    work: &mut Work,
    way: Direction,
    seq: u32,
    len: u32,
) -> Verdict {
    work.begin(way, seq, len);
    (work.flow, work.policy) = (flow.id, flow.policy);
    if flow.names.prepared == 0 {
        packet.stage(Stage::Prepare, flow, work);
    }
    if Job::new(packet, flow, work).passes_body() {
        return Verdict::Pass;
    }
    if Job::new(packet, flow, work).must_sweep() {
        packet.stage(Stage::Sweep, flow, work);
    }
    let mut rounds = 0;
    while rounds < ROUNDS {
        packet.stage(Stage::Walk, flow, work);
        if work.more == 0 {
            break;
        }
        rounds += 1;
    }
    if work.reset != 0 {
        Verdict::Reset
    } else if work.more != 0 {
        Verdict::Drop(Counter::DroppedStore)
    } else {
        match work.dropped() {
            None => Verdict::Pass,
            Some(why) => Verdict::Drop(why),
        }
    }
}

/// A round: walks what was not walked, until there is no room for more edits; then marks and applies the edits, and
/// those that were made before.
#[inline(always)]
fn round<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    if work.more != more::RECALL {
        walk(packet, flow, work);
    }
    work.more &= more::WALK;
    if !work.is_over() && work.more == 0 && Job::new(packet, flow, work).must_settle() {
        packet.stage(Stage::Settle, flow, work);
    }
    if work.count != 0 && work.reset == 0 {
        packet.stage(Stage::Mark, flow, work);
    }
    flow.flags |= work.state;
    if !work.is_over() && work.more == 0 && work.replayed != 0 {
        packet.stage(Stage::Recall, flow, work);
    }
    if flow.names.prepared == 0 {
        // The walk has learned a name, which the edits write.
        packet.stage(Stage::Prepare, flow, work);
    }
    if !work.is_over() && work.count != 0 {
        packet.stage(Stage::Apply, flow, work);
    }
    work.count = 0;
    work.kinds = 0;
    if work.is_over() {
        work.more = 0;
    }
}

/// Reads from `at` to `stop`.
#[inline(always)]
fn read<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    if Job::new(packet, flow, work).reads_frames() {
        packet.stage(Stage::Frames, flow, work);
    }
    if work.is_inbound() {
        Job::new(packet, flow, work).close_recipient();
    } else {
        packet.stage(Stage::Search, flow, work);
    }
}

/// Walks what of the segment was not walked, until there is no room for more edits.
#[inline(always)]
fn walk<P: Packet>(packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    work.more = 0;
    if Job::new(packet, flow, work).place_next() {
        read(packet, flow, work);
        Job::new(packet, flow, work).arrive_next();
        return;
    }
    packet.stage(Stage::Keep, flow, work);
    let mut places = 0;
    while places < PLACES {
        packet.stage(Stage::Place, flow, work);
        if work.step == step::LOOK {
            packet.stage(Stage::Head, flow, work);
            packet.stage(Stage::Rest, flow, work);
            packet.stage(Stage::Open, flow, work);
        }
        if work.step == step::DONE {
            return;
        }
        if work.step == step::WALK {
            read(packet, flow, work);
            packet.stage(Stage::Arrive, flow, work);
            if work.step == step::CHECK {
                read(packet, flow, work);
                packet.stage(Stage::Join, flow, work);
            }
            if work.more != 0 {
                return;
            }
        }
        places += 1;
    }
    work.drop_for(Counter::DroppedHole);
}

/// Composes the texts that the known names allow.
#[inline(always)]
pub fn prepare<P: Packet>(names: &mut FlowNames, work: &mut Work) {
    let mut prepare = Prepare::new(names, &mut work.progress);
    P::repeat(&mut prepare, Prepare::STEPS);
    prepare.finish();
    P::repeat(&mut Filter::new(names, &mut work.progress), Filter::STEPS);
}
