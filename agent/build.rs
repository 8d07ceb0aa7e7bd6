//! Builds the kernel program and puts it where [`aya::include_bytes_aligned!`] finds it.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

/// A toolchain made of the distribution's `rustc`, which ships `core` for BPF.
const DEBIAN: &str = "debian";

/// The crates that use unstable features of the compiler: aya's, and the program itself for its
/// BPF assembly.
const UNSTABLE: &str = "aya_ebpf,truename";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let object = out.join("truename");
    if skipped() {
        println!("cargo:rerun-if-env-changed=AYA_BUILD_SKIP");
        println!("cargo:warning=AYA_BUILD_SKIP: this truename has no kernel program inside");
        return fs::write(&object, []).context("cannot write an empty object");
    }
    let toolchain = toolchain();
    let name = match toolchain {
        Toolchain::Custom(name) => name,
        Toolchain::Nightly => "nightly",
    };
    println!("cargo:rustc-env=TRUENAME_EBPF_TOOLCHAIN={name}");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("no manifest directory")?);
    let root = root.parent().context("the crate has no parent directory")?;
    // What the kernel program is made of besides its own directory, which aya-build watches.
    println!("cargo:rerun-if-changed={}", root.join("common").display());
    let ebpf = root.join("ebpf");
    let package = Package {
        name: "truename-ebpf",
        root_dir: ebpf
            .to_str()
            .context("the path of the repository is not UTF-8")?,
        ..Package::default()
    };
    aya_build::build_ebpf([package], toolchain).map_err(|error| {
        anyhow!(
            "the kernel program does not build with the toolchain \"{name}\": {error:#}; \
             `cargo xtask setup` installs what is needed"
        )
    })
}

fn skipped() -> bool {
    env::var_os("AYA_BUILD_SKIP")
        .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}

/// The distribution's toolchain if it is linked, else nightly, as usual with aya.
fn toolchain() -> Toolchain<'static> {
    let linked = Command::new("rustup")
        .args(["run", DEBIAN, "rustc", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !linked {
        return Toolchain::Nightly;
    }
    // SAFETY: a build script's main is the only thread here.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", UNSTABLE) };
    Toolchain::Custom(DEBIAN)
}
