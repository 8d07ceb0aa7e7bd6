//! `truename peers`

use super::{
    Exit,
    args::Global,
    ask,
    output::{Output, Row, ago, or_dash},
};
use crate::api::{ClientError, PeerRow, Request, Response};

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
            self.client.clone(),
            self.endpoint.clone(),
            self.address.clone(),
            or_dash(self.alias.as_deref()),
            ago(self.last_seen),
        ]
    }
}

pub fn run(global: &Global) -> anyhow::Result<Exit> {
    let Response::Peers(rows) = ask(global, Request::Peers)? else {
        return Err(ClientError::Unexpected.into());
    };
    Output::new(global).rows(&rows, "no client was seen yet")?;
    Ok(Exit::Success)
}
