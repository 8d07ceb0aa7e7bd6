//! Whether a packet goes to an endpoint or comes from one.

use truename_common::{
    layout::{Endpoint, TCP, link_flags, port_flags},
    wire::stream::Direction,
};

use crate::{
    maps::{ENDPOINTS, LINKS, PORTS, is_own_address},
    packet::is_loopback_address,
    scratch::{Found, Headers},
};

/// Looks for the endpoint of the packet: by the destination, then by the source.
#[inline(always)]
pub fn find(headers: &Headers, found: &mut Found) -> bool {
    set(found, headers, Direction::Inbound) && find_endpoint(found)
        || set(found, headers, Direction::Outbound) && find_endpoint(found)
}

/// Looks for the endpoint of a flow again.
#[inline(always)]
pub fn check(_: &Headers, found: &mut Found) -> bool {
    find_endpoint(found)
}

/// Looks up the endpoint of `found.key`.
#[inline(always)]
pub fn find_endpoint(found: &mut Found) -> bool {
    match listening(found) {
        Some(endpoint) => {
            found.endpoint = endpoint;
            true
        }
        None => false,
    }
}

/// Sets the packet's key if it may go this way: if the port is an endpoint's on some address.
#[inline(always)]
pub fn set(found: &mut Found, headers: &Headers, way: Direction) -> bool {
    let port = match way {
        Direction::Inbound => headers.destination_port,
        Direction::Outbound => headers.source_port,
    };
    let flags = PORTS.get(u32::from(port)).map_or(0, |flags| *flags);
    if flags & port_flags::ENDPOINT == 0 {
        return false;
    }
    let key = &mut found.key;
    match way {
        Direction::Inbound => headers.tuple(key),
        Direction::Outbound => {
            key.client = headers.destination;
            key.endpoint = headers.source;
            key.client_port = headers.destination_port;
            key.endpoint_port = headers.source_port;
            key.protocol = TCP;
        }
    }
    found.way = way;
    true
}

/// The endpoint at the packet's address, or at any address of this host or of a container with that port.
#[inline(always)]
fn listening(found: &Found) -> Option<Endpoint> {
    let socket = found.key.endpoint();
    // SAFETY: endpoints are replaced whole, by user space; the copy is 8 bytes, read at once.
    if let Some(endpoint) = unsafe { ENDPOINTS.get(&socket) } {
        return Some(*endpoint);
    }
    // SAFETY: as above.
    let endpoint = unsafe { ENDPOINTS.get(&socket.any()) }.copied()?;
    let address = &socket.address;
    (is_loopback_address(address) || is_own_address(address) || is_behind(found))
        .then_some(endpoint)
}

/// Whether the endpoint's packet leaves by, or came in by, an interface that containers are behind.
#[inline(always)]
fn is_behind(found: &Found) -> bool {
    let is_ingress = found.came_by == found.interface;
    if is_ingress != (found.way == Direction::Outbound) {
        return false;
    }
    let interface = found.interface;
    // SAFETY: links are replaced whole, by user space; one integer is read.
    unsafe { LINKS.get(&interface) }.is_some_and(|link| link.flags & link_flags::BEHIND != 0)
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use crate::bpf::global::question;

    question!(
        /// [`super::find`].
        find, tn_find = super::find;
        /// [`super::check`].
        check, tn_check = super::check;
    );
}
