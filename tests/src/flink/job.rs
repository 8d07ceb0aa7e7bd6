//! The job that is run: compiled against the jars of the release under test.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::fetch::Flink;
use crate::{namespace::run, scratch::Scratch};

const SOURCE: &str = include_str!("../../fixtures/flink/BoundedJob.java");
/// The class with `main`.
pub(crate) const CLASS: &str = "BoundedJob";

/// Compiles the job and packs it into a jar.
pub(crate) fn build(flink: &Flink, scratch: &Scratch) -> Result<PathBuf> {
    build_in(flink, scratch.path())
}

/// The same in a directory.
pub(crate) fn build_in(flink: &Flink, directory: &Path) -> Result<PathBuf> {
    let source = directory.join(format!("{CLASS}.java"));
    std::fs::write(&source, SOURCE).with_context(|| format!("write {}", source.display()))?;
    let (classes, jar) = (directory.join("classes"), directory.join("job.jar"));
    let (source, classes, jar_text) = (text(&source)?, text(&classes)?, text(&jar)?);
    // Java 8 byte code: the oldest Flink cannot read newer classes.
    let class_path = flink.class_path();
    run(
        "javac",
        &[
            "--release",
            "8",
            "-nowarn",
            "-cp",
            &class_path,
            "-d",
            classes,
            source,
        ],
    )
    .context("compile the job; javac comes with the JDK that `cargo xtask setup` installs")?;
    run("jar", &["cf", jar_text, "-C", classes, "."])?;
    Ok(jar)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
