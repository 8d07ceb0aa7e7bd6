//! Decides whether the bytes beyond a hole begin inside a name, and what has to be edited of it.
//!
//! A name that began in the hole is known by its end, by the path behind it, and by the fields behind that:
//! only a message follows a recipient, and only a sequence number follows a sender. Where they all fit, what is
//! there of the name is translated as it would have been after the bytes of the hole. Where some do, the
//! segment waits until the hole is filled.

use super::{
    Packet,
    block::BLOCK,
    head::{FRAMED, UNCLEAR, is_frame_at},
    job::{Job, hidden},
};
use crate::{
    layout::{Edit, EditKind},
    wire::{
        frame::{self, Fields},
        seq::before,
        steps::Steps,
    },
};

/// Bytes of a frame's front before the path: what may be left of it when the hole ends inside it.
const BEFORE_PATH: u32 = 18;
/// Bytes that are read: a name that began in the hole, and its path.
const REST: u32 = 512;
/// Fields of an envelope behind a recipient: message, sender, sequence number, and one that is not known.
const FIELDS: u32 = 4;

/// Bytes of `://`.
const SCHEME: u32 = 3;

/// Tag of an envelope's message, which follows the recipient.
const MESSAGE: u8 = 0x12;
/// Tag of its sender, which follows the message.
const SENDER: u8 = 0x22;
/// Tag of the first field of both.
const CONTENT: u8 = 0x0a;
/// Tag of an envelope's sequence number, which follows the sender.
const SEQUENCE: u8 = 0x29;

/// Bits of [`super::Work::bit`]: what the run of host characters has.
const HAS_AT: u32 = 1;
const HAS_COLON: u32 = 2;
const DIGIT_LAST: u32 = 4;
/// The name ended at [`super::Work::cursor`], and its path is read. It ends as the alias does, as the canonical
/// name, or as any other.
const ALIAS: u32 = 8;
const CANONICAL: u32 = 16;
const OTHER: u32 = 32;
const NAME: u32 = ALIAS | CANONICAL | OTHER;
/// It was decided.
const DONE: u32 = 64;
/// A field of the envelope does not begin as encoders begin it.
const ODD: u32 = 128;

impl<P: Packet> Job<'_, P> {
    /// See [`super::Stage::Rest`]: decides whether what lies before the first frame is the rest of a name.
    #[inline(always)]
    pub(super) fn look_at_rest(&mut self) {
        let (at, stop) = (self.work.at, self.work.stop);
        let is_framed = self.work.head & FRAMED != 0;
        if self.work.drop != 0 || is_framed && self.work.first == at || !self.load_chunk(at) {
            return;
        }
        let left = if is_framed {
            self.work.first.wrapping_sub(at)
        } else {
            stop.wrapping_sub(at)
        };
        if left < self.work.chunk_len {
            self.work.chunk_len = left;
        }
        self.read_rest(left);
    }

    /// Decides whether the first bytes, of which there are `left`, are the rest of a name.
    #[inline(always)]
    fn read_rest(&mut self, left: u32) {
        let inbound = self.work.is_inbound();
        if !inbound && self.names.outbound().is_none() {
            return;
        }
        self.work.block_len = 0;
        if self.in_block(self.work.at, 1, BLOCK as u32).is_none() {
            return;
        }
        self.work.index = 0;
        self.work.run = 0;
        self.work.bit = 0;
        self.work.cursor_end = if left < REST { left } else { REST };
        let mut rest = Rest(self.again());
        P::repeat(&mut rest, REST);
        let looked = self.work.index;
        if self.work.bit & NAME != 0 {
            let is_framed = self.work.head & FRAMED != 0;
            if looked != self.work.cursor_end {
                let tag = self.work.block.word(looked) as u8;
                self.decide(looked, tag);
            } else if looked == left && is_framed {
                // The path goes up to the frame behind it.
                self.decide(looked, 0);
            } else {
                self.work.head |= UNCLEAR;
            }
            return;
        }
        if self.work.bit & DONE != 0 || self.work.head & FRAMED != 0 || looked < self.work.chunk_len
        {
            return;
        }
        // No name has ended. The bytes may end inside one.
        let is_open = if inbound {
            let last = self.work.chunk.byte(looked.wrapping_sub(1) as usize);
            let is_all = left <= looked;
            (self.work.run != 0 || last == b'/') && (is_all || self.work.bit & HAS_AT != 0)
        } else {
            left < u32::from(self.names.pattern.len)
        };
        if is_open || !inbound && self.names.needle.len == 0 {
            self.work.head |= UNCLEAR;
        }
    }
}

/// Looks for the end of a name in the block, and for the end of its path: a byte a step.
struct Rest<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Rest<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let index = job.work.index;
        if index >= job.work.cursor_end {
            return false;
        }
        let byte = job.work.block.word(index) as u8;
        if job.work.bit & NAME != 0 {
            // Up to the end of the path.
            let goes_on = byte.is_ascii_graphic();
            job.work.index = index + u32::from(goes_on);
            return goes_on;
        }
        if index >= job.work.chunk_len {
            return false;
        }
        job.work.index = index + 1;
        if byte == b'/' {
            return job.may_end_name(index);
        }
        if is_host(byte) {
            job.work.run += 1;
            job.work.bit = job.work.bit & !DIGIT_LAST
                | if byte == b'@' { HAS_AT } else { 0 }
                | if byte == b':' { HAS_COLON } else { 0 }
                | if byte.is_ascii_digit() { DIGIT_LAST } else { 0 };
        } else {
            job.work.run = 0;
            job.work.bit = 0;
        }
        true
    }
}

impl<P: Packet> Job<'_, P> {
    /// Whether to read on behind the `/` at `slash` of the block: a name may end there.
    #[inline(always)]
    fn may_end_name(&mut self, slash: u32) -> bool {
        let (run, bits) = (self.work.run, self.work.bit);
        self.work.run = 0;
        self.work.bit = 0;
        self.work.cursor = slash;
        let name = if self.work.is_inbound() {
            let inside = run != 0 && run == slash;
            let whole = bits & (HAS_AT | HAS_COLON) == HAS_AT | HAS_COLON;
            let is_other = bits & DIGIT_LAST != 0 && (inside || whole);
            self.recipient_ends(slash, is_other)
        } else {
            let found = self.overlap(&Which::Pattern, slash, self.names.needle.len);
            match found {
                None => 0,
                // The search finds a whole pattern.
                Some((_, 0)) => DONE,
                Some(_) => CANONICAL,
            }
        };
        self.work.bit = name;
        name & DONE == 0
    }

    /// Inbound: which name ends at `slash`, if it may be a recipient's.
    #[inline(always)]
    fn recipient_ends(&mut self, slash: u32, is_other: bool) -> u32 {
        let alias = self.overlap(&Which::Front, slash, self.names.front.len);
        let len = self.names.front_canonical.len;
        let canonical = self.overlap(&Which::FrontCanonical, slash, len);
        match (alias, canonical) {
            (Some((at, _)), None) if self.is_recipient(at) => return ALIAS,
            // Only a recipient whose scheme word was read before may have begun to become the local form.
            (None, Some((_, from))) if from > self.names.scheme => return CANONICAL,
            // What is there of it may be of both.
            (Some((at, _)), Some(_)) if self.is_recipient(at) => return OTHER,
            (None, None) => {}
            _ => return DONE,
        }
        if is_other { OTHER } else { 0 }
    }

    /// If `text` ends at `slash` of the block: where in the block it begins, and how many bytes of it lie before the
    /// block.
    #[inline(always)]
    fn overlap(&self, which: &Which, slash: u32, len: u32) -> Option<(u32, u32)> {
        if len == 0 {
            return None;
        }
        let text = match which {
            Which::Pattern => &self.names.needle,
            Which::Front => &self.names.front,
            Which::FrontCanonical => &self.names.front_canonical,
        };
        let (at, from) = split(slash, len);
        let count = slash + 1 - at;
        // Only the last `/` ends a name: those of `://` have more than its path behind them.
        if from + count != len || count < 2 {
            return None;
        }
        let same = P::equal(&self.work.block, at, text, from, count);
        (same == count).then_some((at, from))
    }

    /// Whether what begins at `at` of the window may be a recipient's path: the lengths before it are those of a
    /// reference, or some of them lie in the hole.
    #[inline(always)]
    fn is_recipient(&self, at: u32) -> bool {
        // All bytes are read before `at` is known to be small, for the same reason as in `FindFrame`.
        let is_tag = |back: u32| self.work.chunk.byte(at.wrapping_sub(back) as usize) == 0x0a;
        let short = is_tag(2) && is_tag(4);
        let long = is_tag(3) && (is_tag(5) || is_tag(6));
        at <= BEFORE_PATH || short || long
    }

    /// Decides about the name that ended at `cursor` of the block, behind whose path `tag` stands at `behind`.
    #[inline(always)]
    fn decide(&mut self, behind: u32, tag: u8) {
        let (slash, name) = (self.work.cursor, self.work.bit);
        self.work.bit = DONE;
        let is_recipient = tag == MESSAGE;
        if self.work.is_inbound() {
            if is_recipient && !self.is_recipient_edited(behind, slash, name) {
                self.work.head |= UNCLEAR;
            }
            return;
        }
        let len = self.names.needle.len;
        let (_, from) = split(slash, len);
        if is_recipient && self.direction.hits[0] == 0 && self.envelope(behind) != NONE {
            // Recipients were never the endpoint itself.
            return;
        }
        // In a body all that matters of the name must be there.
        if from <= SCHEME || !is_recipient && self.envelope(behind) == ENDS {
            self.edit_pattern(slash);
        } else {
            self.work.head |= UNCLEAR;
        }
    }

    /// Inbound: whether the name that ends at `slash` is certainly a recipient, and edited.
    #[inline(always)]
    fn is_recipient_edited(&mut self, behind: u32, slash: u32, name: u32) -> bool {
        if name == OTHER {
            return false;
        }
        let is_framed = self.work.head & FRAMED != 0;
        match self.envelope(behind) {
            // All of the segment is of one frame: none begins at its end.
            BEYOND if !is_framed => self.work.head &= !UNCLEAR,
            ENDS => {}
            _ => return false,
        }
        self.edit_recipient(slash, name)
    }

    /// What the fields from `behind` of the block on are.
    #[inline(always)]
    fn envelope(&mut self, behind: u32) -> u32 {
        self.work.cursor = self.work.at.wrapping_add(behind);
        self.work.index = 0;
        self.work.run = NONE;
        let mut envelope = Envelope(self.again());
        P::repeat(&mut envelope, FIELDS + 1);
        self.work.run
    }

    /// The recipient that ends at `slash` is edited, as if all of it were there. False if it cannot be.
    #[inline(always)]
    fn edit_recipient(&mut self, slash: u32, name: u32) -> bool {
        let scheme = self.names.scheme;
        let len = if name == ALIAS {
            self.names.front.len
        } else {
            self.names.front_canonical.len
        };
        let (_, from) = split(slash, len);
        let path = self.begin(slash, len);
        if from <= scheme {
            // Nothing was decided before the first byte that is here.
            let edit = self.whole_edit(path, len);
            self.work.rest = edit.unwrap_or_default();
            return edit.is_some();
        }
        // A recipient that a segment cuts becomes the local form, unless only some may: then what is missing decides.
        if !self.names.allows_local(self.work.policy) {
            return false;
        }
        let begin = path.wrapping_add(scheme);
        self.work.rest = Edit::new(begin, (len - 1 - scheme) as u16, EditKind::Local, 0);
        true
    }

    /// The canonical name before `slash` is edited.
    #[inline(always)]
    fn edit_pattern(&mut self, slash: u32) {
        if let Some(kind) = self.names.outbound() {
            let canonical = self.names.canonical.len;
            let begin = self.begin(slash, u32::from(canonical) + 1);
            self.work.rest = Edit::new(begin, canonical, kind, 0);
        }
    }

    /// Where the walked range begins, and the edit of a name that began before it.
    #[inline(always)]
    pub(super) fn rest_of_range(&mut self) -> (u32, Edit) {
        let range = self.range();
        (range.start, range.rest)
    }

    /// Adds what of such an edit lies in the range that begins at `at`.
    #[inline(always)]
    pub(super) fn add_rest(&mut self, at: u32) {
        let rest = self.work.rest;
        if rest.len != 0 {
            self.add(rest.behind(hidden(&rest, at)));
        }
    }

    /// Where a text of `len` bytes begins that ends at `slash` of the block: in the hole, perhaps.
    #[inline(always)]
    fn begin(&self, slash: u32, len: u32) -> u32 {
        self.work.at.wrapping_add(slash + 1).wrapping_sub(len)
    }
}

/// What [`Envelope`] comes to: no envelope; one that a frame follows; one that goes on behind the segment.
const NONE: u32 = 0;
const ENDS: u32 = 1;
const BEYOND: u32 = 2;

/// Goes through the fields of an envelope from `work.cursor` on, one a step: `work.run`.
struct Envelope<'a, P>(Job<'a, P>);

impl<P: Packet> Steps for Envelope<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let job = &mut self.0;
        let (at, stop) = (job.work.cursor, job.work.stop);
        // The last field, if there was one.
        let last = job.work.index as u8;
        if !before(at, stop) {
            let is_sure = last != 0 && job.work.bit & ODD == 0;
            job.work.run = if is_sure { BEYOND } else { NONE };
            return false;
        }
        if !job.load_chunk(at) {
            return false;
        }
        let left = stop.wrapping_sub(at);
        if left < job.work.chunk_len {
            job.work.chunk_len = left;
        }
        if job.goes_on_with_frame(at, last) {
            job.work.run = ENDS;
            return false;
        }
        let mut fields = Fields::at(&job.work.chunk, 0);
        let field = fields.next();
        let inner = fields.next().tag;
        let len = match field.tag {
            SEQUENCE => 9,
            MESSAGE | SENDER if field.len != 0 && field.value < 1 << 24 => field.len + field.value,
            _ => return false,
        };
        let next = at.wrapping_add(len);
        if field.tag != SEQUENCE && inner != CONTENT {
            // A frame behind it would tell that it is a message all the same.
            job.work.bit |= ODD;
        }
        job.work.index = u32::from(field.tag);
        job.work.cursor = next;
        true
    }
}

impl<P: Packet> Job<'_, P> {
    /// Whether a frame begins at `at`, the beginning of the window, behind a field with the tag `last`.
    #[inline(always)]
    fn goes_on_with_frame(&self, at: u32, last: u8) -> bool {
        if self.work.is_inbound() {
            return self.work.head & FRAMED != 0
                && is_frame_at(at, self.work.first, self.work.zeros as u16);
        }
        // Behind a sequence number the first byte of a length is enough: it is zero.
        last == SEQUENCE && self.work.chunk.byte(0) == 0
            || frame::plausible(&self.work.chunk, self.work.chunk_len)
    }
}

/// A text that a name is compared with.
enum Which {
    Pattern,
    Front,
    FrontCanonical,
}

/// Where in the block a text of `len` bytes begins that ends at `slash`, and how many bytes of it lie before the block.
#[inline(always)]
const fn split(slash: u32, len: u32) -> (u32, u32) {
    let seen = slash + 1;
    if seen >= len {
        (seen - len, 0)
    } else {
        (0, len - seen)
    }
}

/// Bytes of `<system>@<host>:<port>`.
#[inline(always)]
const fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'.' | b'-' | b'_' | b':' | b'@' | b'[' | b']' | b'%')
}
