//! A host between a client's network and a target's, for what asks the kernel: routes and sockets.

use std::net::{SocketAddr, TcpStream};

use super::datagram::THIS_HOST;
use crate::{
    namespace::{self, Namespace},
    nat,
};

/// A network namespace with the addresses of [`super::Sockets`]. Nobody answers.
pub struct Host {
    namespace: Namespace,
    /// Index of the interface to the clients.
    pub client: u32,
    /// Index of the interface to the targets.
    pub target: u32,
}

impl Host {
    /// Makes it; both links have this MTU.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn new(mtu: u32) -> Self {
        let namespace = Namespace::new("host").expect("a namespace");
        for (key, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ] {
            namespace.sysctl(key, value).expect("a sysctl");
        }
        for (name, peer, addresses) in [
            ("client", "clients", ["10.1.0.1/24", "fd01::1/64"]),
            ("target", "targets", ["10.2.0.1/24", "fd02::1/64"]),
        ] {
            namespace::link((&namespace, name), (&namespace, peer)).expect("a link");
            let ip = |arguments: &str| namespace.ip(arguments).expect("ip");
            let [.., last] = THIS_HOST;
            ip(&format!(
                "link set {name} mtu {mtu} address 02:00:00:00:00:{last:02x}"
            ));
            for address in addresses {
                ip(&format!("address add {address} dev {name}"));
            }
        }
        let host = |arguments: &str| namespace.ip(arguments).expect("ip");
        host("address add 10.0.0.1/32 dev lo");
        host("address add fd00::1/128 dev lo");
        let index = |name: &str| {
            namespace
                .run(|| crate::sys::interface_index(name))
                .expect("the namespace can be entered")
                .expect("there is an interface") as u32
        };
        let (client, target) = (index("client"), index("target"));
        Self {
            namespace,
            client,
            target,
        }
    }

    /// Makes everybody on the links known, by this link address.
    ///
    /// # Panics
    /// `ip` fails.
    pub fn know_neighbours(&self, link: &str) {
        for (address, device) in [
            ("10.1.0.2", "client"),
            ("fd01::2", "client"),
            ("10.2.0.2", "target"),
            ("fd02::2", "target"),
        ] {
            self.ip(&format!(
                "neigh replace {address} lladdr {link} dev {device} nud permanent"
            ));
        }
    }

    /// A connection of the host with itself, from this port.
    ///
    /// # Panics
    /// It is not made.
    pub fn connect(&self, from: SocketAddr, to: SocketAddr) -> TcpStream {
        nat::connect(&self.namespace, from, to).expect("a connection")
    }

    /// Runs `ip` there.
    ///
    /// # Panics
    /// It fails.
    pub fn ip(&self, arguments: &str) {
        self.namespace.ip(arguments).expect("ip");
    }

    /// Sets a switch there.
    ///
    /// # Panics
    /// It cannot be set.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.namespace.sysctl(key, value).expect("a sysctl");
    }

    /// Runs a test there.
    ///
    /// # Panics
    /// The namespace cannot be entered, or the test panics.
    pub fn run<T: Send>(&self, test: impl FnOnce() -> T + Send) -> T {
        self.namespace
            .run(test)
            .expect("the namespace can be entered")
    }
}
