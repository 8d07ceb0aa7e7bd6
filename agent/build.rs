//! Builds the kernel program and puts it where [`aya::include_bytes_aligned!`] finds it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, anyhow};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// A toolchain made of the distribution's `rustc`, which ships `core` for BPF.
const DEBIAN: &str = "debian";

/// The crates that use unstable features of the compiler: aya's, and the program itself with what it shares for their
/// BPF assembly.
const UNSTABLE: &str = "aya_ebpf,truename,truename_common";

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
        println!("cargo:rustc-env=TRUENAME_EBPF_TOOLCHAIN=none: it was skipped");
        println!("cargo:warning=AYA_BUILD_SKIP: this truename has no kernel program inside");
        return fs::write(&object, []).context("cannot write an empty object");
    }
    let toolchain = toolchain();
    let name = toolchain.name();
    println!("cargo:rustc-env=TRUENAME_EBPF_TOOLCHAIN={name}");
    println!("cargo:warning=the kernel program is built with the toolchain \"{name}\"");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("no manifest directory")?);
    let root = root.parent().context("the crate has no parent directory")?;
    // What the kernel program is made of.
    println!("cargo:rerun-if-changed={}", root.join("common").display());
    let ebpf = root.join("ebpf");
    println!("cargo:rerun-if-changed={}", ebpf.display());
    // One directory beside those of the profiles: the kernel program is the same for all of them.
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    let target_dir = out.ancestors().nth(4).unwrap_or(&out).join("ebpf");
    let target = target()?;
    let status = command(&toolchain, &ebpf, &target_dir, target)
        .status()
        .context("cannot start cargo for the kernel program")?;
    if !status.success() {
        return Err(anyhow!(
            "the kernel program does not build with the toolchain \"{name}\"; \
             `cargo xtask setup` installs what is needed"
        ));
    }
    let built = target_dir.join(target).join("release/truename");
    let whole = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let lean = without_debug(&whole).context("cannot remove what debuggers read")?;
    fs::write(&object, lean).with_context(|| format!("cannot write {}", object.display()))
}

/// Removes what only debuggers read, two thirds of the object. The kernel's own form of it (BTF) stays.
fn without_debug(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(object)?;
    for section in &mut elf.sections {
        let name = section.name.to_vec();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    elf.delete_orphans();
    // LLVM keeps the names of sections among those of symbols; they get a section of their own.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut lean = Vec::new();
    elf.write(&mut lean)?;
    Ok(lean)
}

/// The BPF target of the machine's byte order.
fn target() -> Result<&'static str> {
    match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("little") => Ok("bpfel-unknown-none"),
        Ok("big") => Ok("bpfeb-unknown-none"),
        other => Err(anyhow!("unknown byte order {other:?}")),
    }
}

/// Cargo for the kernel program.
///
/// aya-build does the same but for the instruction set: version 3 (32-bit arithmetic, Linux 5.1) is
/// what the program's bounds are written for.
fn command(toolchain: &Toolchain, ebpf: &Path, target_dir: &Path, target: &str) -> Command {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let mut command = Command::new("rustup");
    command
        .args([
            "run",
            toolchain.name(),
            "cargo",
            "build",
            "--release",
            "--target",
            target,
        ])
        .args(["--package", "truename-ebpf", "--target-dir"])
        .arg(target_dir)
        .current_dir(ebpf)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    match toolchain {
        Toolchain::Debian => {
            command.env("RUSTC_BOOTSTRAP", UNSTABLE);
        }
        Toolchain::Nightly => {
            command.args(["-Z", "build-std=core"]);
        }
    }
    // Cargo's own settings for the host must not reach the inner cargo.
    for name in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO",
    ] {
        command.env_remove(name);
    }
    command
}

fn skipped() -> bool {
    env::var_os("AYA_BUILD_SKIP")
        .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}

/// What compiles the kernel program.
enum Toolchain {
    /// The distribution's.
    Debian,
    /// As usual with aya.
    Nightly,
}

impl Toolchain {
    fn name(&self) -> &'static str {
        match self {
            Self::Debian => DEBIAN,
            Self::Nightly => "nightly",
        }
    }
}

/// The distribution's toolchain if it is linked, else nightly.
fn toolchain() -> Toolchain {
    let linked = Command::new("rustup")
        .args(["run", DEBIAN, "rustc", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if linked {
        Toolchain::Debian
    } else {
        Toolchain::Nightly
    }
}
