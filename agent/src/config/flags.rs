//! What the command line adds to the configuration.

use std::{path::PathBuf, str::FromStr};

use super::{
    Aliases, Cluster, Endpoint, File, Interface, Listen, OnChange, Origin, Place, Protocol,
    Selector, Service, Snat, Target, TargetError, Transport, without_password,
};
use crate::name::Authority;

/// Flags that change the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Replace `interfaces`.
    pub interfaces: Vec<Selector>,
    /// Are added to `[[endpoint]]`.
    pub endpoints: Vec<EndpointFlag>,
    /// Are added to `[[service]]`.
    pub services: Vec<ServiceFlag>,
    /// Sets `enabled` of `[relay]`.
    pub relay: bool,
    /// Are added to `cluster` of `[topology]`.
    pub clusters: Vec<Cluster>,
    /// Replaces `control_socket`.
    pub control_socket: Option<PathBuf>,
    /// Replaces `bpffs`.
    pub bpffs: Option<PathBuf>,
}

/// `--endpoint PROTOCOL=ADDRESS:PORT[=CANONICAL]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFlag {
    protocol: Protocol,
    listen: Listen,
    canonical: Option<Authority>,
    text: String,
}

impl FromStr for EndpointFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '=');
        let (Some(protocol), Some(listen)) = (parts.next(), parts.next()) else {
            return Err("write PROTOCOL=ADDRESS:PORT, e.g. pekko=10.0.0.1:6123".to_owned());
        };
        Ok(Self {
            protocol: protocol
                .parse()
                .map_err(|e: String| format!("\"{protocol}\": {e}"))?,
            listen: listen
                .parse()
                .map_err(|e| format!("\"{}\": {e}", without_password(listen)))?,
            canonical: parts
                .next()
                .map(|name| {
                    name.parse()
                        .map_err(|e| format!("canonical \"{}\": {e}", without_password(name)))
                })
                .transpose()?,
            text: text.to_owned(),
        })
    }
}

/// `--service PROTOCOL=ADDRESS:PORT=TARGET[,TARGET…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFlag {
    protocol: Transport,
    listen: Listen,
    targets: Vec<Place>,
    text: String,
}

impl FromStr for ServiceFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [protocol, listen, targets] = text.split('=').collect::<Vec<_>>()[..] else {
            return Err(
                "write PROTOCOL=ADDRESS:PORT=TARGET, e.g. tcp=10.0.0.10:8081=10.0.0.1:8081"
                    .to_owned(),
            );
        };
        Ok(Self {
            protocol: protocol
                .parse()
                .map_err(|e| format!("\"{protocol}\": {e}"))?,
            listen: listen
                .parse()
                .map_err(|e| format!("\"{}\": {e}", without_password(listen)))?,
            targets: targets
                .split(',')
                .map(|target| {
                    target.parse().map_err(|e: TargetError| {
                        format!("target \"{}\": {e}", without_password(target))
                    })
                })
                .collect::<Result<_, _>>()?,
            text: text.to_owned(),
        })
    }
}

impl Flags {
    /// The file with the flags applied.
    pub(super) fn apply(self, mut file: File) -> File {
        if !self.interfaces.is_empty() {
            file.datapath.interfaces = self
                .interfaces
                .into_iter()
                .map(|selector| Interface {
                    origin: Origin::Flag(format!("--interface {selector}")),
                    selector,
                })
                .collect();
        }
        if self.relay {
            file.relay.enabled = Some(true);
        }
        for flag in self.endpoints {
            let name = unused_name(
                format!("{}-{}", flag.protocol, flag.listen.port),
                file.endpoints.iter().map(|endpoint| &*endpoint.name),
            );
            file.endpoints.push(Endpoint {
                name,
                protocol: flag.protocol,
                listen: flag.listen,
                canonical: flag.canonical,
                aliases: Aliases::Any,
                origin: Origin::Flag(format!("--endpoint {}", flag.text)),
            });
        }
        for flag in self.services {
            let name = unused_name(
                format!("{}-{}", flag.protocol, flag.listen.port),
                file.services.iter().map(|service| &*service.name),
            );
            let origin = Origin::Flag(format!("--service {}", flag.text));
            let target = |place| Target {
                place,
                weight: 1,
                origin: origin.clone(),
            };
            let targets: Vec<_> = flag.targets.into_iter().map(target).collect();
            file.services.push(Service {
                name,
                protocol: flag.protocol,
                listen: flag.listen,
                on_change: OnChange::default_for(flag.protocol, &targets),
                targets,
                snat: Snat::Auto,
                origin,
            });
        }
        for cluster in self.clusters {
            if !file.topology.cluster.contains(&cluster) {
                file.topology.cluster.push(cluster);
            }
        }
        if let Some(path) = self.control_socket {
            file.agent.control_socket = path;
        }
        if let Some(path) = self.bpffs {
            file.agent.bpffs = path;
        }
        file
    }
}

/// `base`, or `base-2` if that is taken.
pub(super) fn unused_name<'a>(
    base: String,
    taken: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let mut name = base.clone();
    let mut number = 1;
    while taken.clone().any(|taken| taken == name) {
        number += 1;
        name = format!("{base}-{number}");
    }
    name
}
