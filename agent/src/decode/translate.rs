//! The kernel's walker over recorded streams.

use std::collections::HashMap;

use truename_common::{
    layout::{Authority, Head, HeadKey, LongText, Page, PageKey, RpcFlow, System},
    wire::{
        chunk::Chunk,
        flow::{self, state},
        frame::plausible,
        steps::Steps,
        stream::{self, Block, Packet, Stage, Verdict, Work, found},
    },
};

use super::{
    Direction, FrameRow, Rewrite,
    assemble::Gap,
    frame::{self, Frame, Kind},
};
use crate::name;

/// What is known before a stream is read.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The authority by which the endpoint knows itself.
    pub canonical: Option<name::Authority>,
    /// The alias that the client uses; for an outbound stream alone, which does not tell it.
    pub alias: Option<name::Authority>,
    /// The actor system.
    pub system: Option<String>,
}

/// A connection, before and after translation.
pub struct Connection {
    flow: Box<RpcFlow>,
    work: Box<Work>,
    pages: HashMap<PageKey, Box<Page>>,
    heads: HashMap<HeadKey, Head>,
    inbound: Stream,
    outbound: Stream,
}

#[derive(Default)]
struct Stream {
    before: Vec<u8>,
    after: Vec<u8>,
    /// Bytes that the walker has not let pass: it waits for the end of a name.
    held: Vec<u8>,
    /// Where bytes are missing.
    gaps: Vec<(usize, Gap)>,
}

/// Bytes from which on a beginning is judged.
const PLAUSIBLE_MIN: usize = 8;
/// Bytes that are fed at once: less than the kernel's largest packets.
const PIECE: usize = 32 << 10;

impl Connection {
    pub fn new(names: Names) -> Self {
        let mut flow = Box::new(RpcFlow::default());
        stream::begin(&mut flow.inbound, 0, stream::Direction::Inbound);
        stream::begin(&mut flow.outbound, 0, stream::Direction::Outbound);
        if let Some(canonical) = names.canonical {
            flow.names.canonical = canonical.to_layout();
        }
        if let Some(alias) = names.alias {
            flow.names.alias = alias.to_layout();
        }
        if let Some(system) = names
            .system
            .and_then(|system| System::new(system.as_bytes()))
        {
            flow.names.system = system;
        }
        Self {
            flow,
            work: Box::default(),
            pages: HashMap::new(),
            heads: HashMap::new(),
            inbound: Stream::default(),
            outbound: Stream::default(),
        }
    }

    /// The next bytes of a direction.
    pub fn feed(&mut self, way: Direction, mut bytes: &[u8]) {
        // The Associate goes alone, as its sender waits for the other's: what it tells is known
        // when the next frame is read.
        let begun = match way {
            Direction::Inbound => !self.inbound.before.is_empty(),
            Direction::Outbound => !self.outbound.before.is_empty(),
        };
        if !begun && let Some(head) = bytes.first_chunk::<4>() {
            let end = (u32::from_be_bytes(*head) as usize).saturating_add(4);
            if let Some((first, rest)) = bytes.split_at_checked(end) {
                self.feed_piece(way, first);
                bytes = rest;
            }
        }
        for piece in bytes.chunks(PIECE) {
            self.feed_piece(way, piece);
        }
    }

    fn feed_piece(&mut self, way: Direction, bytes: &[u8]) {
        let (stream, wire) = match way {
            Direction::Inbound => (&mut self.inbound, stream::Direction::Inbound),
            Direction::Outbound => (&mut self.outbound, stream::Direction::Outbound),
        };
        stream.before.extend_from_slice(bytes);
        stream.held.extend_from_slice(bytes);
        if self.flow.flags & state::LEFT_ALONE != 0 {
            stream.after.append(&mut stream.held);
            return;
        }
        let mut segment = stream.held.clone();
        let seq = stream.after.len() as u32;
        let len = segment.len() as u32;
        let mut packet = Memory {
            bytes: &mut segment,
            pages: &mut self.pages,
            heads: &mut self.heads,
        };
        let verdict = stream::process(&mut packet, &mut self.flow, &mut self.work, wire, seq, len);
        let mut is_too_long = false;
        if self.work.found & found::SENDER != 0 {
            is_too_long |= flow::learn_canonical(&mut self.flow);
        }
        if self.work.found & found::ASSOCIATE != 0 {
            match way {
                Direction::Inbound => flow::learn_origin(&mut self.flow),
                Direction::Outbound => is_too_long |= flow::learn_canonical(&mut self.flow),
            }
        }
        if is_too_long {
            // The kernel program would reset the connection.
            self.flow.flags |= state::LEFT_ALONE | state::NO_FIT;
        }
        // A drop would make TCP send the bytes again: they are fed again with what follows.
        if verdict == Verdict::Pass {
            stream.after.append(&mut segment);
            stream.held.clear();
            let end = stream.after.len() as u32;
            let direction = match way {
                Direction::Inbound => &mut self.flow.inbound,
                Direction::Outbound => &mut self.flow.outbound,
            };
            stream::acknowledge(direction, end, 0);
        }
    }

    /// Goes on with a frame behind bytes that the recording lacks.
    pub fn skip(&mut self, way: Direction, gap: Gap) {
        let (stream, direction) = match way {
            Direction::Inbound => (&mut self.inbound, &mut self.flow.inbound),
            Direction::Outbound => (&mut self.outbound, &mut self.flow.outbound),
        };
        stream.after.append(&mut stream.held);
        stream.gaps.push((stream.before.len(), gap));
        // As inbound: in the middle of a connection no handshake comes.
        let next = stream.after.len() as u32;
        stream::begin(direction, next, stream::Direction::Inbound);
    }

    /// The frames of both directions.
    pub fn rows(mut self, flow: Option<&str>) -> Vec<FrameRow> {
        let scheme = scheme(&self.inbound.before, &self.outbound.before);
        let mut rows = Vec::new();
        for (way, stream) in [
            (Direction::Inbound, &mut self.inbound),
            (Direction::Outbound, &mut self.outbound),
        ] {
            // What is held at the end of the recording would be sent again: its fate is not known.
            stream.after.append(&mut stream.held);
            rows.extend(stream.rows(flow, way, scheme));
        }
        rows
    }
}

impl Stream {
    fn rows(&self, flow: Option<&str>, way: Direction, scheme: &str) -> Vec<FrameRow> {
        let mut rows = Vec::new();
        let row = |offset, length, frame: Frame, rewrites| FrameRow {
            flow: flow.map(str::to_owned),
            way,
            offset,
            length,
            kind: frame.kind,
            recipient: frame.recipient,
            sender: frame.sender,
            announced: frame.announced,
            rewrites,
        };
        let mut gaps = self.gaps.iter().peekable();
        // Bytes that are missing or skipped in front of the offset.
        let (mut offset, mut lost) = (0, 0);
        loop {
            while let Some((_, gap)) = gaps.next_if(|(at, _)| *at <= offset) {
                for (length, kind) in [
                    (gap.missing, Kind::NotRecorded),
                    (gap.skipped, Kind::NotFrame),
                ] {
                    if length > 0 {
                        rows.push(row(offset + lost, length, Frame::of(kind), Vec::new()));
                        lost += length;
                    }
                }
            }
            if offset >= self.before.len() {
                return rows;
            }
            let limit = gaps.peek().map_or(self.before.len(), |(at, _)| *at);
            let (length, frame) = next(&self.before[offset..limit], offset == 0, scheme);
            let end = offset + length;
            let mut rewrites = self.rewrites(offset, end);
            for rewrite in &mut rewrites {
                rewrite.offset += lost;
            }
            rows.push(row(offset + lost, length, frame, rewrites));
            offset = end;
        }
    }

    /// The places between two offsets that are not the same before and after.
    fn rewrites(&self, from: usize, to: usize) -> Vec<Rewrite> {
        let differs = |at: usize| self.before.get(at) != self.after.get(at);
        let mut all = Vec::new();
        let mut at = from;
        while at < to {
            if !differs(at) {
                at += 1;
                continue;
            }
            let start = name_start(&self.before[from..at]) + from;
            // To the end of the last changed byte's name.
            let mut end = at;
            while end < to
                && (differs(end) || is_name(self.before[end]) && is_name(self.after[end]))
            {
                end += 1;
            }
            let show = |bytes: &[u8]| bytes[start..end].escape_ascii().to_string();
            all.push(Rewrite {
                offset: start,
                before: show(&self.before),
                after: show(&self.after),
            });
            at = end;
        }
        all
    }
}

/// Length and contents of the next frame, or of all the rest.
fn next(rest: &[u8], first: bool, scheme: &str) -> (usize, Frame) {
    if first && rest.starts_with(&[0x16, 3]) {
        return (rest.len(), Frame::of(Kind::Tls));
    }
    let window = &rest[..rest.len().min(truename_common::wire::chunk::CHUNK)];
    let Some(head) = rest.first_chunk::<4>() else {
        return (rest.len(), Frame::of(Kind::Truncated));
    };
    let length = u32::from_be_bytes(*head) as usize;
    if first
        && rest.len() >= PLAUSIBLE_MIN
        && length != 0
        && !plausible(&Chunk::new(window), window.len() as u32)
    {
        return (rest.len(), Frame::of(Kind::NotFrame));
    }
    match rest.get(4..4 + length) {
        Some(body) => (4 + length, frame::read(body, scheme)),
        None => (rest.len(), Frame::of(Kind::Truncated)),
    }
}

/// The word in front of the addresses: an Associate does not have it.
fn scheme(inbound: &[u8], outbound: &[u8]) -> &'static str {
    let has = |word: &[u8]| {
        [inbound, outbound]
            .iter()
            .any(|bytes| bytes.windows(word.len()).any(|w| w == word))
    };
    if has(b"akka://") || has(b"akka.tcp://") {
        "akka"
    } else {
        "pekko"
    }
}

/// Where the name begins in which the bytes end: at its scheme, if that is near.
fn name_start(bytes: &[u8]) -> usize {
    const NEAR: usize = 400;
    const SCHEMES: [&[u8]; 6] = [
        b"akka.ssl.tcp",
        b"akka.tcp",
        b"akka",
        b"pekko.ssl.tcp",
        b"pekko.tcp",
        b"pekko",
    ];
    let floor = bytes.len().saturating_sub(NEAR);
    let mark = bytes[floor..].windows(3).rposition(|three| three == b"://");
    let scheme_end = mark
        .map(|at| floor + at)
        .filter(|at| bytes[at + 3..].iter().all(|byte| is_name(*byte)))
        .unwrap_or(bytes.len());
    let scheme = SCHEMES
        .iter()
        .find(|scheme| bytes[..scheme_end].ends_with(scheme));
    scheme_end - scheme.map_or(0, |scheme| scheme.len())
}

/// Bytes of an authority.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_:@[]".contains(&byte)
}

/// A segment in memory.
struct Memory<'a> {
    bytes: &'a mut [u8],
    pages: &'a mut HashMap<PageKey, Box<Page>>,
    heads: &'a mut HashMap<HeadKey, Head>,
}

impl Memory<'_> {
    fn get(&self, offset: u32, len: u32) -> Option<&[u8]> {
        let from = offset as usize;
        self.bytes.get(from..from + len as usize)
    }
}

impl Packet for Memory<'_> {
    fn load(&mut self, offset: u32, len: u32, chunk: &mut Chunk) -> bool {
        let Some(bytes) = self.get(offset, len) else {
            return false;
        };
        *chunk = Chunk::new(bytes);
        true
    }

    fn load_block(&mut self, offset: u32, len: u32, block: &mut Block) -> bool {
        let Some(bytes) = self.get(offset, len) else {
            return false;
        };
        block.fill(bytes);
        true
    }

    fn writable(&mut self, _: u32) -> bool {
        true
    }

    fn store(&mut self, offset: u32, text: &LongText, from: u32, len: u32, _: Option<u32>) -> bool {
        let (offset, from, len) = (offset as usize, from as usize, len as usize);
        match (
            self.bytes.get_mut(offset..offset + len),
            text.bytes.get(from..from + len),
        ) {
            (Some(to), Some(from)) => {
                to.copy_from_slice(from);
                true
            }
            _ => false,
        }
    }

    /// A recording has no checksum to correct.
    fn finish(&mut self) -> bool {
        true
    }

    fn page(&mut self, key: &PageKey, create: bool) -> Option<&mut Page> {
        if create {
            return Some(self.pages.entry(*key).or_default());
        }
        self.pages.get_mut(key).map(|page| &mut **page)
    }

    fn forget(&mut self, key: &PageKey) {
        self.pages.remove(key);
    }

    fn head(&mut self, key: &HeadKey, create: bool) -> Option<&mut Head> {
        if create {
            return Some(self.heads.entry(*key).or_default());
        }
        self.heads.get_mut(key)
    }

    fn forget_head(&mut self, key: &HeadKey) {
        self.heads.remove(key);
    }

    fn admits(&mut self, _: &Authority) -> bool {
        true
    }

    fn repeat<S: Steps>(state: &mut S, times: u32) {
        for _ in 0..times {
            if !state.step() {
                return;
            }
        }
    }

    fn stage(&mut self, stage: Stage, flow: &mut RpcFlow, work: &mut Work) {
        stream::run(stage, self, flow, work);
    }
}
