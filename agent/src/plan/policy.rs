//! The IPsec policies of a host, and which of them covers a packet.

use std::{fmt, net::IpAddr};

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub length: u8,
}

/// Ports: those that have these bits where the mask has ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub bits: u16,
    pub mask: u16,
}

/// A policy for packets that leave this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsecPolicy {
    /// Where they come from.
    pub from: Network,
    /// Where they go.
    pub to: Network,
    pub from_ports: Ports,
    pub to_ports: Ports,
    /// 0: any.
    pub protocol: u8,
    /// Of several that cover a packet the one with the lowest counts.
    pub priority: u32,
    /// It lets packets pass as they are.
    pub is_exception: bool,
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
}
