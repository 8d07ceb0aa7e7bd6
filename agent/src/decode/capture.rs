//! From a pcap or pcapng file to TCP segments.

use std::{collections::BTreeMap, io, net::SocketAddr};

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

/// What of a capture was not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Packets by why they were not read.
    reasons: BTreeMap<String, u64>,
    /// Packets that were.
    read: u64,
    /// The capture ends in the middle of a packet.
    is_cut: bool,
}

impl Skipped {
    /// A sentence for each reason.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let reasons = self.reasons.iter();
        let cut = "the capture ends in the middle of a packet: what follows was not recorded";
        reasons
            .map(|(reason, count)| format!("{count} packet(s) were skipped: {reason}"))
            .chain(self.is_cut.then(|| cut.to_owned()))
    }

    fn note(&mut self, reason: &str) {
        if let Some(count) = self.reasons.get_mut(reason) {
            *count += 1;
        } else {
            self.reasons.insert(reason.to_owned(), 1);
        }
    }
}

/// Calls `take` with every TCP segment, in the order of the capture. A capture that was cut off
/// ends there. Packets of interfaces that cannot be read are skipped.
///
/// # Errors
/// When the capture is broken, or none of its packets can be read.
pub fn read(bytes: &[u8], mut take: impl FnMut(Segment<'_>)) -> Result<Skipped, CaptureError> {
    let mut skipped = Skipped::default();
    let mut odd = None;
    let mut packet = |link, data: &[u8]| match packet(link, data, &mut take) {
        Packet::Read => skipped.read += 1,
        Packet::Link => {
            odd = Some(link);
            skipped.note(&format!("the link type {link:?} is not read"));
        }
        Packet::Broken => {
            skipped.note("they are cut off or broken (tcpdump records whole packets with -s 0)");
        }
    };
    let mut unknown = 0;
    let mut is_cut = false;
    if is_pcapng(bytes) {
        let mut reader = PcapNgReader::new(bytes)?;
        while let Some(block) = reader.next_block() {
            let Some(block) = complete(block)? else {
                is_cut = true;
                break;
            };
            let (interface, data) = match block {
                Block::EnhancedPacket(packet) => (packet.interface_id, packet.data),
                Block::SimplePacket(packet) => (0, packet.data),
                _ => continue,
            };
            let data = data.into_owned();
            let known = reader.interfaces().get(interface as usize);
            match known.map(|interface| interface.linktype) {
                Some(link) => packet(link, &data),
                None => unknown += 1,
            }
        }
    } else {
        let mut reader = PcapReader::new(bytes)?;
        let link = reader.header().datalink;
        while let Some(next) = reader.next_packet() {
            let Some(next) = complete(next)? else {
                is_cut = true;
                break;
            };
            packet(link, &next.data);
        }
    }
    if unknown > 0 {
        let reason = "the capture does not describe their interface".to_owned();
        skipped.reasons.insert(reason, unknown);
    }
    skipped.is_cut = is_cut;
    match odd {
        Some(link) if skipped.read == 0 => Err(CaptureError::Link(link)),
        _ => Ok(skipped),
    }
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

/// What became of a packet.
enum Packet {
    /// It was read, whatever is in it.
    Read,
    /// Its link type is not known.
    Link,
    /// It is not whole.
    Broken,
}

fn packet(link: DataLink, data: &[u8], take: &mut impl FnMut(Segment<'_>)) -> Packet {
    /// Linux "cooked" version 2, which `tcpdump -i any` writes: the protocol comes first.
    const SLL2: usize = 20;
    /// The address family.
    const LOOPBACK: usize = 4;
    let behind = |header: usize| SlicedPacket::from_ip(data.get(header..).unwrap_or_default());
    let sliced = match link {
        DataLink::ETHERNET => SlicedPacket::from_ethernet(data),
        // 12 and 14 are what some systems write for RAW.
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 | DataLink::Unknown(12 | 14) => {
            SlicedPacket::from_ip(data)
        }
        DataLink::LINUX_SLL => SlicedPacket::from_linux_sll(data),
        // Neither IPv4 nor IPv6.
        DataLink::LINUX_SLL2
            if ![[0x08, 0x00], [0x86, 0xdd]]
                .iter()
                .any(|ip| data.starts_with(ip)) =>
        {
            return Packet::Read;
        }
        DataLink::LINUX_SLL2 => behind(SLL2),
        DataLink::NULL | DataLink::LOOP => behind(LOOPBACK),
        _ => return Packet::Link,
    };
    let Ok(sliced) = sliced else {
        return Packet::Broken;
    };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        return Packet::Read;
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
        _ => return Packet::Read,
    };
    take(Segment {
        from: SocketAddr::new(source, tcp.source_port()),
        to: SocketAddr::new(destination, tcp.destination_port()),
        seq: tcp.sequence_number(),
        syn: tcp.syn(),
        ack: tcp.ack(),
        payload: tcp.payload(),
    });
    Packet::Read
}
