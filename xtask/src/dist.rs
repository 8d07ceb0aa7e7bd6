//! `cargo xtask dist`: the stripped program and a Debian package, with checksums and sizes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    command::{self, cargo, command, output, target_directory},
    setup,
};

/// The version of cargo-deb that is used.
const CARGO_DEB: &str = "3.8.0";
/// Names of completions, by shell.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "truename.bash"),
    ("zsh", "_truename"),
    ("fish", "truename.fish"),
];

/// Builds everything into `target/package`.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let profile = ["--profile", "dist"];
    let mut build = cargo(&["build", "--locked", "--package", "truename"]);
    build.args(profile);
    command::run(build).context("build the program")?;
    let built = target_directory().join("dist");
    let (program, documents) = (built.join("truename"), built.join("package"));
    let package = target_directory().join("package");
    // What an earlier one left would be shipped.
    for directory in [&documents, &package] {
        let _ = fs::remove_dir_all(directory);
    }
    write_documents(&program, &documents)?;
    fs::create_dir_all(&package).with_context(|| format!("make {}", package.display()))?;
    let shipped = package.join("truename");
    fs::copy(&program, &shipped).with_context(|| format!("copy {}", program.display()))?;

    install_cargo_deb()?;
    let mut deb = cargo(&["deb", "--no-build", "--package", "truename", "--output"]);
    deb.arg(&package).args(profile);
    command::run(deb).context("make the package")?;
    summary(&package)
}

/// Writes manual pages and completions, which the program knows itself.
fn write_documents(program: &Path, documents: &Path) -> Result<()> {
    let (manual, completions) = (documents.join("man"), documents.join("completions"));
    for directory in [&manual, &completions] {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let mut pages = command(program, &["man", "--out"]);
    pages.arg(&manual);
    command::run(pages)?;
    for (shell, name) in COMPLETIONS {
        let text = output(command(program, &["completions", shell]))?;
        fs::write(completions.join(name), text).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

fn install_cargo_deb() -> Result<()> {
    if output(cargo(&["deb", "--version"]))
        .is_ok_and(|version| version.split_whitespace().last() == Some(CARGO_DEB))
    {
        return Ok(());
    }
    println!("dist: cargo install cargo-deb {CARGO_DEB} (some minutes)");
    let mut install = cargo(&["install", "cargo-deb", "--locked", "--version", CARGO_DEB]);
    // It is not part of this project's build.
    install.env_remove("CARGO_TARGET_DIR");
    command::run(install)
}

/// Writes the checksums of all files in a directory, and prints their sizes.
fn summary(package: &Path) -> Result<()> {
    let entries = fs::read_dir(package).with_context(|| format!("list {}", package.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut files = paths.collect::<Result<Vec<PathBuf>>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    let mut sums = String::new();
    for path in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut sum = command("sha256sum", &[&name]);
        sum.current_dir(package);
        sums += &output(sum)?;
        let bytes = fs::metadata(path)?.len();
        println!("{:>8.1} MB  {}", bytes as f64 / 1e6, path.display());
    }
    fs::write(package.join("SHA256SUMS"), sums).context("write the checksums")
}
