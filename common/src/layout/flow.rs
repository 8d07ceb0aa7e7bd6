use super::{Authority, FiveTuple, LongText, Socket, System, Text, eight, plain};

/// Ranges that a direction can hold: the main one, and those beyond holes. A power of two, so that a
/// mask bounds an index.
///
/// Each lost segment that is not sent again yet takes one: 1 % of the 8 MiB that a fast connection has in flight are 56
/// segments, and more while some of what is sent again is lost, too. With 16, and with 64, segments were dropped.
pub const RANGES: usize = 128;
/// The range that ends at the first byte that has not been walked.
pub const MAIN: usize = 0;
/// Words of a [`Needle`], of the window on a segment, and of a [`Head`].
pub const NEEDLE_WORDS: usize = 16;
/// Words of a [`Page`]. With its key and the kernel's own header an entry takes just below 4 KiB, the
/// size class that the kernel allocates it from.
pub const PAGE_WORDS: usize = 496;
/// Bytes of the stream that a [`Page`] covers.
pub const PAGE_BYTES: u64 = 64 * PAGE_WORDS as u64;
/// Pages behind the cursor that a direction can remember: 30 MiB of stream.
pub const PAGES_KEPT: u32 = 992;
/// Words of [`DirectionState::pages`], for each of the two kinds of edits that a direction makes: as many pages before the
/// cursor as behind it, without a bit that stands for two of them.
pub const PAGE_BITS: usize = 2048 / 64;

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
    /// The [`EditKind`] in the upper two bits; [`Edit::EXACT`]; the offset into the text in the others.
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

impl Walker {
    /// Takes the values of another one. An assignment would call `memmove`, which copies byte by byte in a kernel program:
    /// 5 % of the time of a translated segment.
    #[inline(always)]
    pub fn take(&mut self, from: &Self) {
        self.resume = from.resume;
        self.frame_end = from.frame_end;
        self.limit = from.limit;
        self.scheme_end = from.scheme_end;
        self.authority = from.authority;
        self.value = from.value;
        self.phase = from.phase;
        self.level = from.level;
        self.tag = from.tag;
        self.shift = from.shift;
        self.count = from.count;
        self.flags = from.flags;
        self.matched = from.matched;
    }
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
    /// The first frame that was found in the range; outbound, where a segment began with it.
    pub first: u32,
    /// Bytes in the range's [`Head`].
    pub head_len: u16,
    /// Inbound: bytes before `first` that are zero, as those of empty frames.
    pub zeros: u16,
    /// Flags of `wire::stream`.
    pub flags: u16,
    pub pad: u16,
    /// The edit of a name that began in the hole before the range, all of it; without a length if there is none.
    pub rest: Edit,
}

/// Key of [`super::map::HEADS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeadKey {
    /// [`RpcFlow::id`].
    pub flow: u64,
    /// Index of the range.
    pub range: u32,
    /// `wire::stream::Direction`.
    pub way: u32,
}

/// The first bytes of a range beyond a hole, as they came: they are read once more when the hole is filled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub words: [u64; NEEDLE_WORDS],
}

/// One direction of a translated stream. The rules are those of `wire::stream`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DirectionState {
    /// Frames walked, and edits made, for the statistics.
    pub frames: u64,
    pub edits: u64,
    /// Position of the cursor in the stream, counted in 64 bits; it begins at 2³².
    pub position: u64,
    /// [`DirectionState::ACKED`] and the sequence number up to which the receiver has acknowledged, in one
    /// value: it is written without the lock.
    pub acked: u64,
    /// The same of an acknowledgement of bytes that were not seen.
    pub claimed: u64,
    /// The position from which on pages are let go again.
    pub sweep_at: u64,
    /// Bytes behind `acked` that the receiver has room for; 0 if that is not known.
    pub window: u32,
    /// End of the highest byte that was accepted.
    pub high: u32,
    /// Flags of `wire::stream`.
    pub flags: u32,
    /// Since the cursor moved: the first segment dropped beyond the hole, and how often it came.
    pub hole_seq: u32,
    pub hole_drops: u32,
    /// Since the cursor moved: how often a segment was held, at the cursor and beyond holes.
    pub held_drops: u16,
    pub held_beyond: u16,
    /// Since when memory for marks is short, in units of 2^20 nanoseconds; 0 if it is not.
    pub short_since: u32,
    /// Ranges beyond holes that are in use.
    pub islands: u32,
    /// Where the captured authority begins, to know whose it is.
    pub captured_at: u32,
    /// The oldest page that may exist.
    pub oldest_page: u32,
    /// Bytes that are still to be searched byte by byte, so that near misses are seen.
    pub careful: u32,
    /// Longest near miss of the pattern that was seen, in recipients and elsewhere, and whether the
    /// pattern itself was seen there.
    pub near: [u16; 2],
    pub hits: [u16; 2],
    /// The highest range that may have a [`Head`].
    pub heads: u32,
    /// Which pages have edits, by kind: a bit for the number modulo 2048.
    pub pages: [[u64; PAGE_BITS]; 2],
    /// [`MAIN`] first.
    pub ranges: [Range; RANGES],
    /// Scale of the windows that are advertised for this direction; [`DirectionState::NO_SCALE`] if unknown.
    pub scale: u32,
    pub captured: Authority,
    pub captured_system: System,
}

/// A text as words, to be compared eight bytes at a time. Empty if it is longer than 120 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needle {
    pub words: [u64; NEEDLE_WORDS],
    pub len: u32,
    pub pad: u32,
}

/// Key of [`super::map::PAGES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey {
    /// [`RpcFlow::id`].
    pub flow: u64,
    /// Number of the page: position in the stream through [`PAGE_BYTES`].
    pub page: u32,
    /// The [`EditKind`].
    pub kind: u32,
}

/// Which bytes of a part of a stream were edited: a bit for every byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub words: [u64; PAGE_WORDS],
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
    /// 1 if everything below, and the texts, fit the names above.
    pub prepared: u32,
    /// Length of the scheme word in front of the names: 4 `akka`, 5 `pekko`, 0 unknown.
    pub scheme: u32,
    /// By how much an edit of a whole name at an even offset changes the checksum, by [`EditKind`].
    pub sums: [u32; 4],
    /// 1 if the system can stand in the host position of a URI, as the local form needs it.
    pub is_local: u32,
    /// `<scheme>.tcp://<system>@<alias>/`, and the same with the canonical authority.
    pub front: Needle,
    pub front_canonical: Needle,
    /// The pattern.
    pub needle: Needle,
    /// The hashes of all words of the pattern, wherever they begin: a bit each.
    pub filter: [u64; NEEDLE_WORDS],
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
    /// Part of the keys of its pages.
    pub id: u64,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub created_ns: u64,
    pub seen_ns: u64,
    /// When the endpoint was last looked up.
    pub checked_ns: u64,
    /// 1 while a CPU works on the flow.
    pub lock: u64,
    /// Hashes of the alias and of what the client announced; 0 while unknown.
    pub alias_hash: u64,
    pub origin_hash: u64,
    /// Edits that the alias's statistics do not have yet, inbound and outbound.
    pub unreported: [u32; 2],
    /// When they were last reported.
    pub reported_ns: u64,
    /// Bits of `wire::flow::state`.
    pub flags: u32,
    /// [`super::Endpoint::id`].
    pub endpoint: u32,
    /// A [`super::Policy`].
    pub policy: u32,
    /// Sequence number of the FIN of the client and of the endpoint, once seen.
    pub fins: [u32; 2],
    pub pad: u32,
    pub inbound: DirectionState,
    pub outbound: DirectionState,
    pub names: FlowNames,
}

/// A connection that has not carried data: key and value of [`super::map::HANDSHAKES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// `CLOCK_MONOTONIC` nanoseconds of the last SYN.
    pub seen_ns: u64,
    /// Sequence number behind the SYN of the client, and of the endpoint.
    pub client_next: u32,
    pub endpoint_next: u32,
    /// The same of another connection with these addresses. Its first data tells which one is meant.
    pub pending_next: u32,
    pub pending_endpoint: u32,
    pub pad: u32,
    /// Bits of `wire::handshake::state`.
    pub flags: u32,
    /// Window scale of the client, and of the endpoint; [`DirectionState::NO_SCALE`] if it was not seen.
    pub scales: [u32; 2],
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// Bytes of a [`Range`].
const RANGE: usize = 4 + 4 + 32 + 4 + 4 * 2 + 8;
/// Bytes of a [`DirectionState`].
const DIRECTION: usize =
    6 * 8 + 11 * 4 + 4 * 2 + 2 * 8 * PAGE_BITS + RANGE * RANGES + 4 + 258 + 66 + 4;
/// Bytes of [`FlowNames`].
const NAMES: usize =
    258 * 4 + 66 + 514 * 5 + 3 * 4 + 4 * 4 + 3 * (8 * NEEDLE_WORDS + 8) + 8 * NEEDLE_WORDS;

plain!(
    Edit = 8,
    Walker = 32,
    Range = RANGE,
    DirectionState = DIRECTION,
    Needle = 8 * NEEDLE_WORDS + 8,
    Page = 8 * PAGE_WORDS,
    PageKey = 16,
    Head = 8 * NEEDLE_WORDS,
    HeadKey = 16,
    FlowNames = NAMES,
    RpcFlow = 8 * 8 + 8 + 6 * 4 + 2 * DIRECTION + NAMES,
    Handshake = 40,
    PeerKey = 48,
    Peer = 592,
    AliasKey = 48,
    AliasStat = 296,
);

impl Edit {
    /// The bytes that are replaced are the whole name that [`FlowNames::sums`] is about.
    pub const EXACT: u16 = 0x2000;

    /// An edit of `len` bytes at `at`, taken from offset `from` of the text of `kind`.
    #[inline(always)]
    pub const fn new(at: u32, len: u16, kind: EditKind, from: u16) -> Self {
        Self {
            at,
            len,
            source: ((kind as u16) << 14) | (from & 0x1fff),
        }
    }

    /// The same edit, marked as [`Self::EXACT`].
    #[inline(always)]
    pub const fn exact(self) -> Self {
        Self {
            source: self.source | Self::EXACT,
            ..self
        }
    }

    /// Whether the edit is [`Self::EXACT`].
    #[inline(always)]
    pub const fn is_exact(&self) -> bool {
        self.source & Self::EXACT != 0
    }

    /// The edit without its first `len` bytes.
    #[inline(always)]
    pub const fn behind(&self, len: u16) -> Self {
        Self {
            at: self.at.wrapping_add(len as u32),
            len: self.len.wrapping_sub(len),
            source: self.source.wrapping_add(len) & !Self::EXACT,
        }
    }

    /// The first `len` bytes of the edit.
    #[inline(always)]
    pub const fn first(&self, len: u16) -> Self {
        Self {
            at: self.at,
            len,
            source: self.source & !Self::EXACT,
        }
    }

    /// Offset into the text.
    #[inline(always)]
    pub const fn from(&self) -> u16 {
        self.source & 0x1fff
    }

    /// Number of the [`EditKind`].
    #[inline(always)]
    pub const fn kind(&self) -> u16 {
        self.source >> 14
    }
}

impl Needle {
    /// Bytes that a needle can hold: beyond them a word that is compared must not reach.
    pub const MAX: usize = 8 * (NEEDLE_WORDS - 1);

    /// Sets byte `index`; does nothing beyond [`Self::MAX`].
    #[inline(always)]
    pub fn set(&mut self, index: usize, byte: u8) {
        let shift = 8 * (index & 7) as u32;
        let word = &mut self.words[(index / 8) & (NEEDLE_WORDS - 1)];
        if index < Self::MAX {
            let value = u64::from_le(*word) & !(0xff << shift) | u64::from(byte) << shift;
            *word = value.to_le();
        }
    }

    /// The eight bytes from `index` on, the first one lowest.
    #[inline(always)]
    pub fn word(&self, index: usize) -> u64 {
        eight::load(self, index)
    }
}

// SAFETY: the words, length and padding behind them are `8 * NEEDLE_WORDS + 8` bytes of numbers.
unsafe impl eight::Window for Needle {
    const MASK: usize = 8 * NEEDLE_WORDS - 1;
}

/// The eight bytes of `words` from byte `index` on, the first one lowest; `index` is taken modulo the size.
#[inline(always)]
pub fn word(words: &[u64; NEEDLE_WORDS], index: usize) -> u64 {
    let (at, shift) = (index / 8, 8 * (index & 7) as u32);
    let low = u64::from_le(words[at & (NEEDLE_WORDS - 1)]) >> shift;
    // Shifting by 64 in two steps: without a branch, and zero where nothing is taken of the next word.
    low | u64::from_le(words[(at + 1) & (NEEDLE_WORDS - 1)]) << 1 << (63 - shift)
}

impl RpcFlow {
    /// The alias that the flow's edits are counted for.
    #[inline(always)]
    pub fn alias_key(&self, key: &FiveTuple) -> AliasKey {
        AliasKey {
            endpoint: key.endpoint(),
            client: key.client,
            pad: 0,
            alias: self.alias_hash,
        }
    }

    /// Adds what was counted and is not yet reported.
    #[inline(always)]
    pub fn report(&self, stat: &mut AliasStat) {
        let [inbound, outbound] = self.unreported;
        stat.seen_ns = self.seen_ns;
        stat.inbound += u64::from(inbound);
        stat.outbound += u64::from(outbound);
    }
}

impl Default for Page {
    fn default() -> Self {
        Self {
            words: [0; PAGE_WORDS],
        }
    }
}

impl DirectionState {
    /// The bit of [`Self::acked`] that says that it is valid.
    pub const ACKED: u64 = 1 << 32;
    /// No window scale was seen.
    pub const NO_SCALE: u32 = 255;
    /// Where [`Self::position`] begins.
    pub const ORIGIN: u64 = 1 << 32;
    /// The page of the first byte of the stream.
    pub const FIRST_PAGE: u32 = (Self::ORIGIN / PAGE_BYTES) as u32;

    /// Range `index`, modulo [`RANGES`].
    #[inline(always)]
    pub fn range(&mut self, index: usize) -> &mut Range {
        &mut self.ranges[index & (RANGES - 1)]
    }

    /// Makes all ranges unused.
    #[inline(always)]
    pub fn clear_ranges(&mut self) {
        for range in &mut self.ranges {
            range.start = 0;
            range.end = 0;
            range.flags = 0;
        }
        self.islands = 0;
    }

    /// Sequence number of the first byte that has not been walked.
    #[inline(always)]
    pub const fn cursor(&self) -> u32 {
        self.ranges[MAIN].end
    }

    /// Moves the cursor.
    #[inline(always)]
    pub fn set_cursor(&mut self, to: u32) {
        let moved = to.wrapping_sub(self.ranges[MAIN].end) as i32;
        self.position = self.position.wrapping_add(moved as i64 as u64);
        self.ranges[MAIN].end = to;
    }

    /// The position of a sequence number, which is less than 2³¹ away from the cursor.
    #[inline(always)]
    pub const fn position_of(&self, seq: u32) -> u64 {
        let ahead = seq.wrapping_sub(self.ranges[MAIN].end) as i32;
        self.position.wrapping_add(ahead as i64 as u64)
    }

    /// The sequence number up to which the receiver has acknowledged, if that was seen.
    #[inline(always)]
    pub const fn acknowledged(&self) -> Option<u32> {
        if self.acked & Self::ACKED != 0 {
            Some(self.acked as u32)
        } else {
            None
        }
    }
}

impl Default for DirectionState {
    fn default() -> Self {
        Self {
            frames: 0,
            edits: 0,
            position: Self::ORIGIN,
            acked: 0,
            claimed: 0,
            sweep_at: 0,
            window: 0,
            high: 0,
            flags: 0,
            hole_seq: 0,
            hole_drops: 0,
            held_drops: 0,
            held_beyond: 0,
            short_since: 0,
            islands: 0,
            captured_at: 0,
            oldest_page: Self::FIRST_PAGE,
            careful: 0,
            near: [0; 2],
            hits: [0; 2],
            heads: 0,
            pages: [[0; PAGE_BITS]; 2],
            ranges: [Range::default(); RANGES],
            scale: Self::NO_SCALE,
            captured: Text::EMPTY,
            captured_system: Text::EMPTY,
        }
    }
}
