use super::{Authority, LongText, Socket, System, Text, plain};

/// Edits of unacknowledged bytes that a direction can hold. A power of two. A 64 KiB packet of
/// 190-byte frames has about 350.
pub const EDIT_LOG: usize = 512;
/// Ranges that a direction can hold: the main one, and those beyond a hole. A power of two, so that
/// a mask bounds an index.
pub const RANGES: usize = 4;
/// The range that ends at the first byte that has not been walked.
pub const MAIN: usize = 0;

/// Where the bytes of an [`Edit`] come from: an index into [`FlowNames::texts`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditKind {
    /// `://<system>` and slashes: the host-less form of a recipient.
    Local = 0,
    /// The canonical authority, padded to the alias.
    Canonical = 1,
    /// The alias, padded to the canonical authority; empty if it does not fit.
    Alias = 2,
    /// The same of what the client uses on another connection.
    PeerAlias = 3,
}

/// Bytes of a stream that have another value behind truename than before it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Sequence number of the first byte.
    pub at: u32,
    pub len: u16,
    /// The [`EditKind`] in the upper two bits, the offset into its text in the others.
    pub source: u16,
}

/// The state of a walker between two bytes: of frames and, outbound, of the pattern.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walker {
    /// Sequence number of the next byte that must be looked at; those before it are body.
    pub resume: u32,
    /// End of the frame.
    pub frame_end: u32,
    /// End of the innermost message.
    pub limit: u32,
    /// First byte behind the scheme word (`akka`, `pekko`) of the recipient.
    pub scheme_end: u32,
    /// First byte of the recipient's authority.
    pub authority: u32,
    /// Integer being read, bytes left of a captured string, or the sequence number up to which the
    /// local form is logged.
    pub value: u32,
    /// A phase of `wire::frame`.
    pub phase: u8,
    /// A level of `wire::frame`.
    pub level: u8,
    pub tag: u8,
    pub shift: u8,
    /// Bytes of the current fixed part that have been read.
    pub count: u8,
    /// Flags of `wire::frame`.
    pub flags: u8,
    /// Outbound: bytes of the pattern matched so far.
    pub matched: u16,
}

/// A walked range of a stream.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Sequence numbers of the first byte and of the one behind the last. A range beyond a hole is
    /// unused if they are equal.
    pub start: u32,
    pub end: u32,
    /// The state at `end`.
    pub walker: Walker,
}

/// One direction of a translated stream. The rules are those of `wire::stream`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Direction {
    /// Frames walked, and edits made, for the statistics.
    pub frames: u64,
    pub edits: u64,
    /// `CLOCK_MONOTONIC` nanoseconds when a segment was held, the cursor not having moved since.
    pub held_ns: u64,
    /// Sequence number up to which the receiver has acknowledged.
    pub acked: u32,
    /// End of the last byte with a logged edit.
    pub edited_to: u32,
    /// Free-running positions in `log`.
    pub log_head: u32,
    pub log_tail: u32,
    /// Flags of `wire::stream`.
    pub flags: u32,
    /// Since the cursor moved: the first segment dropped beyond the hole, and how often it came.
    pub hole_seq: u32,
    pub hole_drops: u32,
    /// Since the cursor moved: how often a held segment came again.
    pub held_drops: u32,
    /// Where the captured authority begins, to know whose it is.
    pub captured_at: u32,
    /// [`MAIN`] first.
    pub ranges: [Range; RANGES],
    pub captured: Authority,
    pub captured_system: System,
    pub log: [Edit; EDIT_LOG],
}

/// The names that a flow translates between, frozen when they become known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowNames {
    pub canonical: Authority,
    /// What the client calls the endpoint.
    pub alias: Authority,
    /// What the client calls the endpoint on another connection, used while it has addressed nothing
    /// on this one.
    pub peer_alias: Authority,
    /// What the client announced.
    pub origin: Authority,
    pub system: System,
    /// What edits write, by [`EditKind`].
    pub texts: [LongText; 4],
    /// `://<system>@<canonical>/`; empty while a name is unknown.
    pub pattern: LongText,
}

impl FlowNames {
    /// The text of edits of `kind`, modulo 4.
    #[inline(always)]
    pub fn text(&self, kind: u16) -> &LongText {
        &self.texts[usize::from(kind) & 3]
    }

    /// As [`Self::text`].
    #[inline(always)]
    pub fn text_mut(&mut self, kind: EditKind) -> &mut LongText {
        &mut self.texts[kind as usize & 3]
    }
}

/// A flow to an RPC endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct RpcFlow {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub created_ns: u64,
    pub seen_ns: u64,
    /// 1 while a CPU works on the flow.
    pub lock: u64,
    /// Hashes of the alias and of what the client announced; 0 while unknown.
    pub alias_hash: u64,
    pub origin_hash: u64,
    /// Bits of `wire::flow::state`.
    pub flags: u32,
    /// [`super::Endpoint::id`].
    pub endpoint: u32,
    /// A [`super::Policy`].
    pub policy: u32,
    pub reserved: u32,
    pub inbound: Direction,
    pub outbound: Direction,
    pub names: FlowNames,
    pub pad: [u8; 4],
}

/// Who a client is, as seen by an endpoint: replies may travel on another connection of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerKey {
    pub endpoint: Socket,
    pub client: [u8; 16],
    pub pad: u32,
    /// Hash of the announced authority; 0 stands for whoever was seen last at the address.
    pub origin: u64,
}

/// What is known of a client.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub seen_ns: u64,
    /// What it announced in its Associate; empty if that was not seen.
    pub announced: Authority,
    /// The alias that it used last; empty if it uses the canonical name.
    pub alias: Authority,
    pub system: System,
    pub pad: [u8; 2],
}

/// An alias as one client uses it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AliasKey {
    pub endpoint: Socket,
    pub client: [u8; 16],
    pub pad: u32,
    /// Hash of the alias.
    pub alias: u64,
}

/// The use of an alias.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AliasStat {
    pub first_ns: u64,
    pub seen_ns: u64,
    pub inbound: u64,
    pub outbound: u64,
    pub alias: Authority,
    /// 1 if the alias is longer than the canonical name.
    pub no_fit: u8,
    pub pad: [u8; 5],
}

plain!(
    Edit = 8,
    Walker = 32,
    Range = 40,
    Direction = 24 + 36 + 40 * RANGES + 258 + 66 + 8 * EDIT_LOG,
    FlowNames = 258 * 4 + 66 + 514 * 5,
    RpcFlow =
        56 + 2 * (24 + 36 + 40 * RANGES + 258 + 66 + 8 * EDIT_LOG) + 258 * 4 + 66 + 514 * 5 + 4,
    PeerKey = 48,
    Peer = 592,
    AliasKey = 48,
    AliasStat = 296,
);

impl Edit {
    /// An edit of `len` bytes at `at`, taken from offset `from` of the text of `kind`.
    #[inline(always)]
    pub const fn new(at: u32, len: u16, kind: EditKind, from: u16) -> Self {
        Self {
            at,
            len,
            source: ((kind as u16) << 14) | (from & 0x3fff),
        }
    }

    /// Offset into the text.
    #[inline(always)]
    pub const fn from(&self) -> u16 {
        self.source & 0x3fff
    }

    /// Number of the [`EditKind`].
    #[inline(always)]
    pub const fn kind(&self) -> u16 {
        self.source >> 14
    }
}

impl Direction {
    /// Range `index`, modulo [`RANGES`].
    #[inline(always)]
    pub fn range(&mut self, index: usize) -> &mut Range {
        &mut self.ranges[index & (RANGES - 1)]
    }

    /// Sequence number of the first byte that has not been walked.
    #[inline(always)]
    pub const fn cursor(&self) -> u32 {
        self.ranges[MAIN].end
    }
}

impl Default for Direction {
    fn default() -> Self {
        Self {
            frames: 0,
            edits: 0,
            acked: 0,
            edited_to: 0,
            log_head: 0,
            log_tail: 0,
            flags: 0,
            hole_seq: 0,
            hole_drops: 0,
            held_drops: 0,
            held_ns: 0,
            captured_at: 0,
            ranges: [Range::default(); RANGES],
            captured: Text::EMPTY,
            captured_system: Text::EMPTY,
            log: [Edit::default(); EDIT_LOG],
        }
    }
}
