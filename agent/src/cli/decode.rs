//! `truename decode`

use super::{
    Exit,
    args::{Decode, Global, StreamWay},
    output::{Output, Row},
};
use crate::decode::{self, Decoded, Direction, FrameRow, Kind, Names, Options};

impl Row for FrameRow {
    const HEADINGS: &'static [&'static str] = &["way", "offset", "length", "frame", "what"];

    fn cells(&self) -> Vec<String> {
        let kind = match self.kind {
            Kind::Associate => "associate",
            Kind::Disassociate => "disassociate",
            Kind::Heartbeat => "heartbeat",
            Kind::Message => "message",
            Kind::Ack => "ack",
            Kind::Empty => "empty",
            Kind::Truncated => "truncated",
            Kind::Malformed => "malformed",
            Kind::Tls => "TLS",
            Kind::NotFrame => "not remoting",
            Kind::NotRecorded => "-",
        };
        let way = match self.way {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        };
        let parts = [
            ("", &self.announced),
            ("to ", &self.recipient),
            ("from ", &self.sender),
        ];
        let mut what: Vec<_> = parts
            .into_iter()
            .filter_map(|(word, text)| Some(format!("{word}{}", text.as_ref()?)))
            .collect();
        if self.kind == Kind::NotRecorded {
            what.push(format!("{} bytes not recorded", self.length));
        }
        for rewrite in &self.rewrites {
            what.push(format!("  {} => {}", rewrite.before, rewrite.after));
        }
        vec![
            way.to_owned(),
            self.offset.to_string(),
            self.length.to_string(),
            kind.to_owned(),
            what.join("\n"),
        ]
    }
}

pub fn run(global: &Global, verb: Decode) -> anyhow::Result<Exit> {
    let options = Options {
        ports: verb.ports,
        names: Names {
            canonical: verb.canonical,
            alias: verb.alias,
            system: verb.system,
        },
        way: verb.way.map(|way| match way {
            StreamWay::In => Direction::Inbound,
            StreamWay::Out => Direction::Outbound,
        }),
    };
    let Decoded { rows, notes } = decode::decode(&verb.file, &options)?;
    for note in notes {
        eprintln!("truename: {note}");
    }
    let output = Output::new(global);
    if output.format() != super::args::Format::Table {
        output.rows(&rows, "")?;
        return Ok(Exit::Success);
    }
    for flow in rows.chunk_by(|a, b| a.flow == b.flow) {
        if let Some(name) = flow.first().and_then(|row| row.flow.as_ref()) {
            super::output::print(&format!("{name}\n"))?;
        }
        output.rows(flow, "")?;
    }
    if rows.is_empty() {
        super::output::print("no stream of remoting frames is in this file\n")?;
    }
    Ok(Exit::Success)
}
