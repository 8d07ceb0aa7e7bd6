//! From TCP segments to the bytes of both directions, in the order in which they could be read.

use std::{collections::BTreeMap, net::SocketAddr};

use truename_common::wire::{
    chunk::{CHUNK, Chunk},
    frame::plausible,
    seq::{after, distance},
};

use super::{Way, capture::Segment};

/// Bytes beyond a hole that are kept; then the hole is taken as lost by the recording.
const BEYOND_MAX: usize = 64 << 20;

/// The connections of a capture.
#[derive(Default)]
pub struct Connections {
    /// By the pair of addresses, the smaller one first.
    open: BTreeMap<(SocketAddr, SocketAddr), Both>,
    /// In the order of their first segments.
    order: Vec<(SocketAddr, SocketAddr)>,
}

/// A connection that has been put together.
pub struct Assembled {
    pub client: SocketAddr,
    pub endpoint: SocketAddr,
    /// Pieces of both directions, in the order of the capture.
    pub pieces: Vec<(Way, Vec<u8>)>,
}

#[derive(Default)]
struct Both {
    /// Who sent the first SYN.
    dialler: Option<SocketAddr>,
    /// Of the smaller address, of the other one.
    streams: [Stream; 2],
    /// Index of the stream and bytes.
    pieces: Vec<(usize, Vec<u8>)>,
}

#[derive(Default)]
struct Stream {
    /// The sequence number of the next byte.
    next: Option<u32>,
    /// Segments beyond a hole.
    beyond: Vec<(u32, Vec<u8>)>,
    beyond_len: usize,
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
            let Some(both) = self.open.remove(&key) else {
                continue;
            };
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
                            Way::Inbound
                        } else {
                            Way::Outbound
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
    fn add(&mut self, segment: Segment<'_>, pieces: &mut Vec<Vec<u8>>) {
        if segment.syn {
            // Also a new connection of the same pair.
            self.next = Some(segment.seq.wrapping_add(1));
            self.beyond.clear();
            self.beyond_len = 0;
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
            None => {
                let window = segment.payload.get(..CHUNK).unwrap_or(segment.payload);
                if !plausible(&Chunk::new(window), window.len() as u32) {
                    return;
                }
                seq
            }
        };
        self.next = Some(next);
        if after(seq, next) {
            self.beyond_len += segment.payload.len();
            self.beyond.push((seq, segment.payload.to_vec()));
            if self.beyond_len > BEYOND_MAX {
                self.skip_hole();
            }
        } else {
            self.take(seq, segment.payload, pieces);
        }
        self.join(pieces);
    }

    /// Takes the bytes from `next` on.
    fn take(&mut self, seq: u32, payload: &[u8], pieces: &mut Vec<Vec<u8>>) {
        let Some(next) = self.next else { return };
        let known = usize::try_from(distance(next, seq)).unwrap_or(0);
        if let Some(new) = payload.get(known..)
            && !new.is_empty()
        {
            self.next = Some(next.wrapping_add(new.len() as u32));
            pieces.push(new.to_vec());
        }
    }

    /// Takes what is not beyond a hole any more.
    fn join(&mut self, pieces: &mut Vec<Vec<u8>>) {
        while let Some(next) = self.next {
            let Some(index) = self.beyond.iter().position(|(seq, _)| !after(*seq, next)) else {
                return;
            };
            let (seq, payload) = self.beyond.swap_remove(index);
            self.beyond_len -= payload.len();
            self.take(seq, &payload, pieces);
        }
    }

    /// Goes on behind a hole that was not recorded.
    fn skip_hole(&mut self) {
        let Some(next) = self.next else { return };
        let nearest = self
            .beyond
            .iter()
            .map(|(seq, _)| *seq)
            .min_by_key(|seq| distance(*seq, next));
        self.next = nearest.or(self.next);
    }
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
            .flat_map(|(_, piece)| piece.clone())
            .collect();
        assert_eq!(all, bytes);
        assert!(one.pieces.iter().all(|(way, _)| *way == Way::Inbound));
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
}
