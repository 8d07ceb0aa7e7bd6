//! Prints what truename costs, from one run: `cargo xtask bench` starts it optimised.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use truename_tests::bench::{
    PacketCost, RoundTrips, ServiceRates, on_one_cpu, packets, round_trips, services,
};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let object = arguments
        .next()
        .context("usage: truename-bench OBJECT [--quick]")?;
    let quick = arguments
        .next()
        .is_some_and(|argument| argument == "--quick");
    let object = fs::read(&object).with_context(|| format!("read {object}"))?;
    let (rounds, time) = if quick {
        (5, Duration::from_secs(1))
    } else {
        (11, Duration::from_secs(5))
    };
    on_one_cpu()?;

    println!("The program alone (BPF_PROG_TEST_RUN, median nanoseconds of single runs)\n");
    println!("| Packet | empty program | tn_ether | more |");
    println!("|---|---:|---:|---:|");
    for PacketCost {
        kind,
        empty,
        program,
    } in packets(&object)?
    {
        println!(
            "| {kind} | {empty} | {program} | {} |",
            program.saturating_sub(empty)
        );
    }

    eprintln!(
        "measuring round trips: {rounds} rounds of {} s in each of three arrangements",
        time.as_secs()
    );
    let results = round_trips(rounds, time)?;
    println!(
        "\nRound trips of 190-byte frames on one connection, all on one CPU (median of {rounds} interleaved rounds)\n"
    );
    println!("| Arrangement | a second | ratio | p99 µs | ratio |");
    println!("|---|---:|---:|---:|---:|");
    let first = results.first().map(RoundTrips::medians).transpose()?;
    for result in &results {
        let (rate, p99) = result.medians()?;
        let (base_rate, base_p99) = first.unwrap_or((rate, p99));
        println!(
            "| {} | {rate} | {:.2} | {:.1} | {:.2} |",
            result.name,
            rate as f64 / base_rate as f64,
            p99 as f64 / 1000.0,
            p99 as f64 / base_p99 as f64,
        );
    }

    eprintln!("measuring services: {rounds} rounds in each of three arrangements");
    let results = services(rounds, time)?;
    println!(
        "\nA TCP service whose target is another host, through a node, all on one CPU (median of {rounds} interleaved rounds)\n"
    );
    println!("| Arrangement | Gbit/s | ratio | connections/s | ratio | round trips/s | ratio |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let first = results.first().map(ServiceRates::medians).transpose()?;
    for result in &results {
        let rates = result.medians()?;
        let base = first.unwrap_or(rates);
        let [bulk, connections, round_trips] =
            [0, 1, 2].map(|index| rates[index] as f64 / base[index] as f64);
        println!(
            "| {} | {:.2} | {bulk:.2} | {} | {connections:.2} | {} | {round_trips:.2} |",
            result.name,
            rates[0] as f64 / 1e9,
            rates[1],
            rates[2],
        );
    }
    Ok(())
}
