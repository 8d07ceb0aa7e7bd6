use core::net::{IpAddr, Ipv6Addr};

use super::plain;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// A transport address: the key of endpoints and services.
///
/// The unspecified address (all zero) stands for any address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket {
    pub address: [u8; 16],
    pub port: u16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    pub pad: u8,
}

/// A flow, both directions: who asks (`client`), and whom (`endpoint`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    pub client: [u8; 16],
    pub endpoint: [u8; 16],
    pub client_port: u16,
    pub endpoint_port: u16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Always 0. The kernel program's working memory begins so, and it never writes it.
    pub pad: [u8; 3],
}

plain!(Socket = 20, FiveTuple = 40);

/// An IPv4 address as v4-mapped IPv6.
pub const fn v4_mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// An address as the maps have it.
pub const fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that stands in a map.
pub const fn ip(address: [u8; 16]) -> IpAddr {
    Ipv6Addr::from_octets(address).to_canonical()
}

impl Socket {
    /// The same port on any address.
    pub const fn any(self) -> Self {
        Self {
            address: [0; 16],
            ..self
        }
    }
}

impl FiveTuple {
    /// The client's side of the flow.
    pub const fn client(&self) -> Socket {
        Socket {
            address: self.client,
            port: self.client_port,
            protocol: self.protocol,
            pad: 0,
        }
    }

    /// The endpoint's side of the flow.
    pub const fn endpoint(&self) -> Socket {
        Socket {
            address: self.endpoint,
            port: self.endpoint_port,
            protocol: self.protocol,
            pad: 0,
        }
    }
}
