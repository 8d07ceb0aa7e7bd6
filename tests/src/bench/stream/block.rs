//! What a stream repeats, and a comparison of what arrives that is nearly as cheap as reading it.

use anyhow::{Result, bail};

use super::row::{Direction, Row};
use crate::{
    bench::LONG_ALIAS,
    wire::{Authority, Envelope, Names},
};

/// A block has at least this many bytes, so that comparisons are large.
const BLOCK: usize = 256 << 10;
/// So many frames are compared at once if one of them may arrive in another form.
const GROUP: usize = 64;

/// Frames, all alike, that are sent again and again.
#[derive(Clone, Debug)]
pub struct Block {
    /// What is sent.
    sent: Vec<u8>,
    /// How many frames it has.
    pub frames: usize,
    /// What has to arrive, twice: so any block's length from any place is in one piece.
    expected: Vec<u8>,
    /// Another form in which a frame may arrive.
    alternative: Option<Vec<u8>>,
    /// The length of a frame.
    frame: usize,
    /// Frames that are written at once.
    at_once: usize,
}

/// How the name in a frame arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// As it was sent.
    Same,
    /// Translated.
    Translated,
    /// A canonical name: as it was sent, or in the local form if it was cut.
    SameOrLocal,
    /// Instead of an alias that is too long the canonical name, and the other way around: the length changes.
    Relayed,
}

impl Block {
    /// The frames of a row. Of all arrangements they have the same length.
    ///
    /// # Errors
    /// The alias is longer than the canonical name.
    pub fn new(row: &Row, names: &Names, arrival: Arrival) -> Result<Self> {
        let canonical = names.canonical.to_string();
        let alias = names.alias.to_string();
        let frame = |front: &str, len: usize| {
            let peer = names.path(&names.client, "/user/x");
            let own = format!("{front}user/rpc/a");
            let (recipient, sender) = match row.direction {
                Direction::In => (own, None),
                Direction::Out => (peer, Some(own)),
            };
            Envelope {
                recipient,
                sender,
                body: vec![b'.'; len],
                serializer: 1,
                ..Envelope::default()
            }
            .frame()
        };
        let long = Authority::new(LONG_ALIAS, names.alias.port).to_string();
        let local = |authority: &str| {
            let slashes = "/".repeat(".tcp@/".len() + authority.len());
            format!("{}://{}{slashes}", names.scheme, names.system)
        };
        let (sent, translated) = match row.direction {
            Direction::In if arrival == Arrival::SameOrLocal => {
                // As long as the others' frames with the alias.
                let body = row.body.saturating_sub(canonical.len() - alias.len());
                let [sent, local] = [names.path(&canonical, "/"), local(&canonical)]
                    .map(|front| frame(&front, body));
                (sent, local)
            }
            Direction::In if arrival == Arrival::Relayed => {
                // As long as the others' frames where it is sent.
                let body = row.body.saturating_sub(long.len() - alias.len());
                let [sent, own] =
                    [long, canonical].map(|name| frame(&names.path(&name, "/"), body));
                (sent, own)
            }
            Direction::Out if arrival == Arrival::Relayed => {
                let [sent, long] =
                    [canonical, long].map(|own| frame(&names.path(&own, "/"), row.body));
                (sent, long)
            }
            Direction::In => {
                let (sent, local) = (names.path(&alias, "/"), local(&alias));
                (frame(&sent, row.body), frame(&local, row.body))
            }
            Direction::Out => {
                let Some(padded) = names.alias.padded(canonical.len()) else {
                    bail!("the alias {alias} is longer than {canonical}");
                };
                let [sent, padded] =
                    [canonical, padded].map(|own| frame(&names.path(&own, "/"), row.body));
                (sent, padded)
            }
        };
        let (arrives, alternative) = match arrival {
            Arrival::Same => (sent.clone(), None),
            Arrival::Translated | Arrival::Relayed => (translated, None),
            Arrival::SameOrLocal => (
                sent.clone(),
                (row.direction == Direction::In).then_some(translated),
            ),
        };
        let frames = BLOCK.div_ceil(sent.len());
        Ok(Self {
            frame: sent.len(),
            at_once: row.write.div_ceil(sent.len()).min(frames),
            frames,
            sent: sent.repeat(frames),
            expected: arrives.repeat(2 * frames),
            alternative,
        })
    }

    /// The length in which it arrives.
    pub fn len(&self) -> usize {
        self.expected.len() / 2
    }

    /// The block in the pieces that are written at once.
    pub fn writes(&self) -> impl Iterator<Item = &[u8]> {
        self.sent.chunks(self.at_once * self.frame)
    }
}

/// Compares a stream of blocks as it arrives.
#[derive(Debug)]
pub struct Comparison<'b> {
    block: &'b Block,
    /// Bytes so far.
    position: u64,
    /// Whether the present frame may still be in the expected, or in the other form.
    possible: [bool; 2],
}

impl<'b> Comparison<'b> {
    /// Begins at the beginning of a block.
    pub fn new(block: &'b Block) -> Self {
        Self {
            block,
            position: 0,
            possible: [true; 2],
        }
    }

    /// Bytes that were right so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Compares what arrived next, at most a block.
    ///
    /// # Errors
    /// A byte is wrong.
    pub fn feed(&mut self, data: &[u8]) -> Result<()> {
        let length = self.block.len();
        let at = (self.position % length as u64) as usize;
        let expected = &self.block.expected[at..at + data.len()];
        if self.block.alternative.is_none() {
            if data != expected {
                let wrong = data
                    .iter()
                    .zip(expected)
                    .position(|(is, ought)| is != ought);
                return self.fail(wrong.unwrap_or(0), data, expected);
            }
            self.position += data.len() as u64;
            return Ok(());
        }
        self.feed_forms(data)
    }

    /// The same when a frame may arrive in two forms.
    fn feed_forms(&mut self, mut data: &[u8]) -> Result<()> {
        let frame = self.block.frame;
        while !data.is_empty() {
            let at = (self.position % frame as u64) as usize;
            if at == 0 {
                self.possible = [true; 2];
                // Whole frames in the usual form, some at once.
                let whole = (data.len() / frame).min(GROUP) * frame;
                if whole > 0 && data[..whole] == self.block.expected[..whole] {
                    self.position += whole as u64;
                    data = &data[whole..];
                    continue;
                }
            }
            let (now, later) = data.split_at(data.len().min(frame - at));
            let expected = &self.block.expected[at..at + now.len()];
            let other = self.block.alternative.as_deref().unwrap_or_default();
            self.possible[0] &= now == expected;
            self.possible[1] &= now == &other[at..at + now.len()];
            if self.possible == [false; 2] {
                let wrong = now.iter().zip(expected).position(|(is, ought)| is != ought);
                return self.fail(wrong.unwrap_or(0), now, expected);
            }
            self.position += now.len() as u64;
            data = later;
        }
        Ok(())
    }

    fn fail(&self, at: usize, data: &[u8], expected: &[u8]) -> Result<()> {
        let excerpt = |bytes: &[u8]| {
            let from = at.saturating_sub(24);
            bytes[from..bytes.len().min(at + 24)]
                .escape_ascii()
                .to_string()
        };
        bail!(
            "wrong byte at {}: expected \"{}\", arrived \"{}\"",
            self.position + at as u64,
            excerpt(expected),
            excerpt(data)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(row: &str, arrival: Arrival) -> Block {
        let names = Names::flink("jobmanager", "jm");
        Block::new(&row.parse().unwrap(), &names, arrival).unwrap()
    }

    fn arrives(block: &Block, stream: &[u8]) -> Result<()> {
        for cut in [1, 7, 61, 1000, block.len()] {
            let mut comparison = Comparison::new(block);
            for piece in stream.chunks(cut) {
                comparison.feed(piece)?;
            }
            assert_eq!(comparison.position(), stream.len() as u64);
        }
        Ok(())
    }

    #[test]
    fn frames_of_all_arrangements_are_of_one_length() {
        for row in ["in-60", "out-60"] {
            let lengths = [
                Arrival::Same,
                Arrival::Translated,
                Arrival::SameOrLocal,
                Arrival::Relayed,
            ]
            .map(|arrival| block(row, arrival).frame);
            assert!(lengths.iter().all(|length| *length == lengths[0]), "{row}");
        }
    }

    #[test]
    fn what_has_to_arrive_is_recognised_in_every_cut() {
        for row in ["in-60", "out-190"] {
            let same = block(row, Arrival::Same);
            arrives(&same, &same.sent.repeat(3)).unwrap();
            for arrival in [Arrival::Translated, Arrival::Relayed] {
                let translated = block(row, arrival);
                let lengths = [translated.len(), translated.sent.len()];
                assert_eq!(lengths[0] == lengths[1], arrival == Arrival::Translated);
                arrives(&translated, &translated.expected).unwrap();
                assert!(arrives(&translated, &translated.sent).is_err());
                let mut wrong = translated.expected.clone();
                let last = wrong.len() - 1;
                wrong[last] ^= 1;
                assert!(arrives(&translated, &wrong).is_err());
            }
        }
    }

    #[test]
    fn a_canonical_recipient_may_be_local_frame_by_frame() {
        let block = block("in-60", Arrival::SameOrLocal);
        let (one, other) = (
            &block.sent[..block.frame],
            block.alternative.clone().unwrap(),
        );
        let mixed = [one, &other, one, one, &other].concat();
        arrives(&block, &mixed).unwrap();
        let mut half = one[..one.len() / 2].to_vec();
        half.extend(&other[one.len() / 2..]);
        let same_tail = half == one;
        assert_eq!(arrives(&block, &half).is_ok(), same_tail);
        let mut front = other[..one.len() / 3].to_vec();
        front.extend(&one[one.len() / 3..]);
        assert_eq!(
            arrives(&block, &front).is_ok(),
            front == one || front == other
        );
    }
}
