//! Canonical names as lines of a hosts file. Pure.
//!
//! Whatever a row says, it gets no further than its line: names and addresses are parsed, and comments are
//! cleaned and cut. No line has 512 bytes, where the resolver of musl begins another one.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use crate::{api::NameRow, name::Authority};

/// How many of the roles of a host are told.
const ROLES_TOLD: usize = 4;
/// How long they may be, in bytes,
const ROLES_MAX: usize = 80;
/// and a reason.
const NOTE_MAX: usize = 140;

/// What is known of a host.
#[derive(Default)]
struct Host {
    addresses: Vec<IpAddr>,
    /// Whose its names are, each once.
    what: Vec<String>,
    /// Whether there are more than can be told.
    more: bool,
    /// Why it has no address.
    note: Option<String>,
}

impl Host {
    fn add(&mut self, row: &NameRow) {
        for address in &row.addresses {
            if !self.addresses.contains(address) {
                self.addresses.push(*address);
            }
        }
        for what in &row.what {
            if self.what.contains(what) {
                continue;
            }
            if self.what.len() < ROLES_TOLD {
                self.what.push(what.clone());
            } else {
                self.more = true;
            }
        }
        if self.note.is_none() {
            self.note.clone_from(&row.note);
        }
    }

    fn roles(&self) -> String {
        let more = if self.more { ", ..." } else { "" };
        comment(&(self.what.join(", ") + more), ROLES_MAX)
    }
}

/// Lines for `/etc/hosts`: every host once for each of its addresses, and those without one as comments.
pub fn file(rows: &[NameRow]) -> String {
    lines(rows, |_| true).fold(String::new(), |text, line| text + &line + "\n")
}

/// A block for a Corefile. Other hosts are to use it, so that addresses that every host has are comments.
pub fn coredns(rows: &[NameRow]) -> String {
    let mut text = "hosts {\n".to_owned();
    for line in lines(rows, |address| !address.is_loopback()) {
        // To write to a string cannot fail.
        let _ = writeln!(text, "    {line}");
    }
    text + "    fallthrough\n}\n"
}

/// The lines, in the order of the rows. Addresses that are not `meant` are comments.
fn lines(rows: &[NameRow], meant: impl Fn(IpAddr) -> bool) -> impl Iterator<Item = String> {
    let mut order: Vec<String> = Vec::new();
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    for row in rows {
        let Some(name) = named(&row.name) else {
            continue;
        };
        let host = hosts.entry(name.clone()).or_insert_with(|| {
            order.push(name);
            Host::default()
        });
        host.add(row);
    }
    order.into_iter().flat_map(move |name| {
        let host = hosts.remove(&name).unwrap_or_default();
        let what = host.roles();
        if host.addresses.is_empty() {
            let note = comment(
                host.note.as_deref().unwrap_or("no address is known"),
                NOTE_MAX,
            );
            return vec![format!("# {name} ({what}): {note}")];
        }
        let line = |address: &IpAddr| {
            let mark = if meant(*address) { "" } else { "# " };
            format!("{mark}{address} {name}  # {what}")
        };
        host.addresses.iter().map(line).collect()
    })
}

/// A text without anything that could end a comment, and not longer than `max` bytes.
fn comment(text: &str, max: usize) -> String {
    let clean = |character| match character {
        ' '..='~' => character,
        _ => '?',
    };
    text.chars().map(clean).take(max).collect()
}

/// The host of a name, unless it is written as an address.
fn named(name: &str) -> Option<String> {
    let name: Authority = name.parse().ok()?;
    let host = name.host();
    let is_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
    (!is_address).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::How;

    fn row(name: &str, what: &[&str], addresses: &[&str]) -> NameRow {
        NameRow {
            name: name.to_owned(),
            what: what.iter().map(|what| (*what).to_owned()).collect(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            how: (!addresses.is_empty()).then_some(How::Lookup),
            source: None,
            last_seen: None,
            conflicts: Vec::new(),
            captured: false,
            note: addresses.is_empty().then(|| "no such host".to_owned()),
        }
    }

    fn rows() -> Vec<NameRow> {
        vec![
            row(
                "jobmanager:6123",
                &["leader rpc", "endpoint jm"],
                &["127.0.1.1", "10.0.0.1"],
            ),
            row(
                "jobmanager:8081",
                &["leader rest"],
                &["127.0.1.1", "10.0.0.1"],
            ),
            row("10.0.0.5:6122", &["worker tm-0"], &["10.0.0.5"]),
            row("[fd00::5]:6122", &["worker tm-1"], &["fd00::5"]),
            row(
                "taskmanager:6122",
                &["worker tm-2"],
                &["10.0.0.3", "fd00::3"],
            ),
            row("taskmanager:6121", &["worker tm-3"], &[]),
            row("gone:6122", &["worker tm-4"], &[]),
        ]
    }

    #[test]
    fn every_host_has_a_line_for_each_address() {
        assert_eq!(
            file(&rows()),
            "127.0.1.1 jobmanager  # leader rpc, endpoint jm, leader rest\n\
             10.0.0.1 jobmanager  # leader rpc, endpoint jm, leader rest\n\
             10.0.0.3 taskmanager  # worker tm-2, worker tm-3\n\
             fd00::3 taskmanager  # worker tm-2, worker tm-3\n\
             # gone (worker tm-4): no such host\n"
        );
        assert_eq!(file(&[]), "");
    }

    #[test]
    fn a_corefile_has_no_address_that_every_host_has() {
        assert_eq!(
            coredns(&rows()[..1]),
            "hosts {\n\
             \x20   # 127.0.1.1 jobmanager  # leader rpc, endpoint jm\n\
             \x20   10.0.0.1 jobmanager  # leader rpc, endpoint jm\n\
             \x20   fallthrough\n}\n"
        );
    }

    #[test]
    fn nothing_makes_a_line_of_its_own() {
        let long = format!("{}:65535", ["a"; 4].map(|c| c.repeat(61)).join("."));
        let what: Vec<_> = (0..9)
            .map(|n| format!("worker {n}{}", "x".repeat(255)))
            .collect();
        let what: Vec<_> = what.iter().map(String::as_str).collect();
        let hostile = "worker \n6.6.6.6 bank\r\n\u{2028}\u{10ffff}";
        let mut gone = row("gone:1", &[hostile], &[]);
        gone.note = Some("\n6.6.6.6 bank\n".repeat(99));
        let rows = [
            row("a\n6.6.6.6 bank:1", &["peer"], &["10.0.0.1"]),
            row("a b:1", &["peer"], &["10.0.0.1"]),
            row("#:1", &["peer"], &["10.0.0.1"]),
            row(&long, &what, &["fd00:1111:2222:3333:4444:5555:6666:7777"]),
            row(&long.replace('a', "b"), &what, &[]),
            row("tm:1", &[hostile], &["10.0.0.1"]),
            gone,
        ];
        for text in [file(&rows), coredns(&rows)] {
            for line in text.lines().map(str::trim_start) {
                assert!(line.len() < 500, "{line}");
                assert!(!line.starts_with("6.6"), "{line}");
                assert!(
                    line.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                    "{line}"
                );
            }
        }
        assert_eq!(file(&rows).lines().count(), 4);
    }
}
