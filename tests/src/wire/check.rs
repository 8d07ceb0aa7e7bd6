//! Comparing what arrives, in whatever pieces, with what has to arrive.

use anyhow::{Result, bail, ensure};

/// How many bytes an error shows.
const EXCERPT: usize = 48;

/// A part of an expected stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Exactly these bytes.
    Exact(Vec<u8>),
    /// One of these, all of one length.
    OneOf(Vec<Vec<u8>>),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Exact(bytes) => bytes.len(),
            Self::OneOf(forms) => forms.first().map_or(0, Vec::len),
        }
    }
}

/// Compares a stream as it arrives.
#[derive(Debug)]
pub struct Checker<'p> {
    pieces: &'p [Piece],
    partial: Vec<u8>,
    done: usize,
    position: usize,
    missing: usize,
    wrong: Option<usize>,
    arrived: usize,
}

impl<'p> Checker<'p> {
    /// Expects `pieces`, one after another.
    pub fn new(pieces: &'p [Piece]) -> Self {
        Self {
            pieces,
            partial: Vec::new(),
            done: 0,
            position: 0,
            missing: pieces.iter().map(Piece::len).sum(),
            wrong: None,
            arrived: 0,
        }
    }

    /// How many bytes were right so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Where the first wrong byte is, or the piece that is wrong ends.
    pub fn wrong(&self) -> Option<usize> {
        self.wrong
    }

    /// How many bytes were fed, right or wrong.
    pub fn arrived(&self) -> usize {
        self.arrived
    }

    /// Did everything arrive?
    pub fn is_complete(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many bytes are still to come.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Compares what arrived next.
    ///
    /// # Errors
    /// A byte is wrong, or there are too many.
    pub fn feed(&mut self, mut data: &[u8]) -> Result<()> {
        self.arrived += data.len();
        while !data.is_empty() {
            let Some((piece, rest)) = self.pieces.split_first() else {
                bail!("{} bytes after the end at {}", data.len(), self.position);
            };
            let wanted = piece.len() - self.done - self.partial.len();
            let (now, later) = data.split_at(wanted.min(data.len()));
            match piece {
                Piece::Exact(bytes) => {
                    let expected = &bytes[self.done..self.done + now.len()];
                    if let Some(at) = now.iter().zip(expected).position(|(a, b)| a != b) {
                        let from = at.saturating_sub(EXCERPT / 2);
                        self.wrong = Some(self.position + at);
                        bail!(
                            "wrong byte at {}: expected {}, arrived {}",
                            self.position + at,
                            excerpt(&expected[from..]),
                            excerpt(&now[from..])
                        );
                    }
                    self.done += now.len();
                }
                Piece::OneOf(forms) => {
                    self.partial.extend_from_slice(now);
                    self.wrong = Some(self.position + now.len() - 1);
                    ensure!(
                        self.partial.len() < piece.len() || forms.contains(&self.partial),
                        "wrong translation at {}: expected one of {}, arrived {}",
                        self.position + now.len() - self.partial.len(),
                        forms
                            .iter()
                            .map(|form| excerpt(form))
                            .collect::<Vec<_>>()
                            .join(" or "),
                        excerpt(&self.partial)
                    );
                    self.wrong = None;
                }
            }
            self.position += now.len();
            self.missing -= now.len();
            if self.done + self.partial.len() == piece.len() {
                self.pieces = rest;
                self.done = 0;
                self.partial.clear();
            }
            data = later;
        }
        // Pieces without bytes are complete at once.
        while self.pieces.first().is_some_and(|piece| piece.len() == 0) {
            self.pieces = &self.pieces[1..];
        }
        Ok(())
    }
}

fn excerpt(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes[..bytes.len().min(EXCERPT)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces() -> Vec<Piece> {
        vec![
            Piece::Exact(b"abc".to_vec()),
            Piece::OneOf(vec![b"12".to_vec(), b"34".to_vec()]),
            Piece::Exact(Vec::new()),
            Piece::Exact(b"de".to_vec()),
        ]
    }

    #[test]
    fn every_cut_is_accepted() {
        for stream in [b"abc12de", b"abc34de"] {
            for cut in 0..=stream.len() {
                let pieces = pieces();
                let mut checker = Checker::new(&pieces);
                checker.feed(&stream[..cut]).unwrap();
                assert_eq!(checker.missing(), stream.len() - cut);
                checker.feed(&stream[cut..]).unwrap();
                assert!(checker.is_complete());
            }
        }
    }

    #[test]
    fn what_is_wrong_is_found() {
        for (stream, place) in [
            (&b"abX"[..], "wrong byte at 2"),
            (b"abc14", "wrong translation at 3"),
            (b"abc12deX", "1 bytes after the end at 7"),
        ] {
            let pieces = pieces();
            let mut checker = Checker::new(&pieces);
            let outcome = stream.iter().try_for_each(|byte| checker.feed(&[*byte]));
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(place), "{error}");
        }
    }
}
