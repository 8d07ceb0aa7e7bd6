//! Reads the IPsec policies of the kernel's transformation framework (xfrm): which packets it wants encrypted.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{NetlinkError, request::PATIENCE};
use crate::plan::policy::{IpsecPolicies, IpsecPolicy, Network, Ports};

/// `XFRM_MSG_NEWPOLICY` and `XFRM_MSG_GETPOLICY` (linux/xfrm.h).
const NEW_POLICY: u16 = 0x13;
const GET_POLICY: u16 = 0x15;
/// `XFRM_POLICY_OUT`.
const OUT: u8 = 1;
/// `XFRM_POLICY_ALLOW`.
const ALLOW: u8 = 0;
/// Attributes of a policy: how it encrypts, the marks of its packets, the interface that it belongs to.
const TEMPLATES: u16 = 5;
const MARK: u16 = 21;
const INTERFACE: u16 = 31;
const ACTION: &str = "list IPsec policies";
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct xfrm_userpolicy_info`.
const POLICY: usize = 168;

/// A policy by the bytes of a message, behind its header; none if packets that truename forwards have none of it.
fn policy(bytes: &[u8]) -> Option<IpsecPolicy> {
    let (fixed, attributes) = bytes.split_at_checked(POLICY)?;
    let at = |offset: usize| fixed.get(offset).copied();
    let word = |offset: usize| Some(u16::from_be_bytes([at(offset)?, at(offset + 1)?]));
    let is_v4 = u16::from_ne_bytes([at(40)?, at(41)?]) == libc::AF_INET as u16;
    let network = |offset: usize, length| {
        let bytes: [u8; 16] = fixed.get(offset..offset + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = bytes;
        let address = if is_v4 {
            Ipv4Addr::new(a, b, c, d).into()
        } else {
            Ipv6Addr::from(bytes).into()
        };
        Some(Network { address, length })
    };
    let ports = |offset: usize| {
        Some(Ports {
            bits: word(offset)?,
            mask: word(offset + 2)?,
        })
    };
    if at(160)? != OUT {
        return None;
    }
    let mut has_templates = false;
    for (kind, value) in attributes_of(attributes) {
        let number = |at: usize| {
            let bytes = value.get(at..at + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        match kind {
            TEMPLATES => has_templates = !value.is_empty(),
            // Packets that have no mark have none of this policy.
            MARK if number(0)? & number(4)? != 0 => return None,
            INTERFACE if number(0)? != 0 => return None,
            _ => {}
        }
    }
    Some(IpsecPolicy {
        to: network(0, at(42)?)?,
        from: network(16, at(43)?)?,
        to_ports: ports(32)?,
        from_ports: ports(36)?,
        protocol: at(44)?,
        priority: u32::from_ne_bytes(fixed.get(152..156)?.try_into().ok()?),
        is_exception: at(161)? == ALLOW && !has_templates,
    })
}

/// The policies of this host.
///
/// # Errors
/// When the kernel does not tell.
pub fn policies() -> Result<IpsecPolicies, NetlinkError> {
    let refused = |source: io::Error| NetlinkError::Refused {
        action: ACTION,
        source,
    };
    let mut socket = match Socket::new(NETLINK_XFRM) {
        // A kernel without IPsec.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
            return Ok(IpsecPolicies::default());
        }
        socket => socket.map_err(NetlinkError::Socket)?,
    };
    socket.bind_auto().map_err(NetlinkError::Socket)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))
        .map_err(|error| NetlinkError::Socket(error.into()))?;
    let mut question = Vec::from((HEADER as u32).to_ne_bytes());
    question.extend(GET_POLICY.to_ne_bytes());
    question.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    question.resize(HEADER, 0);
    let kernel = SocketAddr::new(0, 0);
    socket.send_to(&question, &kernel, 0).map_err(refused)?;
    let mut policies = Vec::new();
    loop {
        let (bytes, _) = socket
            .recv_from_full()
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => NetlinkError::Silent { action: ACTION },
                _ => refused(error),
            })?;
        for (kind, payload) in messages_of(&bytes) {
            match i32::from(kind) {
                libc::NLMSG_DONE => {
                    return Ok(policies.into_iter().collect());
                }
                libc::NLMSG_ERROR => {
                    let code = payload.first_chunk().map_or(0, |c| i32::from_ne_bytes(*c));
                    return Err(refused(io::Error::from_raw_os_error(-code)));
                }
                _ if kind == NEW_POLICY => policies.extend(policy(payload)),
                _ => {}
            }
        }
    }
}

/// The parts of a message, each with a length in front: its kind and what is behind its header. `read` reads both from the
/// header, which has `header` bytes.
fn parts(
    mut rest: &[u8],
    header: usize,
    read: impl Fn(&[u8]) -> Option<(usize, u16)>,
) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = read(rest)?;
        let payload = rest.get(header..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

fn messages_of(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    parts(bytes, HEADER, |rest| {
        let [a, b, c, d, e, f] = *rest.first_chunk()?;
        let length = u32::from_ne_bytes([a, b, c, d]).try_into().ok()?;
        Some((length, u16::from_ne_bytes([e, f])))
    })
}

fn attributes_of(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    parts(bytes, 4, |rest| {
        let [a, b, c, d] = *rest.first_chunk()?;
        Some((
            u16::from_ne_bytes([a, b]).into(),
            u16::from_ne_bytes([c, d]),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_end_early_are_nothing() {
        for length in 0..POLICY {
            assert_eq!(policy(&vec![OUT; length]), None);
        }
        assert_eq!(messages_of(&[255, 0, 0, 0, 1, 0]).count(), 0);
        assert_eq!(messages_of(&[0; 16]).count(), 0);
        assert_eq!(attributes_of(&[3, 0, 1, 0]).count(), 0);
    }
}
