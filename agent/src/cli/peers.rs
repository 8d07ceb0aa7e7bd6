//! `truename peers`

use super::{
    Exit,
    args::{Global, Watch},
    output::{Row, ago, client, or_dash},
    watch::show,
};
use crate::api::{PeerRow, Request, Response};

impl Row for PeerRow {
    const HEADINGS: &'static [&'static str] = &[
        "announced",
        "system",
        "client",
        "endpoint",
        "address",
        "alias",
        "last",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            or_dash(self.announced.as_deref()),
            or_dash(self.system.as_deref()),
            client(&self.client, &self.behind),
            self.endpoint.clone(),
            self.address.clone(),
            or_dash(self.alias.as_deref()),
            ago(self.last_seen),
        ]
    }
}

pub fn run(global: &Global, watch: &Watch) -> anyhow::Result<Exit> {
    let take = |response| match response {
        Response::Peers(rows) => Some(rows),
        _ => None,
    };
    show(global, watch, &Request::Peers, take, |output, rows| {
        output.rows(rows, "no client was seen yet")
    })?;
    Ok(Exit::Success)
}
