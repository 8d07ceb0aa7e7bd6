//! Reads the fields of a protobuf message, with the places of their lengths.
//!
//! [`crate::wire::frame`] reads byte by byte for the verifier's sake and keeps no place but the
//! recipient's. Here the bytes are in memory.

use core::ops::Range;

use crate::wire::varint::varint as short_varint;

/// Why reading ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// This many bytes of the frame are needed.
    Need(usize),
    /// The bytes are malformed, or not understood.
    Bad,
    /// All that matters was read.
    Enough,
}

/// A field of a message.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// Whether the value is a string, bytes or a message.
    pub(super) is_bytes: bool,
    /// Where the length of such a value stands.
    pub(super) length: Range<usize>,
    /// Where the value stands.
    pub(super) value: Range<usize>,
    /// The value of a varint.
    pub(super) varint: u64,
}

/// Reads one message; of its bytes maybe only the first are there.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8], range: Range<usize>) -> Self {
        Self {
            bytes,
            at: range.start,
            end: range.end,
        }
    }

    /// The next field, `None` at the end of the message.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Field>, Stop> {
        if self.at >= self.end {
            return Ok(None);
        }
        let tag = u32::try_from(self.varint()?).map_err(|_| Stop::Bad)?;
        let number = tag >> 3;
        if number == 0 {
            return Err(Stop::Bad);
        }
        let begin = self.at;
        let mut field = Field {
            number,
            is_bytes: false,
            length: begin..begin,
            value: begin..begin,
            varint: 0,
        };
        match tag & 7 {
            0 => field.varint = self.varint()?,
            1 => self.skip(8)?,
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Stop::Bad)?;
                field.is_bytes = true;
                field.length.end = self.at;
                field.value.start = self.at;
                self.skip(len)?;
            }
            5 => self.skip(4)?,
            _ => return Err(Stop::Bad),
        }
        field.value.end = self.at;
        Ok(Some(field))
    }

    fn skip(&mut self, len: usize) -> Result<(), Stop> {
        if len > self.end - self.at {
            return Err(Stop::Bad);
        }
        self.at += len;
        Ok(())
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Stop> {
        // Tags, and most lengths, are one byte.
        if self.at < self.end
            && let Some(byte) = self.bytes.get(self.at)
            && *byte < 0x80
        {
            self.at += 1;
            return Ok(u64::from(*byte));
        }
        let (value, len) = varint(self.bytes, self.at, self.end)?;
        self.at += len;
        Ok(value)
    }
}

/// The varint at `at`, which ends before `end`, and its length.
pub(super) fn varint(bytes: &[u8], at: usize, end: usize) -> Result<(u64, usize), Stop> {
    if let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let (value, len) = short_varint(u64::from_le_bytes(*word));
        if len != 0 && len as usize <= end - at {
            return Ok((u64::from(value), len as usize));
        }
    }
    let mut value = 0;
    for index in 0..10 {
        if at + index >= end {
            return Err(Stop::Bad);
        }
        let byte = *bytes.get(at + index).ok_or(Stop::Need(at + index + 1))?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok((value, index + 1));
        }
    }
    Err(Stop::Bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<(u32, Range<usize>, u64)>, Stop> {
        let mut reader = Reader::new(bytes, 0..bytes.len());
        let mut fields = Vec::new();
        while let Some(field) = reader.next()? {
            fields.push((field.number, field.value, field.varint));
        }
        Ok(fields)
    }

    #[test]
    fn fields_of_every_kind_are_read() {
        let bytes = [
            0x08, 0xac, 0x02, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1a, 2, b'h', b'i', 0x25, 1, 2, 3, 4,
            0x92, 0x03, 0x80, 0x00, 0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0x01,
        ];
        let expected = [
            (1, 1..3, 300),
            (2, 4..12, 0),
            (3, 14..16, 0),
            (4, 17..21, 0),
            (50, 25..25, 0),
            (5, 26..36, u64::MAX),
        ];
        assert_eq!(fields(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for bytes in [
            // A length beyond the message, a varint that does not end in it, one of eleven bytes.
            &[0x0a, 2, 0][..],
            &[0x08, 0x80],
            &[0x08],
            &[
                0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00,
            ],
            // Field 0, groups, unknown wire types.
            &[0x02, 0],
            &[0x0b, 0x0c],
            &[0x0e],
            &[0x0f],
            &[0x09, 1, 2, 3, 4, 5, 6, 7],
            &[0x0d, 1, 2, 3],
        ] {
            assert_eq!(fields(bytes), Err(Stop::Bad), "{bytes:x?}");
        }
    }

    #[test]
    fn bytes_that_are_not_there_yet_are_asked_for() {
        let mut reader = Reader::new(&[0x0a], 0..10);
        assert_eq!(reader.next().unwrap_err(), Stop::Need(2));
        let mut reader = Reader::new(&[0x0a, 3], 0..10);
        assert_eq!(reader.next().unwrap().unwrap().value, 2..5);
        assert_eq!(reader.next().unwrap_err(), Stop::Need(6));
    }
}
