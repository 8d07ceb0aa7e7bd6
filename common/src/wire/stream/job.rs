//! The state of one segment's processing, and what it needs of a packet.

use super::{
    block::{Block, equal},
    front::Front,
};
use crate::{
    layout::{
        Authority, Counter, DirectionState, Edit, FlowNames, Head, HeadKey, LongText, Needle, Page,
        PageKey, RANGES, Range, RpcFlow, Walker,
    },
    wire::{
        chunk::{CHUNK, Chunk},
        flow,
        seq::{after, before},
        steps::Steps,
    },
};

/// Bits of [`DirectionState::flags`].
pub mod flag {
    /// The cursor is valid.
    pub const SYNCED: u32 = 1;
    /// Outbound: the first frame, which announces the canonical name, has not been walked.
    pub const HANDSHAKE: u32 = 2;
}

/// Bits of [`Range::flags`].
pub(super) mod range_flag {
    /// Inbound: where frames begin is not known at the end of the range.
    pub const LOST: u16 = 1;
    /// Outbound: a frame seemed to begin at [`Range::first`].
    pub const FRAMED: u16 = 2;
}

/// What [`Work::step`] holds: what [`super::Stage::Place`] found at `at`.
pub(super) mod step {
    /// The segment is done, or dropped.
    pub const DONE: u32 = 0;
    /// A range goes on here: walk to `stop`.
    pub const WALK: u32 = 1;
    /// The bytes were walked before: look behind them.
    pub const KNOWN: u32 = 2;
    /// Nothing is known here: look at the bytes.
    pub const LOOK: u32 = 3;
    /// Another range was met: its first bytes are to be checked.
    pub const CHECK: u32 = 4;
    /// Another range was joined.
    pub const JOINED: u32 = 5;
}

/// Bits of [`Work::checks`].
pub(super) mod check {
    /// The first bytes of a range are read once more.
    pub const READS: u32 = 1;
    /// They had the edit that was made behind the hole.
    pub const CONFIRMED: u32 = 2;
}

/// Why a connection must be reset: what [`Work::reset`] holds.
pub mod reset {
    /// A name was not what its first bytes were taken for: outbound, inbound.
    pub const NAME: u32 = 1;
    pub const RECIPIENT: u32 = 2;
    /// The first bytes behind a hole were not what they were taken for.
    pub const REST: u32 = 3;
    /// Frames behind a hole do not go on with those before it.
    pub const FRAMES: u32 = 4;
    /// There was no memory to remember edits.
    pub const MEMORY: u32 = 5;
    /// It is not known any more what was edited.
    pub const MARKS: u32 = 6;
    /// Recipients were translated whose alias proved longer than the canonical name.
    pub const NO_FIT: u32 = 7;
    /// The alias is longer than the canonical name, and the next connection is relayed.
    pub const RELAY: u32 = 8;
}

/// What [`Work::more`] holds, if there was no room for more edits.
pub(super) mod more {
    /// The walk goes on.
    pub const WALK: u32 = 1;
    /// The edits of walked bytes are recalled.
    pub const RECALL: u32 = 2;
}

/// Edits of a segment that are kept until they are applied; with more, the walk is done in rounds. A power
/// of two.
pub const EDITS: usize = 1024;

/// The payload of one TCP segment, and the maps around it.
pub trait Packet {
    /// Copies `len` bytes (1 to [`CHUNK`]) of the payload, from `offset`. False if that failed.
    fn load(&mut self, offset: u32, len: u32, chunk: &mut Chunk) -> bool;

    /// Copies `len` bytes (1 to [`BLOCK`]) of the payload, from `offset`. False if that failed.
    fn load_block(&mut self, offset: u32, len: u32, block: &mut Block) -> bool;

    /// Makes the first `len` bytes of the payload writable, once for all edits. False if that failed.
    fn writable(&mut self, len: u32) -> bool;

    /// Replaces `len` bytes (at least 1) of the payload at `offset` by those of `text` from `from`.
    /// `sum` is what that changes in the checksum of bytes at an even offset, if it is known: else it is
    /// computed. False if that failed.
    fn store(
        &mut self,
        offset: u32,
        text: &LongText,
        from: u32,
        len: u32,
        sum: Option<u32>,
    ) -> bool;

    /// Corrects the checksum for all that was stored. False if that failed.
    fn finish(&mut self) -> bool;

    /// The page with a key; a new one if `create`. `None` if there is none, or no memory.
    fn page(&mut self, key: &PageKey, create: bool) -> Option<&mut Page>;

    /// Removes a page, if it is there.
    fn forget(&mut self, key: &PageKey);

    /// The head with a key; a new one if `create`. `None` if there is none, or no memory.
    fn head(&mut self, key: &HeadKey, create: bool) -> Option<&mut Head>;

    /// Removes a head, if it is there.
    fn forget_head(&mut self, key: &HeadKey);

    /// Whether the endpoint's list admits `alias`.
    fn admits(&mut self, alias: &Authority) -> bool;

    /// [`super::block::equal`], which the kernel calls through a function of its own.
    fn equal(window: &Block, at: u32, text: &Needle, from: u32, len: u32) -> u32 {
        equal(window, at, text, from, len)
    }

    /// Calls `state.step()` until it returns false, at most `times` times.
    fn repeat<S: Steps>(state: &mut S, times: u32);

    /// Runs a [`Stage`]: calls [`super::run`]. The kernel does it through a function of its own, which the
    /// verifier checks once.
    fn stage(&mut self, stage: Stage, flow: &mut RpcFlow, work: &mut Work);
}

/// The costly parts of [`super::process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Composes the texts that the known names allow.
    Prepare,
    /// Walks what of the segment was not walked, and applies the edits.
    Walk,
    /// Keeps the ranges as they are, should there be no memory for marks.
    Keep,
    /// Finds the range that the next byte of the segment belongs to.
    Place,
    /// Looks for a frame in bytes of which nothing is known.
    Head,
    /// Decides whether such bytes can be read alone.
    Rest,
    /// Begins a range with them.
    Open,
    /// Reads frames up to the end of the walk.
    Frames,
    /// Searches the pattern up to the end of the walk.
    Search,
    /// Ends a walk.
    Arrive,
    /// Joins the range that the walk met.
    Join,
    /// Decides about a name that the end of the segment cuts.
    Settle,
    /// Makes sure that there are pages for the edits, and marks them there.
    Mark,
    /// Lets go pages.
    Sweep,
    /// Reads the edits of walked bytes from pages.
    Recall,
    /// Writes the edits into the packet.
    Apply,
}

/// Towards the endpoint, or away from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    Inbound = 0,
    Outbound = 1,
}

/// What happens to a segment.
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
    /// An announced address, in [`super::DirectionState::captured`].
    pub const ASSOCIATE: u32 = 2;
    /// Outbound: the address of a sender, there as well.
    pub const SENDER: u32 = 128;
    pub const MALFORMED: u32 = 4;
    pub const NO_AUTHORITY: u32 = 8;
    pub const OTHER_SYSTEM: u32 = 16;
    pub const NOT_ADMITTED: u32 = 32;
    pub const RESYNCHRONISED: u32 = 64;
    pub const TOO_LONG: u32 = 256;
    pub const TLS: u32 = 512;
    pub const GUESSED: u32 = 1024;
    pub const REAPPLIED: u32 = 2048;
    pub const UNSYNCHRONISED: u32 = 4096;
    pub const CUT: u32 = 8192;
    /// There was no memory for marks.
    pub const NO_MEMORY: u32 = 1 << 14;
    /// A page with marks is gone.
    pub const LOST_MARKS: u32 = 1 << 15;
    /// The segment lies outside the window.
    pub const OUT_OF_WINDOW: u32 = 1 << 16;
}

/// The ranges before a round.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Before {
    pub(super) ranges: [Range; RANGES],
    /// Ranges beyond holes.
    pub(super) islands: u32,
    /// How many of `ranges` are kept: those behind them were unused.
    pub(super) kept: u32,
    /// Flags of the direction.
    pub(super) flags: u32,
}

impl Default for Before {
    fn default() -> Self {
        Self {
            ranges: [Range::default(); RANGES],
            islands: 0,
            kept: 0,
            flags: 0,
        }
    }
}

/// The state of one segment's processing. It lives in a map in the kernel, where the verifier takes
/// every scalar for unknown and so verifies a loop's body once.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub chunk: Chunk,
    pub(super) block: Block,
    pub(super) before: Before,
    /// `CLOCK_MONOTONIC` nanoseconds, set by the caller.
    pub now_ns: u64,
    pub(super) walker: Walker,
    /// The front of the frame that is read.
    pub(super) front: Front,
    /// A word of the segment that may lie in a name.
    pub(super) word: u64,
    /// Payload offset and length of the bytes in `chunk`, and in `block`.
    pub(super) chunk_offset: u32,
    pub(super) chunk_len: u32,
    pub(super) block_offset: u32,
    pub(super) block_len: u32,
    /// Sequence number and length of the segment.
    pub(super) seq: u32,
    pub(super) len: u32,
    /// The byte that is walked next, and where the walk stops.
    pub(super) at: u32,
    pub(super) stop: u32,
    /// The range that is walked, and the one that the walk may meet.
    pub(super) range: u32,
    pub(super) next: u32,
    /// The other ranges that concern `at`: the one that has it, those that end there, an unused one, the first one in
    /// the hole before it, and the last one that ends before it; how far away `next` and the first one begin, and how
    /// far away the last one ends.
    pub(super) holder: u32,
    pub(super) follower: u32,
    pub(super) lost: u32,
    pub(super) free: u32,
    pub(super) first_range: u32,
    pub(super) last_range: u32,
    pub(super) nearest: u32,
    pub(super) nearest_first: u32,
    pub(super) nearest_last: u32,
    /// What is to be done at `at`: [`step`].
    pub(super) step: u32,
    /// 1 if some of the segment was walked before.
    pub(super) replayed: u32,
    /// Positions in loops.
    pub(super) index: u32,
    pub(super) bit: u32,
    pub(super) cursor: u32,
    pub(super) cursor_end: u32,
    /// The run of marks that is open: where it began, and 1 if there is one.
    pub(super) run: u32,
    pub(super) is_open: u32,
    /// The kind of edits that is marked or recalled.
    pub(super) kind: u32,
    /// The page that is marked or recalled, the last one, and the first byte of the page.
    pub(super) page: u32,
    pub(super) last_page: u32,
    pub(super) base: u32,
    /// End of the last edit, and the kinds that there are, a bit each.
    pub(super) edited_to: u32,
    pub(super) kinds: u32,
    /// While the beginning of a range beyond a hole is checked: bits of `check`, and where the range begins.
    pub(super) checks: u32,
    pub(super) joint: u32,
    /// Bytes before `first` that are zero, as those of empty frames.
    pub(super) zeros: u32,
    /// The search: before this nothing begins that was not seen.
    pub(super) floor: u32,
    /// What the bytes beyond a hole begin with: bits of `head`.
    pub(super) head: u32,
    pub(super) first: u32,
    /// What is edited of a name that began in the hole.
    pub(super) rest: Edit,
    /// Why the segment cannot pass: a [`Counter`] plus 1, or 0.
    pub(super) drop: u32,
    /// Why the connection must be reset: [`reset`], or 0.
    pub reset: u32,
    /// What goes on in another round: [`more`].
    pub(super) more: u32,
    /// Where edits are recalled from.
    pub(super) recalled: u32,
    /// Bits of [`found`].
    pub found: u32,
    /// Edits made in this segment, frames walked.
    pub made: u32,
    pub frames: u32,
    pub(super) way: u32,
    pub(super) policy: u32,
    /// Bits of [`flow::state`] to add to the flow. Not beside what else a segment begins with at 0: the compiler would
    /// clear them with `memset`, which works byte by byte in a kernel program.
    pub(super) state: u32,
    /// [`RpcFlow::id`].
    pub(super) flow: u64,
    /// 1 to read every byte by itself: the fast ways must come to the same.
    pub slow: u32,
    pub(super) progress: flow::Progress,
    /// Edits to apply.
    pub(super) count: u32,
    pub(super) pad: u32,
    pub(super) edits: [Edit; EDITS],
}

impl Default for Work {
    fn default() -> Self {
        Self {
            chunk: Chunk::EMPTY,
            block: Block::EMPTY,
            before: Before::default(),
            now_ns: 0,
            walker: Walker::default(),
            front: Front::default(),
            word: 0,
            chunk_offset: 0,
            chunk_len: 0,
            block_offset: 0,
            block_len: 0,
            seq: 0,
            len: 0,
            at: 0,
            stop: 0,
            range: 0,
            next: 0,
            holder: 0,
            follower: 0,
            lost: 0,
            free: 0,
            first_range: 0,
            last_range: 0,
            nearest: 0,
            nearest_first: 0,
            nearest_last: 0,
            step: 0,
            replayed: 0,
            index: 0,
            bit: 0,
            cursor: 0,
            cursor_end: 0,
            run: 0,
            is_open: 0,
            kind: 0,
            page: 0,
            last_page: 0,
            base: 0,
            edited_to: 0,
            kinds: 0,
            checks: 0,
            joint: 0,
            zeros: 0,
            floor: 0,
            head: 0,
            first: 0,
            rest: Edit::default(),
            drop: 0,
            reset: 0,
            more: 0,
            recalled: 0,
            found: 0,
            made: 0,
            frames: 0,
            state: 0,
            way: 0,
            policy: 0,
            flow: 0,
            slow: 0,
            progress: flow::Progress::default(),
            count: 0,
            pad: 0,
            edits: [Edit::default(); EDITS],
        }
    }
}

impl Work {
    /// Takes the next segment.
    #[inline(always)]
    pub(super) fn begin(&mut self, way: Direction, seq: u32, len: u32) {
        self.seq = seq;
        self.len = len;
        self.at = seq;
        self.chunk_len = 0;
        self.block_len = 0;
        self.drop = 0;
        self.reset = 0;
        self.more = 0;
        self.recalled = seq;
        self.found = 0;
        self.made = 0;
        self.frames = 0;
        self.state = 0;
        self.count = 0;
        self.kinds = 0;
        self.edited_to = seq;
        self.step = step::DONE;
        self.replayed = 0;
        self.checks = 0;
        self.way = way as u32;
    }

    #[inline(always)]
    pub(super) fn drop_for(&mut self, why: Counter) {
        self.drop = why as u32 + 1;
        self.step = step::DONE;
    }

    /// Why the segment cannot pass.
    #[inline(always)]
    pub(super) fn dropped(&self) -> Option<Counter> {
        const REASONS: [Counter; 4] = [
            Counter::DroppedHole,
            Counter::DroppedHeld,
            Counter::DroppedMemory,
            Counter::OutOfWindow,
        ];
        if self.drop == 0 {
            return None;
        }
        for why in REASONS {
            if self.drop == why as u32 + 1 {
                return Some(why);
            }
        }
        Some(Counter::DroppedStore)
    }

    /// Whether the segment cannot pass.
    #[inline(always)]
    pub(super) fn is_over(&self) -> bool {
        self.reset | self.drop != 0
    }

    /// The sequence number behind the segment.
    #[inline(always)]
    pub(super) fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len)
    }

    #[inline(always)]
    pub(super) fn is_inbound(&self) -> bool {
        self.way == Direction::Inbound as u32
    }
}

/// One direction at work.
pub(super) struct Job<'a, P> {
    pub packet: &'a mut P,
    pub direction: &'a mut DirectionState,
    pub names: &'a mut FlowNames,
    pub work: &'a mut Work,
}

impl<'a, P: Packet> Job<'a, P> {
    #[inline(always)]
    pub fn new(packet: &'a mut P, flow: &'a mut RpcFlow, work: &'a mut Work) -> Self {
        let direction = if work.is_inbound() {
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

    /// The same job, for a loop.
    #[inline(always)]
    pub fn again(&mut self) -> Job<'_, P> {
        Job {
            packet: &mut *self.packet,
            direction: &mut *self.direction,
            names: &mut *self.names,
            work: &mut *self.work,
        }
    }

    #[inline(always)]
    pub fn is(&self, flag: u32) -> bool {
        self.direction.flags & flag != 0
    }

    /// The key of the head of range `index`.
    #[inline(always)]
    pub fn head_key(&self, index: usize) -> HeadKey {
        HeadKey {
            flow: self.work.flow,
            range: index as u32,
            way: self.work.way,
        }
    }

    /// The range that is walked.
    #[inline(always)]
    pub fn range(&mut self) -> &mut Range {
        self.direction.range(self.work.range as usize)
    }

    /// Loads the window that begins at sequence number `at`. False if the packet could not be read.
    #[inline(always)]
    pub fn load_chunk(&mut self, at: u32) -> bool {
        let offset = at.wrapping_sub(self.work.seq);
        let left = self.work.len.wrapping_sub(offset);
        let len = if left < CHUNK as u32 {
            left
        } else {
            CHUNK as u32
        };
        if offset >= self.work.len || !self.packet.load(offset, len, &mut self.work.chunk) {
            self.work.chunk_len = 0;
            self.work.drop_for(Counter::DroppedStore);
            return false;
        }
        self.work.chunk_offset = offset;
        self.work.chunk_len = len;
        true
    }

    /// Where in the window sequence number `at` stands, if `len` bytes from there are in it.
    #[inline(always)]
    pub fn in_chunk(&self, at: u32, len: u32) -> Option<usize> {
        let offset = at.wrapping_sub(self.work.seq);
        let index = offset.wrapping_sub(self.work.chunk_offset);
        if index < self.work.chunk_len && self.work.chunk_len.wrapping_sub(index) >= len {
            Some(index as usize)
        } else {
            None
        }
    }

    /// Where in the block sequence number `at` stands, with `needed` bytes behind it, or all that the segment has. The
    /// block is loaded anew, `wanted` bytes of it, if it does not have them. `None` if the packet could not be read.
    #[inline(always)]
    pub fn in_block(&mut self, at: u32, needed: u32, wanted: u32) -> Option<u32> {
        let offset = at.wrapping_sub(self.work.seq);
        let index = offset.wrapping_sub(self.work.block_offset);
        if index < self.work.block_len && self.work.block_len.wrapping_sub(index) >= needed {
            return Some(index);
        }
        let left = self.work.len.wrapping_sub(offset);
        let len = if left < wanted { left } else { wanted };
        if offset >= self.work.len || !self.packet.load_block(offset, len, &mut self.work.block) {
            self.work.block_len = 0;
            self.work.drop_for(Counter::DroppedStore);
            return None;
        }
        self.work.block_offset = offset;
        self.work.block_len = len;
        Some(0)
    }

    /// The byte at `at`, or `None` if the packet could not be read.
    #[inline(always)]
    pub fn byte(&mut self) -> Option<u8> {
        let at = self.work.at;
        let mut index = at
            .wrapping_sub(self.work.seq)
            .wrapping_sub(self.work.chunk_offset);
        if index >= self.work.chunk_len {
            if !self.load_chunk(at) {
                return None;
            }
            index = 0;
        }
        Some(self.work.chunk.byte(index as usize))
    }

    /// Adds an edit; there is room, as the walk looks before every byte.
    #[inline(always)]
    pub fn push(&mut self, edit: Edit) {
        if self.work.checks != 0 {
            self.check(edit);
            return;
        }
        self.add(edit);
    }

    #[inline(always)]
    pub fn add(&mut self, edit: Edit) {
        let slot = self.work.count as usize & (EDITS - 1);
        self.work.edits[slot] = edit;
        self.work.count += 1;
        self.work.kinds |= 1 << edit.kind();
        let end = edit.at.wrapping_add(u32::from(edit.len));
        if after(end, self.work.edited_to) {
            self.work.edited_to = end;
        }
        // A name that is cut is written in pieces, and counted once.
        let begun = u32::from(edit.from() == 0);
        self.work.made += begun;
        self.direction.edits += u64::from(begun);
    }

    /// Whether another byte might find no room for its edits.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.work.count >= EDITS as u32 - 4
    }
}

/// Bytes of an edit before `at`, where its range begins.
#[inline(always)]
pub(super) const fn hidden(edit: &Edit, at: u32) -> u16 {
    if before(edit.at, at) {
        at.wrapping_sub(edit.at) as u16
    } else {
        0
    }
}
