//! Replaces names and addresses by others: the same one by the same one, so that it can still be seen who talks to whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde_json::Value;

/// Fields whose values are names, or have them.
const NAMES: [&str; 10] = [
    "alias",
    "announced",
    "canonical",
    "system",
    "name",
    "service",
    "endpoint",
    "role",
    "aliases",
    "hosts",
];
/// Words that stand in such fields and tell nothing.
const WORDS: [&str; 12] = [
    "any", "flink", "leader", "rest", "rpc", "workers", "worker", "good", "failing", "hanging",
    "degraded", "starting",
];

/// Replaces them everywhere in a document.
pub fn redact(document: &mut Value) {
    let mut names = BTreeSet::new();
    find_names(document, None, &mut names);
    let mut known = Known {
        names,
        ..Known::default()
    };
    known.replace(document);
}

fn find_names(value: &Value, field: Option<&str>, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, value)| find_names(value, Some(name), names)),
        Value::Array(values) => values
            .iter()
            .for_each(|value| find_names(value, field, names)),
        Value::String(text) if field.is_some_and(|field| NAMES.contains(&field)) => {
            for token in tokens(text) {
                let host = token.rsplit_once(':').map_or(token, |(host, _)| host);
                let is_name = host.bytes().any(|byte| byte.is_ascii_alphabetic())
                    && !WORDS.contains(&host)
                    && address(token).is_none();
                if is_name {
                    names.insert(host.to_owned());
                }
            }
        }
        _ => {}
    }
}

#[derive(Default)]
struct Known {
    names: BTreeSet<String>,
    /// What stands for each.
    replaced: BTreeMap<String, String>,
}

impl Known {
    fn replace(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.values_mut().for_each(|value| self.replace(value)),
            Value::Array(values) => values.iter_mut().for_each(|value| self.replace(value)),
            Value::String(text) => *text = self.text(text),
            _ => {}
        }
    }

    fn text(&mut self, text: &str) -> String {
        let mut rest = text;
        let mut new = String::new();
        for token in tokens(text) {
            // They are in this order.
            if let Some((before, behind)) = rest.split_once(token) {
                new.push_str(before);
                new.push_str(&self.token(token));
                rest = behind;
            }
        }
        new + rest
    }

    fn token(&mut self, token: &str) -> String {
        if let Some((address, port)) = address(token) {
            if address.is_loopback() || address.is_unspecified() {
                return token.to_owned();
            }
            let new = self.other("address", &address.to_string());
            return port.map_or_else(|| new.clone(), |port| format!("{new}:{port}"));
        }
        let (host, port) = match token.rsplit_once(':') {
            Some((host, port)) => (host, format!(":{port}")),
            None => (token, String::new()),
        };
        if self.names.contains(host) {
            return self.other("name", host) + &port;
        }
        token.to_owned()
    }

    fn other(&mut self, kind: &str, known: &str) -> String {
        let count = self.replaced.len() + 1;
        let new = self.replaced.entry(known.to_owned());
        new.or_insert_with(|| format!("{kind}-{count}")).clone()
    }
}

/// An address and its port, if it has one.
fn address(token: &str) -> Option<(IpAddr, Option<u16>)> {
    let bare = token.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Some((address, None));
    }
    let at: SocketAddr = token.parse().ok()?;
    Some((at.ip(), Some(at.port())))
}

/// The parts of a text that may be a name or an address.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let is_outside = |c: char| !(c.is_ascii_alphanumeric() || ".:_-[]".contains(c));
    text.split(is_outside)
        .map(|token| token.trim_matches(|c| matches!(c, '.' | ':' | '-')))
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_one_becomes_the_same_one_wherever_it_stands() {
        let mut document = serde_json::json!({
            "peers": [{"announced": "taskmanager:6122", "client": "10.0.0.3", "alias": "jm.example.org:6123"}],
            "flows": [{"client": "10.0.0.3:4711", "via": "[fd00::1]:80", "state": "established"}],
            "status": {"captured": {"hosts": ["jm-node-1"]}},
            "file": "listen = \"10.0.0.3:6123\"\ncanonical = \"taskmanager:6122\" # pekko.tcp://flink@taskmanager:6122/user",
            "problems": ["the target 10.0.0.9:80 is silent; 12 of 127.0.0.1:9464."],
        });
        redact(&mut document);
        let text = document.to_string();
        for gone in [
            "taskmanager",
            "jm-node-1",
            "10.0.0.3",
            "10.0.0.9",
            "fd00",
            "example",
        ] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        let client = document["peers"][0]["client"].as_str().unwrap();
        assert_eq!(document["flows"][0]["client"], format!("{client}:4711"));
        let name = document["peers"][0]["announced"].as_str().unwrap();
        let file = document["file"].as_str().unwrap();
        assert!(file.contains(&format!("canonical = \"{name}\"")), "{file}");
        assert!(file.contains(&format!("flink@{name}/user")), "{file}");
        assert!(text.contains("127.0.0.1:9464.") && text.contains("established"));
        let once = document.clone();
        redact(&mut document);
        assert_eq!(document["flows"], once["flows"]);
    }
}
