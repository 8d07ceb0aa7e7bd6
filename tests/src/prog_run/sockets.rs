//! Who talks to whom by way of a service.

use std::net::SocketAddr;

use truename_common::layout::{FiveTuple, TCP, UDP};

use super::{datagram::Datagram, packet::flag, program::address_of, run::Place};

/// Packets of others come in by this interface: that of loopback, which every namespace has.
pub const OUTSIDE: Place = Place {
    came_by: 1,
    interface: 1,
    segment: 0,
    passes: 0,
};

/// Every IP version (whether it is IPv6) with every protocol.
pub const CASES: [(bool, u8); 4] = [(false, TCP), (false, UDP), (true, TCP), (true, UDP)];

/// Who talks to whom, in one IP version.
#[derive(Clone, Copy, Debug)]
pub struct Sockets {
    /// A client.
    pub client: SocketAddr,
    /// What it addresses.
    pub alias: SocketAddr,
    /// What stands behind it on this host.
    pub local: SocketAddr,
    /// What stands behind it elsewhere.
    pub remote: SocketAddr,
    /// This host's address towards the latter, with a port of the range.
    pub source: SocketAddr,
    /// A router on the way.
    pub router: SocketAddr,
}

impl Sockets {
    /// Those of this version, which [`super::Host`] has, too.
    ///
    /// # Panics
    /// Never.
    pub fn of(v6: bool) -> Self {
        let all = if v6 {
            [
                "[fd01::2]:40000",
                "[fd09::9]:80",
                "[fd00::1]:8080",
                "[fd02::2]:8080",
                "[fd02::1]:50000",
                "[fd03::3]:0",
            ]
        } else {
            [
                "10.1.0.2:40000",
                "10.9.0.9:80",
                "10.0.0.1:8080",
                "10.2.0.2:8080",
                "10.2.0.1:50000",
                "10.3.0.3:0",
            ]
        };
        let [client, alias, local, remote, source, router] =
            all.map(|text| text.parse().expect("it is an address"));
        Self {
            client,
            alias,
            local,
            remote,
            source,
            router,
        }
    }

    /// The first packet of the client to the alias, and a later one; a reply of the alias, and a later
    /// one.
    pub fn talk(&self, protocol: u8) -> [Datagram; 4] {
        let Self { client, alias, .. } = *self;
        if protocol == UDP {
            let ask = Datagram::udp(client, alias);
            let reply = Datagram::udp(alias, client).with_payload(b"an answer of odd length");
            return [
                ask.clone(),
                ask.with_payload(&[]),
                reply.clone(),
                reply.with_payload(&[0xff; 200]),
            ];
        }
        let tcp =
            |from, to, flags, payload: &[u8]| Datagram::tcp(from, to, flags).with_payload(payload);
        [
            tcp(client, alias, flag::SYN, b""),
            tcp(client, alias, flag::ACK, b"a request"),
            tcp(alias, client, flag::SYN | flag::ACK, b""),
            tcp(alias, client, flag::ACK, &[0xff; 200]),
        ]
    }

    /// The first packet of the client.
    pub fn first(&self, protocol: u8) -> Datagram {
        let [first, ..] = self.talk(protocol);
        first
    }

    /// The same with another client.
    pub fn from(&self, client: SocketAddr) -> Self {
        Self { client, ..*self }
    }

    /// The same with another port of the client.
    pub fn from_port(&self, port: u16) -> Self {
        self.from(SocketAddr::new(self.client.ip(), port))
    }
}

/// The flow from one socket to another.
pub fn tuple(client: SocketAddr, endpoint: SocketAddr, protocol: u8) -> FiveTuple {
    FiveTuple {
        client: address_of(client.ip()),
        endpoint: address_of(endpoint.ip()),
        client_port: client.port(),
        endpoint_port: endpoint.port(),
        protocol,
        pad: [0; 3],
    }
}
