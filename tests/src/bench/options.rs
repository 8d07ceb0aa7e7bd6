//! What the benchmark is asked for.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use super::stream::{Row, Streams};
use crate::truename;

/// The command line of `cargo xtask bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Fewer rows, fewer and shorter rounds
    #[arg(long)]
    pub quick: bool,
    /// Only these parts of the benchmark
    #[arg(
        long,
        value_name = "PART",
        value_delimiter = ',',
        conflicts_with = "rows"
    )]
    pub only: Vec<Part>,
    /// Only this row of the streams, and nothing else: in|out, the body, and what differs from one
    /// connection over a cable: xCONNECTIONS, writeBYTES, rttMILLISECONDS, lossPERCENT, apart (acknowledgements take
    /// another path). For example in-4k-x8-rtt20-loss0.1; several are separated by commas
    #[arg(long = "row", value_name = "ROW", value_delimiter = ',')]
    pub rows: Vec<Row>,
    /// Only columns of the streams with this in their name (untouched is always measured)
    #[arg(long = "column", value_name = "NAME", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Rounds that count
    #[arg(long)]
    pub rounds: Option<usize>,
    /// How long a round is measured
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// A binary of truename to measure instead of the one that was built; several are compared
    #[arg(long = "binary", value_name = "[NAME=]PATH")]
    pub binaries: Vec<String>,
    /// Also write every result to this file, as a line of JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Nanoseconds of the kernel program for each kind of packet
    Packets,
    /// Requests and responses over RPC
    RoundTrips,
    /// Traffic through services
    Services,
    /// Streams in one direction
    Streams,
    /// The agent with a large cluster
    Agent,
}

impl Options {
    /// Whether this part is measured.
    pub fn has(&self, part: Part) -> bool {
        match (self.rows.is_empty(), self.only.is_empty()) {
            (false, _) => part == Part::Streams,
            (true, true) => true,
            (true, false) => self.only.contains(&part),
        }
    }

    /// The streams to measure.
    ///
    /// # Errors
    /// There is no binary.
    pub fn streams(&self) -> Result<Streams> {
        let rows = if self.rows.is_empty() {
            Row::default_set(self.quick)
        } else {
            self.rows.clone()
        };
        let binaries = if self.binaries.is_empty() {
            vec![("built".to_owned(), truename::binary()?)]
        } else {
            self.binaries
                .iter()
                .map(|binary| match binary.split_once('=') {
                    Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
                    None => (binary.clone(), PathBuf::from(binary)),
                })
                .collect()
        };
        let (rounds, seconds) = if self.quick { (2, 0.6) } else { (3, 1.0) };
        let seconds = self.seconds.unwrap_or(seconds);
        Ok(Streams {
            rows,
            binaries,
            columns: self.columns.clone(),
            rounds: self.rounds.unwrap_or(rounds),
            time: Duration::try_from_secs_f64(seconds).context("the seconds of a round")?,
        })
    }

    /// Rounds of everything else, and how long they are.
    pub fn rounds(&self) -> (usize, Duration) {
        let (rounds, seconds) = if self.quick { (5, 1.0) } else { (11, 5.0) };
        let seconds = self.seconds.unwrap_or(seconds);
        (
            self.rounds.unwrap_or(rounds),
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1)),
        )
    }
}
