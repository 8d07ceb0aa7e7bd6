//! What packets look like, and TCP segments.

use anyhow::{Context as _, Result, bail};
use etherparse::{SlicedPacket, TransportSlice};

use super::datagram::check_sums;

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
