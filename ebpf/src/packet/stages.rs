//! Reading headers as global functions; see [`crate::rpc::stages`].

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::bpf_skb_pull_data,
    programs::{TcContext, XdpContext},
};

use super::{Headers, Link, parse as parse_headers};
use crate::{maps::count, nat};

/// Bytes that the headers may take: those of an ICMP error over IPv6 and of what it quotes, and VLAN
/// tags.
const HEADERS: u32 = 128;

/// [`super::parse`] for devices with an Ethernet header: bits of [`nat::wanted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_parse_ether(skb: *mut __sk_buff, headers: *mut Headers) -> i32 {
    parse(skb, headers, Link::Ethernet)
}

/// [`super::parse`] for devices without a link-layer header: bits of [`nat::wanted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_parse_raw(skb: *mut __sk_buff, headers: *mut Headers) -> i32 {
    parse(skb, headers, Link::None)
}

/// [`super::parse`] in XDP: bits of [`nat::wanted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_parse_xdp(ctx: *mut xdp_md, headers: *mut Headers) -> i32 {
    if headers.is_null() {
        return 0;
    }
    // SAFETY: the caller lends its exclusive reference for the time of the call.
    let headers = unsafe { &mut *headers };
    // What cannot be read is counted in tc.
    parse_headers(&XdpContext::new(ctx), Link::Ethernet, headers, nat::wanted).unwrap_or(0) as i32
}

#[inline(always)]
fn parse(skb: *mut __sk_buff, headers: *mut Headers, link: Link) -> i32 {
    if headers.is_null() {
        return 0;
    }
    let ctx = TcContext::new(skb);
    let linear = ctx.data_end() - ctx.data();
    if linear < HEADERS as usize && linear < ctx.len() as usize {
        // A device may leave all but the link-layer header outside. If it stays there, it is not read.
        // SAFETY: the context of the program.
        unsafe { bpf_skb_pull_data(skb, HEADERS.min(ctx.len())) };
    }
    // SAFETY: the caller lends its exclusive reference for the time of the call.
    let headers = unsafe { &mut *headers };
    match parse_headers(&ctx, link, headers, nat::wanted) {
        Ok(wanted) => wanted as i32,
        Err(why) => {
            count(why, 1);
            0
        }
    }
}
