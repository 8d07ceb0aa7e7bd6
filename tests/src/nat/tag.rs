//! 802.1Q tags, on kernels without VLAN interfaces too: a packet has its tag on the wire and in the hooks before
//! the stack, and none in the stack.

use anyhow::Result;

use super::filter;
use crate::{namespace::Namespace, sys::Instruction};

/// Lets all packets of an interface have a tag on the wire.
///
/// # Errors
/// The kernel refuses.
pub fn tag(namespace: &Namespace, interface: &str, vlan: u16) -> Result<()> {
    /// The protocol of a tag, in network order.
    const ETH_P_8021Q: i32 = 0x8100_u16.to_be() as i32;
    const SKB_VLAN_PUSH: i32 = 18;
    const SKB_VLAN_POP: i32 = 19;
    // tc's own filters run behind tcx programs on ingress and on egress.
    let push = [
        Instruction::set(2, ETH_P_8021Q),
        Instruction::set(3, vlan.into()),
        Instruction::call(SKB_VLAN_PUSH),
        Instruction::set(0, 0),
        Instruction::exit(),
    ];
    let pop = [
        Instruction::call(SKB_VLAN_POP),
        Instruction::set(0, 0),
        Instruction::exit(),
    ];
    filter::add_qdisc(namespace, interface)?;
    filter::add(namespace, &format!("{interface} egress"), &push)?;
    filter::add(namespace, &format!("{interface} ingress"), &pop)
}
