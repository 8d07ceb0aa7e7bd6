//! `truename status`

use std::fmt::Write as _;

use super::{
    Exit,
    args::{Global, Status as Verb},
    output::{Output, Row, ago, or_dash},
    watch::show,
};
use crate::{
    api::{ClusterRow, InterfaceRow, LeaderRow, Request, Response, SourceRow, State, Status},
    discovery::Kind,
};

impl Row for InterfaceRow {
    const HEADINGS: &'static [&'static str] = &["interface", "index", "program", "note"];

    fn cells(&self) -> Vec<String> {
        let note = match &self.error {
            Some(error) => error.clone(),
            None if self.adopted => "taken over".to_owned(),
            None => String::new(),
        };
        vec![
            self.name.clone(),
            self.index.to_string(),
            or_dash(self.program.as_deref()),
            note,
        ]
    }
}

pub fn run(global: &Global, verb: &Verb) -> anyhow::Result<Exit> {
    let take = |response| match response {
        Response::Status(status) => Some(status),
        _ => None,
    };
    let watch = &verb.watch;
    let status = show(global, watch, &Request::Status, take, |output, status| {
        output.document(status, || match verb.brief {
            true => summary(status),
            false => text(output, status),
        })
    })?;
    Ok(match status.state {
        State::Ok => Exit::Success,
        State::Degraded => Exit::Degraded,
    })
}

/// Problems that are over and still shown.
const PAST_SHOWN: usize = 3;
/// Captured names that are shown.
const NAMES_SHOWN: usize = 16;

/// Whether it works, and what does not.
fn summary(status: &Status) -> String {
    let state = match status.state {
        State::Ok => "ok",
        State::Degraded => "degraded",
    };
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{state}: truename {} (process {}), up {}, {} endpoint(s), {} of {} flows, {} service(s), {} of {} connections, attached by {}",
        status.version,
        status.pid,
        status.started.ago(),
        status.endpoints,
        status.flows,
        status.flow_capacity,
        status.services,
        status.connections,
        status.connection_capacity,
        status.attach_mode,
    );
    if let Some(relay) = &status.relay {
        let _ = writeln!(
            text,
            "  relay: {} endpoint(s), {} of {} connections; {} relayed, {} refused, {} failed, {} silent",
            relay.endpoints,
            relay.connections,
            relay.capacity,
            relay.relayed,
            relay.refused,
            relay.failed,
            relay.silent,
        );
    }
    if let Some(captured) = &status.captured {
        let _ = writeln!(
            text,
            "  names: {} captured on {} interface(s); {} question(s) answered, {} passed on",
            captured.hosts.len(),
            captured.interfaces.len(),
            captured.answered,
            captured.passed,
        );
    }
    for problem in &status.problems {
        let _ = writeln!(text, "  {problem}");
    }
    text
}

fn text(output: Output, status: &Status) -> String {
    let mut text = summary(status);
    for note in &status.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    for row in status.past_problems.iter().take(PAST_SHOWN) {
        let (first, last) = (row.first_seen.ago(), row.last_seen.ago());
        let _ = writeln!(
            text,
            "  over since {last} (from {first} ago): {}",
            row.problem
        );
    }
    text.push_str(&cluster(&status.topology));
    if let Some(captured) = &status.captured {
        let shown = captured.hosts.iter().take(NAMES_SHOWN);
        let shown: Vec<_> = shown.map(String::as_str).collect();
        let more = match captured.hosts.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let _ = writeln!(text, "\ncaptured names  {}{more}", shown.join(" "));
        let _ = writeln!(text, "captured on     {}", captured.interfaces.join(" "));
    }
    if !status.interfaces.is_empty() {
        let _ = writeln!(text, "\n{}", output.table(&status.interfaces));
    }
    let counted: Vec<_> = status
        .counters
        .iter()
        .filter(|(_, value)| **value > 0)
        .map(|(name, value)| Count {
            name,
            value: *value,
        })
        .collect();
    if status.evicted > 0 {
        let _ = writeln!(text, "\n{} connection(s) were evicted", status.evicted);
    }
    if status.repaired > 0 {
        let _ = writeln!(
            text,
            "\n{} table entries that somebody else changed were repaired",
            status.repaired
        );
    }
    if status.reattached > 0 {
        let _ = writeln!(
            text,
            "\n{} programs and pins that somebody else removed or replaced were brought back",
            status.reattached
        );
    }
    if !counted.is_empty() {
        let _ = writeln!(text, "\n{}", output.table(&counted));
    }
    text
}

/// What is known of the cluster: nothing if nobody is asked and nobody was heard of.
fn cluster(row: &ClusterRow) -> String {
    let mut text = String::new();
    let leader = |leader: &Option<LeaderRow>| match leader {
        Some(LeaderRow {
            address,
            source,
            last_seen,
        }) => format!("{address} ({source}, {} ago)", ago(*last_seen)),
        None => "not known".to_owned(),
    };
    let unasked = [Kind::Configured, Kind::Learned, Kind::Addressed].map(Kind::name);
    let is_asked = |source: &SourceRow| !unasked.contains(&source.name.as_str());
    if row.leader_rpc.is_none() && !row.sources.iter().any(is_asked) {
        return text;
    }
    // Writing to a string does not fail.
    let _ = writeln!(text, "\nleader   {}", leader(&row.leader_rpc));
    let _ = writeln!(text, "REST     {}", leader(&row.leader_rest));
    let _ = writeln!(
        text,
        "cluster  {} worker(s), {} member(s), generation {}, tables from {}",
        row.workers, row.members, row.generation, row.applied
    );
    for source in row.sources.iter().filter(|source| is_asked(source)) {
        let SourceRow {
            name,
            state,
            last_seen,
            error,
        } = source;
        let error = error.as_ref().map(|error| format!(": {error}"));
        let error = error.unwrap_or_default();
        let age = ago(*last_seen);
        let _ = writeln!(text, "source   {name}: {state}, confirmed {age} ago{error}");
    }
    text
}

#[derive(serde::Serialize)]
struct Count<'a> {
    name: &'a str,
    value: u64,
}

impl Row for Count<'_> {
    const HEADINGS: &'static [&'static str] = &["counter", "value"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.to_owned(), self.value.to_string()]
    }
}
