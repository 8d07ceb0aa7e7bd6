//! The frames of classic remoting, written the way the peers write them.

use super::names::Authority;

/// A frame: four bytes of length, then the body.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// The first frame of each direction: who speaks.
pub fn associate(system: &str, origin: &Authority, uid: i32) -> Vec<u8> {
    let mut address = Vec::new();
    field(&mut address, 0x0a, system.as_bytes());
    field(&mut address, 0x12, origin.host.as_bytes());
    address.push(0x18);
    varint(&mut address, u64::from(origin.port));
    field(&mut address, 0x22, b"tcp");

    let mut handshake = Vec::new();
    field(&mut handshake, 0x0a, &address);
    handshake.push(0x11);
    handshake.extend_from_slice(&i64::from(uid).to_le_bytes());

    let mut message = vec![0x08, 0x01];
    field(&mut message, 0x12, &handshake);
    let mut body = Vec::new();
    field(&mut body, 0x12, &message);
    frame(&body)
}

/// A control message without handshake: 2 Disassociate, 3 Heartbeat, 4 shutting down, 5 quarantined.
pub fn control(command: u8) -> Vec<u8> {
    frame(&[0x12, 0x02, 0x08, command])
}

/// A message from actor to actor.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    /// The path of the receiver.
    pub recipient: String,
    /// The path of the sender, if any.
    pub sender: Option<String>,
    /// The serialised message.
    pub body: Vec<u8>,
    /// How it was serialised.
    pub serializer: u32,
    /// What it is, if the serialiser needs to know.
    pub manifest: Option<String>,
    /// A cumulative acknowledgement in front.
    pub ack: Option<u64>,
    /// The number of a system message.
    pub sequence: Option<u64>,
}

impl Envelope {
    /// The frame that carries it.
    pub fn frame(&self) -> Vec<u8> {
        let mut message = Vec::new();
        field(&mut message, 0x0a, &self.body);
        message.push(0x10);
        varint(&mut message, u64::from(self.serializer));
        if let Some(manifest) = &self.manifest {
            field(&mut message, 0x1a, manifest.as_bytes());
        }

        let mut envelope = Vec::new();
        field(&mut envelope, 0x0a, &actor(&self.recipient));
        field(&mut envelope, 0x12, &message);
        if let Some(sender) = &self.sender {
            field(&mut envelope, 0x22, &actor(sender));
        }
        if let Some(sequence) = self.sequence {
            envelope.push(0x29);
            envelope.extend_from_slice(&sequence.to_le_bytes());
        }

        let mut container = Vec::new();
        if let Some(ack) = self.ack {
            let mut acknowledgement = vec![0x09];
            acknowledgement.extend_from_slice(&ack.to_le_bytes());
            field(&mut container, 0x0a, &acknowledgement);
        }
        field(&mut container, 0x12, &envelope);
        let mut body = Vec::new();
        field(&mut body, 0x0a, &container);
        frame(&body)
    }
}

fn actor(path: &str) -> Vec<u8> {
    let mut actor = Vec::new();
    field(&mut actor, 0x0a, path.as_bytes());
    actor
}

fn field(to: &mut Vec<u8>, tag: u8, value: &[u8]) {
    to.push(tag);
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex.split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    }

    #[test]
    fn an_associate_is_written_as_peers_write_it() {
        let expected = bytes(
            "00 00 00 2b 12 29 08 01 12 25 0a 1a 0a 05 66 6c 69 6e 6b 12 09 6c 6f 63 61 6c 68 6f 73 74 \
             18 ea 2f 22 03 74 63 70 11 04 03 02 01 00 00 00 00",
        );
        let authority = Authority::new("localhost", 6122);
        assert_eq!(associate("flink", &authority, 0x0102_0304), expected);
        let negative = associate("flink", &authority, -2);
        assert!(negative.ends_with(&bytes("11 fe ff ff ff ff ff ff ff")));
    }

    #[test]
    fn a_tell_is_written_as_peers_write_it() {
        let expected = bytes(
            "00 00 00 37 0a 35 12 33 0a 29 0a 27 70 65 6b 6b 6f 2e 74 63 70 3a 2f 2f 66 6c 69 6e 6b 40 \
             6c 6f 63 61 6c 68 6f 73 74 3a 36 31 32 33 2f 75 73 65 72 2f 61 12 06 0a 02 68 69 10 14",
        );
        let tell = Envelope {
            recipient: "pekko.tcp://flink@localhost:6123/user/a".to_owned(),
            body: b"hi".to_vec(),
            serializer: 20,
            ..Envelope::default()
        };
        assert_eq!(tell.frame(), expected);
    }

    #[test]
    fn control_messages_are_eight_bytes() {
        assert_eq!(control(3), bytes("00 00 00 04 12 02 08 03"));
    }
}
