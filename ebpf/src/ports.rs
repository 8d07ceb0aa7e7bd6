//! What a packet may be to this host, by its ports. Nearly all packets end here.

use truename_common::layout::{TCP, port_flags};

use crate::maps::PORTS;

/// What a packet may be to this host, by its ports; bits of what [`wanted`] returns.
pub mod wanted {
    /// Of an RPC endpoint.
    pub const RPC: u32 = 1;
    /// To a service. Of an ICMP error: about a packet from one.
    pub const SERVICE: u32 = 2;
    /// From a target. Of an ICMP error: about a packet to one.
    pub const TARGET: u32 = 4;
    /// To a target, not by way of a service.
    pub const DIRECT: u32 = 8;
    /// Of UDP, from the port of a service.
    pub const ASKS: u32 = 16;
    /// Of a fragment without ports: the first one of its packet has them.
    pub const PORTS: u32 = 32;
    /// Of UDP, to a port whose questions are captured.
    pub const CAPTURE: u32 = 64;
    /// Any but [`RPC`].
    pub const NAT: u32 = SERVICE | TARGET | DIRECT | ASKS | PORTS;
}

/// Two bytes of an array decide for nearly all packets.
#[inline(always)]
pub fn wanted(protocol: u8, is_icmp: bool, source: u16, destination: u16) -> u32 {
    let flags = |port: u16| PORTS.get(u32::from(port)).map_or(0, |flags| *flags);
    let (from, to) = (flags(source), flags(destination));
    if is_icmp {
        return bit(from, port_flags::SERVICE, wanted::SERVICE)
            | bit(to, port_flags::TARGET, wanted::TARGET);
    }
    let own = if protocol == TCP {
        bit(from | to, port_flags::ENDPOINT, wanted::RPC)
    } else {
        bit(from, port_flags::SERVICE, wanted::ASKS) | bit(to, port_flags::CAPTURE, wanted::CAPTURE)
    };
    own | bit(to, port_flags::SERVICE, wanted::SERVICE)
        | bit(from, port_flags::TARGET, wanted::TARGET)
        | bit(to, port_flags::TARGET, wanted::DIRECT)
}

#[inline(always)]
fn bit(flags: u8, flag: u8, wanted: u32) -> u32 {
    if flags & flag != 0 { wanted } else { 0 }
}
