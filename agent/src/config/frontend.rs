//! `[frontend]`: where the default services of a cluster listen.

use std::net::IpAddr;

use super::{
    ConfigError, Listen, Origin,
    reader::{Section, bad},
};

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["addresses"];

/// `[frontend]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// The addresses; `None` stands for all of this host's. Empty: there are no default services.
    pub addresses: Vec<Option<IpAddr>>,
    /// Where they are written.
    pub origin: Option<Origin>,
}

impl Frontend {
    /// The addresses as they are written.
    pub(super) fn texts(&self) -> Vec<String> {
        let text = |address: &Option<IpAddr>| {
            address.map_or_else(|| "*".to_owned(), |address| address.to_string())
        };
        self.addresses.iter().map(text).collect()
    }
}

/// Reads the section.
///
/// # Errors
/// When it says something invalid.
pub(super) fn read(section: &Section<'_>) -> Result<Frontend, ConfigError> {
    let Some(entry) = section.get("addresses") else {
        return Ok(Frontend::default());
    };
    let mut frontend = Frontend {
        addresses: Vec::new(),
        origin: Some(entry.origin.clone()),
    };
    for (text, origin) in entry.strings()? {
        let address = match text.as_str() {
            "*" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| {
                let reason =
                    "write an IP address of this host without a port, or * for all of them";
                bad(origin.clone(), "address", text, reason)
            })?),
        };
        // What nothing can listen on is refused as it is elsewhere.
        let listen = Listen { address, port: 1 };
        if let Err(error) = listen.to_string().parse::<Listen>() {
            return Err(bad(origin, "address", &text, &error.to_string()));
        }
        let overlaps =
            |known: &Option<IpAddr>| known.is_none() || address.is_none() || *known == address;
        if frontend.addresses.iter().any(overlaps) {
            let reason = "it is there already; leave one out";
            return Err(bad(origin, "address", &text, reason));
        }
        frontend.addresses.push(address);
    }
    Ok(frontend)
}
