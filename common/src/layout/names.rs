//! What the kernel program answers to DNS questions.

use super::plain;

/// Longest name of DNS, in bytes (RFC 1035 2.3.4).
pub const NAME_MAX: usize = 255;
/// Addresses of one family that are told of one name.
pub const ADDRESSES_TOLD: usize = 4;
/// Bytes of a record of type A and of type AAAA whose name refers to the question.
pub const A_RECORD: usize = 16;
/// See [`A_RECORD`].
pub const AAAA_RECORD: usize = 28;

/// A name as it stands in a question, in small letters, with zeros behind it.
pub type CapturedName = [u8; NAME_MAX + 1];

/// The records of a name, as they stand in an answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapturedRecords {
    /// How many there are of type A, and of type AAAA.
    pub counts: [u32; 2],
    pub a: [u8; A_RECORD * ADDRESSES_TOLD],
    pub aaaa: [u8; AAAA_RECORD * ADDRESSES_TOLD],
}

plain!(CapturedRecords = 8 + (A_RECORD + AAAA_RECORD) * ADDRESSES_TOLD);
