//! Packets, written and checked by a library of their own.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{
    IpHeaders, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6Header,
    Ipv6RawExtHeader, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, VlanId,
    ip_number,
};

/// Flags of a TCP header.
pub mod flag {
    /// The last byte of a side.
    pub const FIN: u8 = 1;
    /// The first byte of a side.
    pub const SYN: u8 = 2;
    /// The end of both.
    pub const RST: u8 = 4;
    /// The acknowledgement is valid.
    pub const ACK: u8 = 16;
}

/// What is in front of the IP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header.
    #[default]
    Ethernet,
    /// One with a VLAN tag.
    Vlan,
    /// One with two.
    QinQ,
    /// Nothing.
    Raw,
}

/// What the headers of a packet look like. Which IP version it is follows from the addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// In front.
    pub link: Link,
    /// Bytes of IPv4 options: a multiple of four.
    pub ipv4_options: usize,
    /// A hop-by-hop header of this many bytes of content: six more than a multiple of eight.
    pub hop_by_hop: Option<usize>,
    /// A destination header, as above.
    pub destination: Option<usize>,
    /// Bytes of TCP options: a multiple of four.
    pub tcp_options: usize,
}

/// A TCP segment as it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it carries.
    pub payload: Vec<u8>,
    /// Whether it ends the connection.
    pub rst: bool,
}

impl Shape {
    /// The packet with this payload.
    ///
    /// # Errors
    /// The addresses are of two versions, or a length cannot be written.
    pub fn packet(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        (seq, ack, flags): (u32, u32, u8),
        payload: &[u8],
    ) -> Result<Vec<u8>> {
        let mut tcp = TcpHeader::new(source.port(), destination.port(), seq, 4096);
        tcp.acknowledgment_number = ack;
        tcp.fin = flags & flag::FIN != 0;
        tcp.syn = flags & flag::SYN != 0;
        tcp.rst = flags & flag::RST != 0;
        tcp.ack = flags & flag::ACK != 0;
        tcp.set_options_raw(&vec![1; self.tcp_options])?;
        let ip = self.ip(source.ip(), destination.ip())?;
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let packet = match self.link {
            Link::Ethernet => ethernet.ip(ip),
            Link::Vlan => ethernet.single_vlan(VlanId::try_new(7)?).ip(ip),
            Link::QinQ => ethernet
                .double_vlan(VlanId::try_new(7)?, VlanId::try_new(8)?)
                .ip(ip),
            Link::Raw => PacketBuilder::ip(ip),
        };
        let mut bytes = Vec::new();
        packet.tcp_header(tcp).write(&mut bytes, payload)?;
        Ok(bytes)
    }

    fn ip(&self, source: IpAddr, destination: IpAddr) -> Result<IpHeaders> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header =
                    Ipv4Header::new(0, 64, ip_number::TCP, source.octets(), destination.octets())?;
                header.options = Ipv4Options::try_from(vec![1; self.ipv4_options].as_slice())?;
                Ok(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                // The content is options of padding.
                let extension = |len: Option<usize>| {
                    len.map(|len| Ipv6RawExtHeader::new_raw(ip_number::TCP, &vec![0; len]))
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

    /// Reads a packet and checks its checksums.
    ///
    /// # Errors
    /// It is no TCP segment, or a checksum is wrong.
    pub fn receive(&self, packet: &[u8]) -> Result<Received> {
        let sliced = match self.link {
            Link::Raw => SlicedPacket::from_ip(packet),
            _ => SlicedPacket::from_ethernet(packet),
        }
        .context("read the packet")?;
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
            bail!("no TCP segment: {sliced:?}");
        };
        let checksum = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                ensure!(
                    header.header_checksum == header.calc_header_checksum(),
                    "the checksum of the IPv4 header is wrong"
                );
                tcp.calc_checksum_ipv4(header.source, header.destination)?
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header().to_header();
                tcp.calc_checksum_ipv6(header.source, header.destination)?
            }
            _ => bail!("no IP header"),
        };
        ensure!(
            tcp.checksum() == checksum,
            "the TCP checksum is {:#06x} and should be {checksum:#06x}",
            tcp.checksum()
        );
        Ok(Received {
            payload: tcp.payload().to_vec(),
            rst: tcp.rst(),
        })
    }
}
