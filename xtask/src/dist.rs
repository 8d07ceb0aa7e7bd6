//! `cargo xtask dist`: the stripped program, a Debian package and the Helm chart, with checksums, sizes and bills of materials.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use truename_tests::helm;

use crate::{
    command::{self, cargo, command, find, output, root, target_directory},
    setup,
};

/// The versions of cargo's verbs that are used.
const CARGO_DEB: (&str, &str) = ("deb", "3.8.0");
const CARGO_CYCLONEDX: (&str, &str) = ("cyclonedx", "0.5.9");
/// Crates that are in the program, by directory, and the bill of materials of each: the agent, and the kernel program inside.
const BILLS: [(&str, &str); 2] = [
    ("agent", "truename.cdx.json"),
    ("ebpf", "truename-ebpf.cdx.json"),
];
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

    install(CARGO_DEB)?;
    let mut deb = cargo(&["deb", "--no-build", "--package", "truename", "--output"]);
    deb.arg(&package).args(profile);
    command::run(deb).context("make the package")?;
    check(&package)?;
    let mut chart = helm::helm(&["package"])?;
    chart.arg(helm::chart()).arg("--destination").arg(&package);
    command::run(chart).context("make the chart")?;
    write_bills(&package)?;
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
    let pages = fs::read_dir(&manual).context("list the manual pages")?;
    for page in pages {
        compress(&page?.path())?;
    }
    // Debian's name for it.
    let changelog = documents.join("changelog");
    fs::copy(root().join("CHANGELOG.md"), &changelog).context("copy the changelog")?;
    compress(&changelog)?;
    for (shell, name) in COMPLETIONS {
        let text = output(command(program, &["completions", shell]))?;
        fs::write(completions.join(name), text).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

/// Compresses a file as Debian wants documents: without a date, so that equal files stay equal.
fn compress(file: &Path) -> Result<()> {
    let mut gzip = command("gzip", &["--best", "--no-name"]);
    gzip.arg(file);
    command::run(gzip)
}

/// Has Debian's own checks look at the package, where they are installed.
fn check(package: &Path) -> Result<()> {
    let Some(lintian) = find("lintian") else {
        println!("dist: lintian is not installed: the Debian package is not checked");
        return Ok(());
    };
    for entry in fs::read_dir(package).with_context(|| format!("list {}", package.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut check = command(&lintian, &["--allow-root", "--fail-on", "error,warning"]);
            check.arg(&path);
            command::run(check).context("check the Debian package")?;
            println!("dist: lintian has nothing to say about {}", path.display());
        }
    }
    Ok(())
}

/// Writes what the program is made of, in CycloneDX.
fn write_bills(package: &Path) -> Result<()> {
    install(CARGO_CYCLONEDX)?;
    // It writes one beside each crate of the workspace.
    let name = "truename-bill";
    let mut bills = cargo(&["cyclonedx", "--quiet", "--format", "json"]);
    bills
        .args(["--spec-version", "1.5", "--no-build-deps"])
        .args(["--override-filename", name]);
    let made = command::run(bills).context("list what the program is made of");
    // It names crates of the workspace by the directory that they were built in.
    let here = format!("path+file://{}", root().display());
    let take = |(directory, bill): (&str, &str)| -> Result<()> {
        let path = root().join(directory).join(format!("{name}.json"));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        fs::write(package.join(bill), text.replace(&here, "path+file://"))
            .with_context(|| format!("write {bill}"))
    };
    let taken = made.and_then(|()| BILLS.into_iter().try_for_each(take));
    let entries = fs::read_dir(root()).context("list the crates")?;
    for directory in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let _ = fs::remove_file(directory.join(format!("{name}.json")));
    }
    taken
}

/// Installs a verb of cargo, unless this version is there.
fn install((verb, version): (&str, &str)) -> Result<()> {
    if output(cargo(&[verb, "--version"]))
        .is_ok_and(|said| said.split_whitespace().last() == Some(version))
    {
        return Ok(());
    }
    let name = format!("cargo-{verb}");
    println!("dist: cargo install {name} {version} (some minutes)");
    let mut install = cargo(&["install", &name, "--locked", "--version", version]);
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
