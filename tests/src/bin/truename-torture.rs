//! Runs random scenarios for some time: `cargo xtask torture` starts it optimised.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use truename_tests::{
    cleanup,
    torture::{Options, Outcome, torture},
};

/// Random scenarios of traffic, each untouched and then translated.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match cleanup::on_interrupt().and_then(|()| run(&Arguments::parse().options)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<usize> {
    let what = options.torture();
    let seed = what.seed;
    println!("torture with seed {seed} for {:?}", what.time);
    let (mut passed, mut skipped) = (0, 0);
    let failed = torture(&what, |scenario, outcome| {
        let number = scenario.number;
        match outcome {
            Outcome::Passed {
                untouched,
                translated,
            } => {
                passed += 1;
                println!(
                    "{number:>5} ok      took {:.1} s (untouched {:.1}), stood still {} ms ({}), timeouts {} ({}), dropped {:?}, {} resets: {scenario}",
                    translated.took.as_secs_f64(),
                    untouched.took.as_secs_f64(),
                    translated.gap.as_millis(),
                    untouched.gap.as_millis(),
                    translated.repetitions.timeouts,
                    untouched.repetitions.timeouts,
                    translated.drops,
                    translated.resets,
                );
            }
            Outcome::Skipped(why) => {
                skipped += 1;
                println!("{number:>5} skipped {why}: {scenario}");
            }
            Outcome::Failed(why) => {
                println!("{number:>5} FAILED  {why}: {scenario}");
                println!("      again: {}", what.again(number));
            }
        }
        Ok(())
    })?;
    println!("seed {seed}: {passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed)
}
