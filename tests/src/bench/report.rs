//! What the benchmark prints: tables for people, lines of JSON for programs.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Cell, Fault, PacketCost, RoundTrips, ServiceRates};

/// Where results go: a table to standard output, and lines of JSON to a file.
#[derive(Debug)]
pub struct Report {
    lines: Option<File>,
    /// Rows of the streams, of which the table is printed at the end.
    streams: Vec<Vec<Cell>>,
    /// Results that are wrong.
    faults: usize,
}

impl Report {
    /// Begins a report.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(lines: Option<&Path>) -> Result<Self> {
        let lines = lines
            .map(|path| File::create(path).with_context(|| format!("create {}", path.display())))
            .transpose()?;
        Ok(Self {
            lines,
            streams: Vec::new(),
            faults: 0,
        })
    }

    /// How many results are wrong or never came.
    pub fn faults(&self) -> usize {
        self.faults
    }

    fn line(&mut self, value: &Value) -> Result<()> {
        if let Some(lines) = &mut self.lines {
            writeln!(lines, "{value}").context("write the results")?;
        }
        Ok(())
    }

    /// The program alone.
    ///
    /// # Errors
    /// The output is closed.
    pub fn packets(&mut self, costs: &[PacketCost]) -> Result<()> {
        let mut out = io::stdout();
        writeln!(
            out,
            "The program alone (BPF_PROG_TEST_RUN, median nanoseconds of single runs)\n\n\
             | Packet | empty program | tn_ether | more |\n|---|---:|---:|---:|"
        )?;
        for cost in costs {
            let more = cost.program.saturating_sub(cost.empty);
            writeln!(
                out,
                "| {} | {} | {} | {more} |",
                cost.kind, cost.empty, cost.program
            )?;
            self.line(&json!({
                "kind": "packet",
                "row": cost.kind,
                "empty_ns": cost.empty,
                "program_ns": cost.program,
                "more_ns": more,
            }))?;
        }
        writeln!(out)?;
        Ok(())
    }

    /// Round trips; `place` says on which CPUs.
    ///
    /// # Errors
    /// There was no round, or the output is closed.
    pub fn round_trips(&mut self, place: &str, results: &[RoundTrips]) -> Result<()> {
        let mut out = io::stdout();
        let rounds = results.first().map_or(0, |result| result.rates.len());
        writeln!(
            out,
            "Round trips of 190-byte frames on one connection, {place} (median of {rounds} interleaved rounds)\n\n\
             | Arrangement | a second | ratio | p99 µs | ratio |\n|---|---:|---:|---:|---:|"
        )?;
        let first = results.first().map(RoundTrips::medians).transpose()?;
        for result in results {
            let (rate, p99) = result.medians()?;
            let (base_rate, base_p99) = first.unwrap_or((rate, p99));
            let ratios = (rate as f64 / base_rate as f64, p99 as f64 / base_p99 as f64);
            writeln!(
                out,
                "| {} | {rate} | {:.2} | {:.1} | {:.2} |",
                result.name,
                ratios.0,
                p99 as f64 / 1000.0,
                ratios.1,
            )?;
            self.line(&json!({
                "kind": "round_trip",
                "place": place,
                "column": result.name,
                "per_second": rate,
                "ratio": ratios.0,
                "p99_ns": p99,
                "p99_ratio": ratios.1,
            }))?;
        }
        writeln!(out)?;
        Ok(())
    }

    /// Services.
    ///
    /// # Errors
    /// There was no round, or the output is closed.
    pub fn services(&mut self, results: &[ServiceRates]) -> Result<()> {
        let mut out = io::stdout();
        let rounds = results.first().map_or(0, |result| result.bulk.len());
        writeln!(
            out,
            "A TCP service whose target is another host, through a node, all on one CPU (median of {rounds} interleaved rounds)\n\n\
             | Arrangement | Gbit/s | ratio | connections/s | ratio | round trips/s | ratio |\n\
             |---|---:|---:|---:|---:|---:|---:|"
        )?;
        let first = results.first().map(ServiceRates::medians).transpose()?;
        for result in results {
            let rates = result.medians()?;
            let base = first.unwrap_or(rates);
            let ratios = [0, 1, 2].map(|index| rates[index] as f64 / base[index] as f64);
            writeln!(
                out,
                "| {} | {:.2} | {:.2} | {} | {:.2} | {} | {:.2} |",
                result.name,
                rates[0] as f64 / 1e9,
                ratios[0],
                rates[1],
                ratios[1],
                rates[2],
                ratios[2],
            )?;
            self.line(&json!({
                "kind": "service",
                "column": result.name,
                "bits_per_second": rates[0],
                "connections_per_second": rates[1],
                "round_trips_per_second": rates[2],
                "ratios": ratios,
            }))?;
        }
        writeln!(out)?;
        Ok(())
    }

    /// A row of the streams, as it is done. Its part of the table comes with [`Self::stream_table`].
    ///
    /// # Errors
    /// The output is closed.
    pub fn stream(&mut self, cells: &[Cell]) -> Result<()> {
        for cell in cells {
            self.faults += usize::from(cell.fault.is_some());
            let fault = cell
                .fault
                .as_ref()
                .map(Fault::to_string)
                .unwrap_or_default();
            eprintln!(
                "{:<24} {:<12} {:>10.0} frames/s  {:>5.2}  gap {:>5} ms, {} sent again, {} timeouts  {}  {fault}",
                cell.row.to_string(),
                cell.column,
                cell.rate(),
                cell.ratio,
                cell.gap.as_millis(),
                cell.repetitions.0,
                cell.repetitions.1,
                cell.drops(),
            );
            self.line(&cell.json())?;
        }
        self.streams.push(cells.to_vec());
        Ok(())
    }

    /// The table of all rows of the streams.
    ///
    /// # Errors
    /// The output is closed.
    pub fn stream_table(&self) -> Result<()> {
        let Some(columns) = self.streams.first() else {
            return Ok(());
        };
        let mut out = io::stdout();
        write!(
            out,
            "Streams in one direction, every byte checked (frames a second, median of interleaved rounds; ratio to untouched)\n\n| Row |"
        )?;
        for cell in columns {
            write!(out, " {} |", cell.column)?;
            if cell.column != columns[0].column {
                write!(out, " ratio |")?;
            }
        }
        writeln!(out, " sent again | timeouts |")?;
        let numbers = 2 * columns.len() - 1;
        writeln!(out, "|---|{}", "---:|".repeat(numbers + 2))?;
        for cells in &self.streams {
            let row = cells.first().map(|cell| cell.row.to_string());
            write!(out, "| {} |", row.unwrap_or_default())?;
            for cell in cells {
                match &cell.fault {
                    Some(Fault::Stalled) => write!(out, " stalled |")?,
                    Some(Fault::Wrong(_)) => write!(out, " wrong |")?,
                    Some(Fault::Miscounted { .. }) => {
                        write!(out, " {:.0}, miscounted |", cell.rate())?
                    }
                    None => write!(out, " {:.0} |", cell.rate())?,
                }
                if cell.column != columns[0].column {
                    write!(out, " {:.2} |", cell.ratio)?;
                }
            }
            // Of the first two columns: what TCP does by itself, and what it does with truename.
            let pair = |number: fn(&Cell) -> u64| {
                let numbers: Vec<String> = cells
                    .iter()
                    .take(2)
                    .map(|cell| number(cell).to_string())
                    .collect();
                numbers.join(" / ")
            };
            let (again, timeouts) = (
                pair(|cell| cell.repetitions.0),
                pair(|cell| cell.repetitions.1),
            );
            writeln!(out, " {again} | {timeouts} |")?;
        }
        writeln!(out)?;
        Ok(())
    }
}
