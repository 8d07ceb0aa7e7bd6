//! 802.1Q tags, on kernels without VLAN interfaces too: a packet has its tag on the wire and in the hooks before
//! the stack, and none in the stack.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::{
    cleanup,
    namespace::Namespace,
    sys::{self, Instruction},
    truename::ensure_bpffs,
};

/// Lets all packets of an interface have a tag on the wire.
///
/// # Errors
/// The kernel refuses.
pub fn tag(namespace: &Namespace, interface: &str, vlan: u16) -> Result<()> {
    /// The protocol of a tag, in network order.
    const ETH_P_8021Q: i32 = 0x8100_u16.to_be() as i32;
    const SKB_VLAN_PUSH: i32 = 18;
    const SKB_VLAN_POP: i32 = 19;
    ensure_bpffs()?;
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
    tc(namespace, &format!("qdisc add dev {interface} clsact"))?;
    for (hook, instructions) in [("egress", &push[..]), ("ingress", &pop[..])] {
        let path = Path::new(cleanup::BPFFS).join(cleanup::unique_name(hook));
        sys::pin_classifier(instructions, &path)
            .with_context(|| format!("load the program for {hook}"))?;
        let outcome = tc(
            namespace,
            &format!(
                "filter add dev {interface} {hook} bpf direct-action object-pinned {}",
                path.display()
            ),
        );
        // The filter holds the program.
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        outcome?;
    }
    Ok(())
}

/// Not `tc -n`: that hides the BPF file system.
fn tc(namespace: &Namespace, arguments: &str) -> Result<()> {
    let output = namespace
        .command("tc".as_ref(), &[])?
        .args(arguments.split(' '))
        .output()
        .context("run tc")?;
    ensure!(
        output.status.success(),
        "tc {arguments}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
