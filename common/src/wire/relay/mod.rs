//! Re-encodes the frames of a connection whose endpoint and peer use names of different lengths.
//!
//! In place, a name can be replaced only by one that is not longer ([`super::authority`]). A relay writes the
//! stream anew, so it can change lengths. This is its pure part: bytes in, bytes out.
//!
//! * Only names are replaced, where remoting and Flink are known to put them ([`message`], [`java`]). All
//!   other bytes stay as they are.
//! * Frames to the endpoint that are longer than [`Limits::whole`] are not kept back: their recipient is
//!   translated, and what follows passes as it comes.
//! * Frames from the endpoint are kept back until they are complete, because their sender comes last.
//! * What is not understood passes unchanged and is counted. After the first bytes that are no frame,
//!   everything does.
#![forbid(unsafe_code)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "it reads what strangers send"
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        reason = "a test may panic"
    )
)]

mod java;
mod message;
mod names;
mod plan;
mod proto;
mod walk;

use super::frame::{FRAME_MAX, Fields};
pub use super::stream::Direction;
use crate::layout::Authority;
use names::Translation;
use plan::Plan;
use proto::Stop;
use walk::{Seen, Walk};

/// The names of the endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// What it calls itself.
    pub canonical: Authority,
    /// What the peer calls it. `None`: towards the endpoint every name is accepted that [`Recoder::admit`] admits, and
    /// the first one is learned.
    pub alias: Option<Authority>,
}

/// Bounds of what is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest length of a frame that the receiver takes.
    pub frame: u32,
    /// The most bytes of a frame to the endpoint that are kept back.
    pub whole: u32,
}

impl Default for Limits {
    /// Netty compares the length and its four bytes with the maximum, which is 10 MiB in Flink.
    fn default() -> Self {
        Self {
            frame: 10_485_760 - HEADER as u32,
            whole: 16_384,
        }
    }
}

/// What happened to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames, also empty ones.
    pub frames: u64,
    /// Frames that were changed.
    pub rewritten: u64,
    /// Names that were replaced.
    pub names: u64,
    /// Frames that are malformed, or hold the name where it is not understood. What is not understood is unchanged.
    pub uncertain: u64,
    /// Frames longer than the receiver takes, and frames that would have become so. They are unchanged.
    pub too_long: u64,
    /// Frames whose recipient is neither the canonical name nor an alias. It is unchanged.
    pub foreign: u64,
    /// Bytes since the stream is not the protocol.
    pub opaque: u64,
}

/// Bytes of a frame's length.
const HEADER: usize = 4;
/// Bytes of a frame that tell whether it is one: the length, a tag, the length of the field, the next tag.
const HEAD: usize = HEADER + 6;
/// The highest first byte of a length that is believed.
const MOST_BYTE: u8 = (FRAME_MAX >> 24) as u8;
/// Memory for kept bytes that stays when they are gone.
const KEPT: usize = 65_536;

/// Re-encodes one direction of a connection.
#[derive(Debug)]
pub struct Recoder {
    names: Translation,
    limits: Limits,
    counts: Counts,
    plan: Plan,
    /// The beginning of a frame, as long as more of it is needed.
    kept: Vec<u8>,
    /// How many bytes of the frame are needed.
    needed: usize,
    /// How many bytes pass unchanged.
    passing: usize,
    /// Whether there was a frame that is one.
    is_begun: bool,
    is_opaque: bool,
}

/// What happens to bytes at the beginning of a frame.
enum Step {
    /// So many are needed.
    Need(usize),
    /// So many, and as many more as [`Recoder::passing`] says, stay as they are.
    Same(usize),
    /// So many are written by the plan.
    Planned(usize),
    /// They are no frame.
    Opaque,
}

impl Recoder {
    /// A recoder at the beginning of a stream.
    pub fn new(direction: Direction, names: Names, limits: Limits) -> Self {
        Self {
            names: Translation::new(direction, &names),
            limits,
            counts: Counts::default(),
            plan: Plan::default(),
            kept: Vec::new(),
            needed: 0,
            passing: 0,
            is_begun: false,
            is_opaque: false,
        }
    }

    /// Only these aliases are learned and translated; `None`, the default, admits every name.
    pub fn admit(&mut self, aliases: Option<Vec<Authority>>) {
        self.names.admit(aliases);
    }

    /// The peer's name for the endpoint: the given or the learned one.
    pub fn alias(&self) -> Option<&Authority> {
        self.names.alias()
    }

    /// Takes the alias that the other direction has learned. It counts from the next frame on.
    pub fn set_alias(&mut self, alias: Authority) {
        self.names.set_alias(&alias);
    }

    /// Takes the canonical name that the endpoint has announced.
    ///
    /// It counts from the next frame on, and for a frame that is kept back. Nothing else of the stream is forgotten.
    pub fn set_canonical(&mut self, canonical: Authority) {
        self.names.set_canonical(&canonical);
    }

    /// Bytes that are kept back: never more than [`Limits::frame`] and a header.
    pub fn buffered(&self) -> usize {
        self.kept.len()
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the stream has turned out not to be the protocol, so that all bytes pass as they are.
    pub fn is_opaque(&self) -> bool {
        self.is_opaque
    }

    /// Takes the next bytes of the stream and appends what is to be written.
    pub fn push(&mut self, input: &[u8], output: &mut Vec<u8>) {
        let mut input = input;
        while !self.kept.is_empty() && !input.is_empty() {
            let missing = self.needed.saturating_sub(self.kept.len());
            let (now, later) = input.split_at(missing.min(input.len()));
            self.kept.extend_from_slice(now);
            input = later;
            if self.kept.len() >= self.needed {
                let kept = core::mem::take(&mut self.kept);
                self.kept = self.push_kept(kept, output);
            }
        }
        if self.kept.is_empty() {
            self.push_all(input, output);
        }
    }

    /// End of the stream: what was kept back passes unchanged.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        output.append(&mut self.kept);
        self.kept = Vec::new();
    }

    /// Decides about the bytes that were kept, and answers those that still are.
    fn push_kept(&mut self, mut kept: Vec<u8>, output: &mut Vec<u8>) -> Vec<u8> {
        match self.step(&kept) {
            Step::Need(needed) => {
                self.needed = needed;
                return kept;
            }
            Step::Same(_) => output.extend_from_slice(&kept),
            Step::Planned(_) => self.write(&kept, output),
            Step::Opaque => {
                self.is_opaque = true;
                self.counts.opaque += kept.len() as u64;
                output.extend_from_slice(&kept);
            }
        }
        kept.clear();
        kept.shrink_to(KEPT);
        kept
    }

    /// Takes bytes while none are kept.
    fn push_all(&mut self, input: &[u8], output: &mut Vec<u8>) {
        let mut done = 0;
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            if self.is_opaque {
                self.counts.opaque += rest.len() as u64;
                break;
            }
            if self.passing > 0 {
                let len = self.passing.min(rest.len());
                self.passing -= len;
                at += len;
                continue;
            }
            match self.step(rest) {
                Step::Need(needed) => {
                    output.extend_from_slice(input.get(done..at).unwrap_or_default());
                    self.kept.extend_from_slice(rest);
                    self.needed = needed;
                    return;
                }
                Step::Same(len) => at += len,
                Step::Planned(len) => {
                    output.extend_from_slice(input.get(done..at).unwrap_or_default());
                    self.write(rest.get(..len).unwrap_or_default(), output);
                    at += len;
                    done = at;
                }
                Step::Opaque => self.is_opaque = true,
            }
        }
        output.extend_from_slice(input.get(done..).unwrap_or_default());
    }

    /// Decides about a frame by its first bytes.
    fn step(&mut self, bytes: &[u8]) -> Step {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            // Bytes that no length begins with are not kept back.
            let is_length = bytes.first().is_none_or(|first| *first <= MOST_BYTE);
            return if is_length {
                Step::Need(HEADER)
            } else {
                Step::Opaque
            };
        };
        let len = u32::from_be_bytes(*header);
        if len > FRAME_MAX {
            return Step::Opaque;
        }
        if len == 0 {
            self.counts.frames += 1;
            return Step::Same(HEADER);
        }
        let end = HEADER + len as usize;
        let bytes = bytes.get(..end).unwrap_or(bytes);
        match Head::read(bytes, end) {
            Head::Needs(needed) => return Step::Need(needed),
            Head::Other if !self.is_begun => return Step::Opaque,
            Head::Other => {
                self.counts.uncertain += 1;
                return self.same(bytes, end);
            }
            Head::Message => {}
        }
        self.is_begun = true;
        if self.names.is_idle() {
            return self.same(bytes, end);
        }
        if len > self.limits.frame {
            self.counts.too_long += 1;
            return self.same(bytes, end);
        }
        // No decision may depend on how the stream was cut.
        let head_max = (self.limits.whole as usize).max(HEAD);
        let is_kept = !self.names.is_inbound() || end <= head_max;
        if is_kept && bytes.len() < end {
            return Step::Need(end);
        }
        let bytes = if is_kept {
            bytes
        } else {
            bytes.get(..head_max).unwrap_or(bytes)
        };
        let mut walk = Walk {
            bytes,
            is_whole: is_kept,
            names: &mut self.names,
            plan: &mut self.plan,
            seen: Seen::default(),
        };
        match walk.frame(len as usize) {
            Ok(()) => {}
            Err(Stop::Need(needed)) if needed <= head_max => {
                return Step::Need(needed);
            }
            Err(_) => {
                self.counts.uncertain += 1;
                return self.same(bytes, end);
            }
        }
        let seen = walk.seen;
        self.counts.uncertain += u64::from(seen.uncertain);
        self.counts.foreign += u64::from(seen.foreign);
        if self.plan.is_empty() {
            return self.same(bytes, end);
        }
        let growth = self.names.to().and_then(|to| self.plan.resolve(to));
        let Some(growth) = growth else {
            self.counts.uncertain += 1;
            return self.same(bytes, end);
        };
        if i64::from(len) + growth > i64::from(self.limits.frame) {
            self.counts.too_long += 1;
            return self.same(bytes, end);
        }
        self.counts.rewritten += 1;
        self.counts.names += self.plan.texts() as u64;
        self.same(bytes, end);
        Step::Planned(bytes.len())
    }

    /// The frame that ends at `end`, of which `bytes` are there, passes.
    fn same(&mut self, bytes: &[u8], end: usize) -> Step {
        self.counts.frames += 1;
        self.passing = end - bytes.len();
        Step::Same(bytes.len())
    }

    fn write(&self, bytes: &[u8], output: &mut Vec<u8>) {
        if let Some(to) = self.names.to() {
            self.plan.write(bytes, to, output);
        }
    }
}

/// What the first bytes of a frame are.
enum Head {
    /// So many are needed to tell.
    Needs(usize),
    /// A message of one field, as peers write it.
    Message,
    /// Something else; the receiver may understand it.
    Other,
}

impl Head {
    /// Reads the head of a frame that ends at `end`.
    fn read(bytes: &[u8], end: usize) -> Self {
        const PAYLOAD: u8 = 0x0a;
        const INSTRUCTION: u8 = 0x12;
        const ACKNOWLEDGEMENT: u8 = 0x0a;
        const ENVELOPE: u8 = 0x12;
        const COMMAND: u8 = 0x08;
        match bytes.get(HEADER) {
            None => return Self::Needs(HEADER + 1),
            Some(&(PAYLOAD | INSTRUCTION)) => {}
            Some(_) => return Self::Other,
        }
        let needed = HEAD.min(end);
        let Some(head) = bytes.get(HEADER..needed) else {
            return Self::Needs(needed);
        };
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(head) {
            *to = *from;
        }
        let mut fields = Fields::of(u64::from_le_bytes(word), 0);
        let field = fields.next();
        let is_all = field.len != 0 && HEADER + (field.len + field.value) as usize == end;
        let next = fields.two() as u8;
        let is_message = match field.tag {
            PAYLOAD => matches!(next, ACKNOWLEDGEMENT | ENVELOPE),
            _ => next == COMMAND,
        };
        if is_all && field.value > 0 && is_message {
            Self::Message
        } else {
            Self::Other
        }
    }
}
