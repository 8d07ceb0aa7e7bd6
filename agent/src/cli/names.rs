//! `truename names`

use super::{
    Exit,
    args::{Format, Global, NameFormat, Names},
    ask, hosts,
    output::{self, Output, Row, ago, or_dash},
};
use crate::{
    api::{ClientError, NameRow, Request, Response},
    discovery::How,
};

impl Row for NameRow {
    const HEADINGS: &'static [&'static str] = &[
        "name",
        "what",
        "addresses",
        "how",
        "source",
        "last seen",
        "captured",
        "note",
    ];

    fn cells(&self) -> Vec<String> {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        vec![
            self.name.clone(),
            self.what.join(", "),
            or_dash(
                (!addresses.is_empty())
                    .then(|| addresses.join(" "))
                    .as_deref(),
            ),
            or_dash(self.how.map(How::word)),
            or_dash(self.source.as_deref()),
            ago(self.last_seen),
            or_dash(self.captured.then_some("yes")),
            self.note.clone().unwrap_or_default(),
        ]
    }
}

pub fn run(global: &Global, verb: &Names) -> anyhow::Result<Exit> {
    let Response::Names(rows) = ask(global, Request::Names)? else {
        return Err(ClientError::Unexpected.into());
    };
    let output = Output::new(global);
    match verb.format {
        None => output.rows(&rows, "no name is known: no handshake was seen")?,
        Some(NameFormat::Json) => output.with(Format::Json).rows(&rows, "")?,
        Some(NameFormat::Hosts) => output::print(&hosts::file(&rows))?,
        Some(NameFormat::Coredns) => output::print(&hosts::coredns(&rows))?,
    }
    Ok(Exit::Success)
}
