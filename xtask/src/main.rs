//! Tasks of this repository: `cargo xtask <verb>`.

mod build;
mod command;
mod demo;
mod lint;
mod setup;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install what is missing to build, test and demonstrate (changes nothing when all is there)
    Setup,
    /// Build the agent with the kernel programs inside
    Build(build::Arguments),
    /// Watch a real Flink cluster that refuses an alias start to work
    Demo(demo::Arguments),
    /// Run all tests, or those whose names contain FILTER
    Test(test::Arguments),
    /// Check the formatting and the lints
    Lint,
}

fn main() -> std::process::ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.verb {
        Verb::Setup => setup::run(),
        Verb::Build(arguments) => build::run(arguments).map(drop),
        Verb::Demo(arguments) => demo::run(arguments),
        Verb::Test(arguments) => test::run(arguments),
        Verb::Lint => lint::run(),
    }
}
