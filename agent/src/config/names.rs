//! `[names]`: the DNS server for the canonical names of the cluster.

use std::net::SocketAddr;

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{
    ConfigError,
    reader::{Entry, Section, bad},
};

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["listen", "upstream", "capture"];
/// Addresses that can be named in one list.
const ADDRESSES_MAX: usize = 16;

/// `[names]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamesPlane {
    /// Where questions are answered; nowhere if it is empty.
    pub listen: Vec<SocketAddr>,
    /// Who answers other questions.
    pub upstream: NameServers,
    /// Whether questions of containers are answered whatever server they were sent to, if that is configured.
    pub capture: Option<bool>,
}

/// Name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NameServers {
    /// Those of this host.
    #[default]
    System,
    /// These.
    These(Vec<SocketAddr>),
}

/// One, or a list.
#[derive(Serialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    All(Vec<String>),
}

impl Serialize for NamesPlane {
    /// The same fields as the file.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts = |all: &[SocketAddr]| match all {
            [one] => Texts::One(one.to_string()),
            all => Texts::All(all.iter().map(ToString::to_string).collect()),
        };
        let mut shown = serializer.serialize_struct("names", KEYS.len())?;
        shown.serialize_field("listen", &texts(&self.listen))?;
        match &self.upstream {
            NameServers::System => shown.serialize_field("upstream", "system")?,
            NameServers::These(servers) => shown.serialize_field("upstream", &texts(servers))?,
        }
        if let Some(capture) = self.capture {
            shown.serialize_field("capture", &capture)?;
        }
        shown.end()
    }
}

/// Reads the section.
///
/// # Errors
/// When it says something invalid.
pub(super) fn read(section: &Section<'_>) -> Result<NamesPlane, ConfigError> {
    let listen = match section.get("listen") {
        Some(entry) => read_addresses(&entry, "\"127.0.0.54:53\"")?,
        None => Vec::new(),
    };
    let upstream = match section.get("upstream") {
        Some(entry) if !entry.is_list() && entry.string()? == "system" => NameServers::System,
        Some(entry) => {
            let servers = read_addresses(&entry, "\"system\" or [\"10.0.0.53:53\"]")?;
            if let Some(own) = servers.iter().find(|server| listen.contains(server)) {
                let reason = "it is an address of listen; name the servers that know other names";
                return Err(bad(entry.origin, "upstream", &own.to_string(), reason));
            }
            NameServers::These(servers)
        }
        None => NameServers::System,
    };
    let capture = match section.get("capture") {
        Some(entry) => Some(entry.boolean()?),
        None => None,
    };
    Ok(NamesPlane {
        listen,
        upstream,
        capture,
    })
}

/// One address, or a list; an empty text is none.
fn read_addresses(entry: &Entry<'_>, example: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    let texts = match entry.is_list() {
        true => entry.strings()?,
        false => vec![(entry.string()?.to_owned(), entry.origin.clone())],
    };
    let mut addresses = Vec::new();
    for (text, origin) in texts.into_iter().filter(|(text, _)| !text.is_empty()) {
        let parsed = text.parse::<SocketAddr>().ok();
        let Some(address) = parsed.filter(|address| address.port() != 0) else {
            let reason = format!("write address:port, e.g. {example}");
            return Err(bad(origin, "address", &text, &reason));
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.len() > ADDRESSES_MAX {
        let reason = format!("name at most {ADDRESSES_MAX}");
        return Err(entry.bad(&format!("{} addresses", addresses.len()), &reason));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, File, Flags, NameServers, to_toml};

    fn read(text: &str) -> Result<Config, String> {
        let file = File::parse(Path::new("t.toml"), text).map_err(|error| error.to_string())?;
        Config::new(file, Flags::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_and_shows_the_names_plane() {
        let text = "[names]\nlisten = \"127.0.0.54:53\"\nupstream = [\"10.0.0.53:53\", \"[fd00::53]:53\"]\n";
        let config = read(text).unwrap();
        assert_eq!(config.names.listen, ["127.0.0.54:53".parse().unwrap()]);
        let NameServers::These(servers) = &config.names.upstream else {
            panic!("{config:?}")
        };
        assert_eq!(servers.len(), 2);
        let shown = to_toml(&config).unwrap();
        assert_eq!(read(&shown).unwrap().names, config.names);
        let captures = |text| read(text).unwrap().captures_names();
        assert!(!captures("") && captures("[names]\ncapture = true\n"));
        let cluster = "[topology]\ncluster = [\"http://10.0.0.1:8081\"]\n";
        assert!(captures(cluster));
        assert!(!captures(&format!("{cluster}[names]\ncapture = false\n")));
        let off = read("[names]\nlisten = \"\"\n").unwrap();
        assert_eq!(off.names, super::NamesPlane::default());
        for (text, message) in [
            (
                "[names]\nlisten = \"127.0.0.54\"",
                "t.toml:2: address \"127.0.0.54\": write address:port, e.g. \"127.0.0.54:53\"",
            ),
            (
                "[names]\nupstream = \"dns:53\"",
                "t.toml:2: address \"dns:53\": write address:port, e.g. \"system\" or [\"10.0.0.53:53\"]",
            ),
            (
                "[names]\nlisten = \"10.0.0.1:53\"\nupstream = \"10.0.0.1:53\"",
                "t.toml:3: upstream \"10.0.0.1:53\": it is an address of listen; name the servers that know other names",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
    }
}
