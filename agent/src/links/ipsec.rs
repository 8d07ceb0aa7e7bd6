//! The IPsec policies of the kernel's transformation framework (xfrm): which packets it wants encrypted.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{NetlinkError, request::PATIENCE};

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

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

/// Ports: those that have these bits where the mask has ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ports {
    bits: u16,
    mask: u16,
}

/// A policy for packets that leave this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsecPolicy {
    /// Where they come from.
    pub from: Network,
    /// Where they go.
    pub to: Network,
    from_ports: Ports,
    to_ports: Ports,
    /// 0: any.
    protocol: u8,
    /// Of several that cover a packet the one with the lowest counts.
    priority: u32,
    /// It lets packets pass as they are.
    is_exception: bool,
}

/// Packets, as far as something is known of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Their source.
    pub from: Option<IpAddr>,
    /// Its port.
    pub from_port: Option<u16>,
    /// Their destination.
    pub to: Option<IpAddr>,
    /// Its port.
    pub to_port: Option<u16>,
    /// What they carry.
    pub protocol: u8,
}

/// All of them, in the order in which they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpsecPolicies(Vec<IpsecPolicy>);

/// How a part of a flow and of a policy go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Never,
    /// What is known does not tell.
    Maybe,
    Always,
}

impl Fit {
    fn of(known: Option<bool>, is_any: bool) -> Self {
        match (known, is_any) {
            (Some(false), _) => Self::Never,
            (None, false) => Self::Maybe,
            (Some(true), _) | (None, true) => Self::Always,
        }
    }
}

impl Network {
    fn has(&self, address: IpAddr) -> bool {
        let (own, other, width) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits().into(), other.to_bits().into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        let shift = width - u32::from(self.length);
        u128::checked_shr(own ^ other, shift).unwrap_or(0) == 0
    }

    fn fit(&self, address: Option<IpAddr>) -> Fit {
        Fit::of(address.map(|address| self.has(address)), self.length == 0)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Ports {
    fn fit(self, port: Option<u16>) -> Fit {
        let known = port.map(|port| (port ^ self.bits) & self.mask == 0);
        Fit::of(known, self.mask == 0)
    }
}

impl IpsecPolicy {
    fn fit(&self, flow: &Flow) -> Fit {
        if self.protocol != 0 && self.protocol != flow.protocol {
            return Fit::Never;
        }
        // Also where neither address is known, one of the other family is none.
        let known = flow.from.or(flow.to);
        if known.is_some_and(|known| known.is_ipv4() != self.to.address.is_ipv4()) {
            return Fit::Never;
        }
        let parts = [
            self.from.fit(flow.from),
            self.to.fit(flow.to),
            self.from_ports.fit(flow.from_port),
            self.to_ports.fit(flow.to_port),
        ];
        parts.into_iter().min().unwrap_or(Fit::Never)
    }

    /// A policy by the bytes of a message, behind its header; none if packets that truename forwards have none of it.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (policy, attributes) = bytes.split_at_checked(POLICY)?;
        let at = |offset: usize| policy.get(offset).copied();
        let word = |offset: usize| Some(u16::from_be_bytes([at(offset)?, at(offset + 1)?]));
        let is_v4 = u16::from_ne_bytes([at(40)?, at(41)?]) == libc::AF_INET as u16;
        let network = |offset: usize, length| {
            let bytes: [u8; 16] = policy.get(offset..offset + 16)?.try_into().ok()?;
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
        Some(Self {
            to: network(0, at(42)?)?,
            from: network(16, at(43)?)?,
            to_ports: ports(32)?,
            from_ports: ports(36)?,
            protocol: at(44)?,
            priority: u32::from_ne_bytes(policy.get(152..156)?.try_into().ok()?),
            is_exception: at(161)? == ALLOW && !has_templates,
        })
    }
}

#[cfg(test)]
impl IpsecPolicy {
    /// A policy for all packets between two networks.
    pub fn of(from: &str, to: &str) -> Self {
        let network = |text: &str| {
            let (address, length) = text.split_once('/').unwrap();
            Network {
                address: address.parse().unwrap(),
                length: length.parse().unwrap(),
            }
        };
        Self {
            from: network(from),
            to: network(to),
            from_ports: Ports::default(),
            to_ports: Ports::default(),
            protocol: 0,
            priority: 0,
            is_exception: false,
        }
    }
}

impl FromIterator<IpsecPolicy> for IpsecPolicies {
    fn from_iter<I: IntoIterator<Item = IpsecPolicy>>(all: I) -> Self {
        let mut policies: Vec<_> = all.into_iter().collect();
        policies.sort_by_key(|policy| policy.priority);
        Self(policies)
    }
}

impl fmt::Display for IpsecPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

impl IpsecPolicies {
    /// Those of this host.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn read() -> Result<Self, NetlinkError> {
        let refused = |source: io::Error| NetlinkError::Refused {
            action: ACTION,
            source,
        };
        let mut socket = match Socket::new(NETLINK_XFRM) {
            // A kernel without IPsec.
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
                return Ok(Self::default());
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
                    _ if kind == NEW_POLICY => policies.extend(IpsecPolicy::read(payload)),
                    _ => {}
                }
            }
        }
    }

    /// The policy by which such packets have to be encrypted, or must not leave at all. If what is known does not tell, the
    /// first that may cover them.
    pub fn covering(&self, flow: &Flow) -> Option<&IpsecPolicy> {
        let mut fitting = self.0.iter().filter(|policy| match policy.fit(flow) {
            Fit::Never => false,
            Fit::Maybe => !policy.is_exception,
            Fit::Always => true,
        });
        fitting.next().filter(|policy| !policy.is_exception)
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

    fn flow(from: &str, to: &str) -> Flow {
        Flow {
            from: from.parse().ok(),
            to: to.parse().ok(),
            to_port: Some(80),
            protocol: 6,
            ..Flow::default()
        }
    }

    #[test]
    fn the_first_that_fits_counts() {
        let mut tunnel = IpsecPolicy::of("10.0.0.0/8", "10.1.0.0/16");
        let mut exception = IpsecPolicy::of("10.0.0.0/8", "10.1.9.0/24");
        exception.is_exception = true;
        tunnel.priority = 100;
        let policies: IpsecPolicies = [tunnel, exception].into_iter().collect();
        for (from, to, expected) in [
            ("10.0.0.1", "10.1.0.1", true),
            ("10.0.0.1", "10.1.9.1", false),
            ("10.0.0.1", "10.2.0.1", false),
            ("192.168.0.1", "10.1.0.1", false),
            // Clients of any kind.
            ("any", "10.1.0.1", true),
            ("any", "10.1.9.1", true),
            ("10.0.0.1", "any", true),
            ("fd00::1", "any", false),
            ("any", "fd00::1", false),
        ] {
            let covering = policies.covering(&flow(from, to));
            assert_eq!(covering.is_some(), expected, "{from} to {to}");
        }
    }

    #[test]
    fn networks_of_every_length() {
        for (text, address, expected) in [
            ("0.0.0.0/0", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("::/0", "fd00::1", true),
            ("fd00::/8", "fe00::1", false),
            ("fd00::1/128", "fd00::1", true),
            ("::/0", "10.0.0.1", false),
        ] {
            let network = IpsecPolicy::of(text, text).to;
            let is = network.has(address.parse().unwrap());
            assert_eq!(is, expected, "{text} {address}");
        }
    }

    #[test]
    fn a_policy_may_be_for_one_protocol_and_port() {
        let mut web = IpsecPolicy::of("0.0.0.0/0", "10.1.0.0/16");
        (web.protocol, web.to_ports) = (
            6,
            Ports {
                bits: 80,
                mask: 0xffff,
            },
        );
        let policies = IpsecPolicies(vec![web]);
        let wanted = flow("10.0.0.1", "10.1.0.1");
        assert!(policies.covering(&wanted).is_some());
        let other = Flow {
            to_port: Some(81),
            ..wanted
        };
        assert!(policies.covering(&other).is_none());
        let other = Flow {
            protocol: 17,
            ..wanted
        };
        assert!(policies.covering(&other).is_none());
    }

    #[test]
    fn messages_that_end_early_are_nothing() {
        for length in 0..POLICY {
            assert_eq!(IpsecPolicy::read(&vec![OUT; length]), None);
        }
        assert_eq!(messages_of(&[255, 0, 0, 0, 1, 0]).count(), 0);
        assert_eq!(messages_of(&[0; 16]).count(), 0);
        assert_eq!(attributes_of(&[3, 0, 1, 0]).count(), 0);
    }
}
