//! `truename endpoints`

use super::{
    Exit,
    args::{Global, Watch},
    output::{Row, or_dash},
    watch::show,
};
use crate::api::{Aliases, CanonicalSource, EndpointRow, Request, Response};

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
            (Some(name), CanonicalSource::Topology) => format!("{name} (topology)"),
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

pub fn run(global: &Global, watch: &Watch) -> anyhow::Result<Exit> {
    let take = |response| match response {
        Response::Endpoints(rows) => Some(rows),
        _ => None,
    };
    show(global, watch, &Request::Endpoints, take, |output, rows| {
        output.rows(rows, "no endpoint is configured")
    })?;
    Ok(Exit::Success)
}
