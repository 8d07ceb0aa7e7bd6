//! Frames as a TAP device gives them: which are TCP, and how a large packet is cut into segments.

use std::ops::Range;

use crate::sys::VIRTIO_HEADER;

const ETHERNET: usize = 14;
/// Fields of `virtio_net_hdr`.
const GSO_TYPE: usize = 1;
const HEADERS_LENGTH: usize = 2;
const GSO_SIZE: usize = 4;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum field holds the sum of the pseudo header.
const NEEDS_CHECKSUM: u8 = 1;

/// The destination of a frame.
pub(super) fn destination(frame: &[u8]) -> Option<[u8; 6]> {
    frame.get(VIRTIO_HEADER..)?.first_chunk().copied()
}

/// A TCP packet as the segments that it stands for.
pub(super) struct Segments<'f> {
    frame: &'f [u8],
    /// Where the IP header begins.
    ip: usize,
    /// Where the TCP header begins.
    tcp: usize,
    /// Where the payload begins.
    payload: usize,
    /// Payload of a segment; 0 if there is only one.
    size: usize,
}

impl<'f> Segments<'f> {
    /// `None` if the frame is no TCP packet: address resolution must not suffer, it has timers of its own.
    pub(super) fn of(frame: &'f [u8]) -> Option<Self> {
        let ip = VIRTIO_HEADER + ETHERNET;
        let tcp = match frame.get(ip - 2..ip)? {
            [0x08, 0x00] if *frame.get(ip + 9)? == 6 => ip + usize::from(*frame.get(ip)? & 15) * 4,
            [0x86, 0xdd] if *frame.get(ip + 6)? == 6 => ip + 40,
            _ => return None,
        };
        let payload = tcp + usize::from(*frame.get(tcp + 12)? >> 4) * 4;
        frame.get(payload..)?;
        let size = if frame[GSO_TYPE] == 0 {
            0
        } else {
            usize::from(u16::from_ne_bytes([frame[GSO_SIZE], frame[GSO_SIZE + 1]]))
        };
        Some(Self {
            frame,
            ip,
            tcp,
            payload,
            size,
        })
    }

    /// How many segments there are.
    pub(super) fn count(&self) -> usize {
        let payload = self.frame.len() - self.payload;
        if self.size == 0 {
            1
        } else {
            payload.div_ceil(self.size).max(1)
        }
    }

    /// A packet with some of the segments.
    pub(super) fn piece(&self, range: Range<usize>) -> Vec<u8> {
        let count = self.count();
        if range == (0..count) {
            return self.frame.to_vec();
        }
        let whole = self.frame.len() - self.payload;
        let (from, to) = (range.start * self.size, whole.min(range.end * self.size));
        let mut piece = self.frame[..self.payload].to_vec();
        // The sender's device tells how much of the packet lies in its head, which may be more than the piece has.
        let headers = (self.payload - VIRTIO_HEADER) as u16;
        piece[HEADERS_LENGTH..HEADERS_LENGTH + 2].copy_from_slice(&headers.to_ne_bytes());
        piece.extend_from_slice(&self.frame[self.payload + from..self.payload + to]);
        if range.len() == 1 {
            piece[GSO_TYPE] = 0;
            piece[GSO_SIZE..GSO_SIZE + 2].fill(0);
        }
        let (ip, tcp) = (self.ip, self.tcp);
        if tcp == ip + 40 {
            put(&mut piece, ip + 4, (self.payload - tcp + to - from) as u16);
        } else {
            let length = (self.payload - ip + to - from) as u16;
            put(&mut piece, ip + 2, length);
            let id = get(&piece, ip + 4).wrapping_add(range.start as u16);
            put(&mut piece, ip + 4, id);
            put(&mut piece, ip + 10, 0);
            let sum = !sum(&piece[ip..tcp]);
            put(&mut piece, ip + 10, sum);
        }
        let sequence = &mut piece[tcp + 4..tcp + 8];
        let moved = sequence
            .iter()
            .fold(0, |number: u32, byte| number << 8 | u32::from(*byte))
            .wrapping_add(from as u32);
        sequence.copy_from_slice(&moved.to_be_bytes());
        if range.end < count {
            // FIN and PSH belong to the last segment.
            piece[tcp + 13] &= !0b1001;
        }
        if piece[0] & NEEDS_CHECKSUM != 0 {
            // Another length in the pseudo header, in ones' complement.
            let (was, is) = (
                (self.frame.len() - tcp) as u16,
                (self.payload - tcp + to - from) as u16,
            );
            let open = [get(&piece, tcp + 16), !was, is];
            let bytes: Vec<u8> = open.iter().flat_map(|word| word.to_be_bytes()).collect();
            put(&mut piece, tcp + 16, sum(&bytes));
        }
        piece
    }
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The sum of 16-bit words in ones' complement.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
