//! Whether a packet goes to an endpoint or comes from one.

use truename_common::{
    layout::{Endpoint, FiveTuple, Socket, TCP, port_flags},
    wire::stream::Way,
};

use crate::{
    maps::{ENDPOINTS, PORTS},
    packet::Headers,
};

/// The flow that a packet belongs to. It lives in working memory, not on the stack.
#[repr(C)]
pub struct Found {
    pub key: FiveTuple,
    pub way: Way,
    /// Set where the endpoint was looked up.
    pub endpoint: Endpoint,
}

/// Looks for the endpoint of the packet: by the destination, then by the source.
#[inline(always)]
pub fn find(headers: &Headers, found: &mut Found) -> bool {
    set(found, headers, Way::Inbound) && find_endpoint(found)
        || set(found, headers, Way::Outbound) && find_endpoint(found)
}

/// Looks up the endpoint of `found.key`.
#[inline(always)]
pub fn find_endpoint(found: &mut Found) -> bool {
    match listening(&found.key.endpoint()) {
        Some(endpoint) => {
            found.endpoint = endpoint;
            true
        }
        None => false,
    }
}

/// Sets the packet's key if it may go this way: if the port is an endpoint's on some address.
#[inline(always)]
pub fn set(found: &mut Found, headers: &Headers, way: Way) -> bool {
    let port = match way {
        Way::Inbound => headers.destination_port,
        Way::Outbound => headers.source_port,
    };
    let flags = PORTS.get(u32::from(port)).map_or(0, |flags| *flags);
    if flags & port_flags::ENDPOINT == 0 {
        return false;
    }
    let key = &mut found.key;
    match way {
        Way::Inbound => headers.tuple(key),
        Way::Outbound => {
            key.client = headers.destination;
            key.endpoint = headers.source;
            key.client_port = headers.destination_port;
            key.endpoint_port = headers.source_port;
            key.protocol = TCP;
            key.pad = [0; 3];
        }
    }
    found.way = way;
    true
}

/// The endpoint at an address, or at any address with that port.
#[inline(always)]
fn listening(socket: &Socket) -> Option<Endpoint> {
    // SAFETY: endpoints are replaced whole, by user space; the copy is 8 bytes, read at once.
    unsafe {
        ENDPOINTS
            .get(socket)
            .or_else(|| ENDPOINTS.get(&socket.any()))
    }
    .copied()
}
