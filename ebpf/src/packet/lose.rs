//! Drops a packet as a wire would.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};

use super::DROP;

/// No interface has this index.
const NOWHERE: u32 = i32::MAX as u32;

/// Drops the packet. A TCP of this host that sends it must not see that: when the egress hook drops a segment,
/// `tcp_write_xmit` stops, and sends the same one again instead of what follows it. A packet that is redirected is
/// sent, as far as TCP knows, and the kernel frees one for an interface that does not exist.
#[inline(always)]
pub fn lose(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*ctx.skb.skb).ingress_ifindex } != 0 {
        return DROP;
    }
    // SAFETY: the helper only notes the index.
    unsafe { bpf_redirect(NOWHERE, 0) as i32 }
}
