//! Torture: random scenarios of traffic, each untouched first and then translated. Every byte is checked,
//! and no connection may stand still for longer than TCP by itself would.

mod hostile;
mod scenario;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    traffic::{Connection, Lab, Pace, Repetitions, ResetInFrame},
    wire::{Half, Piece, Script},
};
use hostile::{Victim, harass};
pub use scenario::{Place, Scenario};

/// A run that takes longer has stalled.
const PATIENCE: Duration = Duration::from_secs(25);
/// How often a scenario is run at most: chance alone may let a retransmission timer run out once more.
const TRIES: usize = 3;

/// What is run.
#[derive(Clone, Debug)]
pub struct Torture {
    /// Decides everything.
    pub seed: u64,
    /// No scenario begins later.
    pub time: Duration,
    /// Bytes of messages that a scenario moves each way, at most and more or less.
    pub volume: usize,
    /// Only the scenario of this number.
    pub only: Option<u64>,
}

impl Torture {
    /// The command that runs a scenario again.
    pub fn again(&self, number: u64) -> String {
        let Self { seed, volume, .. } = self;
        format!("cargo xtask torture --seed {seed} --volume {volume} --scenario {number}")
    }
}

/// The command line of `cargo xtask torture`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Decides everything; the time of day if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// For how long scenarios are begun
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Only the scenario of this number
    #[arg(long, value_name = "NUMBER")]
    scenario: Option<u64>,
    /// How much a scenario moves each way, at most
    #[arg(long, value_name = "BYTES", default_value_t = 24 << 20)]
    volume: usize,
}

impl Options {
    /// What they ask for.
    pub fn torture(&self) -> Torture {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        Torture {
            seed: self.seed.unwrap_or(now),
            time: Duration::try_from_secs_f64(self.minutes * 60.0).unwrap_or(Duration::MAX),
            volume: self.volume,
            only: self.scenario,
        }
    }
}

/// What one run of a scenario showed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// The longest time in which a reader had nothing to read.
    pub gap: Duration,
    /// What was sent again.
    pub repetitions: Repetitions,
    /// How long it took.
    pub took: Duration,
    /// Segments that truename dropped: behind holes, and because a name was cut.
    pub drops: [u64; 2],
    /// Connections that were reset because a name was taken for another one, which is allowed where there are
    /// near misses.
    pub resets: u64,
}

/// How a scenario ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Translated as fast as untouched.
    Passed {
        /// Without truename.
        untouched: Run,
        /// With it.
        translated: Run,
    },
    /// TCP by itself does not get through: nothing can be said.
    Skipped(String),
    /// A wrong byte, or a stall.
    Failed(String),
}

/// Runs scenarios; `report` is told of each. Answers how many failed.
///
/// # Errors
/// A lab cannot be set up.
pub fn torture(
    what: &Torture,
    mut report: impl FnMut(&Scenario, &Outcome) -> Result<()>,
) -> Result<usize> {
    let begun = Instant::now();
    let mut failed = 0;
    let numbers = what.only.map_or(0..u64::MAX, |only| only..only + 1);
    for number in numbers {
        if number > 0 && what.only.is_none() && begun.elapsed() >= what.time {
            break;
        }
        let scenario = Scenario::new(what.seed, number, what.volume);
        let outcome = run(&scenario).with_context(|| format!("scenario {number}: {scenario}"))?;
        failed += usize::from(matches!(outcome, Outcome::Failed(_)));
        report(&scenario, &outcome)?;
    }
    Ok(failed)
}

/// Runs a scenario without and with truename.
fn run(scenario: &Scenario) -> Result<Outcome> {
    let scripts: Vec<Script> = (0..scenario.connections)
        .map(|connection| scenario.script(connection))
        .collect();
    let plain: Vec<Script> = scripts.iter().map(untouched).collect();
    let mut slow = String::new();
    for attempt in 0..TRIES {
        let lab = lab(scenario, attempt as u64)?;
        let untouched = match exchange(&lab, scenario, &plain) {
            Ok(Run { resets: 1.., .. }) => {
                return Ok(Outcome::Skipped(
                    "untouched: connections were reset".to_owned(),
                ));
            }
            Ok(run) => run,
            Err(error) => return Ok(Outcome::Skipped(format!("untouched: {error:#}"))),
        };
        let canonical = scenario.names.canonical.to_string();
        let truename = lab.truename(scenario.configured.then_some(canonical.as_str()))?;
        let mut translated = match exchange(&lab, scenario, &scripts) {
            Ok(run) => run,
            Err(error) => return Ok(Outcome::Failed(format!("{error:#}"))),
        };
        for (drops, counter) in translated
            .drops
            .iter_mut()
            .zip(["dropped_hole", "dropped_held"])
        {
            *drops = truename.counter(counter)?;
        }
        let admitted = truename.counter("reset_misguess")?;
        if translated.resets > admitted || (translated.resets > 0 && !scenario.may_misguess()) {
            return Ok(Outcome::Failed(format!(
                "{} connections were reset, {admitted} of them for a wrong guess of {}; {:?} drops",
                translated.resets,
                truename.counter("guessed")?,
                translated.drops
            )));
        }
        if within(&untouched, &translated) {
            return Ok(Outcome::Passed {
                untouched,
                translated,
            });
        }
        slow = format!(
            "stood still for {:?} with {} timeouts and {:?} drops; untouched for {:?} with {}",
            translated.gap,
            translated.repetitions.timeouts,
            translated.drops,
            untouched.gap,
            untouched.repetitions.timeouts
        );
    }
    Ok(Outcome::Failed(format!("{TRIES} times, at last: {slow}")))
}

/// Whether the translated run stood still no longer than the untouched one might have. Which packets are
/// lost differs from run to run, so the longest of many gaps does, too: it may be twice as long, and one
/// retransmission timer of a second more. How often the timers ran out is told, not judged: behind holes, segments
/// that begin inside a name have to come again.
fn within(untouched: &Run, translated: &Run) -> bool {
    translated.gap <= untouched.gap * 2 + Duration::from_secs(1)
}

fn lab(scenario: &Scenario, attempt: u64) -> Result<Lab> {
    Ok(match scenario.place {
        Place::Cable {
            segmentation,
            checksum,
        } => {
            let lab = Lab::direct()?;
            lab.segmentation_offload(segmentation)?;
            lab.checksum_offload(checksum)?;
            lab
        }
        Place::Line(impairment) => {
            let seed = scenario.seed ^ (scenario.number << 16) ^ (attempt << 48);
            Lab::impaired(impairment, seed)?
        }
    })
}

/// Runs all scripts at a time, a connection for each.
fn exchange(lab: &Lab, scenario: &Scenario, scripts: &[Script]) -> Result<Run> {
    let connections = (0..scripts.len())
        .map(|number| {
            let mut dial = scenario.dial;
            dial.from = number as u8;
            lab.connect(dial)
        })
        .collect::<Result<Vec<Connection>>>()?;
    let pace = Pace {
        patience: PATIENCE,
        ..scenario.pace
    };
    let before = lab.repetitions()?;
    let begun = Instant::now();
    let stop = AtomicBool::new(false);
    let victims = if scenario.hostile {
        connections
            .iter()
            .map(|connection| {
                Ok(Victim {
                    client: connection.client_address()?,
                    server: lab.address(),
                    sequences: connection.sequences()?,
                })
            })
            .collect::<Result<Vec<_>>>()?
    } else {
        Vec::new()
    };
    let (gap, resets) = std::thread::scope(|scope| {
        let enemy = (!victims.is_empty()).then(|| {
            let stranger = lab.stranger();
            let (victims, stop) = (&victims, &stop);
            scope.spawn(move || harass(&stranger?, victims, &scenario.names, scenario.number, stop))
        });
        let workers: Vec<_> = connections
            .iter()
            .zip(scripts)
            .enumerate()
            .map(|(number, (connection, script))| {
                scope.spawn(move || {
                    connection
                        .exchange(script, pace)
                        .with_context(|| format!("connection {number}"))
                })
            })
            .collect();
        let (mut gap, mut resets) = (Duration::ZERO, 0);
        let mut failed = None;
        for worker in workers {
            let outcome = worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match outcome {
                Ok(progress) => gap = gap.max(progress.longest_gap),
                Err(error) if is_reset(&error) => resets += 1,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        stop.store(true, Ordering::Relaxed);
        if let Some(enemy) = enemy {
            let outcome = enemy
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.context("send hostile packets")?;
        }
        match failed {
            Some(error) => Err(error),
            None => Ok((gap, resets)),
        }
    })?;
    Ok(Run {
        gap,
        took: begun.elapsed(),
        resets,
        drops: [0; 2],
        repetitions: lab.repetitions()? - before,
    })
}

/// Whether a connection ended by a reset, and no wrong name could be read.
fn is_reset(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    // Who writes after the reader was told of the reset gets the other error.
    let reset = error.downcast_ref::<std::io::Error>();
    error.downcast_ref::<ResetInFrame>().is_some()
        || reset.is_some_and(|error| matches!(error.kind(), ConnectionReset | BrokenPipe))
}

/// The same streams when nobody translates them.
fn untouched(script: &Script) -> Script {
    let half = |half: &Half| Half {
        expected: vec![Piece::Exact([&*half.greeting, &half.rest].concat())],
        ..half.clone()
    };
    Script {
        client: half(&script.client),
        server: half(&script.server),
    }
}
