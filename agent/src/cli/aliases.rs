//! `truename aliases`

use super::{
    Exit,
    args::{Global, Watch},
    output::{Row, ago, client},
    watch::show,
};
use crate::api::{AliasRow, Request, Response};

impl Row for AliasRow {
    const HEADINGS: &'static [&'static str] = &[
        "alias", "endpoint", "address", "client", "in", "out", "first", "last", "note",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.alias.clone(),
            self.endpoint.clone(),
            self.address.clone(),
            client(&self.client, &self.behind),
            self.inbound.to_string(),
            self.outbound.to_string(),
            ago(self.first_seen),
            ago(self.last_seen),
            match (self.no_fit, self.relayed) {
                (true, true) => "too long: relayed",
                (true, false) => "too long: left alone",
                (false, true) => "relayed for now",
                _ => "",
            }
            .to_owned(),
        ]
    }
}

pub fn run(global: &Global, watch: &Watch) -> anyhow::Result<Exit> {
    let take = |response| match response {
        Response::Aliases(rows) => Some(rows),
        _ => None,
    };
    show(global, watch, &Request::Aliases, take, |output, rows| {
        output.rows(rows, "no alias was used yet")
    })?;
    Ok(Exit::Success)
}
