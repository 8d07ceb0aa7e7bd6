//! What the command line adds to the configuration.

use std::{path::PathBuf, str::FromStr};

use super::{Aliases, Authority, Endpoint, File, Interface, Listen, Origin, Protocol, Selector};

/// Flags that change the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Replace `interfaces`.
    pub interfaces: Vec<Selector>,
    /// Are added to `[[endpoint]]`.
    pub endpoints: Vec<EndpointFlag>,
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
            listen: listen.parse().map_err(|e| format!("\"{listen}\": {e}"))?,
            canonical: parts
                .next()
                .map(|name| {
                    name.parse()
                        .map_err(|e| format!("canonical \"{name}\": {e}"))
                })
                .transpose()?,
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
        for flag in self.endpoints {
            let name = unused_name(&file.endpoints, &flag);
            file.endpoints.push(Endpoint {
                name,
                protocol: flag.protocol,
                listen: flag.listen,
                canonical: flag.canonical,
                aliases: Aliases::Any,
                origin: Origin::Flag(format!("--endpoint {}", flag.text)),
            });
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

/// `pekko-6123`, or `pekko-6123-2` if that is taken.
fn unused_name(taken: &[Endpoint], flag: &EndpointFlag) -> String {
    let base = format!("{}-{}", flag.protocol, flag.listen.port);
    let mut name = base.clone();
    let mut number = 1;
    while taken.iter().any(|endpoint| endpoint.name == name) {
        number += 1;
        name = format!("{base}-{number}");
    }
    name
}
