//! What the kernel program answers to DNS questions.

use super::plain;

/// How long an answer counts, in seconds: a leader that moves keeps its name.
pub const NAMES_TTL: u32 = 5;
/// Longest name of DNS, in bytes (RFC 1035 2.3.4).
pub const NAME_MAX: usize = 255;
/// Addresses of one family that are told of one name.
pub const ADDRESSES_TOLD: usize = 4;
/// Bytes of a record of type A and of type AAAA whose name refers to the question.
pub const A_RECORD: usize = 16;
/// See [`A_RECORD`].
pub const AAAA_RECORD: usize = 28;

/// Bytes of [`NO_DATA`].
pub const NO_DATA_LEN: usize = 35;
/// The SOA record of an answer without records, which says for how long there is none (RFC 2308). It belongs to the name in
/// the question, as does its server; its mailbox is the root's.
pub const NO_DATA: [u8; NO_DATA_LEN] = {
    let [a, b, c, d] = NAMES_TTL.to_be_bytes();
    [
        0xc0, 0x0c, 0, 6, 0, 1, a, b, c, d, 0, 23, 0xc0, 0x0c,
        0, // The serial number, and four times.
        0, 0, 0, 1, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d,
    ]
};

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
