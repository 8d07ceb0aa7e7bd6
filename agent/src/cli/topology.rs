//! `truename topology`

use super::{
    Exit,
    args::{Global, Watch},
    output::{Row, ago, or_dash},
    watch::show,
};
use crate::api::{Request, Response, TopologyRow};

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

pub fn run(global: &Global, watch: &Watch) -> anyhow::Result<Exit> {
    let take = |response| match response {
        Response::Topology(rows) => Some(rows),
        _ => None,
    };
    let nothing = "nothing is known: no source is configured, and no handshake was seen";
    let rows = show(global, watch, &Request::Topology, take, |output, rows| {
        output.rows(rows, nothing)
    })?;
    Ok(exit(&rows))
}

fn exit(rows: &[TopologyRow]) -> Exit {
    let fails = |row: &TopologyRow| {
        row.kind == "source" && ["hanging", "degraded"].contains(&row.name.as_str())
    };
    if rows.iter().any(fails) {
        Exit::Degraded
    } else {
        Exit::Success
    }
}
