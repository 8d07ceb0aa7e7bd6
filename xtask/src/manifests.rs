//! `cargo xtask manifests`: writes the manifests that the Helm chart renders.

use std::fs;

use anyhow::{Context as _, Result};
use truename_tests::helm::{MANIFESTS, deploy};

/// Writes all of them.
pub(crate) fn run() -> Result<()> {
    for manifest in MANIFESTS {
        let path = deploy().join("kubernetes").join(manifest.name);
        fs::write(&path, manifest.text()?).with_context(|| format!("write {}", path.display()))?;
        println!("manifests: {}", manifest.name);
    }
    Ok(())
}
