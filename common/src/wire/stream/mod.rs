//! The rules for one direction of a TCP stream.
//!
//! A **cursor** divides the bytes that have been walked from those that have not; an **edit log**
//! holds the edits of the bytes that may be sent again; **islands** are ranges walked beyond a hole.
//!
//! 1. A byte has one translated value for ever. What lies before the cursor, or on an island, is
//!    never walked again; the logged edits are applied to it, however it is cut.
//! 2. What lies behind the cursor is walked.
//! 3. A segment beyond a hole passes if a body covers the hole; if it can be understood by itself it
//!    becomes an island, joined when the hole is filled; else it is dropped and TCP sends it again.
//!    If the receiver has acknowledged the hole, it passed unseen: the stream is resynchronised.
//! 4. A flow without a SYN is adopted at a segment that starts with a plausible frame.
//! 5. A segment that ends inside a name whose translation depends on bytes to come is *held*:
//!    walked, but dropped, until those bytes have been seen. Only when the same bytes come again and
//!    again without the next ones (a sender that may send nothing else) is the likely translation
//!    made; if the rest then disproves it, the connection is reset before the frame is complete.
//! 6. What is no frame is left alone.
//! 7. Sequence numbers wrap; a byte may come in any cut, any order, and any number of times.

mod edits;
mod frames;
mod hold;
mod ranges;
mod search;

use frames::Frames;
pub use ranges::begins_frame;
use search::Search;

use super::{
    chunk::{CHUNK, Chunk},
    flow::{self, state},
    seq::{after, before},
};
use crate::layout::{
    Authority, Counter, Direction, FlowNames, LongText, MAIN, RANGES, Range, RpcFlow, Walker,
};

/// Bits of [`Direction::flags`].
pub mod flag {
    /// The cursor is valid.
    pub const SYNCED: u32 = 1;
    /// [`super::Direction::acked`] is valid.
    pub const ACKED: u32 = 2;
    /// Outbound: the first frame, which announces the canonical name, has not been walked.
    pub const HANDSHAKE: u32 = 4;
    /// Outbound: the open pattern is already translated, by a guess.
    pub const GUESSED: u32 = 8;
}

/// Chunks or header bytes that a segment can have: more than a 64 KiB packet needs.
const WALK_STEPS: u32 = 1 << 17;

/// A computation that is repeated until it returns false.
pub trait Steps {
    fn step(&mut self) -> bool;
}

/// The payload of one TCP segment, and the tables around it.
pub trait Packet {
    /// Copies `len` bytes (1 to [`CHUNK`]) of the payload, from `offset`. False if that failed.
    fn load(&mut self, offset: u32, len: u32, chunk: &mut Chunk) -> bool;

    /// Replaces `len` bytes (at least 1) of the payload at `offset` by those of `text` from `from`,
    /// and corrects the checksum. False if that failed.
    fn store(&mut self, offset: u32, text: &LongText, from: u32, len: u32) -> bool;

    /// Whether the endpoint's list admits `alias`.
    fn admits(&mut self, alias: &Authority) -> bool;

    /// Calls `state.step()` until it returns false, at most `times` times.
    fn repeat<S: Steps>(state: &mut S, times: u32);

    /// Runs a [`Stage`]: calls [`run`]. The kernel does it through a function of its own, which the
    /// verifier checks once.
    fn stage(&mut self, stage: Stage, flow: &mut RpcFlow, work: &mut Work);
}

/// The costly parts of [`process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Composes the texts that the known names allow.
    Prepare,
    /// Looks at the first bytes of the segment.
    Look,
    /// Walks to the end of the segment, or to the next range.
    Walk,
    /// Reads frames up to the end of the walk.
    Frames,
    /// Searches the pattern up to the end of the walk.
    Search,
    /// Applies the logged edits.
    Apply,
}

/// Runs a stage.
#[inline(always)]
pub fn run<P: Packet>(stage: Stage, packet: &mut P, flow: &mut RpcFlow, work: &mut Work) {
    match stage {
        Stage::Prepare => prepare::<P>(&mut flow.names, work),
        Stage::Look => ranges::look(packet, &flow.names, work),
        Stage::Walk => ranges::walk(packet, flow, work),
        Stage::Frames => P::repeat(&mut Frames(Job::new(packet, flow, work)), WALK_STEPS),
        Stage::Search => P::repeat(&mut Search(Job::new(packet, flow, work)), WALK_STEPS),
        Stage::Apply => Job::new(packet, flow, work).apply(),
    }
}

/// Towards the endpoint, or away from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Way {
    Inbound = 0,
    Outbound = 1,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Dropped for the reason; TCP sends it again.
    Drop(Counter),
    /// The connection must be reset.
    Reset,
}

/// Bits of [`Work::found`]: what the walk came upon.
pub mod found {
    /// An alias was learned, in [`super::FlowNames::alias`].
    pub const ALIAS: u32 = 1;
    /// An announced address, in [`super::Direction::captured`].
    pub const ASSOCIATE: u32 = 2;
    pub const MALFORMED: u32 = 4;
    pub const NO_AUTHORITY: u32 = 8;
    pub const OTHER_SYSTEM: u32 = 16;
    pub const NOT_ADMITTED: u32 = 32;
    pub const RESYNCHRONISED: u32 = 64;
    pub const ADOPTED: u32 = 128;
    pub const TOO_LONG: u32 = 256;
    pub const TLS: u32 = 512;
    pub const GUESSED: u32 = 1024;
    pub const REAPPLIED: u32 = 2048;
    pub const UNSYNCHRONISED: u32 = 4096;
    pub const CUT: u32 = 8192;
    /// There are edits to apply.
    pub(super) const TO_APPLY: u32 = 1 << 31;
}

/// The state of one segment's processing. It lives in a map in the kernel, where the verifier takes
/// every scalar for unknown and so verifies a loop's body once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    pub chunk: Chunk,
    /// `CLOCK_MONOTONIC` nanoseconds, set by the caller.
    pub now_ns: u64,
    walker: Walker,
    /// Payload offset and length of the bytes in `chunk`.
    chunk_offset: u32,
    chunk_len: u32,
    /// Sequence number and length of the segment.
    seq: u32,
    len: u32,
    /// The byte that is walked next, and where the walk stops.
    at: u32,
    stop: u32,
    /// The range that the segment continues.
    range: u32,
    /// What the first bytes of the segment look like: bits of `ranges::head`.
    head: u32,
    /// Where the edits begin that have to be applied.
    logged: u32,
    /// The range that the walk may meet.
    next: u32,
    /// Where the range ended before the walk.
    old: u32,
    /// 1 if some of the segment was walked before.
    replayed: u32,
    /// Position in a loop.
    index: u32,
    /// Why the segment cannot pass: a [`Counter`] plus 1, or 0.
    drop: u32,
    reset: u32,
    /// Bits of [`found`].
    pub found: u32,
    /// Edits made in this segment, frames walked.
    pub edits: u32,
    pub frames: u32,
    /// Bits of [`state`] to add to the flow.
    state: u32,
    way: u32,
    policy: u32,
    /// 1 if the walk met a range and goes on behind it.
    more: u32,
    progress: flow::Progress,
}

/// One direction at work.
struct Job<'a, P> {
    packet: &'a mut P,
    direction: &'a mut Direction,
    names: &'a mut FlowNames,
    work: &'a mut Work,
}

impl<'a, P: Packet> Job<'a, P> {
    #[inline(always)]
    fn new(packet: &'a mut P, flow: &'a mut RpcFlow, work: &'a mut Work) -> Self {
        let direction = if work.way == Way::Inbound as u32 {
            &mut flow.inbound
        } else {
            &mut flow.outbound
        };
        Self {
            packet,
            direction,
            names: &mut flow.names,
            work,
        }
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        self.work.seq.wrapping_add(self.work.len)
    }

    #[inline(always)]
    fn is(&self, flag: u32) -> bool {
        self.direction.flags & flag != 0
    }

    /// The byte at sequence number `at`, or `None` if the packet could not be read.
    #[inline(always)]
    fn byte(&mut self) -> Option<u8> {
        let offset = self.work.at.wrapping_sub(self.work.seq);
        let mut index = offset.wrapping_sub(self.work.chunk_offset);
        if index >= self.work.chunk_len {
            let left = self.work.len.wrapping_sub(offset);
            let len = if left < CHUNK as u32 {
                left
            } else {
                CHUNK as u32
            };
            if len == 0 || !self.packet.load(offset, len, &mut self.work.chunk) {
                self.work.drop = Counter::DroppedStore as u32 + 1;
                return None;
            }
            self.work.chunk_offset = offset;
            self.work.chunk_len = len;
            index = 0;
        }
        Some(self.work.chunk.byte(index as usize))
    }
}

/// Begins a direction at a SYN: `next` is the sequence number behind it.
#[inline(always)]
pub fn begin(direction: &mut Direction, next: u32, way: Way) {
    direction.ranges[MAIN] = Range {
        start: next,
        end: next,
        walker: Walker::at(next),
    };
    direction.edited_to = next;
    direction.flags = flag::SYNCED
        | if way == Way::Outbound {
            flag::HANDSHAKE
        } else {
            0
        };
}

/// Takes an acknowledgement of `direction`'s bytes.
#[inline(always)]
pub fn acknowledge(direction: &mut Direction, ack: u32) {
    if direction.flags & flag::ACKED == 0 || after(ack, direction.acked) {
        direction.acked = ack;
        direction.flags |= flag::ACKED;
    }
}

/// Processes the payload of a segment: `len` bytes (at least 1) from `seq`.
#[inline(always)]
pub fn process<P: Packet>(
    packet: &mut P,
    flow: &mut RpcFlow,
    work: &mut Work,
    way: Way,
    seq: u32,
    len: u32,
) -> Verdict {
    work.seq = seq;
    work.len = len;
    work.chunk_len = 0;
    work.drop = 0;
    work.reset = 0;
    work.found = 0;
    work.edits = 0;
    work.frames = 0;
    work.state = 0;
    work.head = 0;
    work.way = way as u32;
    work.policy = flow.policy;
    if !flow.names.is_prepared() {
        packet.stage(Stage::Prepare, flow, work);
    }
    if Job::new(packet, flow, work).must_look() {
        packet.stage(Stage::Look, flow, work);
    }
    if !Job::new(packet, flow, work).enter() {
        return match work.drop {
            0 => Verdict::Pass,
            why => Verdict::Drop(reason(why)),
        };
    }
    if !before(seq.wrapping_add(len), work.at) {
        // A segment can meet every range once.
        let mut met = 0;
        while met < RANGES {
            packet.stage(Stage::Walk, flow, work);
            if work.more == 0 {
                break;
            }
            met += 1;
        }
        if work.reset != 0 {
            return Verdict::Reset;
        }
        if work.drop != 0 {
            return Verdict::Drop(reason(work.drop));
        }
    }
    if Job::new(packet, flow, work).settle() {
        return Verdict::Drop(Counter::DroppedHeld);
    }
    flow.flags |= work.state;
    if work.found & found::ALIAS != 0 && !flow.names.is_prepared() {
        packet.stage(Stage::Prepare, flow, work);
    }
    if work.found & found::TO_APPLY != 0 {
        packet.stage(Stage::Apply, flow, work);
    }
    match work.drop {
        0 => Verdict::Pass,
        why => Verdict::Drop(reason(why)),
    }
}

/// Composes the texts that the known names allow.
#[inline(always)]
pub fn prepare<P: Packet>(names: &mut FlowNames, work: &mut Work) {
    let mut prepare = flow::Prepare::new(names, &mut work.progress);
    P::repeat(&mut prepare, flow::Prepare::STEPS);
    prepare.finish();
}

/// The counter that [`Work::drop`] stands for.
#[inline(always)]
fn reason(drop: u32) -> Counter {
    if drop == Counter::DroppedHole as u32 + 1 {
        Counter::DroppedHole
    } else if drop == Counter::DroppedLogFull as u32 + 1 {
        Counter::DroppedLogFull
    } else {
        Counter::DroppedStore
    }
}
