//! Rows of the stream benchmark: what is sent, over which path.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context as _, Error, Result, bail, ensure};

/// What a sender writes at once if the row does not say.
const WRITE: usize = 256 << 10;

/// Who sends, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client.
    In,
    /// The endpoint.
    Out,
}

/// What is between client and endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// Added to a round trip.
    pub round_trip: Duration,
    /// Probability that a segment is lost.
    pub loss: f64,
    /// Whether acknowledgements take another path, which truename does not see.
    pub apart: bool,
}

impl Path {
    const CABLE: Self = Self {
        round_trip: Duration::ZERO,
        loss: 0.0,
        apart: false,
    };

    /// Whether it is a cable with nothing in between.
    pub fn is_cable(&self) -> bool {
        self.round_trip.is_zero() && self.loss == 0.0
    }
}

/// One row. Written as `in-4k-x8-rtt20-loss0.1`: direction, body, and what differs from one connection over
/// a cable. `in-60-apart`: the acknowledgements take another path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Who sends.
    pub direction: Direction,
    /// Bytes of the message in each frame.
    pub body: usize,
    /// How many connections there are.
    pub connections: usize,
    /// The sender writes at least so many bytes at once, in whole frames.
    pub write: usize,
    /// Over what.
    pub path: Path,
}

impl Row {
    /// The rows of a run that names none: quick ones, or all that goals are set for.
    pub fn default_set(quick: bool) -> Vec<Self> {
        const QUICK: [&str; 12] = [
            "in-60",
            "in-4k",
            "in-60k",
            "out-60",
            "out-4k",
            "out-60k",
            "in-190-x8",
            "in-60-apart",
            "in-190-rtt20",
            "out-190-rtt20",
            "in-4k-rtt20-loss0.1",
            "out-4k-rtt20-loss0.1",
        ];
        let names: Vec<String> = if quick {
            QUICK.map(str::to_owned).to_vec()
        } else {
            // Rows over the same path one after the other: they share what is set up.
            [
                "",
                "-x8",
                "-x64",
                "-apart",
                "-rtt20",
                "-rtt40",
                "-loss0.1",
                "-loss1",
                "-rtt20-loss0.1",
            ]
            .iter()
            .flat_map(|suffix| {
                let bodies: &[&str] = match *suffix {
                    "" => &["60", "190", "4k", "60k", "1m"],
                    "-x8" | "-x64" | "-apart" | "-rtt20-loss0.1" => &["190", "4k"],
                    _ => &["60", "190", "4k", "60k"],
                };
                let directions: &[&str] = match *suffix {
                    "-apart" => &["in"],
                    _ => &["in", "out"],
                };
                directions.iter().flat_map(move |direction| {
                    let row = move |body| format!("{direction}-{body}{suffix}");
                    bodies.iter().map(row)
                })
            })
            .collect()
        };
        let row = |name: &String| name.parse().unwrap_or_else(|error| panic!("{error:#}"));
        names.iter().map(row).collect()
    }
}

impl FromStr for Row {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let mut words = name.split('-');
        let direction = match words.next() {
            Some("in") => Direction::In,
            Some("out") => Direction::Out,
            _ => bail!("{name}: a row begins with `in` or `out`, such as in-4k-x8-rtt20-loss0.1"),
        };
        let body = words
            .next()
            .and_then(size)
            .with_context(|| format!("{name}: the size of a body follows, such as 60, 4k or 1m"))?;
        let mut row = Self {
            direction,
            body,
            connections: 1,
            write: WRITE,
            path: Path::CABLE,
        };
        for word in words {
            row.add(word).with_context(|| format!("row {name}"))?;
        }
        ensure!(
            !row.path.apart || (row.direction == Direction::In && row.path.is_cable()),
            "{name}: acknowledgements apart go with `in` over a cable only"
        );
        Ok(row)
    }
}

impl Row {
    fn add(&mut self, word: &str) -> Result<()> {
        if word == "apart" {
            self.path.apart = true;
        } else if let Some(number) = word.strip_prefix('x') {
            self.connections = number
                .parse()
                .with_context(|| format!("{word}: a number"))?;
        } else if let Some(bytes) = word.strip_prefix("write") {
            self.write = size(bytes).with_context(|| format!("{word}: bytes"))?;
        } else if let Some(number) = word.strip_prefix("rtt") {
            let milliseconds = number
                .parse()
                .with_context(|| format!("{word}: milliseconds"))?;
            self.path.round_trip = Duration::from_millis(milliseconds);
        } else if let Some(number) = word.strip_prefix("loss") {
            let percent: f64 = number
                .parse()
                .with_context(|| format!("{word}: per cent"))?;
            self.path.loss = percent / 100.0;
        } else {
            bail!(
                "{word} is none of xCONNECTIONS, writeBYTES, rttMILLISECONDS, lossPERCENT, apart"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::In => "in",
            Direction::Out => "out",
        };
        write!(formatter, "{direction}-{}", size_name(self.body))?;
        if self.connections > 1 {
            write!(formatter, "-x{}", self.connections)?;
        }
        if self.write != WRITE {
            write!(formatter, "-write{}", size_name(self.write))?;
        }
        if !self.path.round_trip.is_zero() {
            write!(formatter, "-rtt{}", self.path.round_trip.as_millis())?;
        }
        if self.path.loss > 0.0 {
            // Rounded: a tenth of a per cent has no exact form.
            write!(formatter, "-loss{}", (self.path.loss * 1e6).round() / 1e4)?;
        }
        if self.path.apart {
            write!(formatter, "-apart")?;
        }
        Ok(())
    }
}

fn size(text: &str) -> Option<usize> {
    let (digits, unit) = match text.strip_suffix('m') {
        Some(digits) => (digits, 1 << 20),
        None => match text.strip_suffix('k') {
            Some(digits) => (digits, 1000),
            None => (text, 1),
        },
    };
    Some(digits.parse::<usize>().ok()? * unit)
}

fn size_name(size: usize) -> String {
    if size >= 1 << 20 && size.is_multiple_of(1 << 20) {
        format!("{}m", size >> 20)
    } else if size >= 1000 && size.is_multiple_of(1000) {
        format!("{}k", size / 1000)
    } else {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_written_as_it_is_read() {
        for name in [
            "in-60",
            "out-4k-x64",
            "in-190-rtt40-loss0.1",
            "out-1m-x8-rtt20-loss1",
            "in-0-apart",
            "out-60-write20k",
        ] {
            assert_eq!(name.parse::<Row>().unwrap().to_string(), name);
        }
        assert!(Row::default_set(true).len() < Row::default_set(false).len());
    }

    #[test]
    fn what_is_no_row_is_refused() {
        for name in [
            "",
            "in",
            "up-60",
            "in-x",
            "in-60-8",
            "in-60-rttx",
            "out-60-apart",
        ] {
            assert!(name.parse::<Row>().is_err(), "{name}");
        }
    }
}
