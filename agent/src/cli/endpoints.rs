//! `truename endpoints`

use super::{
    Exit,
    args::Global,
    ask,
    output::{Output, Row, or_dash},
};
use crate::api::{Aliases, CanonicalSource, ClientError, EndpointRow, Request, Response};

impl Row for EndpointRow {
    const HEADINGS: &'static [&'static str] = &[
        "name",
        "protocol",
        "listen",
        "address",
        "canonical",
        "system",
        "aliases",
        "flows",
    ];

    fn cells(&self) -> Vec<String> {
        let canonical = match (&self.canonical, self.canonical_source) {
            (Some(name), CanonicalSource::Learned) => format!("{name} (learned)"),
            (Some(name), _) => name.clone(),
            (None, _) => "not announced yet".to_owned(),
        };
        let aliases = match &self.aliases {
            Aliases::Any(any) => any.clone(),
            Aliases::Listed(list) => list.join(" "),
        };
        vec![
            self.name.clone(),
            self.protocol.clone(),
            self.listen.clone(),
            or_dash(self.address.as_deref()),
            canonical,
            or_dash(self.system.as_deref()),
            aliases,
            self.flows.to_string(),
        ]
    }
}

pub fn run(global: &Global) -> anyhow::Result<Exit> {
    let Response::Endpoints(rows) = ask(global, Request::Endpoints)? else {
        return Err(ClientError::Unexpected.into());
    };
    Output::new(global).rows(&rows, "no endpoint is configured")?;
    Ok(Exit::Success)
}
