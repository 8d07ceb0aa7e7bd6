//! `[relay]`.

use super::{ConfigError, OnChange, datapath::parse_seconds, reader::Section};

/// The keys of the section.
pub(super) const KEYS: &[&str] = &[
    "enabled",
    "max_connections",
    "memory",
    "handshake_timeout",
    "hold",
    "on_change",
];
/// Bounds of `max_connections`.
const CONNECTIONS: (u32, u32) = (1, 8192);
/// Bounds of `memory`: less has no room for a frame of Flink.
const MEMORY: (u32, u32) = (16, 65536);

/// Whether connections whose alias cannot be translated in place are relayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Whether they are; none: if the configuration names a cluster.
    pub enabled: Option<bool>,
    /// Connections at a time; more are reset.
    pub max_connections: u32,
    /// MiB of frames that are kept back until they are complete; a connection that needs more is reset.
    pub memory: u32,
    /// Seconds: a client that sends no whole frame in this time is reset.
    pub handshake_timeout: u32,
    /// Seconds that new connections wait for the next agent, from when no agent runs.
    pub hold: u8,
    /// What happens to relayed connections when their endpoint has a relay no longer.
    pub on_change: OnChange,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            enabled: None,
            max_connections: 1024,
            memory: 256,
            handshake_timeout: 60,
            hold: 10,
            on_change: OnChange::Drain,
        }
    }
}

pub(super) fn read(section: &Section<'_>) -> Result<Relay, ConfigError> {
    let mut relay = Relay::default();
    if let Some(entry) = section.get("enabled") {
        relay.enabled = Some(entry.boolean()?);
    }
    if let Some(entry) = section.get("max_connections") {
        relay.max_connections = entry.number(CONNECTIONS.0, CONNECTIONS.1)?;
    }
    if let Some(entry) = section.get("memory") {
        relay.memory = entry.number(MEMORY.0, MEMORY.1)?;
    }
    if let Some(entry) = section.get("handshake_timeout") {
        let text = entry.string()?;
        let beyond = "it must be a whole number of seconds, from 1s to 1h";
        relay.handshake_timeout =
            parse_seconds(text, 1..=3600, beyond).map_err(|reason| entry.bad(text, reason))?;
    }
    if let Some(entry) = section.get("hold") {
        let text = entry.string()?;
        let beyond = "it must be a whole number of seconds, from 0s to 1m";
        let hold = parse_seconds(text, 0..=60, beyond).map_err(|reason| entry.bad(text, reason))?;
        relay.hold = u8::try_from(hold).unwrap_or(u8::MAX);
    }
    if let Some(entry) = section.get("on_change") {
        relay.on_change = entry.parse()?;
    }
    Ok(relay)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Config, File, Flags},
        *,
    };

    #[test]
    fn a_cluster_is_relayed_unless_the_configuration_says_no() {
        let relays = |text: &str| {
            let file = File::parse("t.toml".as_ref(), text).unwrap();
            Config::new(file, Flags::default()).unwrap().relays()
        };
        let cluster = "[topology]\ncluster = [\"http://10.0.0.1:8081\"]\n";
        assert!(!relays("") && relays("[relay]\nenabled = true\n") && relays(cluster));
        assert!(!relays(&format!("{cluster}[relay]\nenabled = false\n")));
    }

    #[test]
    fn all_keys_are_read() {
        let text = "[relay]\nenabled = true\nmax_connections = 7\nmemory = 16\n\
             handshake_timeout = \"1m\"\nhold = \"0s\"\non_change = \"reset\"\n";
        let read = File::parse("t.toml".as_ref(), text).unwrap().relay;
        let expected = Relay {
            enabled: Some(true),
            max_connections: 7,
            memory: 16,
            handshake_timeout: 60,
            hold: 0,
            on_change: OnChange::Reset,
        };
        assert_eq!(read, expected);
        let beyond = File::parse("t.toml".as_ref(), "[relay]\nhold = \"61s\"\n").unwrap_err();
        assert_eq!(
            beyond.to_string(),
            "t.toml:2: hold \"61s\": it must be a whole number of seconds, from 0s to 1m"
        );
    }
}
