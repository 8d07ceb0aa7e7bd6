//! The part of Java's object serialization that leader records in ZooKeeper are made of:
//! `writeUTF(address)`, then `writeObject(session)` with a `java.util.UUID`.
//!
//! Every length is checked against what is there, and nothing is read twice.

use crate::name::Session;

/// `STREAM_MAGIC` and `STREAM_VERSION`.
const HEADER: [u8; 4] = [0xac, 0xed, 0x00, 0x05];
/// `TC_BLOCKDATA`: one byte of length.
const BLOCK: u8 = 0x77;
/// `TC_BLOCKDATALONG`: four bytes of length.
const LONG_BLOCK: u8 = 0x7a;
/// `TC_OBJECT` and the class description of `java.util.UUID`, whose form is fixed since Java 5:
/// serial version, two fields of type long, no superclass. The values follow, least significant first.
const UUID_CLASS: &[u8] =
    b"\x73\x72\x00\x0ejava.util.UUID\xbc\x99\x03\xf7\x98\x6d\x85\x2f\x02\x00\x02\
    J\x00\x0cleastSigBitsJ\x00\x0bmostSigBits\x78\x70";

/// Why data is no leader record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JavaError {
    /// Something else wrote it.
    #[error("it is no Java object stream; does another program write to this node?")]
    NotJava,
    /// It ends too early.
    #[error("it is cut off after {0} bytes")]
    CutOff(usize),
    /// Something else than an address and a session.
    #[error("byte {0} begins something else than an address and a session")]
    Unexpected(usize),
    /// The address is no text.
    #[error("its address is no text")]
    NotText,
}

/// Reads an address and a session. What follows is not looked at, as Flink does not.
pub(super) fn decode(data: &[u8]) -> Result<(String, Session), JavaError> {
    if !data.starts_with(&HEADER) {
        return Err(JavaError::NotJava);
    }
    let mut reader = Reader {
        data,
        at: HEADER.len(),
    };
    // Java's own form of UTF-8 differs for characters that no address has.
    let address = String::from_utf8(reader.utf()?).map_err(|_| JavaError::NotText)?;
    Ok((address, reader.uuid()?))
}

/// A place in the data.
struct Reader<'d> {
    data: &'d [u8],
    at: usize,
}

impl<'d> Reader<'d> {
    fn take(&mut self, count: usize) -> Result<&'d [u8], JavaError> {
        let taken = self.data[self.at..]
            .get(..count)
            .ok_or(JavaError::CutOff(self.data.len()))?;
        self.at += count;
        Ok(taken)
    }

    /// The next `bytes` as a big-endian number.
    fn number(&mut self, bytes: usize) -> Result<u64, JavaError> {
        let taken = self.take(bytes)?;
        Ok(taken
            .iter()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// A block of primitive data.
    fn block(&mut self) -> Result<&'d [u8], JavaError> {
        let start = self.at;
        let length = match self.take(1)? {
            [BLOCK] => self.number(1)?,
            [LONG_BLOCK] => self.number(4)?,
            _ => return Err(JavaError::Unexpected(start)),
        };
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// What `writeUTF` wrote, as the only primitive data: Java begins a new block every 1,024 bytes.
    fn utf(&mut self) -> Result<Vec<u8>, JavaError> {
        let mut data = Vec::new();
        loop {
            let start = self.at;
            data.extend_from_slice(self.block()?);
            if let Some((length, text)) = data.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if text.len() > length {
                    return Err(JavaError::Unexpected(start));
                }
                if text.len() == length {
                    return Ok(text.to_vec());
                }
            }
        }
    }

    /// A `java.util.UUID`.
    fn uuid(&mut self) -> Result<Session, JavaError> {
        let start = self.at;
        let class = self.data[start..].iter().zip(UUID_CLASS);
        if class.clone().any(|(found, wanted)| found != wanted) {
            return Err(JavaError::Unexpected(start));
        }
        self.take(UUID_CLASS.len())?;
        let (least, most) = (self.number(8)?, self.number(8)?);
        Ok(Session::new(u128::from(most) << 64 | u128::from(least)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Java writes, with blocks of at most `block` bytes.
    pub(in crate::discovery::sources::ha) fn encode(
        address: &str,
        session: u128,
        block: usize,
    ) -> Vec<u8> {
        let mut data = (address.len() as u16).to_be_bytes().to_vec();
        data.extend(address.as_bytes());
        let mut out = HEADER.to_vec();
        for chunk in data.chunks(block) {
            match u8::try_from(chunk.len()) {
                Ok(length) => out.extend([BLOCK, length]),
                Err(_) => {
                    out.push(LONG_BLOCK);
                    out.extend((chunk.len() as u32).to_be_bytes());
                }
            }
            out.extend(chunk);
        }
        out.extend(UUID_CLASS);
        out.extend((session as u64).to_be_bytes());
        out.extend(((session >> 64) as u64).to_be_bytes());
        out
    }

    /// The example of the format's description.
    #[test]
    fn reads_byte_for_byte() {
        let mut data =
            b"\xac\xed\x00\x05\x77\x18\x00\x16http://jobmanager:8081\x73\x72\x00\x0ejava.util.UUID"
                .to_vec();
        data.extend(b"\xbc\x99\x03\xf7\x98\x6d\x85\x2f\x02\x00\x02\x4a\x00\x0cleastSigBits\x4a\x00\x0bmostSigBits\x78\x70");
        data.extend(0x8899_aabb_ccdd_eeff_u64.to_be_bytes());
        data.extend(0x0011_2233_4455_6677_u64.to_be_bytes());
        let session = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
        let record = Ok(("http://jobmanager:8081".to_owned(), session));
        assert_eq!(decode(&data), record);
        data.extend(b"more");
        assert_eq!(decode(&data), record);
    }

    #[test]
    fn says_what_is_wrong() {
        let good = encode("http://jm:8081", 1, 1024);
        let mut other = good.clone();
        other[4] = 0x73;
        let mut class = good.clone();
        class[30] ^= 1;
        let mut more = encode("http://jm:8081x", 1, 1024);
        more[7] -= 1;
        for (data, error) in [
            (&b"{}"[..], JavaError::NotJava),
            (&good[..3], JavaError::NotJava),
            (&good[..4], JavaError::CutOff(4)),
            (&good[..good.len() - 1], JavaError::CutOff(good.len() - 1)),
            (
                b"\xac\xed\x00\x05\x7a\xff\xff\xff\xff\x00",
                JavaError::CutOff(10),
            ),
            (&other, JavaError::Unexpected(4)),
            (&class, JavaError::Unexpected(22)),
            (&more, JavaError::Unexpected(4)),
            (
                &encode("http://jm:8081", 1, 1024)[..30],
                JavaError::CutOff(30),
            ),
        ] {
            assert_eq!(decode(data), Err(error), "{data:x?}");
        }
        let mut bytes = good;
        bytes[8] = 0xff;
        assert_eq!(decode(&bytes), Err(JavaError::NotText));
    }

    proptest! {
        #[test]
        fn reads_what_java_writes(
            address in "[ -~]{0,3000}",
            session: u128,
            block in prop_oneof![Just(1024_usize), 1_usize..2000],
        ) {
            let data = encode(&address, session, block);
            prop_assert_eq!(decode(&data), Ok((address, Session::new(session))));
            // Cut anywhere, it is an error, never a shorter address.
            for cut in [0, 3, 5, data.len() / 2, data.len() - 1] {
                prop_assert!(decode(&data[..cut]).is_err());
            }
        }

        #[test]
        fn no_bytes_panic(
            tail in proptest::collection::vec(any::<u8>(), 0..300),
            flips in proptest::collection::vec((0_usize..150, any::<u8>()), 0..4),
        ) {
            let _ = decode(&tail);
            let _ = decode(&[&HEADER[..], &tail].concat());
            let mut data = encode("pekko.tcp://flink@jobmanager:6123/user/rpc/dispatcher_1", 7, 1024);
            for (at, value) in flips {
                if let Some(byte) = data.get_mut(at) {
                    *byte ^= value;
                }
            }
            let _ = decode(&data);
        }
    }
}
