//! Endpoints and services that follow from what is known of a cluster. Pure, but for the file that keeps what is known.
//!
//! What the configuration says by hand wins: a port that an endpoint or a service has already gets no other one.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Aliases, Config, Endpoint, Listen, MAX_ENDPOINTS, OnChange, Origin, Place, Protocol, Role,
    Service, Snat, Target, Transport, flags::unused_name,
};

/// Ports of RPC that endpoints are made for; more are left out.
const RPC_PORTS_MAX: usize = 256;

/// A port, and who tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPort {
    /// The port.
    pub port: u16,
    /// The source that tells it, for people.
    pub source: String,
}

/// What endpoints and services follow from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Derivation {
    /// The places where the cluster was asked.
    pub cluster: Vec<String>,
    /// Ports of RPC, and who tells each.
    pub rpc: BTreeMap<u16, String>,
    /// The REST server of the leader.
    pub rest: Option<KnownPort>,
    /// The RPC of the leader.
    pub leader: Option<KnownPort>,
    /// The blob server of the leader.
    pub blob: Option<KnownPort>,
    /// Where workers answer questions about their state.
    pub queryable_state: Option<KnownPort>,
}

impl Derivation {
    /// Where it is kept for the agent that comes next: beside the control socket.
    pub fn path(control_socket: &Path) -> PathBuf {
        control_socket.with_extension("cluster.json")
    }

    /// Reads what another agent knew of these places; nothing if it knew nothing, or of others.
    pub fn load(path: &Path, cluster: &[String]) -> Self {
        let read = std::fs::read(path).ok();
        let known = read.and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        let is_usable = |known: &Self| {
            let told = [
                &known.rest,
                &known.leader,
                &known.blob,
                &known.queryable_state,
            ];
            let mut ports = told.into_iter().flatten().map(|told| told.port);
            known.cluster == cluster && !known.rpc.contains_key(&0) && ports.all(|port| port != 0)
        };
        let nothing = || Self {
            cluster: cluster.to_vec(),
            ..Self::default()
        };
        known.filter(is_usable).unwrap_or_else(nothing)
    }

    /// Writes it for the agent that comes next.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, path: &Path) -> std::io::Result<()> {
        let next = path.with_extension("next");
        let text = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        std::fs::write(&next, text)?;
        std::fs::rename(next, path)
    }
}

impl Config {
    /// Without what follows from a cluster.
    pub fn written(&self) -> Self {
        let mut config = self.clone();
        config.endpoints.retain(|it| !it.origin.is_derived());
        config.services.retain(|it| !it.origin.is_derived());
        config.not_derived.clear();
        config
    }

    /// With what follows from a cluster. `is_taken` tells whether a program of this host listens on a port.
    pub fn derive(&self, known: &Derivation, is_taken: impl Fn(u16) -> bool) -> Self {
        let mut config = self.written();
        if config.topology.cluster.is_empty() {
            return config;
        }
        for (port, source) in known.rpc.iter().take(RPC_PORTS_MAX) {
            config.add_endpoint(*port, source);
        }
        if known.rpc.len() > RPC_PORTS_MAX {
            config.not_derived.push(format!(
                "the cluster has {} ports of RPC, and endpoints are made for {RPC_PORTS_MAX}: set taskmanager.rpc.port to a small range",
                known.rpc.len()
            ));
        }
        let state = known.queryable_state.as_ref();
        let services = [
            ("rest", known.rest.as_ref(), Role::LeaderRest),
            ("rpc", known.leader.as_ref(), Role::LeaderRpc),
            ("blob", known.blob.as_ref(), Role::LeaderBlob),
            (
                "queryable-state",
                state,
                Role::Workers(state.map_or(0, |told| told.port)),
            ),
        ];
        for address in config.frontend.addresses.clone() {
            for (name, told, role) in &services {
                if let Some(told) = told {
                    config.add_service(name, address, told, role, &is_taken);
                }
            }
        }
        config
    }

    fn add_endpoint(&mut self, port: u16, source: &str) {
        let listen = Listen {
            address: None,
            port,
        };
        let mut there = self.endpoints.iter();
        if let Some(other) = there.find(|endpoint| endpoint.listen.overlaps(listen)) {
            self.not_derived.push(format!(
                "no endpoint is made for port {port} of the cluster: the endpoint \"{}\" has it",
                other.name
            ));
            return;
        }
        if self.endpoints.len() >= MAX_ENDPOINTS {
            self.not_derived.push(format!(
                "no endpoint is made for port {port} of the cluster: there are {MAX_ENDPOINTS} already"
            ));
            return;
        }
        let names = self.endpoints.iter().map(|known| &*known.name);
        self.endpoints.push(Endpoint {
            name: unused_name(format!("rpc-{port}"), names),
            protocol: Protocol::Pekko,
            listen,
            canonical: None,
            aliases: Aliases::Any,
            origin: Origin::Cluster(source.to_owned()),
        });
    }

    fn add_service(
        &mut self,
        name: &str,
        address: Option<IpAddr>,
        told: &KnownPort,
        role: &Role,
        is_taken: impl Fn(u16) -> bool,
    ) {
        let (listen, protocol) = (
            Listen {
                address,
                port: told.port,
            },
            Transport::Tcp,
        );
        let mut there = self.services.iter();
        let other = there.find(|known| known.protocol == protocol && known.listen.overlaps(listen));
        if let Some(other) = other {
            self.not_derived.push(format!(
                "no service is made for {role} at {listen}: the service \"{}\" has it",
                other.name
            ));
            return;
        }
        if is_taken(told.port) {
            self.not_derived.push(format!(
                "no service is made for {role} at {listen}: a program of this host listens on the port; write a [[service]] to have its connections forwarded all the same"
            ));
            return;
        }
        let names = self.services.iter().map(|known| &*known.name);
        let origin = Origin::Cluster(told.source.clone());
        let targets = vec![Target {
            place: Place::Role(role.clone()),
            weight: 1,
            origin: origin.clone(),
        }];
        self.services.push(Service {
            name: unused_name(name.to_owned(), names),
            protocol,
            listen,
            on_change: OnChange::default_for(protocol, &targets),
            targets,
            snat: Snat::Auto,
            origin,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{File, Flags, to_toml};

    fn told(port: u16) -> Option<KnownPort> {
        let source = "flink http://jm:8081".to_owned();
        Some(KnownPort { port, source })
    }

    fn known() -> Derivation {
        Derivation {
            cluster: vec!["http://jm:8081".to_owned()],
            rpc: [6122, 6123]
                .map(|port| (port, "flink http://jm:8081".to_owned()))
                .into(),
            rest: told(8081),
            leader: told(6123),
            blob: told(6124),
            queryable_state: told(9069),
        }
    }

    fn config(more: &str) -> Config {
        let text = format!("[topology]\ncluster = [\"http://jm:8081\"]\n{more}");
        let file = File::parse(Path::new("t.toml"), &text).unwrap();
        Config::new(file, Flags::default()).unwrap()
    }

    fn shown(config: &Config) -> Vec<String> {
        let endpoints = config.endpoints.iter();
        let endpoints = endpoints.map(|it| format!("{} {}", it.name, it.listen));
        let services = config.services.iter();
        let services =
            services.map(|it| format!("{} {} {}", it.name, it.listen, it.targets[0].place));
        endpoints.chain(services).collect()
    }

    #[test]
    fn a_cluster_is_all_there_is_to_say() {
        let written = config("");
        written.check_runnable().unwrap();
        let derived = written.derive(&known(), |_| false);
        assert_eq!(shown(&derived), ["rpc-6122 *:6122", "rpc-6123 *:6123"]);
        let written = config("[frontend]\naddresses = [\"*\"]\n");
        let derived = written.derive(&known(), |_| false);
        assert_eq!(
            shown(&derived)[2..],
            [
                "rest *:8081 leader:rest",
                "rpc *:6123 leader:rpc",
                "blob *:6124 leader:blob",
                "queryable-state *:9069 workers:9069"
            ]
        );
        assert_eq!(derived.written(), written);
        assert_eq!(derived.derive(&known(), |_| false), derived);
        assert_eq!(derived.derive(&Derivation::default(), |_| false), written);
        let toml = to_toml(&derived).unwrap();
        assert!(
            toml.contains("# from flink http://jm:8081\n[[service]]\nname = \"rest\""),
            "{toml}"
        );
    }

    #[test]
    fn what_is_written_wins() {
        let by_hand = "[frontend]\naddresses = [\"10.0.0.9\", \"10.0.0.8\"]\n\
            [[endpoint]]\nname = \"jm\"\nprotocol = \"pekko\"\nlisten = \"10.0.0.1:6123\"\n\
            [[service]]\nname = \"rest\"\nprotocol = \"tcp\"\nlisten = \"10.0.0.9:8081\"\ntarget = \"10.0.0.1:8082\"\n";
        let derived = config(by_hand).derive(&known(), |port| port == 6124);
        assert_eq!(
            shown(&derived),
            [
                "jm 10.0.0.1:6123",
                "rpc-6122 *:6122",
                "rest 10.0.0.9:8081 10.0.0.1:8082",
                "rpc 10.0.0.9:6123 leader:rpc",
                "queryable-state 10.0.0.9:9069 workers:9069",
                "rest-2 10.0.0.8:8081 leader:rest",
                "rpc-2 10.0.0.8:6123 leader:rpc",
                "queryable-state-2 10.0.0.8:9069 workers:9069",
            ]
        );
        let [endpoint, rest, blob, other] = &derived.not_derived[..] else {
            panic!("{:?}", derived.not_derived)
        };
        assert!(
            endpoint.ends_with("the endpoint \"jm\" has it"),
            "{endpoint}"
        );
        assert!(rest.ends_with("the service \"rest\" has it"), "{rest}");
        for blob in [blob, other] {
            assert!(blob.contains("a program of this host listens"), "{blob}");
        }
    }

    #[test]
    fn ports_without_end_make_no_endpoints_without_end() {
        let mut many = known();
        many.rpc = (10_000..11_000).map(|port| (port, String::new())).collect();
        let derived = config("").derive(&many, |_| false);
        assert_eq!(derived.endpoints.len(), RPC_PORTS_MAX);
        assert!(derived.not_derived[0].contains("has 1000 ports of RPC"));
    }

    #[test]
    fn what_is_known_outlives_an_agent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.json");
        let places = known().cluster;
        let nothing = Derivation {
            cluster: places.clone(),
            ..Derivation::default()
        };
        assert_eq!(Derivation::load(&path, &places), nothing);
        known().store(&path).unwrap();
        assert_eq!(Derivation::load(&path, &places), known());
        assert_eq!(Derivation::load(&path, &[]), Derivation::default());
        for text in ["{", "{\"rpc\":{\"0\":\"\"}}", "{\"more\":1}", "[]"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Derivation::load(&path, &places), nothing, "{text}");
        }
    }
}
