//! Whether a packet goes to an endpoint or comes from one.

use truename_common::{
    layout::{Endpoint, FiveTuple, Socket, TCP, port_flags},
    wire::stream::Way,
};

use crate::{
    maps::{ENDPOINTS, PORTS},
    packet::Segment,
};

/// The flow that a packet belongs to. It lives in working memory, not on the stack.
#[repr(C)]
pub struct Found {
    pub key: FiveTuple,
    pub way: Way,
    pub endpoint: Endpoint,
}

/// One byte of an array decides for nearly all packets.
#[inline(always)]
pub fn is_wanted(source: u16, destination: u16) -> bool {
    let is = |port: u16| {
        PORTS
            .get(u32::from(port))
            .is_some_and(|flags| flags & port_flags::ENDPOINT != 0)
    };
    is(destination) || is(source)
}

/// Looks the destination up, then the source.
#[inline(always)]
pub fn find(segment: &Segment, found: &mut Found) -> bool {
    let destination = Socket {
        address: segment.destination,
        port: segment.destination_port,
        protocol: TCP,
        pad: 0,
    };
    let source = Socket {
        address: segment.source,
        port: segment.source_port,
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
