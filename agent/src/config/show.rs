//! The effective configuration as a file that says the same.

use serde::Serialize;

use super::{Aliases, Config};

#[derive(Serialize)]
struct Shown<'a> {
    agent: Agent,
    datapath: Datapath,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoint: Vec<Endpoint<'a>>,
}

#[derive(Serialize)]
struct Agent {
    control_socket: String,
    bpffs: String,
    log: String,
}

#[derive(Serialize)]
struct Datapath {
    interfaces: Vec<String>,
    max_rpc_flows: u32,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    name: &'a str,
    protocol: &'a str,
    listen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    canonical: Option<&'a str>,
    aliases: Names<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Names<'a> {
    Any(&'a str),
    Listed(Vec<&'a str>),
}

impl<'a> Shown<'a> {
    fn new(config: &'a Config) -> Self {
        let interfaces = &config.datapath.interfaces;
        Self {
            agent: Agent {
                control_socket: config.agent.control_socket.display().to_string(),
                bpffs: config.agent.bpffs.display().to_string(),
                log: config.agent.log.to_string().to_lowercase(),
            },
            datapath: Datapath {
                interfaces: interfaces.iter().map(|i| i.selector.to_string()).collect(),
                max_rpc_flows: config.datapath.max_rpc_flows,
            },
            endpoint: config.endpoints.iter().map(Endpoint::new).collect(),
        }
    }
}

impl<'a> Endpoint<'a> {
    fn new(endpoint: &'a super::Endpoint) -> Self {
        Self {
            name: &endpoint.name,
            protocol: endpoint.protocol.name(),
            listen: endpoint.listen.to_string(),
            canonical: endpoint.canonical.as_ref().map(super::Authority::as_str),
            aliases: match &endpoint.aliases {
                Aliases::Any => Names::Any("any"),
                Aliases::Listed(list) => {
                    Names::Listed(list.iter().map(super::Authority::as_str).collect())
                }
            },
        }
    }
}

/// The configuration as TOML.
///
/// # Errors
/// Never for a validated configuration.
pub fn to_toml(config: &Config) -> Result<String, toml::ser::Error> {
    toml::to_string(&Shown::new(config))
}

impl Serialize for Config {
    /// The same fields as the file.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shown::new(self).serialize(serializer)
    }
}
