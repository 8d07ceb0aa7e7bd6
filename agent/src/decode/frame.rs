//! Reading one complete frame, for people. The kernel's walker reads less, byte by byte.

use serde::Serialize;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The first frame of either side: its address.
    Associate,
    /// The end of an association.
    Disassociate,
    /// A sign of life.
    Heartbeat,
    /// An actor's message.
    Message,
    /// An acknowledgement of system messages.
    Ack,
    /// No bytes: sent when a connection is closed.
    Empty,
    /// It is cut off by the end of the recording.
    Truncated,
    /// Its inner lengths contradict each other, or it has none of the known parts.
    Malformed,
    /// The stream is encrypted.
    Tls,
    /// The stream is not remoting.
    NotFrame,
    /// Bytes that the recording lacks.
    NotRecorded,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub recipient: Option<String>,
    pub sender: Option<String>,
    pub announced: Option<String>,
}

impl Frame {
    pub const fn of(kind: Kind) -> Self {
        Self {
            kind,
            recipient: None,
            sender: None,
            announced: None,
        }
    }
}

/// Reads what is behind the length.
pub fn read(body: &[u8], scheme: &str) -> Frame {
    if body.is_empty() {
        return Frame::of(Kind::Empty);
    }
    protocol(body, scheme).unwrap_or_else(|| Frame::of(Kind::Malformed))
}

/// The system and the `host:port` that the body of an Associate announces.
pub fn announced(body: &[u8]) -> Option<(String, String)> {
    let path = read(body, "").announced?;
    let (_, name) = path.split_once("://")?;
    let (system, authority) = name.split_once('@')?;
    Some((system.to_owned(), authority.to_owned()))
}

/// `ProtocolMessage`: payload or instruction.
fn protocol(body: &[u8], scheme: &str) -> Option<Frame> {
    if let Some(payload) = bytes(body, 1)? {
        return container(payload);
    }
    let instruction = bytes(body, 2)??;
    let kind = match integer(instruction, 1)?? {
        1 => Kind::Associate,
        2 | 4 | 5 => Kind::Disassociate,
        3 => Kind::Heartbeat,
        _ => return None,
    };
    let mut frame = Frame::of(kind);
    if let Some(handshake) = bytes(instruction, 2)? {
        frame.announced = Some(address(bytes(handshake, 1)??, scheme)?);
    }
    Some(frame)
}

/// `AckAndEnvelopeContainer`.
fn container(payload: &[u8]) -> Option<Frame> {
    let Some(envelope) = bytes(payload, 2)? else {
        bytes(payload, 1)??;
        return Some(Frame::of(Kind::Ack));
    };
    let path = |field| -> Option<Option<String>> {
        let Some(reference) = bytes(envelope, field)? else {
            return Some(None);
        };
        Some(Some(text(bytes(reference, 1)??)))
    };
    Some(Frame {
        recipient: path(1)?,
        sender: path(4)?,
        ..Frame::of(Kind::Message)
    })
}

/// `AddressData`, as it is written in paths.
fn address(data: &[u8], scheme: &str) -> Option<String> {
    let system = text(bytes(data, 1)??);
    let host = text(bytes(data, 2)??);
    let port = integer(data, 3)??;
    let protocol = bytes(data, 4)?.map_or_else(|| "tcp".to_owned(), text);
    Some(format!("{scheme}.{protocol}://{system}@{host}:{port}"))
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

enum Value<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The first field of this number with bytes; `None` outside if the message is malformed.
fn bytes(message: &[u8], number: u64) -> Option<Option<&[u8]>> {
    find(message, number, |value| match value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    })
}

/// The first field of this number with an integer.
fn integer(message: &[u8], number: u64) -> Option<Option<u64>> {
    find(message, number, |value| match value {
        Value::Integer(value) => Some(value),
        _ => None,
    })
}

fn find<'a, T>(
    mut message: &'a [u8],
    number: u64,
    wanted: impl Fn(Value<'a>) -> Option<T>,
) -> Option<Option<T>> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Integer(varint(&mut message)?),
            1 => {
                message = message.get(8..)?;
                Value::Fixed
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Value::Bytes(bytes)
            }
            5 => {
                message = message.get(4..)?;
                Value::Fixed
            }
            _ => return None,
        };
        if tag >> 3 == number
            && let Some(value) = wanted(value)
        {
            return Some(Some(value));
        }
    }
    Some(None)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_control_messages() {
        assert_eq!(read(&[], "pekko").kind, Kind::Empty);
        assert_eq!(read(&[0x12, 2, 8, 3], "pekko").kind, Kind::Heartbeat);
        assert_eq!(read(&[0x12, 2, 8, 2], "pekko").kind, Kind::Disassociate);
        assert_eq!(read(&[0x12, 2, 8, 9], "pekko").kind, Kind::Malformed);
    }

    #[test]
    fn survives_every_cut_and_every_flipped_byte() {
        let body =
            b"\x0a\x26\x12\x24\x0a\x1c\x0a\x1apekko://flink@jm:6123/user\x12\x04\x0a\x00\x10\x01";
        let whole = read(body, "pekko");
        assert_eq!(whole.kind, Kind::Message);
        assert_eq!(
            whole.recipient.as_deref(),
            Some("pekko://flink@jm:6123/user")
        );
        for cut in 0..body.len() {
            read(&body[..cut], "pekko");
        }
        for at in 0..body.len() {
            for bit in 0..8 {
                let mut changed = body.to_vec();
                changed[at] ^= 1 << bit;
                read(&changed, "pekko");
            }
        }
    }
}
