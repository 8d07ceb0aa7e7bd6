//! Reading headers as global functions; see [`crate::rpc::stages`].

use core::cell::Cell;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::bpf_skb_pull_data,
    programs::{TcContext, XdpContext},
};

use super::{Linear, Link, fragment, parse as parse_headers};
use crate::{maps::count, ports::wanted, scratch::Headers};

/// Bytes that the headers may take: those of an ICMP error over IPv6 and of what it quotes, and VLAN
/// tags.
const HEADERS: u32 = 128;
/// [`super::parse`] for devices with an Ethernet header: bits of [`wanted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_parse_ether(skb: *mut __sk_buff, headers: *mut Headers) -> i32 {
    parse(skb, headers, Link::Ethernet)
}

/// [`super::parse`] for devices without a link-layer header: bits of [`wanted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_parse_raw(skb: *mut __sk_buff, headers: *mut Headers) -> i32 {
    parse(skb, headers, Link::None)
}

/// [`super::parse`] in XDP: bits of [`wanted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_parse_xdp(ctx: *mut xdp_md, headers: *mut Headers) -> i32 {
    if headers.is_null() {
        return 0;
    }
    // SAFETY: the caller lends its exclusive reference for the time of the call.
    let headers = unsafe { &mut *headers };
    // What cannot be read is counted in tc.
    parse_headers(&XdpContext::new(ctx), Link::Ethernet, headers, wanted).unwrap_or(0) as i32
}

#[inline(always)]
fn parse(skb: *mut __sk_buff, headers: *mut Headers, link: Link) -> i32 {
    if headers.is_null() {
        return 0;
    }
    // SAFETY: the caller lends its exclusive reference for the time of the call.
    let headers = unsafe { &mut *headers };
    let ctx = TcContext::new(skb);
    let view = Linear {
        ctx: &ctx,
        missed: Cell::new(false),
    };
    match parse_headers(&view, link, headers, wanted) {
        Ok(wanted) if wanted != 0 => wanted as i32,
        // Stack and drivers leave headers in the linear part, nearly always: they are read where they are.
        // Only if one is missing, and there is more of the packet, it is fetched: that copies, and costs more
        // than all the rest.
        _ if view.missed.get() && ctx.data_end() - ctx.data() < ctx.len() as usize => MISSED,
        Ok(_) => 0,
        Err(why) => {
            count(why, 1);
            0
        }
    }
}

/// [`fragment::note`] and [`fragment::look_up`], whichever the fragment needs; bits of [`wanted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_fragment(headers: *mut Headers, wanted: u32) -> i32 {
    if headers.is_null() {
        return 0;
    }
    // SAFETY: the caller lends its exclusive reference for the time of the call.
    let headers = unsafe { &mut *headers };
    if headers.fragment == fragment::LATER {
        return fragment::look_up(headers) as i32;
    }
    fragment::note(headers);
    wanted as i32
}

/// What [`tn_parse_ether`] and [`tn_parse_raw`] return if a header lies outside of the linear part.
pub const MISSED: i32 = -1;

/// Fetches headers into the linear part. A header that is not there afterwards is not read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_fetch_headers(skb: *mut __sk_buff) -> i32 {
    let len = TcContext::new(skb).len();
    // SAFETY: the context of the program.
    unsafe { bpf_skb_pull_data(skb, HEADERS.min(len)) };
    0
}
