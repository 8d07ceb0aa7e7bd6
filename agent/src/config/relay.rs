//! `[relay]`.

use super::{ConfigError, reader::Section};

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["enabled", "max_connections", "memory"];
/// Bounds of `max_connections`.
const CONNECTIONS: (u32, u32) = (1, 8192);
/// Bounds of `memory`: less has no room for a frame of Flink.
const MEMORY: (u32, u32) = (16, 65536);

/// Whether connections whose alias cannot be translated in place are relayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Whether they are.
    pub enabled: bool,
    /// Connections at a time; more are reset.
    pub max_connections: u32,
    /// MiB of frames that are kept back until they are complete; a connection that needs more is reset.
    pub memory: u32,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            enabled: false,
            max_connections: 1024,
            memory: 256,
        }
    }
}

pub(super) fn read(section: &Section<'_>) -> Result<Relay, ConfigError> {
    let mut relay = Relay::default();
    if let Some(entry) = section.get("enabled") {
        relay.enabled = entry.boolean()?;
    }
    if let Some(entry) = section.get("max_connections") {
        relay.max_connections = entry.number(CONNECTIONS.0, CONNECTIONS.1)?;
    }
    if let Some(entry) = section.get("memory") {
        relay.memory = entry.number(MEMORY.0, MEMORY.1)?;
    }
    Ok(relay)
}
