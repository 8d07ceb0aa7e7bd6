//! Packets of any protocol, written from scratch by a library of their own: what goes in, and what
//! has to come out.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use etherparse::{
    IpHeaders, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6Header,
    Ipv6RawExtHeader, PacketBuilder, PacketBuilderStep, TcpHeader, VlanId, ip_number,
};

use super::packet::{Link, Shape, flag};

/// The window that every TCP segment offers: the largest without an option.
const WINDOW: u16 = u16::MAX;
/// The link address that packets are sent to.
pub const THIS_HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What is behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment.
    Tcp {
        /// Its sequence number.
        seq: u32,
        /// What it acknowledges.
        ack: u32,
        /// Bits of [`flag`].
        flags: u8,
    },
    /// A UDP datagram.
    Udp,
    /// One without a checksum.
    UdpUnsummed,
}

/// A packet. Which IP version it is follows from the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What its headers look like.
    pub shape: Shape,
    /// From where.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Of which protocol.
    pub kind: Kind,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// An ICMP or ICMPv6 error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// What its headers look like.
    pub shape: Shape,
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Type and code.
    pub kind: (u8, u8),
    /// What stands between them and the quoted packet.
    pub rest: u32,
    /// The packet that it is about, from its IP header on.
    pub quoted: Vec<u8>,
}

impl Datagram {
    /// A segment of a TCP connection. The numbers are any.
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        let ack = u32::from(flags & flag::ACK) * 0x0123_4567;
        let kind = Kind::Tcp {
            seq: 0xfedc_ba98,
            ack,
            flags,
        };
        Self::new(source, destination, kind)
    }

    /// A UDP datagram with a few bytes.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(source, destination, Kind::Udp)
    }

    fn new(source: SocketAddr, destination: SocketAddr, kind: Kind) -> Self {
        Self {
            shape: Shape::default(),
            source,
            destination,
            hop_limit: 64,
            kind,
            payload: b"any payload".to_vec(),
        }
    }

    /// The same between others.
    pub fn between(&self, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
            ..self.clone()
        }
    }

    /// The same with headers of another shape.
    pub fn shaped(&self, shape: Shape) -> Self {
        Self {
            shape,
            ..self.clone()
        }
    }

    /// The same with another hop limit.
    pub fn with_hops(&self, hop_limit: u8) -> Self {
        Self {
            hop_limit,
            ..self.clone()
        }
    }

    /// The same with another payload.
    pub fn with_payload(&self, payload: &[u8]) -> Self {
        Self {
            payload: payload.to_vec(),
            ..self.clone()
        }
    }

    /// The packet as bytes, every checksum computed.
    ///
    /// # Panics
    /// The addresses are of two versions, or a length cannot be written.
    pub fn bytes(&self) -> Vec<u8> {
        self.write().expect("the packet can be written")
    }

    /// The packet without what is in front of its IP header.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let link = Link::Raw;
        let shape = Shape { link, ..self.shape };
        self.shaped(shape).bytes()
    }

    fn write(&self) -> Result<Vec<u8>> {
        let (source, destination) = (self.source, self.destination);
        let ip = (source.ip(), destination.ip());
        let builder = self.shape.builder(ip, self.hop_limit)?;
        let mut bytes = Vec::new();
        match self.kind {
            Kind::Tcp { seq, ack, flags } => {
                let mut tcp = TcpHeader::new(source.port(), destination.port(), seq, WINDOW);
                tcp.acknowledgment_number = ack;
                tcp.fin = flags & flag::FIN != 0;
                tcp.syn = flags & flag::SYN != 0;
                tcp.rst = flags & flag::RST != 0;
                tcp.ack = flags & flag::ACK != 0;
                tcp.set_options_raw(&vec![1; self.shape.tcp_options])?;
                builder.tcp_header(tcp).write(&mut bytes, &self.payload)?;
            }
            Kind::Udp | Kind::UdpUnsummed => builder
                .udp(source.port(), destination.port())
                .write(&mut bytes, &self.payload)?,
        }
        if self.kind == Kind::UdpUnsummed {
            let at = bytes.len() - self.payload.len() - 2;
            bytes[at..at + 2].fill(0);
        }
        Ok(bytes)
    }
}

impl IcmpError {
    /// The packet as bytes, the checksums of its own headers computed.
    ///
    /// # Panics
    /// As [`Datagram::bytes`].
    pub fn bytes(&self) -> Vec<u8> {
        let addresses = (self.source, self.destination);
        let builder = self.shape.builder(addresses, self.hop_limit);
        let builder = builder.expect("the addresses are of one version");
        let ((kind, code), rest) = (self.kind, self.rest.to_be_bytes());
        let mut bytes = Vec::new();
        let written = if self.source.is_ipv4() {
            let builder = builder.icmpv4_raw(kind, code, rest);
            builder.write(&mut bytes, &self.quoted)
        } else {
            let builder = builder.icmpv6_raw(kind, code, rest);
            builder.write(&mut bytes, &self.quoted)
        };
        written.expect("the packet can be written");
        bytes
    }
}

impl Shape {
    /// What a packet begins with.
    ///
    /// # Errors
    /// The addresses are of two versions, or a length cannot be written.
    fn builder(
        &self,
        addresses: (IpAddr, IpAddr),
        hop_limit: u8,
    ) -> Result<PacketBuilderStep<IpHeaders>> {
        let ip = self.ip(addresses, hop_limit)?;
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], THIS_HOST);
        Ok(match self.link {
            Link::Ethernet => ethernet.ip(ip),
            Link::Vlan => ethernet.single_vlan(VlanId::try_new(7)?).ip(ip),
            Link::QinQ => ethernet
                .double_vlan(VlanId::try_new(7)?, VlanId::try_new(8)?)
                .ip(ip),
            Link::Raw => PacketBuilder::ip(ip),
        })
    }

    fn ip(&self, addresses: (IpAddr, IpAddr), hop_limit: u8) -> Result<IpHeaders> {
        // The builder writes the protocol and the lengths.
        let any = ip_number::TCP;
        match addresses {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let mut header = Ipv4Header::new(0, hop_limit, any, source, destination)?;
                header.options = Ipv4Options::try_from(vec![1; self.ipv4_options].as_slice())?;
                Ok(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                // The content is options of padding.
                let extension = |len: Option<usize>| {
                    len.map(|len| Ipv6RawExtHeader::new_raw(any, &vec![0; len]))
                        .transpose()
                };
                let extensions = Ipv6Extensions {
                    hop_by_hop_options: extension(self.hop_by_hop)?,
                    destination_options: extension(self.destination)?,
                    ..Ipv6Extensions::default()
                };
                Ok(IpHeaders::Ipv6(header, extensions))
            }
            _ => bail!("the addresses are of two versions"),
        }
    }
}
