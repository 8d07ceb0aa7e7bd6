//! What is wanted and does not work, as `status` tells it: found anew each time, with when it came and when it went.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use truename_common::layout::{AliasKey, AliasStat, Counter};

use super::tasks::recent::Counters;
use crate::{
    api::{Code, Finding, InterfaceRow, ProblemRow, Timestamp},
    config::{Aliases, Config},
    plan::{self, Facts},
    relay::Relays,
    sysctl,
};

/// Problems that are over and still told.
const PAST_MAX: usize = 16;

/// When problems came and went.
#[derive(Default)]
pub struct History {
    now: BTreeMap<(Code, String), ProblemRow>,
    past: VecDeque<ProblemRow>,
}

impl History {
    /// What was found now: with its time, in the same order.
    pub fn note(&mut self, found: &[Finding], at: Timestamp) -> Vec<ProblemRow> {
        let mut before = std::mem::take(&mut self.now);
        let mut rows = Vec::new();
        for finding in found {
            let key = (finding.code, finding.without_numbers());
            let known = before.remove(&key);
            let row = ProblemRow {
                code: finding.code,
                problem: finding.sentence.clone(),
                first_seen: known.map_or(at, |known| known.first_seen),
                last_seen: at,
            };
            self.now.insert(key, row.clone());
            rows.push(row);
        }
        self.past.extend(before.into_values());
        while self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
        rows
    }

    /// Those that are over, the latest first.
    pub fn past(&self) -> Vec<ProblemRow> {
        let mut past: Vec<_> = self.past.iter().cloned().collect();
        past.sort_by_key(|row| std::cmp::Reverse(row.last_seen));
        past
    }
}

/// Interfaces that are not attached.
pub fn of_interfaces(interfaces: &[InterfaceRow], missing: &[String]) -> Vec<Finding> {
    let failed = interfaces.iter().filter_map(|row| row.error.clone());
    let gone = missing
        .iter()
        .map(|name| format!("the interface {name} is gone"));
    let mut found: Vec<_> = Finding::all(Code::InterfaceFailed, failed)
        .chain(Finding::all(Code::InterfaceGone, gone))
        .collect();
    if interfaces.iter().all(|row| row.program.is_none()) {
        let nothing = "no interface is attached: nothing is translated";
        found.push(Finding::new(Code::NothingAttached, nothing));
    }
    found
}

/// RPC frames and flows that were not translated lately.
pub fn of_names(config: &Config, recent: &Counters) -> Vec<Finding> {
    let mut found = Vec::new();
    let full = count(recent, Counter::TableFull);
    if full > 0 {
        found.push(Finding::new(
            Code::FlowTableFull,
            format!(
                "{full} packet(s) of new flows passed untranslated in the last minute because the flow table was full; raise max_rpc_flows, and restart after `truename detach`"
            ),
        ));
    }
    let unavailable = count(recent, Counter::RpcUnavailable);
    if unavailable > 0 {
        found.push(Finding::new(
            Code::RpcUnavailable,
            format!(
                "names in {unavailable} packet(s) of endpoints were not translated in the last minute because somebody took the program for them out of its table; start the agent again"
            ),
        ));
    }
    let refused = count(recent, Counter::NotAdmitted);
    if refused > 0 {
        let endpoints = config.endpoints.iter();
        let listed = endpoints.filter(|endpoint| matches!(endpoint.aliases, Aliases::Listed(_)));
        let listed: Vec<_> = listed.map(|endpoint| endpoint.name.as_str()).collect();
        found.push(Finding::new(
            Code::NotAdmitted,
            format!(
                "{refused} message(s) passed untranslated in the last minute because they use a name that the list of aliases does not have (endpoint {}): the node drops them; add the name to `aliases`, or set aliases = \"any\"",
                listed.join(", ")
            ),
        ));
    }
    found
}

/// What is done with connections whose alias is too long, and what to do, where there is no relay.
pub const TOO_LONG: &str = "its connections are left alone, and the node drops their messages; set enabled = true in [relay], or give the node a canonical name that is as long";

/// Aliases that a status names.
const TOO_LONG_SHOWN: usize = 3;

/// Connections that a relay does not take.
pub fn of_relays(config: &Config, recent: &Counters, relays: &Relays) -> Vec<Finding> {
    let mut found: Vec<_> = Finding::all(Code::RelayFailed, relays.problems()).collect();
    let unfit = count(recent, Counter::NoFit);
    if unfit > 0 && !config.relays() {
        let sentence = format!(
            "{unfit} connection(s) in the last minute use an alias longer than the canonical name (`truename aliases` shows them): {TOO_LONG}"
        );
        found.push(Finding::new(Code::AliasTooLong, sentence));
    }
    let totals = relays.totals();
    if config.relays() && totals.open >= totals.limit {
        let sentence = format!(
            "all {} connections of the relay are in use: more are reset; raise max_connections of [relay]",
            totals.limit
        );
        found.push(Finding::new(Code::RelayFull, sentence));
    }
    found
}

/// The aliases that are too long and not relayed.
pub fn too_long(aliases: &BTreeMap<AliasKey, AliasStat>, relays: &Relays) -> Vec<String> {
    let unfit = aliases
        .iter()
        .filter(|(key, stat)| stat.no_fit != 0 && !relays.serves(key.endpoint));
    let names: BTreeSet<_> = unfit.map(|(_, stat)| stat.alias.to_string()).collect();
    let names = names.into_iter().take(TOO_LONG_SHOWN);
    names
        .map(|alias| format!("the alias {alias} is longer than the canonical name: {TOO_LONG}"))
        .collect()
}

/// Connections that were refused lately, and what services lack.
pub fn of_services(
    config: &Config,
    facts: &Facts,
    recent: &Counters,
    used: usize,
    capacity: u32,
) -> Vec<Finding> {
    let mut found = Vec::new();
    if used >= capacity as usize {
        found.push(Finding::new(
            Code::ConnectionTableFull,
            format!(
                "the connection table is full ({used} of {capacity}); raise max_flows, and restart after `truename detach`, or set when_full = \"evict\""
            ),
        ));
    }
    for (counter, code, what) in [
        (
            Counter::NatTableFull,
            Code::ConnectionTableFull,
            "packet(s) of new connections were dropped in the last minute because the connection table was full; raise max_flows, and restart after `truename detach`",
        ),
        (
            Counter::NatPortsExhausted,
            Code::PortsExhausted,
            "packet(s) of new connections were dropped in the last minute because no source port was free; widen snat_ports",
        ),
    ] {
        let value = count(recent, counter);
        if value > 0 {
            found.push(Finding::new(code, format!("{value} {what}")));
        }
    }
    let unencrypted = plan::unencrypted(config, facts);
    found.extend(Finding::all(Code::Unencrypted, unencrypted));
    for name in sysctl::missing_forwarding(facts.elsewhere(config)) {
        let name = sysctl::dotted(name);
        found.push(Finding::new(
            Code::ForwardingOff,
            format!(
                "{name} is off: other hosts' connections to targets on other hosts are dropped; sysctl -w {name}=1"
            ),
        ));
    }
    found
}

/// How much was counted.
pub fn count(counters: &Counters, wanted: Counter) -> u64 {
    let mut found = counters.iter().filter(|(counter, _)| *counter == wanted);
    found.next().map_or(0, |(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_keeps_its_first_time_while_it_lasts_and_is_told_when_it_is_over() {
        let mut history = History::default();
        let times: Vec<Timestamp> = (1..=4)
            .map(|n| serde_json::from_str(&format!("\"2026-01-01T00:00:0{n}Z\"")).unwrap())
            .collect();
        let full = |count: u32| {
            Finding::new(
                Code::PortsExhausted,
                format!("{count} packet(s) were refused"),
            )
        };
        let off = Finding::new(Code::ForwardingOff, "net.ipv4.ip_forward is off");
        history.note(&[full(1)], times[0]);
        let rows = history.note(&[off.clone(), full(7)], times[1]);
        let [first, second] = &rows[..] else {
            panic!("{rows:?}")
        };
        assert_eq!((first.first_seen, first.last_seen), (times[1], times[1]));
        assert_eq!((second.first_seen, second.last_seen), (times[0], times[1]));
        assert_eq!(second.problem, "7 packet(s) were refused");
        assert!(history.past().is_empty());
        history.note(&[off], times[2]);
        assert_eq!(history.past(), std::slice::from_ref(second));
        history.note(&[], times[3]);
        assert_eq!(history.past()[0].code, Code::ForwardingOff);
        for number in 0..40 {
            let other = Finding::new(Code::LeftOut, format!("x{number}"));
            history.note(&[other], times[3]);
        }
        assert_eq!(history.past().len(), PAST_MAX);
    }
}
