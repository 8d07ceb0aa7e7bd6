//! `truename flows`

use super::{
    Exit,
    args::Global,
    ask,
    output::{Output, Row, ago, or_dash},
};
use crate::api::{ClientError, FlowRow, FlowState, Request, Response};

impl Row for FlowRow {
    const HEADINGS: &'static [&'static str] = &[
        "client",
        "address",
        "endpoint",
        "state",
        "alias",
        "canonical",
        "frames in/out",
        "edits in/out",
        "last",
    ];

    fn cells(&self) -> Vec<String> {
        let state = match self.state {
            FlowState::New => "new",
            FlowState::Canonical => "canonical",
            FlowState::Translated => "translated",
            FlowState::LeftAlone => "left alone",
            FlowState::Closed => "closed",
        };
        vec![
            self.client.clone(),
            self.address.clone(),
            self.endpoint.clone(),
            if self.adopted {
                format!("{state}, adopted")
            } else {
                state.to_owned()
            },
            or_dash(self.alias.as_deref()),
            or_dash(self.canonical.as_deref()),
            format!("{}/{}", self.frames_in, self.frames_out),
            format!("{}/{}", self.edits_in, self.edits_out),
            ago(self.last_seen),
        ]
    }
}

pub fn run(global: &Global) -> anyhow::Result<Exit> {
    let Response::Flows(rows) = ask(global, Request::Flows)? else {
        return Err(ClientError::Unexpected.into());
    };
    Output::new(global).rows(&rows, "no flow to an endpoint was seen yet")?;
    Ok(Exit::Success)
}
