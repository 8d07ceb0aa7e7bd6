//! `bpf-linker`, at the version this project pins.

use anyhow::{Context as _, Result, ensure};

use super::{apt, toolchain::Way};
use crate::command::{self, cargo, command, find, output};

/// The version that is used.
pub(super) const VERSION: &str = "0.13.0";
/// The versions of LLVM it can be built against.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Is the right version on the path, and does it start?
pub(super) fn is_installed() -> bool {
    output(command("bpf-linker", &["--version"]))
        .is_ok_and(|text| text.split_whitespace().nth(1) == Some(VERSION))
}

/// Builds it against an LLVM that understands what the compiler of `way` writes.
pub(super) fn install(way: Way) -> Result<()> {
    let wanted = way.llvm()?;
    ensure!(
        *LLVM.start() <= wanted && wanted <= *LLVM.end(),
        "the compiler is based on LLVM {wanted}, bpf-linker {VERSION} knows {LLVM:?}; update this project's \
         pin, or use another Rust for BPF"
    );
    let candidates = || {
        (wanted..=*LLVM.end()).find_map(|major| {
            let program = find(&format!("llvm-config-{major}"))?;
            Some((major, program))
        })
    };
    if candidates().is_none() && apt::is_here() {
        let package = format!("llvm-{wanted}-dev");
        if apt::has(&[&package])? {
            apt::install(&[&package])?;
        }
    }
    let (major, config) = candidates()
        .or_else(|| unversioned(wanted))
        .with_context(|| {
            format!("no llvm-config of LLVM {wanted} to {} here; install the development files of that LLVM, or put a released bpf-linker {VERSION} on the path", LLVM.end())
        })?;
    let prefix = output(command(config, &["--prefix"]))?;
    println!("setup: cargo install bpf-linker {VERSION} against LLVM {major} (some minutes)");
    let mut install = cargo(&["install", "bpf-linker", "--version", VERSION, "--locked"]);
    install
        .args(["--force", "--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .env("LLVM_PREFIX", prefix.trim())
        // It is not part of this project's build.
        .env_remove("CARGO_TARGET_DIR");
    command::run(install)
}

/// An `llvm-config` without a version in its name, if it is new enough.
fn unversioned(wanted: u32) -> Option<(u32, std::path::PathBuf)> {
    let program = find("llvm-config")?;
    let version = output(command(&program, &["--version"])).ok()?;
    let major = version.split('.').next()?.parse().ok()?;
    (wanted..=*LLVM.end())
        .contains(&major)
        .then_some((major, program))
}
