//! Values of the kernel tables as text.

use std::net::SocketAddr;

use truename_common::layout::{Text, ip};

/// An escaped text, unless it is empty.
pub fn text<const N: usize>(text: &Text<N>) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

/// An address and a port of the kernel tables.
pub fn socket(address: [u8; 16], port: u16) -> String {
    SocketAddr::new(ip(address), port).to_string()
}
