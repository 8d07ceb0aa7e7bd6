//! `--watch`: what the agent answers, again and again.

use std::{
    io::{self, IsTerminal as _},
    thread::sleep,
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use super::{
    args::{Format, Global, Watch},
    connect,
    output::{self, Output},
};
use crate::api::{Client, Request, Response};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// Moves to the corner of the terminal and clears it.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// What changes all the time, which is of interest only where the old one is wiped out.
const TIMES: [&str; 2] = ["last_seen", "sweep"];

/// Shows what an agent answers, once; with `--watch` again whenever it changed, until the reader or the agent is gone.
/// `take` finds the answer in the response.
pub fn show<T: Serialize>(
    global: &Global,
    watch: &Watch,
    request: &Request,
    take: impl Fn(Response) -> Option<T>,
    show: impl Fn(Output, &T) -> anyhow::Result<()>,
) -> anyhow::Result<T> {
    let output = Output::new(global);
    let mut client = connect(global)?;
    let mut ask = || look(&mut client, request, &take);
    let mut found = ask()?;
    show(output, &found)?;
    if !watch.watch {
        return Ok(found);
    }
    let terminal = output.format() == Format::Table && io::stdout().is_terminal();
    loop {
        sleep(LOOK);
        let new = ask()?;
        if terminal {
            output::print(CLEAR)?;
        }
        if terminal || timeless(&found)? != timeless(&new)? {
            show(output, &new)?;
        }
        found = new;
    }
}

/// Asks the agent.
pub fn look<T>(
    client: &mut Client,
    request: &Request,
    take: impl Fn(Response) -> Option<T>,
) -> anyhow::Result<T> {
    let response = client.ask(request.clone())?;
    Ok(take(response).ok_or(crate::api::ClientError::Unexpected)?)
}

/// What it says, whenever it was seen.
fn timeless(found: &impl Serialize) -> anyhow::Result<Value> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| !TIMES.contains(&name.as_str()));
                fields.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(found)?;
    strip(&mut value);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_no_change() {
        let row = |seen: u32, name: &str| serde_json::json!([{"name": name, "last_seen": seen}]);
        let timeless = |value| timeless(&value).unwrap();
        assert_eq!(timeless(row(1, "a")), timeless(row(2, "a")));
        assert_ne!(timeless(row(1, "a")), timeless(row(1, "b")));
    }
}
