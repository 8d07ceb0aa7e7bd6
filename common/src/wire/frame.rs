//! The frames of classic remoting, read byte by byte.
//!
//! ```text
//! u32 length │ Message  1 payload → Container  2 envelope → Envelope  1 recipient → Ref  1 path
//!            │          2 instruction → Control  2 handshake → Handshake  1 origin → Address
//! ```
//!
//! Sources: `WireFormats.proto` of akka-remote 2.3–2.6 and Pekko 1.x; `NettyTransport.scala` for the
//! length prefix. Encoders write fields in ascending order; any order is understood, unknown fields
//! are skipped, lengths need not be minimal. What lies behind the recipient is never looked at.

use super::{chunk::Chunk, varint::varint};
use crate::layout::{AUTHORITY_MAX, Authority, SYSTEM_MAX, System, Walker};

/// The names that a recipient is compared with.
pub struct Recipients<'a> {
    pub canonical: &'a Authority,
    pub alias: &'a Authority,
    pub system: &'a System,
}

/// Longest frame that is believed: Flink's default maximum is 10 MiB, and a TLS record read as a
/// length is at least 352 MiB.
pub const FRAME_MAX: u32 = 256 << 20;

/// What [`Walker::phase`] holds: the part of the frame that the next byte belongs to.
mod phase {
    /// The four bytes of the frame's length.
    pub const LENGTH: u8 = 0;
    pub const TAG: u8 = 1;
    /// The varint length of a field.
    pub const SIZE: u8 = 2;
    /// The value of a varint field.
    pub const INTEGER: u8 = 3;
    /// `akka.tcp://` or `pekko.tcp://` of the recipient.
    pub const SCHEME: u8 = 4;
    /// The recipient's system, up to `@`.
    pub const SYSTEM: u8 = 5;
    /// The recipient's authority, up to `/`.
    pub const AUTHORITY: u8 = 6;
    /// A string of the announced address.
    pub const CAPTURE_SYSTEM: u8 = 7;
    pub const CAPTURE_HOST: u8 = 8;
}

/// What [`Walker::level`] holds: the message that the field belongs to.
mod level {
    pub const MESSAGE: u8 = 0;
    pub const CONTAINER: u8 = 1;
    pub const ENVELOPE: u8 = 2;
    pub const REF: u8 = 3;
    pub const CONTROL: u8 = 4;
    pub const HANDSHAKE: u8 = 5;
    pub const ADDRESS: u8 = 6;
    /// The envelope behind its recipient, and the reference of the sender: see [`super::Walker::read_sender`].
    pub const REST: u8 = 7;
    pub const SENDER: u8 = 8;
}

/// Bits of [`Walker::flags`].
mod flag {
    /// The scheme word is `pekko`, else `akka`.
    pub const PEKKO: u8 = 1;
    /// The authority equals the canonical one so far.
    pub const CANONICAL: u8 = 2;
    /// The authority equals the flow's alias so far.
    pub const ALIAS: u8 = 4;
    /// The recipient is being overwritten by the local form.
    pub const LOCAL: u8 = 8;
    /// The recipient is left as it is.
    pub const LEFT: u8 = 16;
    /// The system equals the endpoint's so far.
    pub const SYSTEM: u8 = 32;
    /// The system can stand in the host position of a URI so far: see [`super::super::authority::is_uri_host`].
    pub const URI_HOST: u8 = 64;
    /// Its last byte is a hyphen.
    pub const HYPHEN: u8 = 128;
}

/// What reading a byte brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Nothing to act on.
    Go = 0,
    /// The byte is the `/` behind the recipient's authority.
    Recipient = 1,
    /// The announced address is complete.
    Associate = 2,
    /// The frame is malformed and skipped.
    Malformed = 3,
    /// The recipient is no actor path with an authority; the frame is skipped.
    NoAuthority = 4,
    /// The length is above [`FRAME_MAX`].
    TooLong = 5,
}

/// Where the strings of the frame go.
pub struct Captured<'a> {
    pub authority: &'a mut Authority,
    pub system: &'a mut System,
    /// Start of the recipient's authority that `authority` was captured from.
    pub at: &'a mut u32,
}

/// How a captured authority compares with the names of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Canonical,
    Alias,
    Neither,
}

const TCP_SCHEME: [u8; 8] = *b".tcp://\0";
const AKKA: [u8; 8] = *b"akka\0\0\0\0";
const PEKKO: [u8; 8] = *b"pekko\0\0\0";

impl Walker {
    /// A walker at a frame's first byte.
    pub const fn at(position: u32) -> Self {
        Self {
            resume: position,
            frame_end: position,
            limit: 0,
            scheme_end: 0,
            authority: 0,
            value: 0,
            phase: phase::LENGTH,
            level: level::MESSAGE,
            tag: 0,
            shift: 0,
            count: 0,
            flags: 0,
            matched: 0,
        }
    }

    /// Whether the next byte is the first of a frame.
    #[inline(always)]
    pub const fn at_boundary(&self) -> bool {
        self.phase == phase::LENGTH && self.count == 0
    }

    /// Forgets what the frame was, once all of it is known: two ways of reading a frame leave one state.
    #[inline(always)]
    pub fn rest(&mut self) {
        *self = Self::at(self.resume);
    }

    /// Whether bytes that were read may have to be overwritten, which only bytes still to come tell:
    /// from the end of the scheme word to the end of the authority.
    #[inline(always)]
    pub const fn recipient_open(&self) -> bool {
        (self.phase == phase::SYSTEM || self.phase == phase::AUTHORITY || self.scheme_passed())
            && self.flags & (flag::LOCAL | flag::LEFT) == 0
    }

    #[inline(always)]
    const fn scheme_passed(&self) -> bool {
        self.phase == phase::SCHEME && self.count > self.word_len()
    }

    /// Length of the scheme word.
    #[inline(always)]
    pub const fn word_len(&self) -> u8 {
        if self.flags & flag::PEKKO != 0 { 5 } else { 4 }
    }

    /// After [`Step::Recipient`]: goes on to the sender, for which there is another [`Step::Recipient`]. The envelope is
    /// the last field of its frame.
    #[inline(always)]
    pub fn read_sender(&mut self) {
        self.resume = self.limit;
        self.enter(level::REST, self.frame_end);
    }

    /// Whether the last [`Step::Recipient`] was the sender's.
    #[inline(always)]
    pub const fn is_sender(&self) -> bool {
        self.level == level::SENDER
    }

    /// Where the frame begins of which no byte was read, or only bytes of its length that are zero.
    #[inline(always)]
    pub const fn frame_begin(&self) -> Option<u32> {
        if self.phase != phase::LENGTH || self.count != 0 && self.value != 0 {
            return None;
        }
        Some(self.resume.wrapping_sub(self.count as u32))
    }

    /// Whether the recipient is being overwritten by the local form.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & flag::LOCAL != 0
    }

    /// Whether the next byte of the recipient belongs to the local form.
    #[inline(always)]
    pub const fn local_open(&self) -> bool {
        self.flags & flag::LOCAL != 0
            && (self.phase == phase::SYSTEM
                || self.phase == phase::AUTHORITY
                || self.phase == phase::SCHEME)
    }

    /// The sequence number up to which the local form is logged.
    #[inline(always)]
    pub const fn local_to(&self) -> u32 {
        self.value
    }

    /// The local form is logged up to `position`.
    #[inline(always)]
    pub fn set_local_to(&mut self, position: u32) {
        self.value = position;
    }

    /// Whether the length that was too long is the beginning of a TLS handshake record
    /// (RFC 8446 5.1).
    #[inline(always)]
    pub const fn is_tls(&self) -> bool {
        self.value >> 16 == 0x1603
    }

    /// Overwrites the open recipient by the local form.
    #[inline(always)]
    pub fn make_local(&mut self) {
        self.flags |= flag::LOCAL;
    }

    /// Leaves the open recipient as it is.
    #[inline(always)]
    pub fn leave(&mut self) {
        self.flags |= flag::LEFT;
    }

    /// Whether [`Self::leave`] was called for this recipient.
    #[inline(always)]
    pub const fn is_left(&self) -> bool {
        self.flags & flag::LEFT != 0
    }

    /// Whether the system that was read can stand in the host position of a URI.
    #[inline(always)]
    pub const fn is_uri_host(&self) -> bool {
        self.flags & (flag::URI_HOST | flag::HYPHEN) == flag::URI_HOST
    }

    /// Whether the system that was read so far is (the beginning of) the endpoint's.
    #[inline(always)]
    pub const fn is_own_system(&self) -> bool {
        self.flags & flag::SYSTEM != 0
    }

    /// Whether the recipient, of which the bytes before `position` were read, can become the flow's alias.
    #[inline(always)]
    pub fn may_be_alias(&self, position: u32, names: &Recipients<'_>) -> bool {
        let len = position.wrapping_sub(self.authority);
        self.phase == phase::AUTHORITY
            && len > 0
            && self.flags & (flag::ALIAS | flag::SYSTEM) == flag::ALIAS | flag::SYSTEM
            && len <= u32::from(names.alias.len)
    }

    /// The comparison of the recipient's authority, after [`Step::Recipient`].
    #[inline(always)]
    pub fn known(&self, position: u32, names: &Recipients<'_>) -> Known {
        let len = position.wrapping_sub(self.authority);
        if self.flags & flag::CANONICAL != 0 && len == u32::from(names.canonical.len) {
            Known::Canonical
        } else if self.flags & flag::ALIAS != 0 && len == u32::from(names.alias.len) {
            Known::Alias
        } else {
            Known::Neither
        }
    }

    /// Reads the byte at `position`, which must not lie before [`Self::resume`].
    #[inline(always)]
    pub fn step(
        &mut self,
        position: u32,
        byte: u8,
        names: &Recipients<'_>,
        captured: &mut Captured<'_>,
    ) -> Step {
        self.resume = position.wrapping_add(1);
        match self.phase {
            phase::LENGTH => self.length(byte),
            phase::TAG => self.tag(byte),
            phase::SIZE => self.size(byte, captured),
            phase::INTEGER => self.integer(byte, captured),
            phase::SCHEME => self.scheme(position, byte),
            phase::SYSTEM => self.system(byte, names, captured),
            phase::AUTHORITY => self.authority(position, byte, names, captured),
            phase::CAPTURE_SYSTEM => {
                captured.system.push(byte);
                self.captured_byte()
            }
            _ => {
                captured.authority.push(byte);
                self.captured_byte()
            }
        }
    }

    #[inline(always)]
    fn length(&mut self, byte: u8) -> Step {
        if self.count == 0 {
            self.value = 0;
            self.flags = 0;
        }
        self.value = (self.value << 8) | u32::from(byte);
        self.count += 1;
        if self.count < 4 {
            return Step::Go;
        }
        self.count = 0;
        if self.value > FRAME_MAX {
            return Step::TooLong;
        }
        self.frame_end = self.resume.wrapping_add(self.value);
        if self.value != 0 {
            self.enter(level::MESSAGE, self.frame_end);
        }
        Step::Go
    }

    /// Begins the message of `level` that ends at `end`.
    #[inline(always)]
    fn enter(&mut self, level: u8, end: u32) {
        self.level = level;
        self.limit = end;
        if self.resume == end {
            self.finish()
        } else {
            self.phase = phase::TAG
        }
    }

    /// The rest of the frame is body.
    #[inline(always)]
    fn finish(&mut self) {
        self.resume = self.frame_end;
        self.phase = phase::LENGTH;
        self.count = 0;
    }

    #[inline(always)]
    fn fail(&mut self, why: Step) -> Step {
        self.finish();
        why
    }

    /// Goes behind the field that ends at `end`.
    #[inline(always)]
    fn skip_to(&mut self, end: u32) {
        self.resume = end;
        if end == self.limit {
            self.finish()
        } else {
            self.phase = phase::TAG
        }
    }

    #[inline(always)]
    fn tag(&mut self, byte: u8) -> Step {
        self.tag = byte;
        self.value = 0;
        self.shift = 0;
        let room = self.limit.wrapping_sub(self.resume);
        match byte & 7 {
            2 if byte < 0x80 => self.phase = phase::SIZE,
            0 if byte < 0x80 => self.phase = phase::INTEGER,
            1 if byte < 0x80 && room >= 8 => self.skip_to(self.resume.wrapping_add(8)),
            5 if byte < 0x80 && room >= 4 => self.skip_to(self.resume.wrapping_add(4)),
            _ => return self.fail(Step::Malformed),
        }
        if room == 0 {
            self.fail(Step::Malformed)
        } else {
            Step::Go
        }
    }

    /// Adds a byte of a varint; true when it was the last one.
    #[inline(always)]
    fn varint(&mut self, byte: u8) -> bool {
        if self.shift < 32 {
            self.value |= u32::from(byte & 0x7f) << (self.shift & 31);
        }
        self.shift = self.shift.saturating_add(7);
        byte & 0x80 == 0
    }

    #[inline(always)]
    fn size(&mut self, byte: u8, captured: &mut Captured<'_>) -> Step {
        let last = self.varint(byte);
        let room = self.limit.wrapping_sub(self.resume);
        if !last {
            return if room == 0 || self.shift >= 70 {
                self.fail(Step::Malformed)
            } else {
                Step::Go
            };
        }
        if self.value > room {
            return self.fail(Step::Malformed);
        }
        let end = self.resume.wrapping_add(self.value);
        match (self.level, self.tag) {
            (level::MESSAGE, 0x0a) => self.enter(level::CONTAINER, end),
            (level::MESSAGE, 0x12) => self.enter(level::CONTROL, end),
            (level::CONTAINER, 0x12) => self.enter(level::ENVELOPE, end),
            (level::ENVELOPE, 0x0a) => self.enter(level::REF, end),
            (level::CONTROL, 0x12) => self.enter(level::HANDSHAKE, end),
            (level::HANDSHAKE, 0x0a) => self.enter(level::ADDRESS, end),
            (level::REST, 0x22) => self.enter(level::SENDER, end),
            (level::REF | level::SENDER, 0x0a) => {
                self.limit = end;
                self.count = 0;
                self.phase = phase::SCHEME;
                if self.value == 0 {
                    return self.fail(Step::NoAuthority);
                }
            }
            (level::ADDRESS, 0x0a) if self.value > 0 => {
                captured.system.len = 0;
                self.phase = phase::CAPTURE_SYSTEM;
            }
            (level::ADDRESS, 0x12) if self.value > 0 => {
                captured.authority.len = 0;
                self.phase = phase::CAPTURE_HOST;
            }
            _ => self.skip_to(end),
        }
        Step::Go
    }

    #[inline(always)]
    fn integer(&mut self, byte: u8, captured: &mut Captured<'_>) -> Step {
        let last = self.varint(byte);
        if !last {
            let room = self.limit.wrapping_sub(self.resume);
            return if room == 0 || self.shift >= 70 {
                self.fail(Step::Malformed)
            } else {
                Step::Go
            };
        }
        if self.level == level::ADDRESS && self.tag == 0x18 && self.value <= 0xffff {
            super::authority::push_port(captured.authority, self.value as u16);
            *captured.at = 0;
            self.finish();
            return Step::Associate;
        }
        self.skip_to(self.resume);
        Step::Go
    }

    #[inline(always)]
    fn scheme(&mut self, position: u32, byte: u8) -> Step {
        let index = usize::from(self.count);
        if index == 0 {
            self.flags = flag::CANONICAL | flag::ALIAS | flag::SYSTEM;
            if byte == b'p' {
                self.flags |= flag::PEKKO;
            }
        }
        let word = usize::from(self.word_len());
        let expected = if index < word {
            let text = if self.flags & flag::PEKKO != 0 {
                &PEKKO
            } else {
                &AKKA
            };
            text[index & 7]
        } else {
            if index == word {
                self.scheme_end = position;
                self.value = position;
            }
            TCP_SCHEME[(index - word) & 7]
        };
        if byte != expected || self.resume == self.limit {
            return self.fail(Step::NoAuthority);
        }
        self.count += 1;
        if usize::from(self.count) == word + 7 {
            self.phase = phase::SYSTEM;
            self.count = 0;
        }
        Step::Go
    }

    #[inline(always)]
    fn system(&mut self, byte: u8, names: &Recipients<'_>, captured: &mut Captured<'_>) -> Step {
        let index = usize::from(self.count);
        if self.resume == self.limit || byte == b'/' || index > SYSTEM_MAX {
            return self.open_ends();
        }
        if index == 0 {
            captured.system.len = 0;
        }
        if byte == b'@' {
            if index != usize::from(names.system.len) {
                self.flags &= !flag::SYSTEM;
            }
            self.phase = phase::AUTHORITY;
            self.authority = self.resume;
            captured.authority.len = 0;
            *captured.at = self.resume;
            return Step::Go;
        }
        if byte != names.system.at(index) {
            self.flags &= !flag::SYSTEM;
        }
        let is_alphabetic = byte.is_ascii_alphabetic();
        if index == 0 && is_alphabetic {
            self.flags |= flag::URI_HOST;
        }
        self.flags &= !flag::HYPHEN;
        if byte == b'-' {
            self.flags |= flag::HYPHEN;
        } else if !is_alphabetic && !byte.is_ascii_digit() {
            self.flags &= !flag::URI_HOST;
        }
        captured.system.push(byte);
        self.count += 1;
        Step::Go
    }

    /// The recipient ends without an authority.
    #[inline(always)]
    fn open_ends(&mut self) -> Step {
        self.fail(Step::NoAuthority)
    }

    #[inline(always)]
    fn authority(
        &mut self,
        position: u32,
        byte: u8,
        names: &Recipients<'_>,
        captured: &mut Captured<'_>,
    ) -> Step {
        let index = position.wrapping_sub(self.authority) as usize;
        if byte == b'/' {
            self.finish();
            return Step::Recipient;
        }
        if self.resume == self.limit || index >= AUTHORITY_MAX {
            return self.open_ends();
        }
        if byte != names.canonical.at(index) {
            self.flags &= !flag::CANONICAL;
        }
        if byte != names.alias.at(index) {
            self.flags &= !flag::ALIAS;
        }
        if *captured.at == self.authority {
            captured.authority.push(byte);
        }
        Step::Go
    }

    /// A byte of a string of the announced address was captured.
    #[inline(always)]
    fn captured_byte(&mut self) -> Step {
        self.value = self.value.wrapping_sub(1);
        if self.value == 0 {
            self.skip_to(self.resume);
        }
        Step::Go
    }
}

/// Whether `head`, the first bytes of a segment, begin a frame whose nested lengths agree.
///
/// Encoders write minimal messages, so the lengths of frame, payload, envelope and recipient
/// determine one another; a body that happens to satisfy this at a segment's first byte has to be
/// made for the purpose. `len` is the number of valid bytes in `head`.
#[inline(always)]
pub fn plausible(head: &Chunk, len: u32) -> bool {
    if len < 8 {
        return false;
    }
    let frame = (head.word(0) as u32).swap_bytes();
    if !(4..=FRAME_MAX).contains(&frame) {
        return false;
    }
    let mut fields = Fields::at(head, 4);
    let payload = fields.next();
    if payload.tag == 0x12 {
        return plausible_control(head, frame);
    }
    if payload.tag != 0x0a || payload.len == 0 || payload.value.wrapping_add(payload.len) != frame {
        return false;
    }
    let inner = fields.next();
    let after = 4 + payload.len + inner.len;
    if inner.len == 0 || after >= len {
        return false;
    }
    if inner.tag == 0x0a {
        // An acknowledgement: fixed64 fields of nine bytes each.
        return inner.value >= 9
            && inner.value.is_multiple_of(9)
            && inner.value < payload.value
            && fields.low as u8 == 0x09;
    }
    if inner.tag != 0x12 || inner.value.wrapping_add(inner.len) != payload.value {
        return false;
    }
    // The recipient, as far as it can be seen.
    let reference = fields.next();
    let path = fields.next();
    if reference.tag != 0x0a {
        return false;
    }
    if after + 4 >= len {
        return true;
    }
    let text = after + reference.len + path.len;
    let first = fields.low as u8;
    reference.len != 0
        && path.len != 0
        && path.tag == 0x0a
        && path.value.wrapping_add(path.len) == reference.value
        && (text >= len || first == b'a' || first == b'p')
}

/// Whether a frame may begin at `index` of the window, of which `len` bytes are there: too few to tell more.
#[inline(always)]
pub fn may_begin(window: &Chunk, index: u32, len: u32) -> bool {
    let word = window.word(index as usize);
    let tag = (word >> 32) as u8;
    // The first byte of a length is zero; a frame without bytes is followed by another one.
    word as u8 == 0 && (index + 4 >= len || tag == 0x0a || tag == 0x12 || word as u32 == 0)
}

/// Associate (with a handshake) or one of the messages without.
#[inline(always)]
fn plausible_control(head: &Chunk, frame: u32) -> bool {
    let inner = u32::from(head.byte(5));
    if inner >= 0x80 || inner + 2 != frame || head.byte(6) != 0x08 {
        return false;
    }
    match head.byte(7) {
        1 => head.byte(8) == 0x12 && u32::from(head.byte(9)) + 4 == inner && head.byte(10) == 0x0a,
        2..=5 => inner == 2,
        _ => false,
    }
}

/// Tags and lengths that follow one another: up to sixteen bytes, read without branches.
pub struct Fields {
    low: u64,
    high: u64,
}

/// A tag and the length behind it.
pub struct Field {
    pub tag: u8,
    pub value: u32,
    /// Bytes of both; 0 if the length has more than four.
    pub len: u32,
}

impl Fields {
    /// The fields from `index` of the window on.
    #[inline(always)]
    pub fn at(chunk: &Chunk, index: usize) -> Self {
        Self {
            low: chunk.word(index),
            high: chunk.word(index + 8),
        }
    }

    /// The fields in these words.
    #[inline(always)]
    pub const fn of(low: u64, high: u64) -> Self {
        Self { low, high }
    }

    /// The next two bytes.
    #[inline(always)]
    pub const fn two(&self) -> u16 {
        self.low as u16
    }

    /// Reads the next one.
    #[inline(always)]
    #[allow(clippy::should_implement_trait, reason = "there is always another one")]
    pub fn next(&mut self) -> Field {
        let tag = self.low as u8;
        let (value, bytes) = varint(self.low >> 8);
        let len = bytes + 1;
        let shift = 8 * len;
        self.low = self.low >> shift | self.high << (64 - shift);
        self.high >>= shift;
        Field {
            tag,
            value,
            len: if bytes == 0 { 0 } else { len },
        }
    }
}
