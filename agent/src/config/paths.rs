//! Where an agent is found, whatever else is wrong with its configuration.
//!
//! A mistake in the file does not disturb an agent that runs. Nor may it keep anybody from asking that agent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{Agent, DEFAULT_FILE};

/// The two paths of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The Unix socket of the control API.
    pub control_socket: PathBuf,
    /// Where programs, links and tables are pinned.
    pub bpffs: PathBuf,
    /// Why the file could not be read, if it could not.
    pub unread: Option<String>,
}

impl Paths {
    /// Those of the named file, or of the default one if it exists, as far as it can be read; else the defaults.
    pub fn find(file: Option<&Path>) -> Self {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => Self::read(&text),
            Err(error) => {
                let is_absent = file.is_none() && error.kind() == io::ErrorKind::NotFound;
                let why = format!("cannot read the configuration {}: {error}", path.display());
                Self {
                    unread: (!is_absent).then_some(why),
                    ..Self::read("")
                }
            }
        }
    }

    fn read(text: &str) -> Self {
        let (document, _mistakes) = DeTable::parse_recoverable(text);
        let section = document.get_ref().get("agent");
        let section = section.and_then(|section| section.get_ref().as_table());
        let path = |key: &str| {
            let value = section?.get(key)?.get_ref();
            let path = DeValue::as_str(value).map(PathBuf::from)?;
            path.is_absolute().then_some(path)
        };
        let default = Agent::default();
        Self {
            control_socket: path("control_socket").unwrap_or(default.control_socket),
            bpffs: path("bpffs").unwrap_or(default.bpffs),
            unread: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT_BPFFS, DEFAULT_SOCKET};

    #[test]
    fn finds_the_paths_in_spite_of_mistakes() {
        let agent = "[agent]\ncontrol_socket = \"/s\"\nbpffs = \"/b\"\n";
        for text in [
            agent.to_owned(),
            format!("{agent}unknown = 1\n"),
            format!("{agent}[[endpoint]]\nname = \"no listen\"\n"),
            format!("{agent}[datapath]\ninterfaces = [\"s0\"\n"),
            format!("{agent}this is no TOML\n"),
            format!("nor = this\n{agent}"),
        ] {
            let found = Paths::read(&text);
            assert_eq!(found.control_socket, Path::new("/s"), "{text}");
            assert_eq!(found.bpffs, Path::new("/b"), "{text}");
        }
        for text in [
            "",
            "[agent]\ncontrol_socket = 7\nbpffs = \"b\"",
            "agent = 3",
        ] {
            let found = Paths::read(text);
            assert_eq!(found.control_socket, Path::new(DEFAULT_SOCKET), "{text}");
            assert_eq!(found.bpffs, Path::new(DEFAULT_BPFFS), "{text}");
        }
    }

    #[test]
    fn a_named_file_that_cannot_be_read_is_told() {
        let why = Paths::find(Some(Path::new("/nowhere/t.toml")))
            .unread
            .unwrap();
        assert!(why.contains("/nowhere/t.toml: No such file"), "{why}");
    }
}
