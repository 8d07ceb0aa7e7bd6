//! Whether a packet goes to an endpoint or comes from one.

use truename_common::{
    layout::{Endpoint, FiveTuple, Socket, TCP, port_flags},
    wire::stream::Way,
};

use crate::{
    maps::{ENDPOINTS, PORTS, RPC_FLOWS},
    packet::Headers,
};

/// The flow that a packet belongs to. It lives in working memory, not on the stack.
#[repr(C)]
pub struct Found {
    pub key: FiveTuple,
    pub way: Way,
    /// 1 if the flow is in [`RPC_FLOWS`]; `endpoint` is not set then.
    pub known: u32,
    pub endpoint: Endpoint,
}

/// Looks for the flow of the packet, or for an endpoint: by the destination, then by the source. Most packets
/// belong to a flow, and one look-up finds it.
#[inline(always)]
pub fn find(headers: &Headers, found: &mut Found) -> bool {
    let is_endpoint = |port: u16| {
        PORTS
            .get(u32::from(port))
            .is_some_and(|flags| *flags & port_flags::ENDPOINT != 0)
    };
    let inbound = is_endpoint(headers.destination_port);
    let outbound = is_endpoint(headers.source_port);
    found.known = 0;
    if inbound {
        set(found, headers, Way::Inbound);
        if is_flow(&found.key) {
            found.known = 1;
            return true;
        }
    }
    if outbound {
        set(found, headers, Way::Outbound);
        if is_flow(&found.key) {
            found.known = 1;
            return true;
        }
    }
    if inbound {
        set(found, headers, Way::Inbound);
        if find_endpoint(found) {
            return true;
        }
    }
    if outbound {
        set(found, headers, Way::Outbound);
        return find_endpoint(found);
    }
    false
}

#[inline(always)]
fn is_flow(key: &FiveTuple) -> bool {
    RPC_FLOWS.get_ptr(key).is_some()
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

/// The packet's key if it goes this way.
#[inline(always)]
fn set(found: &mut Found, headers: &Headers, way: Way) {
    let key = &mut found.key;
    match way {
        Way::Inbound => {
            key.client = headers.source;
            key.endpoint = headers.destination;
            key.client_port = headers.source_port;
            key.endpoint_port = headers.destination_port;
        }
        Way::Outbound => {
            key.client = headers.destination;
            key.endpoint = headers.source;
            key.client_port = headers.destination_port;
            key.endpoint_port = headers.source_port;
        }
    }
    key.protocol = TCP;
    key.pad = [0; 3];
    found.way = way;
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
