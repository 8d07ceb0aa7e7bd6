//! From a pcap or pcapng file to TCP segments.

use std::{io, net::SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::{
    DataLink,
    pcap::PcapReader,
    pcapng::{Block, PcapNgReader},
};

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Its format.
    #[error("the capture is broken: {0}")]
    Broken(#[from] pcap_file::PcapError),
    /// Its packets.
    #[error(
        "packets of the link type {0:?} are not read; record on an Ethernet, raw or \"any\" device"
    )]
    Link(DataLink),
}

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub syn: bool,
    pub ack: bool,
    pub payload: &'a [u8],
}

/// Whether the first bytes are those of a pcap or a pcapng.
pub fn is_capture(bytes: &[u8]) -> bool {
    is_pcapng(bytes)
        || [
            [0xa1, 0xb2, 0xc3, 0xd4],
            [0xd4, 0xc3, 0xb2, 0xa1],
            [0xa1, 0xb2, 0x3c, 0x4d],
            [0x4d, 0x3c, 0xb2, 0xa1],
        ]
        .iter()
        .any(|magic| bytes.starts_with(magic))
}

fn is_pcapng(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a])
}

/// Calls `take` with every TCP segment, in the order of the capture. A capture that was cut off
/// ends there.
///
/// # Errors
/// When the capture is broken.
pub fn read(bytes: &[u8], mut take: impl FnMut(Segment<'_>)) -> Result<(), CaptureError> {
    if is_pcapng(bytes) {
        let mut reader = PcapNgReader::new(bytes)?;
        while let Some(block) = reader.next_block() {
            let Some(block) = complete(block)? else { break };
            let (interface, data) = match block {
                Block::EnhancedPacket(packet) => (packet.interface_id, packet.data),
                Block::SimplePacket(packet) => (0, packet.data),
                _ => continue,
            };
            let data = data.into_owned();
            let link = reader
                .interfaces()
                .get(interface as usize)
                .map(|i| i.linktype);
            packet(link.unwrap_or(DataLink::ETHERNET), &data, &mut take)?;
        }
        return Ok(());
    }
    let mut reader = PcapReader::new(bytes)?;
    let link = reader.header().datalink;
    while let Some(next) = reader.next_packet() {
        let Some(next) = complete(next)? else { break };
        packet(link, &next.data, &mut take)?;
    }
    Ok(())
}

/// `None` if the file ends in the middle.
fn complete<T>(next: Result<T, pcap_file::PcapError>) -> Result<Option<T>, CaptureError> {
    match next {
        Ok(next) => Ok(Some(next)),
        Err(pcap_file::PcapError::IncompleteBuffer) => Ok(None),
        Err(pcap_file::PcapError::IoError(error))
            if error.kind() == io::ErrorKind::UnexpectedEof =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn packet(
    link: DataLink,
    data: &[u8],
    take: &mut impl FnMut(Segment<'_>),
) -> Result<(), CaptureError> {
    // Linux "cooked" version 2, which `tcpdump -i any` writes: 20 bytes, the protocol first.
    const SLL2: u32 = 276;
    let sliced = match link {
        DataLink::ETHERNET => SlicedPacket::from_ethernet(data),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => SlicedPacket::from_ip(data),
        DataLink::LINUX_SLL => SlicedPacket::from_linux_sll(data),
        DataLink::Unknown(SLL2) => SlicedPacket::from_ip(data.get(20..).unwrap_or_default()),
        other => return Err(CaptureError::Link(other)),
    };
    // What is not IP and TCP, or cut off, is none of ours.
    let Ok(sliced) = sliced else { return Ok(()) };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        return Ok(());
    };
    let (source, destination) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        Some(NetSlice::Ipv6(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        _ => return Ok(()),
    };
    take(Segment {
        from: SocketAddr::new(source, tcp.source_port()),
        to: SocketAddr::new(destination, tcp.destination_port()),
        seq: tcp.sequence_number(),
        syn: tcp.syn(),
        ack: tcp.ack(),
        payload: tcp.payload(),
    });
    Ok(())
}
