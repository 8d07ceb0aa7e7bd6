//! What is to be replaced in a frame, with the lengths that change with it.
//!
//! A text that grows changes the length of its string, of every message, array and stream around it, and
//! of the frame. A varint that needs another byte changes those around it once more. So edits are
//! collected from the front to the back, lengths before what they enclose, and lengths are computed from
//! the back to the front.

use super::names::Name;

/// How a length is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Of protobuf; written with as few bytes as possible.
    Varint,
    /// Of a Java string, big endian.
    U16,
    /// Of a frame or a Java array, big endian.
    U32,
}

impl Form {
    /// Bytes of `value`; `None` if it is too large.
    fn width(self, value: u32) -> Option<u32> {
        match self {
            // Seven bits a byte.
            Self::Varint => Some((32 - (value | 1).leading_zeros()).div_ceil(7)),
            Self::U16 => (value <= u32::from(u16::MAX)).then_some(2),
            Self::U32 => Some(4),
        }
    }
}

/// What takes the place of some bytes.
#[derive(Clone, Copy, Debug)]
enum New {
    /// The authority of the other name, its host, its port as a varint.
    Authority,
    Host,
    Port,
    /// A length whose edits are those before `until`.
    Length {
        form: Form,
        value: u32,
        until: u32,
    },
    /// What is there.
    Same,
}

#[derive(Clone, Copy, Debug)]
struct Edit {
    at: u32,
    len: u32,
    new: New,
    /// How many bytes this edit and those behind it add.
    growth: i64,
}

impl Edit {
    const fn new(at: usize, len: usize, new: New) -> Self {
        Self {
            at: at as u32,
            len: len as u32,
            new,
            growth: 0,
        }
    }
}

/// A text to write.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text {
    Authority,
    Host,
    /// As a varint.
    Port,
}

/// A length that was begun and not ended.
#[must_use]
pub(super) struct Open(usize);

/// The edits of a frame. The memory is kept for the next frame.
#[derive(Debug, Default)]
pub(super) struct Plan {
    edits: Vec<Edit>,
}

/// Edits for which memory is kept.
const KEPT: usize = 1024;

impl Plan {
    pub(super) fn clear(&mut self) {
        self.edits.clear();
        self.edits.shrink_to(KEPT);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// How many edits there are.
    pub(super) const fn len(&self) -> usize {
        self.edits.len()
    }

    /// Forgets all edits but the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.edits.truncate(len);
    }

    /// Begins a length of `width` bytes at `at`, which says that `value` bytes follow.
    pub(super) fn open(&mut self, at: usize, width: usize, form: Form, value: usize) -> Open {
        let (value, until) = (value as u32, 0);
        let new = New::Length { form, value, until };
        self.edits.push(Edit::new(at, width, new));
        Open(self.edits.len())
    }

    /// Ends the length: it is forgotten if nothing in it changes.
    pub(super) fn close(&mut self, open: Open) {
        let until = self.edits.len();
        if until == open.0 {
            self.edits.truncate(open.0.saturating_sub(1));
        } else if let Some(edit) = self.edits.get_mut(open.0.wrapping_sub(1))
            && let New::Length { until: to, .. } = &mut edit.new
        {
            *to = until as u32;
        }
    }

    /// Replaces `len` bytes at `at`.
    pub(super) fn replace(&mut self, at: usize, len: usize, by: Text) {
        let new = match by {
            Text::Authority => New::Authority,
            Text::Host => New::Host,
            Text::Port => New::Port,
        };
        self.edits.push(Edit::new(at, len, new));
    }

    /// Texts that are replaced.
    pub(super) fn texts(&self) -> usize {
        self.edits
            .iter()
            .filter(|edit| matches!(edit.new, New::Authority | New::Host))
            .count()
    }

    /// Computes all lengths and answers how many bytes are added; `None` if a length does not fit its form.
    pub(super) fn resolve(&mut self, name: &Name) -> Option<i64> {
        let mut all = 0;
        for index in (0..self.edits.len()).rev() {
            let (before, behind) = self.edits.split_at_mut_checked(index + 1)?;
            let edit = before.last_mut()?;
            let len = match edit.new {
                New::Authority => name.authority().len() as u32,
                New::Host => name.host().len() as u32,
                New::Port => Form::Varint.width(u32::from(name.port()))?,
                New::Length { form, value, until } => {
                    // Of all edits behind the length, those inside it.
                    let beyond = (until as usize).wrapping_sub(index + 1);
                    let outside = behind.get(beyond).map_or(0, |edit| edit.growth);
                    let inside = all - outside;
                    if inside == 0 {
                        edit.new = New::Same;
                        edit.len
                    } else {
                        let value = u32::try_from(i64::from(value) + inside).ok()?;
                        edit.new = New::Length { form, value, until };
                        form.width(value)?
                    }
                }
                New::Same => edit.len,
            };
            all += i64::from(len) - i64::from(edit.len);
            edit.growth = all;
        }
        Some(all)
    }

    /// Appends `bytes` with all edits, after [`Self::resolve`].
    pub(super) fn write(&self, bytes: &[u8], name: &Name, output: &mut Vec<u8>) {
        let mut done = 0;
        for edit in &self.edits {
            let at = edit.at as usize;
            output.extend_from_slice(bytes.get(done..at).unwrap_or_default());
            done = at + edit.len as usize;
            match edit.new {
                New::Authority => output.extend_from_slice(name.authority()),
                New::Host => output.extend_from_slice(name.host()),
                New::Port => write_varint(u32::from(name.port()), output),
                New::Length { form, value, .. } => match form {
                    Form::Varint => write_varint(value, output),
                    Form::U16 => output.extend_from_slice(&(value as u16).to_be_bytes()),
                    Form::U32 => output.extend_from_slice(&value.to_be_bytes()),
                },
                New::Same => output.extend_from_slice(bytes.get(at..done).unwrap_or_default()),
            }
        }
        output.extend_from_slice(bytes.get(done..).unwrap_or_default());
    }
}

fn write_varint(mut value: u32, output: &mut Vec<u8>) {
    while value >= 0x80 {
        output.push(value as u8 | 0x80);
        value >>= 7;
    }
    output.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Authority;

    #[test]
    fn a_varint_is_as_long_as_it_is_written() {
        for value in [0, 1, 127, 128, 16383, 16384, 2097151, 2097152, u32::MAX] {
            let mut written = Vec::new();
            write_varint(value, &mut written);
            assert_eq!(Form::Varint.width(value), Some(written.len() as u32));
        }
    }

    #[test]
    fn a_length_that_needs_another_byte_is_counted_by_those_around_it() {
        let name = Name::new(&Authority::new(b"abcd:1").unwrap()).unwrap();
        // A frame of a field of 127 bytes, of which the last three are replaced by six.
        let mut bytes = vec![0, 0, 0, 129, 0x0a, 127];
        bytes.extend([b'x'; 127]);
        let mut plan = Plan::default();
        let frame = plan.open(0, 4, Form::U32, 129);
        let field = plan.open(5, 1, Form::Varint, 127);
        let untouched = plan.open(10, 1, Form::Varint, 1);
        plan.close(untouched);
        plan.replace(130, 3, Text::Authority);
        plan.close(field);
        plan.close(frame);
        assert_eq!(plan.len(), 3);
        assert_eq!(plan.resolve(&name), Some(4));
        let mut output = Vec::new();
        plan.write(&bytes, &name, &mut output);
        assert_eq!(output[..7], [0, 0, 0, 133, 0x0a, 0x82, 0x01]);
        assert_eq!(output.len(), 137);
        assert!(output.ends_with(b"xxabcd:1"));
    }

    #[test]
    fn a_string_that_becomes_too_long_for_its_length_is_refused() {
        let name = Name::new(&Authority::new(b"abcd:1").unwrap()).unwrap();
        let mut plan = Plan::default();
        let string = plan.open(0, 2, Form::U16, 65535);
        plan.replace(2, 5, Text::Authority);
        plan.close(string);
        assert_eq!(plan.resolve(&name), None);
    }
}
