//! Tasks of this repository: `cargo xtask <verb>`.
#![cfg_attr(not(test), warn(unused_crate_dependencies))]
#![deny(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "what is missing is said, with what to do about it"
)]

mod bench;
mod budget;
mod build;
mod chaos;
mod command;
mod count;
mod demo;
mod dist;
mod fuzz;
mod lint;
mod manifests;
mod nextest;
mod setup;
mod test;
mod torture;
mod vm;

use std::process::ExitCode;

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
    /// Kill, pause, starve, storm and cut off an agent for a long time, with traffic going on
    Chaos(chaos::Arguments),
    /// Make what is shipped: the stripped program and a Debian package, with checksums and sizes
    Dist,
    /// Write the manifests for Kubernetes: what the Helm chart renders (deploy/kubernetes)
    Manifests,
    /// Check the formatting and the lints
    Lint,
    /// Measure what truename costs, beside nothing and beside a relay in user space
    Bench(Box<truename_tests::bench::Options>),
    /// Run random scenarios of traffic, each untouched and then translated, and check every byte
    Torture(truename_tests::torture::Options),
    /// Search for streams, cuts, orders and forged segments that the stream engine fails on
    Fuzz(fuzz::Arguments),
    /// Show what the kernel's verifier does for each program, and check it against its ceiling
    Budget(budget::Arguments),
    /// Run the tests of the kernel side on another kernel, in a virtual machine
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    run(&Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.verb {
        Verb::Setup => setup::run()?,
        Verb::Build(arguments) => drop(build::run(arguments)?),
        Verb::Demo(arguments) => demo::run(arguments)?,
        Verb::Test(arguments) => return test::run(arguments),
        Verb::Chaos(arguments) => chaos::run(arguments)?,
        Verb::Dist => dist::run()?,
        Verb::Manifests => manifests::run()?,
        Verb::Lint => lint::run()?,
        Verb::Bench(options) => bench::run(options)?,
        Verb::Torture(_) => torture::run()?,
        Verb::Fuzz(arguments) => return fuzz::run(arguments),
        Verb::Budget(arguments) => return budget::run(arguments),
        Verb::Vm(arguments) => return vm::run(arguments),
    }
    Ok(ExitCode::SUCCESS)
}
