//! Whether a packet goes to an endpoint or comes from one.

use truename_common::{
    layout::{Endpoint, FiveTuple, Socket, TCP},
    wire::stream::Way,
};

use crate::{maps::ENDPOINTS, packet::Headers};

/// The flow that a packet belongs to. It lives in working memory, not on the stack.
#[repr(C)]
pub struct Found {
    pub key: FiveTuple,
    pub way: Way,
    pub endpoint: Endpoint,
}

/// Looks the destination up, then the source.
#[inline(always)]
pub fn find(headers: &Headers, found: &mut Found) -> bool {
    let destination = Socket {
        address: headers.destination,
        port: headers.destination_port,
        protocol: TCP,
        pad: 0,
    };
    let source = Socket {
        address: headers.source,
        port: headers.source_port,
        protocol: TCP,
        pad: 0,
    };
    if let Some(endpoint) = listening(&destination) {
        set(found, &source, &destination, Way::Inbound, endpoint);
        return true;
    }
    if let Some(endpoint) = listening(&source) {
        set(found, &destination, &source, Way::Outbound, endpoint);
        return true;
    }
    false
}

#[inline(always)]
fn set(found: &mut Found, client: &Socket, socket: &Socket, way: Way, endpoint: Endpoint) {
    found.key = FiveTuple {
        client: client.address,
        endpoint: socket.address,
        client_port: client.port,
        endpoint_port: socket.port,
        protocol: TCP,
        pad: [0; 3],
    };
    found.way = way;
    found.endpoint = endpoint;
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
