//! `truename monitor`

use super::{
    Exit,
    args::{Format, Global, Monitor},
    connect,
    output::{self, Output},
};
use crate::api::{ClientError, EventRow, Response};

pub fn run(global: &Global, verb: &Monitor) -> anyhow::Result<Exit> {
    let format = Output::new(global).format();
    for response in connect(global)?.monitor()? {
        match response? {
            Response::Event(event) => {
                let is_kind = verb.kinds.is_empty() || verb.kinds.contains(&event.kind);
                let is_from = verb.from.is_none_or(|from| from.is_at(&event.client));
                let is_to = verb.to.is_none_or(|to| to.is_at(&event.address));
                if is_kind && is_from && is_to {
                    print(format, &event)?;
                }
            }
            Response::Missed(count) => {
                eprintln!("truename: {count} event(s) were missed: this terminal is too slow");
            }
            Response::Error(message) => return Err(ClientError::Refused(message).into()),
            _ => return Err(ClientError::Unexpected.into()),
        }
    }
    anyhow::bail!("the agent has stopped")
}

/// A stream has no end to close a JSON document with: `json` prints lines, too.
fn print(format: Format, event: &EventRow) -> anyhow::Result<()> {
    let line = match format {
        Format::Json | Format::Jsonl => serde_json::to_string(event)?,
        Format::Table => {
            let time = event
                .time
                .map_or_else(|| "-".to_owned(), |time| time.clock());
            let details: Vec<_> = [&event.name, &event.detail]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            format!(
                "{time} {:<17} {} -> {} ({}) {}",
                event.kind,
                event.client,
                event.address,
                event.endpoint,
                details.join(" ")
            )
        }
    };
    output::print(&format!("{}\n", line.trim_end()))
}
