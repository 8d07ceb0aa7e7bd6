//! `truename aliases`

use super::{
    Exit,
    args::Global,
    ask,
    output::{Output, Row, ago},
};
use crate::api::{AliasRow, ClientError, Request, Response};

impl Row for AliasRow {
    const HEADINGS: &'static [&'static str] = &[
        "alias", "endpoint", "address", "client", "in", "out", "first", "last", "note",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.alias.clone(),
            self.endpoint.clone(),
            self.address.clone(),
            self.client.clone(),
            self.inbound.to_string(),
            self.outbound.to_string(),
            ago(self.first_seen),
            ago(self.last_seen),
            if self.no_fit { "does not fit" } else { "" }.to_owned(),
        ]
    }
}

pub fn run(global: &Global) -> anyhow::Result<Exit> {
    let Response::Aliases(rows) = ask(global, Request::Aliases)? else {
        return Err(ClientError::Unexpected.into());
    };
    Output::new(global).rows(&rows, "no alias was used yet")?;
    Ok(Exit::Success)
}
