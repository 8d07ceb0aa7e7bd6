//! The compiler of the kernel side.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::apt;
use crate::command::{self, command, find, output};

/// The name of the distribution's compiler in rustup; `agent/build.rs` looks for it.
const LINKED: &str = "debian";
/// A Rust with `core` for BPF, as packages.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// How the kernel side is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By the distribution's stable Rust.
    Distribution,
    /// By nightly, which builds `core` itself.
    Nightly,
}

impl Way {
    /// The way that works on this machine; the distribution's is preferred, as in `agent/build.rs`.
    pub(super) fn found() -> Option<Self> {
        let toolchains = rustup_home()?.join("toolchains");
        let prebuilt = toolchains
            .join(LINKED)
            .join("lib/rustlib/bpfel-unknown-none/lib");
        if fs::read_dir(prebuilt).is_ok_and(|mut entries| entries.next().is_some()) {
            return Some(Self::Distribution);
        }
        let linked = fs::symlink_metadata(toolchains.join(LINKED)).is_ok();
        let nightly = fs::read_dir(toolchains).ok()?.flatten().any(|entry| {
            entry.file_name().to_string_lossy().starts_with("nightly-")
                && entry
                    .path()
                    .join("lib/rustlib/src/rust/library/core")
                    .is_dir()
        });
        (nightly && !linked).then_some(Self::Nightly)
    }

    /// The name of its toolchain in rustup.
    pub(super) fn toolchain(self) -> &'static str {
        match self {
            Self::Distribution => LINKED,
            Self::Nightly => "nightly",
        }
    }

    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Distribution => {
                "kernel programs are built by the distribution's Rust (rustup toolchain \"debian\")"
            }
            Self::Nightly => "kernel programs are built by nightly Rust with rust-src",
        }
    }

    /// The major version of the LLVM inside its compiler.
    pub(super) fn llvm(self) -> Result<u32> {
        let version = output(command(
            "rustup",
            &["run", self.toolchain(), "rustc", "-vV"],
        ))?;
        version
            .lines()
            .find_map(|line| {
                line.strip_prefix("LLVM version: ")?
                    .split('.')
                    .next()?
                    .parse()
                    .ok()
            })
            .context("the compiler does not name its LLVM version")
    }
}

/// Installs a compiler for BPF.
pub(super) fn install() -> Result<Way> {
    ensure!(
        find("rustup").is_some(),
        "rustup is not on the path; it is needed to use a second Rust beside the one of this project"
    );
    if apt::is_here() && apt::has(&PACKAGES)? {
        apt::install(&PACKAGES)?;
        println!("setup: rustup toolchain link {LINKED} /usr");
        command::run(command("rustup", &["toolchain", "link", LINKED, "/usr"]))?;
    } else {
        println!(
            "setup: no packaged Rust for BPF here; rustup toolchain install nightly with rust-src"
        );
        command::run(command(
            "rustup",
            &[
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ],
        ))?;
    }
    match Way::found() {
        Some(way) => Ok(way),
        None => bail!(
            "there is still no Rust for BPF; if a rustup toolchain \"{LINKED}\" is left from something else, \
             run: rustup toolchain uninstall {LINKED}"
        ),
    }
}

fn rustup_home() -> Option<PathBuf> {
    match std::env::var_os("RUSTUP_HOME") {
        Some(home) => Some(PathBuf::from(home)),
        None => Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")),
    }
}
