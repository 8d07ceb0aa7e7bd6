//! What packets look like, and TCP segments.

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
        check_sums(self.link, packet)?;
        Ok(Received {
            payload: tcp.payload().to_vec(),
            rst: tcp.rst(),
        })
    }
}

/// Checks every checksum of a packet.
///
/// # Errors
/// One is wrong, or the packet cannot be read.
pub fn check_sums(link: Link, packet: &[u8]) -> Result<()> {
    let sliced = match link {
        Link::Raw => SlicedPacket::from_ip(packet),
        _ => SlicedPacket::from_ethernet(packet),
    }
    .context("read the packet")?;
    let addresses = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            ensure!(
                header.header_checksum == header.calc_header_checksum(),
                "the checksum of the IPv4 header is wrong"
            );
            Addresses::V4(header.source, header.destination)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            Addresses::V6(header.source, header.destination)
        }
        _ => bail!("no IP header"),
    };
    let (is, should) = match (&sliced.transport, addresses) {
        (Some(TransportSlice::Tcp(tcp)), Addresses::V4(from, to)) => {
            (tcp.checksum(), tcp.calc_checksum_ipv4(from, to)?)
        }
        (Some(TransportSlice::Tcp(tcp)), Addresses::V6(from, to)) => {
            (tcp.checksum(), tcp.calc_checksum_ipv6(from, to)?)
        }
        (Some(TransportSlice::Udp(udp)), Addresses::V4(from, to)) => {
            let header = udp.to_header();
            if header.checksum == 0 {
                return Ok(());
            }
            let sum = header.calc_checksum_ipv4_raw(from, to, udp.payload())?;
            (header.checksum, sum)
        }
        (Some(TransportSlice::Udp(udp)), Addresses::V6(from, to)) => {
            let header = udp.to_header();
            let sum = header.calc_checksum_ipv6_raw(from, to, udp.payload())?;
            (header.checksum, sum)
        }
        (Some(TransportSlice::Icmpv4(icmp)), _) => {
            let payload = icmp.payload();
            (icmp.checksum(), icmp.icmp_type().calc_checksum(payload))
        }
        (Some(TransportSlice::Icmpv6(icmp)), Addresses::V6(from, to)) => {
            let sum = icmp.icmp_type().calc_checksum(from, to, icmp.payload())?;
            (icmp.checksum(), sum)
        }
        _ => bail!("no transport header: {sliced:?}"),
    };
    ensure!(
        is == should,
        "a checksum is {is:#06x} and should be {should:#06x}"
    );
    Ok(())
}

enum Addresses {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}
