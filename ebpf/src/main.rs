//! The kernel program: entry points only.
//!
//! The same program hangs on ingress and egress; the direction is looked up, never assumed
//! ([`nat::translate`], [`rpc::direction`]). A packet may pass it more than once.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// The atomic changes of `bpf::atomic` are written in assembly.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "a key passed by value is copied to the stack, of which there are 512 bytes"
)]

use aya_ebpf::{
    macros::{classifier, sk_lookup, xdp},
    programs::{SkLookupContext, TcContext, XdpContext},
};

mod bpf;
mod capture;
mod classify;
mod events;
mod maps;
mod nat;
mod packet;
mod ports;
mod relay;
mod rpc;
mod scratch;

/// For devices with an Ethernet header, which includes loopback and veth.
#[classifier]
pub fn tn_ether(ctx: TcContext) -> i32 {
    classify::classify(&ctx, packet::Link::Ethernet)
}

/// For devices without a link-layer header: tun, WireGuard, IP tunnels.
#[classifier]
pub fn tn_raw(ctx: TcContext) -> i32 {
    classify::classify(&ctx, packet::Link::None)
}

/// The RPC translator: what [`tn_ether`] and [`tn_raw`] go on with (a tail call) for the packets of
/// endpoints. It is never attached.
#[classifier]
pub fn tn_rpc(ctx: TcContext) -> i32 {
    classify::rpc(&ctx)
}

/// Forwards packets of services between other hosts, on devices with an Ethernet header.
#[xdp]
pub fn tn_xdp(ctx: XdpContext) -> u32 {
    nat::xdp::enter(&ctx)
}

/// Gives new connections to the relay. It is attached to the network namespaces of endpoints that have one.
#[sk_lookup]
pub fn tn_steer(ctx: SkLookupContext) -> u32 {
    relay::steer(&ctx)
}

/// What the others are measured against.
#[classifier]
pub fn tn_empty(_: TcContext) -> i32 {
    packet::NEXT
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Elsewhere the program is only checked.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
