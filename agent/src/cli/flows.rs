//! `truename flows` and `truename flows flush`

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    Exit,
    args::{FlowSelection, Flows, FlowsVerb, Flush, Global},
    ask, connect,
    output::{self, Output, Row, ago, or_dash},
};
use crate::api::{
    Client, ClientError, FlowFilter, FlowRow, FlowState, Request, Response, time::duration,
};

/// The time between the two looks that rates are computed from.
const BETWEEN: Duration = Duration::from_secs(1);

impl Row for FlowRow {
    const HEADINGS: &'static [&'static str] = &[
        "client",
        "via",
        "address",
        "service",
        "endpoint",
        "state",
        "alias",
        "canonical",
        "sent/received",
        "frames in/out",
        "edits in/out",
        "last",
        "left",
    ];

    fn cells(&self) -> Vec<String> {
        let pair = |a: u64, b: u64| format!("{a}/{b}");
        let is_rpc = self.state != FlowState::Forwarded;
        let rpc = |text: String| if is_rpc { text } else { "-".to_owned() };
        vec![
            self.client.clone(),
            or_dash(self.via.as_deref()),
            match &self.source {
                Some(source) => format!("{} as {source}", self.address),
                None => self.address.clone(),
            },
            or_dash(self.service.as_deref()),
            self.endpoint.clone(),
            states(self),
            or_dash(self.alias.as_deref()),
            or_dash(self.canonical.as_deref()),
            match (self.sent, self.received) {
                (Some(sent), Some(received)) => pair(sent, received),
                _ => "-".to_owned(),
            },
            rpc(pair(self.frames_in, self.frames_out)),
            rpc(pair(self.edits_in, self.edits_out)),
            ago(self.last_seen),
            self.expires_in_s.map_or_else(|| "-".to_owned(), duration),
        ]
    }
}

/// The states of the connection and of its translation.
fn states(row: &FlowRow) -> String {
    let mut states = Vec::new();
    states.extend(row.connection.clone());
    if row.state != FlowState::Forwarded {
        states.push(row.state.label().replace('_', " "));
    }
    if row.adopted {
        states.push("adopted".to_owned());
    }
    if row.direct {
        states.push("direct".to_owned());
    }
    states.join(", ")
}

/// Flows of one service or endpoint in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Total {
    service: String,
    state: String,
    flows: usize,
    sent: u64,
    received: u64,
}

impl Row for Total {
    const HEADINGS: &'static [&'static str] =
        &["service or endpoint", "state", "flows", "sent", "received"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.service.clone(),
            self.state.clone(),
            self.flows.to_string(),
            self.sent.to_string(),
            self.received.to_string(),
        ]
    }
}

/// How fast a flow is.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Rate {
    client: String,
    via: Option<String>,
    address: String,
    service: String,
    sent_per_s: f64,
    received_per_s: f64,
    frames_per_s: f64,
}

impl Row for Rate {
    const HEADINGS: &'static [&'static str] = &[
        "client",
        "via",
        "address",
        "service or endpoint",
        "sent B/s",
        "received B/s",
        "frames/s",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.client.clone(),
            or_dash(self.via.as_deref()),
            self.address.clone(),
            self.service.clone(),
            format!("{:.0}", self.sent_per_s),
            format!("{:.0}", self.received_per_s),
            format!("{:.0}", self.frames_per_s),
        ]
    }
}

pub fn run(global: &Global, verb: Flows) -> anyhow::Result<Exit> {
    if let Some(FlowsVerb::Flush(flush)) = verb.verb {
        return self::flush(global, flush);
    }
    let output = Output::new(global);
    let nothing = "no such flow was seen yet";
    let filter = FlowFilter {
        limit: verb.limit,
        ..filter(verb.selection)
    };
    let mut client = connect(global)?;
    let began = Instant::now();
    let rows = flows(&mut client, &filter)?;
    if verb.totals {
        output.rows(&totals(&rows), nothing)?;
    } else if verb.rates {
        thread::sleep(BETWEEN);
        let later = flows(&mut client, &filter)?;
        output.rows(&rates(&rows, &later, began.elapsed()), nothing)?;
    } else {
        output.rows(&rows, nothing)?;
    }
    Ok(Exit::Success)
}

fn filter(selection: FlowSelection) -> FlowFilter {
    FlowFilter {
        service: selection.service,
        client: selection.client,
        state: selection.state,
        target: selection.target,
        port: selection.port,
        alias: selection.alias,
        limit: None,
    }
}

fn flows(client: &mut Client, filter: &FlowFilter) -> anyhow::Result<Vec<FlowRow>> {
    match client.ask(Request::Flows(filter.clone()))? {
        Response::Flows(rows) => Ok(rows),
        _ => Err(ClientError::Unexpected.into()),
    }
}

/// The service's name, or the endpoint's.
fn owner(row: &FlowRow) -> String {
    row.service.clone().unwrap_or_else(|| row.endpoint.clone())
}

fn totals(rows: &[FlowRow]) -> Vec<Total> {
    let mut totals: BTreeMap<(String, String), Total> = BTreeMap::new();
    for row in rows {
        let state = row
            .connection
            .clone()
            .unwrap_or_else(|| row.state.label().to_owned());
        let total = totals
            .entry((owner(row), state.clone()))
            .or_insert_with(|| Total {
                service: owner(row),
                state,
                flows: 0,
                sent: 0,
                received: 0,
            });
        total.flows += 1;
        total.sent += row.sent.unwrap_or_default();
        total.received += row.received.unwrap_or_default();
    }
    totals.into_values().collect()
}

/// The fastest first.
fn rates(before: &[FlowRow], after: &[FlowRow], time: Duration) -> Vec<Rate> {
    let key = |row: &FlowRow| {
        let way = (row.protocol.clone(), row.client.clone(), row.via.clone());
        (way, row.address.clone(), row.first_seen)
    };
    let before: BTreeMap<_, _> = before.iter().map(|row| (key(row), row)).collect();
    let rate = |row: &FlowRow| {
        // One that was not there began with nothing.
        let then = before.get(&key(row));
        let per_s = |count: fn(&FlowRow) -> u64| {
            let then = then.map_or(0, |row| count(row));
            count(row).saturating_sub(then) as f64 / time.as_secs_f64()
        };
        Rate {
            client: row.client.clone(),
            via: row.via.clone(),
            address: row.address.clone(),
            service: owner(row),
            sent_per_s: per_s(|row| row.sent.unwrap_or_default()),
            received_per_s: per_s(|row| row.received.unwrap_or_default()),
            frames_per_s: per_s(|row| row.frames_in + row.frames_out),
        }
    };
    let mut rates: Vec<_> = after.iter().map(rate).collect();
    let speed = |rate: &Rate| rate.sent_per_s + rate.received_per_s + rate.frames_per_s;
    rates.sort_by(|a, b| speed(b).total_cmp(&speed(a)));
    rates
}

fn flush(global: &Global, verb: Flush) -> anyhow::Result<Exit> {
    let filter = filter(verb.selection);
    if !verb.yes {
        anyhow::ensure!(
            io::stdin().is_terminal(),
            "flows are forgotten only when someone agrees; add --yes"
        );
        let count = flows(&mut connect(global)?, &filter)?.len();
        if !agrees(count)? {
            return Ok(Exit::Success);
        }
    }
    let Response::Flushed(count) = ask(global, Request::Flush(filter))? else {
        return Err(ClientError::Unexpected.into());
    };
    let document = BTreeMap::from([("flushed", count)]);
    let text = || format!("forgot {count} flow(s)\n");
    Output::new(global).document(&document, text)?;
    Ok(Exit::Success)
}

fn agrees(count: usize) -> anyhow::Result<bool> {
    output::print(&format!(
        "{count} flow(s) will be forgotten; connections through services break. Go on? [y/N] "
    ))?;
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(client: &str, service: Option<&str>, sent: u64) -> FlowRow {
        FlowRow {
            protocol: "tcp".to_owned(),
            client: client.to_owned(),
            via: service.map(|_| "10.0.0.10:80".to_owned()),
            source: None,
            address: "10.0.0.1:80".to_owned(),
            service: service.map(str::to_owned),
            connection: service.map(|_| "established".to_owned()),
            direct: false,
            sent: service.map(|_| sent),
            received: service.map(|_| 1),
            endpoint: "jm".to_owned(),
            state: FlowState::New,
            adopted: true,
            alias: None,
            canonical: None,
            announced: None,
            system: None,
            frames_in: 0,
            frames_out: 0,
            edits_in: 0,
            edits_out: 0,
            first_seen: None,
            last_seen: None,
            expires_in_s: Some(119),
        }
    }

    #[test]
    fn sums_by_service_and_state() {
        let rows = [
            row("a", Some("rest"), 5),
            row("b", Some("rest"), 6),
            row("c", None, 0),
        ];
        let totals = totals(&rows);
        let short: Vec<_> = totals
            .iter()
            .map(|total| (&*total.service, &*total.state, total.flows, total.sent))
            .collect();
        assert_eq!(short, [("jm", "new", 1, 0), ("rest", "established", 2, 11)]);
        assert_eq!(states(&rows[0]), "established, new, adopted");
        assert_eq!(rows[0].cells().len(), FlowRow::HEADINGS.len());
    }

    #[test]
    fn rates_are_differences() {
        let before = [row("a", Some("rest"), 5)];
        let after = [row("a", Some("rest"), 25), row("b", Some("rest"), 100)];
        let rates = rates(&before, &after, Duration::from_secs(2));
        let short: Vec<_> = rates.iter().map(|r| (&*r.client, r.sent_per_s)).collect();
        assert_eq!(short, [("b", 50.0), ("a", 10.0)]);
    }
}
