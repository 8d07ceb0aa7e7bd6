//! Where the configuration comes from, so that it can be read again.

use std::path::{Path, PathBuf};

use super::{Config, ConfigError, DEFAULT_FILE, File, Flags, Timeouts};

/// What a command line says about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The named file; without one the default file counts, if it exists.
    pub file: Option<PathBuf>,
    /// The flags that go over the file.
    pub flags: Flags,
}

impl Sources {
    /// Reads the configuration as it is now. `timeouts` are this host's, for what the file does not say.
    ///
    /// # Errors
    /// When the file cannot be read, or says something invalid.
    pub fn read(&self, timeouts: Timeouts) -> Result<Config, ConfigError> {
        let file = File::load(self.file.as_deref(), timeouts)?;
        Config::new(file, self.flags.clone())
    }

    /// The file, which need not be there.
    pub fn path(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE))
    }
}

impl Config {
    /// That a running agent can go on with another configuration in place of this one.
    ///
    /// # Errors
    /// Names the first value that only a new agent can take on.
    pub fn check_followed_by(&self, next: &Self) -> Result<(), ConfigError> {
        const RESTART: &str = "restart it";
        const DETACH: &str = "restart it after `truename detach`, which ends what is translated now; until then the table keeps its size";
        let path = |path: &Path| path.display().to_string();
        for (key, before, after, remedy) in [
            (
                "control_socket",
                path(&self.agent.control_socket),
                path(&next.agent.control_socket),
                RESTART,
            ),
            (
                "bpffs",
                path(&self.agent.bpffs),
                path(&next.agent.bpffs),
                RESTART,
            ),
            (
                "max_flows",
                self.datapath.max_flows.to_string(),
                next.datapath.max_flows.to_string(),
                DETACH,
            ),
            (
                "max_rpc_flows",
                self.datapath.max_rpc_flows.to_string(),
                next.datapath.max_rpc_flows.to_string(),
                DETACH,
            ),
        ] {
            if before != after {
                let what = format!("{key} ({before} to {after})");
                return Err(ConfigError::Fixed { what, remedy });
            }
        }
        next.check_runnable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fixed_needs_a_restart() {
        let read = |text| {
            let file = File::parse(Path::new("t"), text).unwrap();
            let flag = "pekko=10.0.0.1:6123".parse().unwrap();
            let endpoints = vec![flag];
            Config::new(
                file,
                Flags {
                    endpoints,
                    ..Flags::default()
                },
            )
            .unwrap()
        };
        let before = read("");
        for (text, key) in [
            ("[agent]\ncontrol_socket = \"/x\"", "control_socket"),
            ("[agent]\nbpffs = \"/sys/fs/bpf/x\"", "bpffs"),
            ("[datapath]\nmax_flows = 16", "max_flows"),
            ("[datapath]\nmax_rpc_flows = 16", "max_rpc_flows"),
        ] {
            let error = before.check_followed_by(&read(text)).unwrap_err();
            let error = error.to_string();
            let remedy = if key.starts_with("max") {
                "truename detach"
            } else {
                "restart it"
            };
            assert!(error.contains(key) && error.contains(remedy), "{error}");
        }
        let free = "[agent]\nlog = \"debug\"\n[datapath]\ninterfaces = [\"lo\"]\nxdp = \"off\"\n\
                    [topology]\nsource = \"file\"\npath = \"/etc/t.toml\"";
        assert!(before.check_followed_by(&read(free)).is_ok());
        let nothing = Config::new(File::default(), Flags::default()).unwrap();
        assert!(before.check_followed_by(&nothing).is_err());
    }
}
