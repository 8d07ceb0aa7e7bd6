//! Reading recorded traffic: every frame, its addresses, and what truename would rewrite.
//!
//! A capture is split into TCP connections and reassembled ([`capture`], [`assemble`]); the very
//! walker that runs in the kernel translates the streams ([`translate`]); the frames before and
//! after are read and laid side by side ([`frame`]).

mod assemble;
mod capture;
mod frame;
mod translate;

use std::{fs, io, net::SocketAddr, path::Path};

use serde::Serialize;

pub use capture::CaptureError;
pub use frame::{Kind, announced};
pub use translate::Names;

use assemble::{Connections, Piece};
use translate::Connection;

/// The direction of a stream, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Towards the endpoint.
    Inbound,
    /// Away from it.
    Outbound,
}

/// How to read a file.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The listening ports of a capture; of connections to other ports, the side that was dialled
    /// is the endpoint.
    pub ports: Vec<u16>,
    /// What is known beforehand.
    pub names: Names,
    /// For a raw stream: its direction. A capture says it itself.
    pub way: Option<Direction>,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrameRow {
    /// Client and endpoint; none for a raw stream.
    pub flow: Option<String>,
    /// Its direction.
    pub way: Direction,
    /// Where it begins in the stream.
    pub offset: usize,
    /// Its length, with the four bytes that tell it.
    pub length: usize,
    /// What it is.
    pub kind: Kind,
    /// To whom the message goes.
    pub recipient: Option<String>,
    /// From whom it comes.
    pub sender: Option<String>,
    /// What an Associate announces.
    pub announced: Option<String>,
    /// What would be rewritten.
    pub rewrites: Vec<Rewrite>,
}

/// A rewritten place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// Where it begins in the stream.
    pub offset: usize,
    /// As it was sent.
    pub before: String,
    /// As it would be received.
    pub after: String,
}

/// Why a file cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is a broken capture.
    #[error("{path}: {source}")]
    Capture {
        /// The file.
        path: String,
        /// Why.
        source: CaptureError,
    },
}

/// What is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The frames.
    pub rows: Vec<FrameRow>,
    /// What was not read, a sentence each.
    pub notes: Vec<String>,
}

/// Decodes a pcap, a pcapng, or one raw direction of a stream.
///
/// # Errors
/// When the file cannot be read.
pub fn decode(path: &Path, options: &Options) -> Result<Decoded, DecodeError> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|source| DecodeError::Read {
        path: name.clone(),
        source,
    })?;
    if !capture::is_capture(&bytes) {
        return Ok(Decoded {
            rows: decode_stream(&bytes, options),
            notes: Vec::new(),
        });
    }
    let mut connections = Connections::default();
    let skipped = capture::read(&bytes, |segment| connections.add(segment))
        .map_err(|source| DecodeError::Capture { path: name, source })?;
    let mut rows = Vec::new();
    for connection in connections.finish(&options.ports) {
        let mut translated = Connection::new(options.names.clone());
        for (way, piece) in &connection.pieces {
            match piece {
                Piece::Bytes(bytes) => translated.feed(*way, bytes),
                Piece::Gap(gap) => translated.skip(*way, *gap),
            }
        }
        let flow = flow_name(connection.client, connection.endpoint);
        rows.extend(translated.rows(Some(&flow)));
    }
    let notes = skipped.notes().collect();
    Ok(Decoded { rows, notes })
}

/// Decodes one direction of a stream.
fn decode_stream(bytes: &[u8], options: &Options) -> Vec<FrameRow> {
    let mut connection = Connection::new(options.names.clone());
    connection.feed(options.way.unwrap_or(Direction::Inbound), bytes);
    connection.rows(None)
}

fn flow_name(client: SocketAddr, endpoint: SocketAddr) -> String {
    format!("{client} -> {endpoint}")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/fixtures")
            .join(name)
    }

    fn options(way: Direction) -> Options {
        let names = Names {
            canonical: Some("jobmanager:6123".parse().unwrap()),
            alias: Some("jm:6123".parse().unwrap()),
            system: Some("flink".to_owned()),
        };
        Options {
            ports: Vec::new(),
            names,
            way: Some(way),
        }
    }

    #[test]
    fn a_raw_stream_shows_frames_and_rewrites() {
        let path = fixture("flink-2.3.0-alias-padded/c2s.before.bin");
        let rows = decode(&path, &options(Direction::Inbound)).unwrap().rows;
        assert_eq!(rows[0].kind, Kind::Associate);
        assert!(
            rows[0]
                .announced
                .as_ref()
                .unwrap()
                .starts_with("pekko.tcp://flink@")
        );
        let rewritten: Vec<_> = rows.iter().flat_map(|row| &row.rewrites).collect();
        assert!(!rewritten.is_empty());
        for row in rows.iter().filter(|row| row.kind == Kind::Message) {
            assert!(row.recipient.as_ref().unwrap().contains("@jm:6123/"));
            assert_eq!(row.rewrites.len(), 1, "{row:?}");
            let Rewrite { before, after, .. } = &row.rewrites[0];
            assert_eq!(before, "pekko.tcp://flink@jm:6123");
            assert_eq!(after, "pekko://flink////////////");
        }
        let total: usize = rows.iter().map(|row| row.length).sum();
        assert_eq!(total, fs::metadata(&path).unwrap().len() as usize);
    }

    #[test]
    fn an_outbound_stream_gets_the_alias() {
        let path = fixture("flink-2.3.0-alias-padded/s2c.before.bin");
        let rows = decode(&path, &options(Direction::Outbound)).unwrap().rows;
        let rewrites: Vec<_> = rows.iter().flat_map(|row| &row.rewrites).collect();
        assert!(!rewrites.is_empty());
        for rewrite in rewrites {
            assert!(
                rewrite.before.ends_with("://flink@jobmanager:6123"),
                "{rewrite:?}"
            );
            assert!(
                rewrite.after.ends_with("://flink@jm:000000006123"),
                "{rewrite:?}"
            );
        }
    }

    #[test]
    fn what_is_no_remoting_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        for (bytes, kind) in [
            (&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], Kind::Tls),
            (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], Kind::NotFrame),
            (&b"\x00\x00\x00\x00"[..], Kind::Empty),
            (
                &b"\x00\x00\x00\x04\x12\x02\x08\x03\x00\x00"[..4],
                Kind::Truncated,
            ),
            (
                &b"\x00\x00\x00\x20\x12\x1e\x08\x01\x12\x1a\x0a"[..],
                Kind::Truncated,
            ),
        ] {
            fs::write(&path, bytes).unwrap();
            let rows = decode(&path, &Options::default()).unwrap().rows;
            assert_eq!(rows.len(), 1, "{rows:?}");
            assert_eq!(rows[0].kind, kind);
        }
    }

    const HEARTBEAT: &[u8] = b"\0\0\0\x04\x12\x02\x08\x03";

    /// An IPv4 packet with a TCP segment from 10.0.0.1:40000 to 10.0.0.2:6123.
    fn packet(seq: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut tcp = builder.tcp(40_000, 6123, seq, 1000);
        if syn {
            tcp = tcp.syn();
        }
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn pcap(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(0xa1b2_c3d4_u32.to_le_bytes());
        file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(65_535_u32.to_le_bytes());
        file.extend(link.to_le_bytes());
        for packet in packets {
            let length = (packet.len() as u32).to_le_bytes();
            file.extend([[0; 4], [0; 4], length, length].concat());
            file.extend(packet);
        }
        file
    }

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = (body.len().next_multiple_of(4) + 12) as u32;
        let mut block = [kind.to_le_bytes(), length.to_le_bytes()].concat();
        block.extend(body);
        block.resize(length as usize - 4, 0);
        block.extend(length.to_le_bytes());
        block
    }

    fn decoded(bytes: &[u8]) -> Decoded {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        fs::write(&path, bytes).unwrap();
        decode(&path, &Options::default()).unwrap()
    }

    #[test]
    fn what_is_recorded_on_any_device_is_read_behind_holes_too() {
        // Linux cooked version 2: IPv4, and an ARP packet.
        let cooked = |packet: Vec<u8>| [[0x08, 0].as_slice(), &[0; 18], &packet].concat();
        let file = pcap(
            276,
            &[
                cooked(packet(99, true, b"")),
                [[0x08, 0x06].as_slice(), &[0; 46]].concat(),
                cooked(packet(100, false, HEARTBEAT)),
                cooked(packet(5000, false, &HEARTBEAT.repeat(2))),
            ],
        );
        let Decoded { rows, notes } = decoded(&file);
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row.offset, row.length, row.kind))
            .collect();
        assert_eq!(
            found,
            [
                (0, 8, Kind::Heartbeat),
                (8, 4892, Kind::NotRecorded),
                (4900, 8, Kind::Heartbeat),
                (4908, 8, Kind::Heartbeat),
            ]
        );
        assert_eq!(notes, [""; 0]);
    }

    #[test]
    fn odd_interfaces_of_a_capture_are_skipped_and_counted() {
        let section = [
            0x1a2b_3c4d_u32.to_le_bytes(),
            [1, 0, 0, 0],
            [0xff; 4],
            [0xff; 4],
        ]
        .concat();
        let interface = |link: u8| block(1, &[link, 0, 0, 0, 0xff, 0xff, 0, 0]);
        let on = |number: u8, data: &[u8]| {
            let length = (data.len() as u32).to_le_bytes();
            let head = [[number, 0, 0, 0], [0; 4], [0; 4], length, length].concat();
            block(6, &[&head, data].concat())
        };
        let whole = packet(100, false, HEARTBEAT);
        let file = [
            block(0x0a0d_0d0a, &section),
            interface(220),
            interface(101),
            on(0, b"usb"),
            on(1, &whole),
            on(0, b"usb"),
            on(7, &whole),
            on(1, &whole[..30]),
        ]
        .concat();
        let Decoded { rows, notes } = decoded(&file);
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(
            notes
                .iter()
                .any(|note| note.starts_with("2 packet(s) were skipped: the link type USB"))
        );
        assert!(notes.iter().any(|note| note.contains("does not describe")));
        assert!(notes.iter().any(|note| note.contains("cut off")));
        assert!(!notes.iter().any(|note| note.contains("in the middle")));
        let Decoded { notes, .. } = decoded(&file[..file.len() - 9]);
        assert!(notes.iter().any(|note| note.contains("in the middle")));
    }
}
