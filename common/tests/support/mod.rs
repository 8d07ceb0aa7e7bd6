//! A TCP stream in user space, and an independent oracle of its translation.
#![allow(dead_code, reason = "every test binary uses a part")]

pub mod state;

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
};

use truename_common::{
    layout::{Authority, DirectionState, Head, HeadKey, LongText, Page, PageKey, RpcFlow},
    wire::{
        chunk::Chunk,
        flow,
        steps::Steps,
        stream::{self, Block, Direction, Packet, Stage, Verdict, Work, found},
    },
};

/// The pages of all flows.
#[derive(Default)]
pub struct Pages {
    pub pages: HashMap<PageKey, Box<Page>>,
    pub heads: HashMap<HeadKey, Head>,
    /// How many there may be.
    pub room: Option<usize>,
}

thread_local! {
    /// What was done in loops, by this thread.
    pub static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// One segment in memory.
pub struct Memory<'a> {
    pub bytes: &'a mut [u8],
    pub pages: &'a mut Pages,
    pub admitted: &'a dyn Fn(&[u8]) -> bool,
    /// What the checksum was changed by, and has to be.
    sum: u32,
    expected: u32,
}

impl<'a> Memory<'a> {
    pub fn new(
        bytes: &'a mut [u8],
        pages: &'a mut Pages,
        admitted: &'a dyn Fn(&[u8]) -> bool,
    ) -> Self {
        Self {
            bytes,
            pages,
            admitted,
            sum: 0,
            expected: 0,
        }
    }
}

/// The sum of 16-bit words, of which the first byte has index `at`.
fn sum(at: usize, bytes: &[u8]) -> u32 {
    let mut sum = 0u32;
    for (index, byte) in bytes.iter().enumerate() {
        let shift = if (at + index) & 1 == 0 { 0 } else { 8 };
        sum += u32::from(*byte) << shift;
    }
    sum % 0xffff
}

impl Packet for Memory<'_> {
    fn load(&mut self, offset: u32, len: u32, chunk: &mut Chunk) -> bool {
        let (offset, len) = (offset as usize, len as usize);
        *chunk = Chunk::new(&self.bytes[offset..offset + len]);
        true
    }

    fn load_block(&mut self, offset: u32, len: u32, block: &mut Block) -> bool {
        block.fill(&self.bytes[offset as usize..(offset + len) as usize]);
        true
    }

    fn writable(&mut self, len: u32) -> bool {
        assert!(len as usize <= self.bytes.len());
        true
    }

    fn store(
        &mut self,
        offset: u32,
        text: &LongText,
        from: u32,
        len: u32,
        known: Option<u32>,
    ) -> bool {
        let text = &text.bytes;
        let (offset, from, len) = (offset as usize, from as usize, len as usize);
        let before = sum(offset, &self.bytes[offset..offset + len]);
        self.bytes[offset..offset + len].copy_from_slice(&text[from..from + len]);
        let change = (sum(offset, &self.bytes[offset..offset + len]) + 0xffff - before) % 0xffff;
        self.expected = (self.expected + change) % 0xffff;
        let mut known = known.map_or(change, |known| known % 0xffff);
        if known != change {
            // At an odd offset it is the byte-swapped one.
            known = u32::from((known as u16).swap_bytes());
        }
        self.sum = (self.sum + known) % 0xffff;
        true
    }

    fn finish(&mut self) -> bool {
        assert_eq!(self.sum % 0xffff, self.expected % 0xffff, "the checksum");
        true
    }

    fn page(&mut self, key: &PageKey, create: bool) -> Option<&mut Page> {
        let pages = &mut self.pages;
        if create && !pages.pages.contains_key(key) {
            if pages.room.is_some_and(|room| pages.pages.len() >= room) {
                return None;
            }
            pages.pages.insert(*key, Box::default());
        }
        pages.pages.get_mut(key).map(|page| &mut **page)
    }

    fn forget(&mut self, key: &PageKey) {
        self.pages.pages.remove(key);
    }

    fn head(&mut self, key: &HeadKey, create: bool) -> Option<&mut Head> {
        if create {
            return Some(self.pages.heads.entry(*key).or_default());
        }
        self.pages.heads.get_mut(key)
    }

    fn forget_head(&mut self, key: &HeadKey) {
        self.pages.heads.remove(key);
    }

    fn admits(&mut self, alias: &Authority) -> bool {
        (self.admitted)(alias.as_bytes())
    }

    fn repeat<S: Steps>(state: &mut S, times: u32) {
        for step in 1..=times {
            if !state.step() {
                STEPS.set(STEPS.get() + u64::from(step));
                return;
            }
        }
        assert!(times < 1 << 14, "a walk was cut off after {times} steps");
    }

    fn stage(&mut self, stage: Stage, flow: &mut RpcFlow, work: &mut Work) {
        stream::run(stage, self, flow, work);
    }
}

/// A connection: the flow, and what each receiver got.
pub struct Connection {
    pub flow: Box<RpcFlow>,
    pub work: Box<Work>,
    pub pages: Pages,
    pub inbound: Receiver,
    pub outbound: Receiver,
    pub admitted: fn(&[u8]) -> bool,
}

/// What a receiver has of a stream, byte by byte.
#[derive(Default)]
pub struct Receiver {
    pub start: u32,
    pub bytes: Vec<Option<u8>>,
    /// Bytes that were acknowledged: what of them comes again is not looked at.
    pub acknowledged: usize,
}

impl Receiver {
    fn take(&mut self, seq: u32, bytes: &[u8]) {
        let at = seq.wrapping_sub(self.start) as usize;
        if self.bytes.len() < at + bytes.len() {
            self.bytes.resize(at + bytes.len(), None);
        }
        let known = self.acknowledged.saturating_sub(at);
        for (slot, byte) in self.bytes[at..].iter_mut().zip(bytes).skip(known) {
            match slot {
                None => *slot = Some(*byte),
                Some(before) => {
                    assert_eq!(
                        before, byte,
                        "a byte came with two values, in the segment at {at}"
                    );
                }
            }
        }
    }

    /// Bytes received without a hole.
    pub fn contiguous(&self) -> usize {
        self.bytes.iter().take_while(|byte| byte.is_some()).count()
    }

    pub fn stream(&self) -> Vec<u8> {
        self.bytes
            .iter()
            .map(|byte| byte.expect("a hole"))
            .collect()
    }
}

impl Connection {
    /// A connection whose handshake was seen.
    pub fn new(client_isn: u32, endpoint_isn: u32) -> Self {
        let mut flow = Box::new(RpcFlow::default());
        stream::begin(&mut flow.inbound, client_isn, Direction::Inbound);
        stream::begin(&mut flow.outbound, endpoint_isn, Direction::Outbound);
        let receiver = |start| Receiver {
            start,
            bytes: Vec::new(),
            acknowledged: 0,
        };
        Self {
            flow,
            work: Box::default(),
            pages: Pages::default(),
            inbound: receiver(client_isn),
            outbound: receiver(endpoint_isn),
            admitted: |_| true,
        }
    }

    pub fn direction(&mut self, way: Direction) -> &mut DirectionState {
        match way {
            Direction::Inbound => &mut self.flow.inbound,
            Direction::Outbound => &mut self.flow.outbound,
        }
    }

    /// Sends a segment through the translator, to a receiver that takes what passes.
    pub fn send(&mut self, way: Direction, seq: u32, bytes: &[u8]) -> Verdict {
        let mut bytes = bytes.to_vec();
        let verdict = self.translate(way, seq, &mut bytes);
        if verdict == Verdict::Pass {
            match way {
                Direction::Inbound => self.inbound.take(seq, &bytes),
                Direction::Outbound => self.outbound.take(seq, &bytes),
            }
        }
        verdict
    }

    /// Sends a segment through the translator, and to nobody.
    pub fn translate(&mut self, way: Direction, seq: u32, bytes: &mut [u8]) -> Verdict {
        let len = bytes.len() as u32;
        let mut packet = Memory::new(bytes, &mut self.pages, &self.admitted);
        let verdict = stream::process(&mut packet, &mut self.flow, &mut self.work, way, seq, len);
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
            return Verdict::Reset;
        }
        verdict
    }

    /// Sends `pieces` in order as TCP would: what is dropped comes again until it arrives.
    pub fn send_all(&mut self, way: Direction, pieces: &[&[u8]]) {
        let start = match way {
            Direction::Inbound => self
                .inbound
                .start
                .wrapping_add(self.inbound.bytes.len() as u32),
            Direction::Outbound => self
                .outbound
                .start
                .wrapping_add(self.outbound.bytes.len() as u32),
        };
        let mut seq = start;
        let mut queue = VecDeque::new();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            queue.push_back((seq, *piece));
            seq = seq.wrapping_add(piece.len() as u32);
        }
        let mut rounds = 0;
        while !queue.is_empty() {
            let mut left = VecDeque::new();
            for (seq, piece) in queue {
                match self.send(way, seq, piece) {
                    Verdict::Pass => {}
                    Verdict::Drop(_) => left.push_back((seq, piece)),
                    Verdict::Reset => panic!("reset"),
                }
                let receiver = match way {
                    Direction::Inbound => &self.inbound,
                    Direction::Outbound => &self.outbound,
                };
                let ack = receiver.start.wrapping_add(receiver.contiguous() as u32);
                if pieces.len() < 64 {
                    stream::acknowledge(self.direction(way), ack, 0);
                }
            }
            queue = left;
            let receiver = match way {
                Direction::Inbound => &self.inbound,
                Direction::Outbound => &self.outbound,
            };
            let ack = receiver.start.wrapping_add(receiver.contiguous() as u32);
            stream::acknowledge(self.direction(way), ack, 0);
            rounds += 1;
            assert!(rounds < 2000, "stalled with {} segments left", queue.len());
        }
    }
}

/// What a translation of whole streams must yield: a plain one, on complete frames.
pub mod oracle {
    /// A frame of the stream: the offset of its length, and the bytes behind it.
    pub fn frames(stream: &[u8]) -> Vec<(usize, &[u8])> {
        let mut out = Vec::new();
        let mut at = 0;
        while at + 4 <= stream.len() {
            let len = u32::from_be_bytes(stream[at..at + 4].try_into().unwrap()) as usize;
            let end = (at + 4 + len).min(stream.len());
            out.push((at, &stream[at + 4..end]));
            at += 4 + len;
        }
        out
    }

    /// Offset of the recipient's authority and its length, of a frame with an envelope.
    pub fn recipient(frame: &[u8]) -> Option<(usize, usize)> {
        let path = frame.windows(3).position(|three| three == b"://")?;
        let head = frame[..path].iter().rposition(|byte| *byte == 0x0a)?;
        if frame.first() != Some(&0x0a) || !(5..40).contains(&head) && head > 40 {
            return None;
        }
        let at = path + frame[path..].iter().position(|byte| *byte == b'@')? + 1;
        let len = frame[at..].iter().position(|byte| *byte == b'/')?;
        Some((at, len))
    }

    /// Replaces every `://<system>@<canonical>/`.
    pub fn outbound(stream: &[u8], system: &str, canonical: &str, alias: &str) -> Vec<u8> {
        let pattern = format!("://{system}@{canonical}/").into_bytes();
        let (host, port) = alias.rsplit_once(':').unwrap();
        let zeros = canonical.len() - alias.len();
        let text = format!("://{system}@{host}:{}{port}/", "0".repeat(zeros)).into_bytes();
        assert_eq!(pattern.len(), text.len());
        let mut out = stream.to_vec();
        let mut at = 0;
        while at + pattern.len() <= out.len() {
            if out[at..at + pattern.len()] == pattern {
                out[at..at + pattern.len()].copy_from_slice(&text);
                at += pattern.len();
            } else {
                at += 1;
            }
        }
        out
    }
}
