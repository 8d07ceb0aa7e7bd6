//! Answering a packet that cannot be forwarded with an ICMP error, as a router does.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::generated::{
        bpf_csum_diff, bpf_redirect, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes,
    },
};
use truename_common::layout::Counter;

use super::{route, tag};
use crate::{
    bpf::clock,
    maps::{SETTINGS, count},
    packet::{Buffer, DROP, fold, fragment, load, rewrite::Packet as _},
    scratch::{QUOTE_MAX, Scratch},
};

/// What an error says: type and code of ICMP, then of ICMPv6 (RFC 792, RFC 4443).
///
/// The packet is larger than the next link's MTU.
pub const TOO_BIG: u32 = 0x0304_0200;
/// The packet's hop limit is used up.
pub const HOP_LIMIT: u32 = 0x0b00_0300;
/// There is no route.
pub const NO_ROUTE: u32 = 0x0300_0100;
/// There is a route that says that there is none.
pub const UNREACHABLE: u32 = 0x0301_0100;
/// There is a route that forbids it.
pub const PROHIBITED: u32 = 0x030d_0101;
/// The next hop does not say its link address.
pub const NO_HOST: u32 = 0x0301_0103;
/// Nobody is behind the port.
pub const NO_PORT: u32 = 0x0303_0104;

/// Of each CPU: one error in so many nanoseconds, and so many at once after a pause (as Linux'
/// `icmp_msgs_per_sec` and `icmp_msgs_burst`).
const INTERVAL_NS: u64 = 1_000_000;
const BURST: u64 = 50;
const ETHERNET: u32 = 14;

/// Turns the packet in the working memory into an ICMP error about itself, and sends it back. Its
/// source is whom the packet was sent to. Returns what is returned to the kernel.
#[inline(always)]
pub fn answer(skb: *mut __sk_buff, scratch: &mut Scratch, what: u32) -> i32 {
    let now_ns = clock::now();
    let headers = &scratch.headers;
    let mut due_ns = scratch.nat.quote.due_ns + INTERVAL_NS;
    let earliest_ns = now_ns.saturating_sub(BURST * INTERVAL_NS);
    if due_ns < earliest_ns {
        due_ns = earliest_ns;
    }
    // No error about an error or a later fragment (RFC 1122 3.2.2), nor on devices without Ethernet headers.
    let is_answered = headers.icmp == 0 && headers.fragment != fragment::LATER;
    if !is_answered || headers.network != ETHERNET || due_ns > now_ns {
        count(Counter::NatErrorUnsent, 1);
        return DROP;
    }
    scratch.nat.quote.due_ns = due_ns;
    let Some(settings) = SETTINGS.get(0) else {
        return DROP;
    };
    let mut quoted = headers.network_len & !3;
    if quoted > QUOTE_MAX {
        quoted = QUOTE_MAX;
    }
    let room = if headers.version == 4 { 28 } else { 48 };
    // SAFETY: the helpers check lengths.
    let is_shaped = unsafe {
        bpf_skb_change_tail(skb, ETHERNET + quoted, 0) == 0
            && load(skb, ETHERNET, quoted, &mut scratch.nat.quote.words)
            && bpf_skb_change_head(skb, room, 0) == 0
    };
    if !is_shaped || !write(skb, scratch, what, quoted, room) {
        count(Counter::NatErrorUnsent, 1);
        return DROP;
    }
    tag(skb, settings);
    let back = !route::is_own(skb);
    // SAFETY: the context of the program; the helper checks the interface.
    unsafe {
        if back {
            bpf_redirect((*skb).ifindex, 0) as i32
        } else {
            bpf_redirect(settings.loopback, u64::from(BPF_F_INGRESS)) as i32
        }
    }
}

/// Writes the headers: Ethernet, IP, ICMP.
#[inline(always)]
fn write(skb: *mut __sk_buff, scratch: &Scratch, what: u32, quoted: u32, room: u32) -> bool {
    let mut ethernet = [0u8; ETHERNET as usize];
    // SAFETY: `ethernet` has as many bytes; the helper checks the packet's bounds.
    if unsafe { bpf_skb_load_bytes(skb.cast(), room, ethernet.as_mut_ptr().cast(), ETHERNET) } != 0
    {
        return false;
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = ethernet;
    let ethernet = if route::is_own(skb) {
        // To the loopback interface.
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, m, n]
    } else {
        [g, h, i, j, k, l, a, b, c, d, e, f, m, n]
    };
    let mtu = u32::from(scratch.nat.fib.mtu());
    Buffer(skb).store(0, &ethernet, false)
        && if scratch.headers.version == 4 {
            ipv4(skb, scratch, what, quoted, mtu)
        } else {
            ipv6(skb, scratch, what, quoted, mtu)
        }
}

#[inline(always)]
fn ipv4(skb: *mut __sk_buff, scratch: &Scratch, what: u32, quoted: u32, mtu: u32) -> bool {
    let headers = &scratch.headers;
    let last = |address: &[u8; 16]| {
        u32::from_be_bytes([address[12], address[13], address[14], address[15]])
    };
    // Precedence "internetwork control", as Linux sends its own.
    let mut header = [
        (0x45c0_0000 | (28 + quoted)).to_be(),
        0,
        0x4001_0000u32.to_be(),
        last(&headers.destination).to_be(),
        last(&headers.source).to_be(),
        (what & 0xffff_0000).to_be(),
        (if what == TOO_BIG { mtu } else { 0 }).to_be(),
    ];
    let icmp = sum(&header[5..7], sum(&scratch.nat.quote.words, 0));
    let ip = sum(&header[..5], 0);
    header[2] = (0x4001_0000 | u32::from(u16::from_be(!fold(ip)))).to_be();
    header[5] |= u32::from(u16::from_be(!fold(icmp))).to_be();
    Buffer(skb).store(ETHERNET, &header, false)
}

#[inline(always)]
fn ipv6(skb: *mut __sk_buff, scratch: &Scratch, what: u32, quoted: u32, mtu: u32) -> bool {
    const ICMPV6: u32 = 58;
    let headers = &scratch.headers;
    let word = |address: &[u8; 16], at: usize| {
        u32::from_ne_bytes([
            address[at],
            address[at + 1],
            address[at + 2],
            address[at + 3],
        ])
    };
    let (from, to) = (&headers.destination, &headers.source);
    let mut header = [
        0x6000_0000u32.to_be(),
        ((8 + quoted) << 16 | ICMPV6 << 8 | 64).to_be(),
        word(from, 0),
        word(from, 4),
        word(from, 8),
        word(from, 12),
        word(to, 0),
        word(to, 4),
        word(to, 8),
        word(to, 12),
        (what << 16).to_be(),
        (if what == TOO_BIG { mtu } else { 0 }).to_be(),
    ];
    // The pseudo header (RFC 8200 8.1): addresses, length and next header.
    let pseudo = [(8 + quoted).to_be(), ICMPV6.to_be()];
    let icmp = sum(
        &header[2..12],
        sum(&pseudo, sum(&scratch.nat.quote.words, 0)),
    );
    header[10] |= u32::from(u16::from_be(!fold(icmp))).to_be();
    Buffer(skb).store(ETHERNET, &header, false)
}

/// The ones-complement sum of words, added to `seed`.
#[inline(always)]
fn sum(words: &[u32], seed: i64) -> i64 {
    let len = (words.len() * 4) as u32;
    // SAFETY: `words` has `len` bytes, which the helper only reads.
    unsafe {
        bpf_csum_diff(
            ptr::null_mut(),
            0,
            words.as_ptr().cast_mut(),
            len,
            seed as u32,
        )
    }
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use aya_ebpf::bindings::__sk_buff;

    use crate::{
        packet::DROP,
        scratch::{Scratch, scratch},
    };

    /// [`super::answer`].
    #[inline(always)]
    pub fn answer(skb: *mut __sk_buff, _: &mut Scratch, what: u32) -> i32 {
        tn_answer(skb, what)
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn tn_answer(skb: *mut __sk_buff, what: u32) -> i32 {
        // SAFETY: `answer`, the only caller, lends it.
        let Some(scratch) = (unsafe { scratch() }) else {
            return DROP;
        };
        super::answer(skb, scratch, what)
    }
}
