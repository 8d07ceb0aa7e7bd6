//! What the agent is configured with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use truename_tests::{flink::Pair, hub::Hub};

/// The hub's second address, which is the alias of the leader.
pub const ALIAS: Ipv4Addr = Ipv4Addr::new(10, 61, 24, 100);

/// A service that follows the leader.
pub struct Service {
    /// Its target.
    pub name: &'static str,
    /// The part of the leader whose record decides, which is the service's name too.
    pub part: &'static str,
    /// What clients use.
    pub alias: SocketAddr,
    /// Where a JobManager has it.
    pub address: fn(usize) -> SocketAddr,
}

/// The REST server.
pub const REST: Service = Service {
    name: "leader:rest",
    alias: SocketAddr::new(IpAddr::V4(ALIAS), 8081),
    part: "rest_server",
    address: Pair::rest_address,
};
/// The actor system.
pub const RPC: Service = Service {
    name: "leader:rpc",
    alias: SocketAddr::new(IpAddr::V4(ALIAS), 6123),
    part: "resource_manager",
    address: Pair::rpc_address,
};

/// Both.
pub const SERVICES: [Service; 2] = [REST, RPC];

/// The agent's configuration.
pub fn configuration(pair: &Pair) -> String {
    let quorum: Vec<String> = pair.ensemble().quorum();
    let mut text = format!(
        "[datapath]\ninterfaces = [\"{}\", \"lo\"]\n[topology]\nha = \"zookeeper\"\n\
         [topology.zookeeper]\nquorum = {quorum:?}\nroot = \"{}\"\ncluster_id = \"{}\"\n",
        Hub::INTERFACE,
        Pair::ROOT,
        Pair::CLUSTER,
    );
    for service in SERVICES {
        text += &format!(
            "[[service]]\nname = \"{}\"\nprotocol = \"tcp\"\nlisten = \"{}\"\ntarget = \"{}\"\n",
            service.part, service.alias, service.name,
        );
    }
    text
}
