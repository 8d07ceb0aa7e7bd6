//! Filters of other programs in tc.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::{
    cleanup,
    namespace::Namespace,
    sys::{self, Instruction},
    truename::ensure_bpffs,
};

/// Gives an interface the qdisc that filters hang on.
///
/// # Errors
/// It has one.
pub(super) fn add_qdisc(namespace: &Namespace, interface: &str) -> Result<()> {
    tc(namespace, &format!("qdisc add dev {interface} clsact"))
}

/// Hangs a program on a place, as `tc` has it behind `dev`. In tcx mode it runs behind truename.
///
/// # Errors
/// The kernel refuses it.
pub(super) fn add(namespace: &Namespace, place: &str, instructions: &[Instruction]) -> Result<()> {
    ensure_bpffs()?;
    let path = Path::new(cleanup::BPFFS).join(cleanup::unique_name("filter"));
    sys::pin_classifier(instructions, &path)
        .with_context(|| format!("load the program for {place}"))?;
    let outcome = tc(
        namespace,
        &format!(
            "filter add dev {place} bpf direct-action object-pinned {}",
            path.display()
        ),
    );
    // The filter holds the program.
    std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    outcome
}

/// A filter as policy agents and CNIs have: it lets everything pass, and clears what they take for theirs, the mark
/// and `tc_index`. It comes behind truename's, and is there until it is dropped.
#[derive(Debug)]
pub struct AcceptAll<'n> {
    namespace: &'n Namespace,
    place: String,
}

impl<'n> AcceptAll<'n> {
    /// Hangs it on a side of an interface: `ingress` or `egress`.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn start(namespace: &'n Namespace, interface: &str, side: &str) -> Result<Self> {
        /// Offsets in `struct __sk_buff`.
        const MARK: i16 = 8;
        const TC_INDEX: i16 = 44;
        const TC_ACT_OK: i32 = 0;
        let instructions = [
            Instruction::set(2, 0),
            Instruction::store(1, MARK, 2),
            Instruction::store(1, TC_INDEX, 2),
            Instruction::set(0, TC_ACT_OK),
            Instruction::exit(),
        ];
        // There may be one: truename's, where tcx is not known.
        let _ = add_qdisc(namespace, interface);
        let place = format!("{interface} {side} pref 60000");
        add(namespace, &place, &instructions)?;
        Ok(Self { namespace, place })
    }
}

impl Drop for AcceptAll<'_> {
    fn drop(&mut self) {
        // The namespace ends, too.
        let _ = tc(self.namespace, &format!("filter del dev {}", self.place));
    }
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
