//! The effective configuration as a file that says the same.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Aliases, Config, NamesPlane, Origin, TIMEOUT_KEYS, seconds, topology::Topology};
use crate::name::Authority;

#[derive(Serialize)]
struct Shown<'a> {
    agent: Agent,
    datapath: Datapath,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoint: Vec<Endpoint<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service: Vec<Service<'a>>,
    #[serde(skip_serializing_if = "Topology::is_default")]
    topology: &'a Topology,
    relay: Relay,
    #[serde(skip_serializing_if = "Option::is_none")]
    frontend: Option<Frontend>,
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<&'a NamesPlane>,
}

#[derive(Serialize)]
struct Relay {
    enabled: bool,
    max_connections: u32,
    memory: u32,
    handshake_timeout: String,
    hold: String,
    on_change: &'static str,
}

#[derive(Serialize)]
struct Frontend {
    addresses: Vec<String>,
}

/// What follows from a cluster, one of it.
#[derive(Serialize)]
struct Derived<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoint: Vec<Endpoint<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service: Vec<Service<'a>>,
}

#[derive(Serialize)]
struct Agent {
    control_socket: String,
    bpffs: String,
    metrics: String,
    log: String,
}

#[derive(Serialize)]
struct Datapath {
    interfaces: Vec<String>,
    xdp: &'static str,
    max_flows: u32,
    max_rpc_flows: u32,
    snat_ports: String,
    netfilter: &'static str,
    when_full: &'static str,
    timeouts: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    name: &'a str,
    protocol: &'a str,
    listen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    canonical: Option<&'a str>,
    aliases: AliasNames<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AliasNames<'a> {
    Any(&'a str),
    Listed(Vec<&'a str>),
}

#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    listen: String,
    protocol: &'static str,
    target: Targets,
    snat: &'static str,
    on_change: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Targets {
    One(String),
    Several(Vec<Target>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Target {
    Address(String),
    Weighted { address: String, weight: u32 },
}

impl<'a> Shown<'a> {
    fn new(config: &'a Config) -> Self {
        let interfaces = &config.datapath.interfaces;
        Self {
            agent: Agent {
                control_socket: config.agent.control_socket.display().to_string(),
                bpffs: config.agent.bpffs.display().to_string(),
                metrics: config
                    .agent
                    .metrics
                    .map(|address| address.to_string())
                    .unwrap_or_default(),
                log: config.agent.log.to_string().to_lowercase(),
            },
            datapath: Datapath {
                interfaces: interfaces.iter().map(|i| i.selector.to_string()).collect(),
                xdp: config.datapath.xdp.name(),
                max_flows: config.datapath.max_flows,
                max_rpc_flows: config.datapath.max_rpc_flows,
                snat_ports: config.datapath.snat_ports.to_string(),
                netfilter: config.datapath.netfilter.name(),
                when_full: config.datapath.when_full.name(),
                timeouts: TIMEOUT_KEYS
                    .into_iter()
                    .zip(config.datapath.timeouts.0.map(seconds))
                    .collect(),
            },
            endpoint: config.endpoints.iter().map(Endpoint::new).collect(),
            service: config.services.iter().map(Service::new).collect(),
            topology: &config.topology,
            relay: Relay {
                enabled: config.relays(),
                max_connections: config.relay.max_connections,
                memory: config.relay.memory,
                handshake_timeout: seconds(config.relay.handshake_timeout),
                hold: seconds(config.relay.hold.into()),
                on_change: config.relay.on_change.name(),
            },
            frontend: (!config.frontend.addresses.is_empty()).then(|| Frontend {
                addresses: config.frontend.texts(),
            }),
            names: (config.names != NamesPlane::default()).then_some(&config.names),
        }
    }
}

impl<'a> Endpoint<'a> {
    fn new(endpoint: &'a super::Endpoint) -> Self {
        Self {
            name: &endpoint.name,
            protocol: endpoint.protocol.name(),
            listen: endpoint.listen.to_string(),
            canonical: endpoint.canonical.as_ref().map(Authority::as_str),
            aliases: match &endpoint.aliases {
                Aliases::Any => AliasNames::Any("any"),
                Aliases::Listed(list) => {
                    AliasNames::Listed(list.iter().map(Authority::as_str).collect())
                }
            },
        }
    }
}

impl<'a> Service<'a> {
    fn new(service: &'a super::Service) -> Self {
        Self {
            name: &service.name,
            listen: service.listen.to_string(),
            protocol: service.protocol.name(),
            target: match &service.targets[..] {
                [only] if only.weight == 1 => Targets::One(only.place.to_string()),
                _ => Targets::Several(targets(service)),
            },
            snat: service.snat.name(),
            on_change: service.on_change.name(),
        }
    }
}

fn targets(service: &super::Service) -> Vec<Target> {
    let target = |target: &super::Target| match target.weight {
        1 => Target::Address(target.place.to_string()),
        weight => Target::Weighted {
            address: target.place.to_string(),
            weight,
        },
    };
    service.targets.iter().map(target).collect()
}

/// The configuration as TOML. What follows from a cluster comes last, each with its source in a comment.
///
/// # Errors
/// Never for a validated configuration.
pub fn to_toml(config: &Config) -> Result<String, toml::ser::Error> {
    let written = config.written();
    let mut text = toml::to_string(&Shown::new(&written))?;
    let mut add = |origin: &Origin, derived: Derived<'_>| {
        if let Origin::Cluster(source) = origin {
            text += &format!("\n# from {source}\n{}", toml::to_string(&derived)?);
        }
        Ok::<_, toml::ser::Error>(())
    };
    for endpoint in &config.endpoints {
        let derived = Derived {
            endpoint: vec![Endpoint::new(endpoint)],
            service: Vec::new(),
        };
        add(&endpoint.origin, derived)?;
    }
    for service in &config.services {
        let derived = Derived {
            endpoint: Vec::new(),
            service: vec![Service::new(service)],
        };
        add(&service.origin, derived)?;
    }
    for sentence in &config.not_derived {
        text += &format!("\n# {sentence}\n");
    }
    Ok(text)
}

impl Serialize for Config {
    /// The same fields as the file.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shown::new(self).serialize(serializer)
    }
}
