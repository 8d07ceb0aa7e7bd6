//! Values of the kernel tables as text.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use truename_common::layout::Text;

/// An escaped text, unless it is empty.
pub fn text<const N: usize>(text: &Text<N>) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

/// An address of the kernel tables.
pub fn ip(address: [u8; 16]) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(address)).to_canonical()
}

/// An address and a port of the kernel tables.
pub fn socket(address: [u8; 16], port: u16) -> String {
    SocketAddr::new(ip(address), port).to_string()
}
