//! From TCP segments to the bytes of both directions, in the order in which they could be read.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use truename_common::wire::{
    chunk::{CHUNK, Chunk},
    frame::plausible,
    seq::distance,
};

use super::{Direction, capture::Segment};

/// Bytes beyond a hole that are kept; then the hole is taken as lost by the recording.
const BEYOND_MAX: usize = 64 << 20;

/// The connections of a capture.
#[derive(Default)]
pub struct Connections {
    /// By the pair of addresses, the smaller one first.
    open: HashMap<(SocketAddr, SocketAddr), Both>,
    /// In the order of their first segments.
    order: Vec<(SocketAddr, SocketAddr)>,
}

/// A connection that has been put together.
pub struct Assembled {
    pub client: SocketAddr,
    pub endpoint: SocketAddr,
    /// Pieces of both directions, in the order of the capture.
    pub pieces: Vec<(Direction, Piece)>,
}

/// What comes next in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Bytes(Vec<u8>),
    /// Bytes that the recording lacks; it goes on with a frame.
    Gap(Gap),
}

/// A hole in a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Bytes that were not recorded.
    pub missing: usize,
    /// Bytes behind them until a frame begins: its beginning is among those that are missing.
    pub skipped: usize,
}

#[derive(Default)]
struct Both {
    /// Who sent the first SYN.
    dialler: Option<SocketAddr>,
    /// Of the smaller address, of the other one.
    streams: [Stream; 2],
    /// Index of the stream and bytes.
    pieces: Vec<(usize, Piece)>,
}

#[derive(Default)]
struct Stream {
    /// The sequence number of the next byte.
    next: Option<u32>,
    /// How many bytes came before it.
    position: u64,
    /// Segments beyond a hole, by their position.
    beyond: BTreeMap<u64, Vec<u8>>,
    beyond_len: usize,
    /// The hole behind which no frame has begun yet.
    gap: Option<Gap>,
}

impl Connections {
    /// Adds a segment.
    pub fn add(&mut self, segment: Segment<'_>) {
        let swapped = segment.from > segment.to;
        let key = if swapped {
            (segment.to, segment.from)
        } else {
            (segment.from, segment.to)
        };
        let both = self.open.entry(key).or_insert_with(|| {
            self.order.push(key);
            Both::default()
        });
        let index = usize::from(swapped);
        if segment.syn {
            both.dialler.get_or_insert(if segment.ack {
                segment.to
            } else {
                segment.from
            });
        }
        let mut pieces = Vec::new();
        both.streams[index].add(segment, &mut pieces);
        both.pieces
            .extend(pieces.into_iter().map(|piece| (index, piece)));
    }

    /// The connections, with their directions. With `ports`, only those to one of them.
    pub fn finish(mut self, ports: &[u16]) -> Vec<Assembled> {
        let mut all = Vec::new();
        for key in self.order {
            let Some(mut both) = self.open.remove(&key) else {
                continue;
            };
            // What the recording lacks does not come any more.
            for (index, stream) in both.streams.iter_mut().enumerate() {
                let mut pieces = Vec::new();
                while stream.skip_hole() {
                    stream.join(&mut pieces);
                }
                // No frame begins behind the last hole.
                pieces.extend(stream.gap.take().map(Piece::Gap));
                let pieces = pieces.into_iter().map(|piece| (index, piece));
                both.pieces.extend(pieces);
            }
            let Some(endpoint) = endpoint(key, both.dialler, ports) else {
                continue;
            };
            let client = if endpoint == key.0 { key.1 } else { key.0 };
            let pieces = both
                .pieces
                .into_iter()
                .map(|(index, piece)| {
                    let sender = if index == 0 { key.0 } else { key.1 };
                    (
                        if sender == client {
                            Direction::Inbound
                        } else {
                            Direction::Outbound
                        },
                        piece,
                    )
                })
                .collect::<Vec<_>>();
            if !pieces.is_empty() {
                all.push(Assembled {
                    client,
                    endpoint,
                    pieces,
                });
            }
        }
        all
    }
}

/// The side that was dialled; if that was not recorded, the lower port.
fn endpoint(
    (a, b): (SocketAddr, SocketAddr),
    dialler: Option<SocketAddr>,
    ports: &[u16],
) -> Option<SocketAddr> {
    let listening = |side: &SocketAddr| ports.contains(&side.port());
    if !ports.is_empty() {
        return [a, b].into_iter().find(listening);
    }
    Some(match dialler {
        Some(dialler) if dialler == a => b,
        Some(_) => a,
        None if a.port() < b.port() => a,
        None => b,
    })
}

impl Stream {
    fn add(&mut self, segment: Segment<'_>, pieces: &mut Vec<Piece>) {
        if segment.syn {
            // Also a new connection of the same pair.
            *self = Self {
                next: Some(segment.seq.wrapping_add(1)),
                ..Self::default()
            };
        }
        if segment.payload.is_empty() {
            return;
        }
        let seq = if segment.syn {
            segment.seq.wrapping_add(1)
        } else {
            segment.seq
        };
        let next = match self.next {
            Some(next) => next,
            // The recording began in the middle: wait for a plausible frame.
            None if begins_frame(segment.payload) => seq,
            None => return,
        };
        self.next = Some(next);
        match u64::try_from(distance(seq, next)) {
            Ok(ahead @ 1..) => {
                let known = self.beyond.entry(self.position + ahead).or_default();
                if known.len() < segment.payload.len() {
                    self.beyond_len += segment.payload.len() - known.len();
                    *known = segment.payload.to_vec();
                }
                if self.beyond_len > BEYOND_MAX {
                    self.skip_hole();
                }
            }
            _ => self.take(distance(next, seq), segment.payload, pieces),
        }
        self.join(pieces);
    }

    /// Takes the bytes behind the first `known`.
    fn take(&mut self, known: i32, payload: &[u8], pieces: &mut Vec<Piece>) {
        let known = usize::try_from(known).unwrap_or(0);
        let Some(mut new) = payload.get(known..).filter(|new| !new.is_empty()) else {
            return;
        };
        self.next = self.next.map(|next| next.wrapping_add(new.len() as u32));
        self.position += new.len() as u64;
        if let Some(mut gap) = self.gap.take() {
            let begin = (0..new.len()).find(|at| begins_frame(&new[*at..]));
            gap.skipped += begin.unwrap_or(new.len());
            let Some(begin) = begin else {
                self.gap = Some(gap);
                return;
            };
            pieces.push(Piece::Gap(gap));
            new = &new[begin..];
        }
        pieces.push(Piece::Bytes(new.to_vec()));
    }

    /// Takes what is not beyond a hole any more.
    fn join(&mut self, pieces: &mut Vec<Piece>) {
        while let Some(first) = self.beyond.first_entry()
            && *first.key() <= self.position
        {
            let (position, payload) = first.remove_entry();
            self.beyond_len -= payload.len();
            let known = i32::try_from(self.position - position).unwrap_or(i32::MAX);
            self.take(known, &payload, pieces);
        }
    }

    /// Goes on behind a hole that was not recorded; false if there is none.
    fn skip_hole(&mut self) -> bool {
        let (Some(next), Some((nearest, _))) = (self.next, self.beyond.first_key_value()) else {
            return false;
        };
        let missing = nearest - self.position;
        self.next = Some(next.wrapping_add(missing as u32));
        self.position = *nearest;
        let gap = self.gap.get_or_insert_default();
        gap.missing += usize::try_from(missing).unwrap_or(usize::MAX);
        true
    }
}

/// Whether a frame begins here.
fn begins_frame(bytes: &[u8]) -> bool {
    let window = bytes.get(..CHUNK).unwrap_or(bytes);
    plausible(&Chunk::new(window), window.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> (SocketAddr, SocketAddr) {
        (
            "10.0.0.2:40000".parse().unwrap(),
            "10.0.0.1:6123".parse().unwrap(),
        )
    }

    fn segment(seq: u32, payload: &[u8]) -> Segment<'_> {
        let (from, to) = addresses();
        Segment {
            from,
            to,
            seq,
            syn: false,
            ack: true,
            payload,
        }
    }

    #[test]
    fn puts_pieces_in_order() {
        let (client, endpoint) = addresses();
        let mut connections = Connections::default();
        let start = u32::MAX - 3;
        connections.add(Segment {
            syn: true,
            ack: false,
            ..segment(start, b"")
        });
        let bytes = b"abcdefghij";
        let at = |from: usize| start.wrapping_add(1 + from as u32);
        for (from, to) in [(0, 3), (6, 8), (0, 3), (8, 10), (2, 7)] {
            connections.add(segment(at(from), &bytes[from..to]));
        }
        let [one] = <[_; 1]>::try_from(connections.finish(&[])).ok().unwrap();
        assert_eq!((one.client, one.endpoint), (client, endpoint));
        let all: Vec<u8> = one
            .pieces
            .iter()
            .flat_map(|(_, piece)| match piece {
                Piece::Bytes(bytes) => bytes.clone(),
                Piece::Gap(gap) => panic!("{gap:?}"),
            })
            .collect();
        assert_eq!(all, bytes);
        assert!(one.pieces.iter().all(|(way, _)| *way == Direction::Inbound));
    }

    #[test]
    fn ports_choose_connections() {
        let mut connections = Connections::default();
        connections.add(segment(1, b"\0\0\0\x04\x12\x02\x08\x03"));
        assert_eq!(connections.finish(&[8081]).len(), 0);
        let mut connections = Connections::default();
        connections.add(segment(1, b"\0\0\0\x04\x12\x02\x08\x03"));
        assert_eq!(connections.finish(&[6123])[0].endpoint.port(), 6123);
    }

    const HEARTBEAT: &[u8] = b"\0\0\0\x04\x12\x02\x08\x03";

    #[test]
    fn a_hole_is_told_and_what_follows_is_read() {
        let mut connections = Connections::default();
        connections.add(Segment {
            syn: true,
            ack: false,
            ..segment(99, b"")
        });
        connections.add(segment(100, HEARTBEAT));
        // The end of a frame whose beginning is missing, a frame, and one after another hole.
        let torn = [b"rest".as_slice(), HEARTBEAT].concat();
        connections.add(segment(150, &torn));
        connections.add(segment(300, HEARTBEAT));
        let [one] = <[_; 1]>::try_from(connections.finish(&[])).ok().unwrap();
        let pieces: Vec<_> = one.pieces.into_iter().map(|(_, piece)| piece).collect();
        let bytes = || Piece::Bytes(HEARTBEAT.to_vec());
        let gap = |missing, skipped| Piece::Gap(Gap { missing, skipped });
        assert_eq!(pieces, [bytes(), gap(42, 4), bytes(), gap(138, 0), bytes()]);
    }

    #[test]
    fn many_segments_behind_a_hole_take_no_long_time() {
        let mut connections = Connections::default();
        connections.add(Segment {
            syn: true,
            ack: false,
            ..segment(99, b"")
        });
        let count = 200_000;
        // The last one first: each is put in front of those that are there.
        for number in (0..count).rev() {
            connections.add(segment(5000 + number * 8, HEARTBEAT));
        }
        let [one] = <[_; 1]>::try_from(connections.finish(&[])).ok().unwrap();
        assert_eq!(one.pieces.len(), count as usize + 1);
    }
}
