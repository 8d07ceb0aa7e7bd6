//! `truename topology`

use std::{
    io::{self, IsTerminal as _},
    thread::sleep,
    time::Duration,
};

use super::{
    Exit,
    args::{Format, Global, Topology},
    connect,
    output::{self, Output, Row, ago, or_dash},
};
use crate::api::{ClientError, Request, Response, TopologyRow};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// Moves to the corner of the terminal and clears it.
const CLEAR: &str = "\x1b[H\x1b[2J";

impl Row for TopologyRow {
    const HEADINGS: &'static [&'static str] = &["kind", "name", "address", "source", "age", "note"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.kind.clone(),
            self.name.clone(),
            or_dash(self.address.as_deref()),
            self.source.clone(),
            ago(self.last_seen),
            self.note.clone().unwrap_or_default(),
        ]
    }
}

pub fn run(global: &Global, verb: &Topology) -> anyhow::Result<Exit> {
    let output = Output::new(global);
    let mut client = connect(global)?;
    let mut ask = || match client.ask(Request::Topology)? {
        Response::Topology(rows) => Ok(rows),
        _ => Err(ClientError::Unexpected),
    };
    let mut rows = ask()?;
    show(output, &rows)?;
    if !verb.watch {
        return Ok(exit(&rows));
    }
    let terminal = output.format() == Format::Table && io::stdout().is_terminal();
    loop {
        sleep(LOOK);
        let new = ask()?;
        // Ages change all the time, which is of interest only where the old ones are wiped out.
        if terminal {
            output::print(CLEAR)?;
        }
        if terminal || !same(&rows, &new) {
            show(output, &new)?;
        }
        rows = new;
    }
}

fn show(output: Output, rows: &[TopologyRow]) -> anyhow::Result<()> {
    output.rows(
        rows,
        "nothing is known: no source is configured, and no handshake was seen",
    )
}

/// Whether both say the same, whenever it was seen.
fn same(old: &[TopologyRow], new: &[TopologyRow]) -> bool {
    let ageless = |row: &TopologyRow| TopologyRow {
        last_seen: None,
        ..row.clone()
    };
    old.iter().map(ageless).eq(new.iter().map(ageless))
}

fn exit(rows: &[TopologyRow]) -> Exit {
    let degraded = |row: &TopologyRow| row.kind == "source" && row.name == "degraded";
    if rows.iter().any(degraded) {
        Exit::Degraded
    } else {
        Exit::Success
    }
}
