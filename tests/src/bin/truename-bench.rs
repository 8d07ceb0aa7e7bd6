//! Measures what truename costs, in one run: `cargo xtask bench` starts it optimised.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use truename_tests::bench::{Cpus, Options, Part, Report, packets, round_trips, services, streams};

/// Measures what truename costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// The kernel program, for the part `packets`
    #[arg(long, value_name = "OBJECT")]
    object: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Arguments { object, options } = Arguments::parse();
    let mut report = Report::new(options.json.as_deref())?;
    let (rounds, time) = options.rounds();
    if options.has(Part::Packets) {
        let object = object.context("give the kernel program with --object")?;
        let object = fs::read(&object).with_context(|| format!("read {}", object.display()))?;
        report.packets(&packets(&object)?)?;
    }
    if options.has(Part::RoundTrips) {
        for (cpus, place) in [(Cpus::One, "all on one CPU"), (Cpus::Two, "on two CPUs")] {
            eprintln!(
                "measuring round trips {place}: {rounds} rounds of {} s in each arrangement",
                time.as_secs_f64()
            );
            report.round_trips(place, &round_trips(rounds, time, cpus)?)?;
        }
    }
    if options.has(Part::Services) {
        eprintln!("measuring services: {rounds} rounds in each of three arrangements");
        report.services(&services(rounds, time)?)?;
    }
    if !options.has(Part::Streams) {
        return Ok(());
    }
    let what = options.streams()?;
    eprintln!(
        "measuring streams: {} rows, {} rounds of {} s in each column",
        what.rows.len(),
        what.rounds,
        what.time.as_secs_f64()
    );
    streams(&what, |cells| report.stream(cells))?;
    report.stream_table()?;
    ensure!(
        report.faults() == 0,
        "{} results are wrong or never came",
        report.faults()
    );
    Ok(())
}
