//! Streams in one direction: how many frames a second arrive, beside what arrives without truename. The
//! receiver reads as fast as it can and checks every byte.

mod arrangement;
mod block;
mod row;
mod transfer;

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use arrangement::{Arrangement, Kind, Round};
pub use row::Row;
use row::{Direction, Path};
use transfer::Time;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Streams {
    /// The rows, those over the same path one after the other.
    pub rows: Vec<Row>,
    /// The binaries of truename: a name and a path. The canonical name and a long alias are sent through the first only.
    pub binaries: Vec<(String, PathBuf)>,
    /// Only the columns whose name contains one of these; all if there is none. `untouched` is always there.
    pub columns: Vec<String>,
    /// Rounds that count.
    pub rounds: usize,
    /// How long each is measured.
    pub time: Duration,
}

/// What a row showed in a column.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The row.
    pub row: Row,
    /// The column.
    pub column: String,
    /// Frames a second, by round.
    pub rates: Vec<f64>,
    /// The median, over rounds, of the ratio to untouched in the same round.
    pub ratio: f64,
    /// Segments sent again, and retransmission timeouts, of both ends, in all rounds.
    pub repetitions: (u64, u64),
    /// The longest time in which a connection did not move.
    pub gap: Duration,
    /// Frames that were sent.
    pub sent: u64,
    /// Names that truename says it has translated.
    pub rewritten: u64,
    /// By how much its counters grew.
    pub counters: BTreeMap<String, u64>,
    /// Why the numbers are not to be used.
    pub fault: Option<Fault>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something never arrived.
    Stalled,
    /// A wrong byte, or a connection that failed.
    Wrong(String),
    /// truename has not counted every name that was sent, or has counted one twice.
    Miscounted {
        /// Names that were sent, in one round.
        sent: u64,
        /// Names that were counted.
        counted: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stalled => write!(formatter, "STALLED"),
            Self::Wrong(what) => write!(formatter, "WRONG: {what}"),
            Self::Miscounted { sent, counted } => {
                write!(
                    formatter,
                    "MISCOUNTED: {sent} names sent, {counted} counted"
                )
            }
        }
    }
}

impl Cell {
    fn new(row: Row, column: &str) -> Self {
        Self {
            row,
            column: column.to_owned(),
            rates: Vec::new(),
            ratio: 0.0,
            repetitions: (0, 0),
            gap: Duration::ZERO,
            sent: 0,
            rewritten: 0,
            counters: BTreeMap::new(),
            fault: None,
        }
    }

    /// Frames a second, the median over the rounds.
    pub fn rate(&self) -> f64 {
        middle(&self.rates)
    }

    /// The drop counters of truename that grew, in words.
    pub fn drops(&self) -> String {
        let drops: Vec<String> = self
            .counters
            .iter()
            .filter(|(label, _)| label.starts_with("dropped") || label.starts_with("reset"))
            .map(|(label, count)| format!("{label} {count}"))
            .collect();
        drops.join(", ")
    }

    /// As a line for programs.
    pub fn json(&self) -> Value {
        json!({
            "kind": "stream",
            "row": self.row.to_string(),
            "direction": match self.row.direction { Direction::In => "in", Direction::Out => "out" },
            "body": self.row.body,
            "connections": self.row.connections,
            "round_trip_ms": self.row.path.round_trip.as_millis() as u64,
            "loss": self.row.path.loss,
            "acknowledgements_apart": self.row.path.apart,
            "column": self.column,
            "frames_per_second": self.rate().round(),
            "rounds": self.rates.iter().map(|rate| rate.round()).collect::<Vec<_>>(),
            "ratio": (self.ratio * 1e4).round() / 1e4,
            "retransmissions": self.repetitions.0,
            "timeouts": self.repetitions.1,
            "longest_gap_ms": self.gap.as_millis() as u64,
            "sent": self.sent,
            "rewritten": self.rewritten,
            "counters": self.counters,
            "fault": self.fault.as_ref().map(ToString::to_string),
        })
    }

    fn add(&mut self, round: Result<Round>, counted: bool, translates: bool) {
        let round = match round {
            Ok(round) => round,
            Err(error) => {
                self.fault = Some(Fault::Wrong(format!("{error:#}")));
                return;
            }
        };
        let rewritten = round.rewritten(self.row.direction);
        if round.moved.stalled {
            self.fault = Some(Fault::Stalled);
        } else if translates && rewritten != round.moved.frames {
            self.fault = Some(Fault::Miscounted {
                sent: round.moved.frames,
                counted: rewritten,
            });
        }
        if counted || self.fault == Some(Fault::Stalled) {
            self.rates.push(round.moved.rate);
            self.repetitions.0 += round.repetitions.segments;
            self.repetitions.1 += round.repetitions.timeouts;
            self.gap = self.gap.max(round.moved.gap);
            self.sent += round.moved.frames;
            self.rewritten += rewritten;
            for (label, count) in round.counters {
                *self.counters.entry(label).or_default() += count;
            }
        }
    }
}

/// Measures all rows. `report` gets the cells of each row when it is done.
///
/// # Errors
/// An arrangement cannot be set up.
pub fn streams(what: &Streams, mut report: impl FnMut(&[Cell]) -> Result<()>) -> Result<()> {
    let mut set_up: Option<(Path, Vec<Arrangement>)> = None;
    for row in &what.rows {
        let arrangements = match set_up.take() {
            Some((path, arrangements)) if path == row.path => arrangements,
            _ => columns(what, &row.path)?,
        };
        report(&measure(what, row, &arrangements))?;
        set_up = Some((row.path, arrangements));
    }
    Ok(())
}

fn columns(what: &Streams, path: &Path) -> Result<Vec<Arrangement>> {
    let mut kinds = vec![("untouched".to_owned(), Kind::Untouched)];
    for (number, (name, binary)) in what.binaries.iter().enumerate() {
        let column = if number == 0 {
            "translated".to_owned()
        } else {
            format!("translated:{name}")
        };
        kinds.push((column, Kind::Translated(binary.clone())));
    }
    let Some((_, first)) = what.binaries.first() else {
        bail!("no binary of truename to measure");
    };
    kinds.push(("canonical".to_owned(), Kind::Canonical(first.clone())));
    kinds.push(("relayed".to_owned(), Kind::Relayed(first.clone())));
    kinds.push(("relay".to_owned(), Kind::Relay));
    kinds.push(("haproxy".to_owned(), Kind::Haproxy));
    kinds
        .into_iter()
        .filter(|(name, kind)| {
            *kind == Kind::Untouched
                || what.columns.is_empty()
                || what
                    .columns
                    .iter()
                    .any(|column| name.contains(column.as_str()))
        })
        .map(|(name, kind)| {
            Arrangement::new(&name, kind, path).with_context(|| format!("set up {name}"))
        })
        .collect()
}

fn measure(what: &Streams, row: &Row, arrangements: &[Arrangement]) -> Vec<Cell> {
    let mut cells: Vec<Cell> = arrangements
        .iter()
        .map(|arrangement| Cell::new(*row, &arrangement.name))
        .collect();
    // Windows open within some round trips.
    let warm = Duration::from_millis(200) + row.path.round_trip * 15;
    let time = Time {
        warm,
        measured: what.time,
    };
    for round in 0..=what.rounds {
        let counted = round > 0;
        // The first round, which is not counted, only has to warm caches and find faults.
        let time = if counted {
            time
        } else {
            Time {
                measured: what.time.min(Duration::from_millis(300)),
                ..time
            }
        };
        for (cell, arrangement) in cells.iter_mut().zip(arrangements) {
            // The bytes of a round with a wrong count were right.
            if matches!(cell.fault, None | Some(Fault::Miscounted { .. })) {
                let result = arrangement.round(row, time);
                cell.add(result, counted, arrangement.translates());
            }
        }
    }
    let Some(untouched) = cells.first().map(|cell| cell.rates.clone()) else {
        return cells;
    };
    for cell in &mut cells {
        let ratios: Vec<f64> = cell
            .rates
            .iter()
            .zip(&untouched)
            .map(|(rate, base)| rate / base)
            .collect();
        cell.ratio = middle(&ratios);
    }
    cells
}

/// The middle value, 0 if there is none.
fn middle(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
