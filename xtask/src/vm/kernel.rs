//! Kernels of Debian, fetched once and kept outside the tree.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::cache;

use crate::command::{command, output, run_quietly};

/// A kernel to test on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Series {
    /// The oldest that truename supports
    #[value(name = "6.1")]
    Linux6_1,
    #[value(name = "6.12")]
    Linux6_12,
    /// The newest that Debian has for its stable release
    #[value(name = "7.x")]
    Linux7,
}

/// One or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    One(Series),
    All,
}

impl clap::ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::One(Series::Linux6_1),
            Self::One(Series::Linux6_12),
            Self::One(Series::Linux7),
            Self::All,
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::One(series) => series.to_possible_value(),
            Self::All => Some("all".into()),
        }
    }
}

impl Choice {
    pub(crate) fn series(self) -> Vec<Series> {
        match self {
            Self::One(series) => vec![series],
            Self::All => <Series as clap::ValueEnum>::value_variants().to_vec(),
        }
    }
}

/// The package that depends on the newest kernel of a suite. Kernels for clouds are small.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// Where Debian puts the key that its releases are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The modules that can matter to a network, by directory below `kernel`.
const MODULES: [&str; 5] = ["net", "drivers/net", "lib", "crypto", "arch"];

/// A kernel that was fetched.
#[derive(Debug)]
pub(crate) struct Kernel {
    directory: PathBuf,
}

impl Series {
    /// How it is called on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
            Self::Linux7 => "7.x",
        }
    }

    /// The suite of Debian that has it.
    fn suite(self) -> &'static str {
        match self {
            Self::Linux6_1 => "bookworm",
            Self::Linux6_12 => "trixie",
            Self::Linux7 => "trixie-backports",
        }
    }
}

impl Kernel {
    /// Finds it in the cache, or fetches it from Debian (about 40 MB).
    pub(crate) fn fetch(series: Series) -> Result<Self> {
        let name = format!("linux-{}", series.name());
        let directory = cache::entry(&name, |directory| {
            println!(
                "fetching Linux {} of Debian {} (once)",
                series.name(),
                series.suite()
            );
            fetch_into(directory, series)
        })?;
        Ok(Self { directory })
    }

    /// The image that is booted.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// A directory with its modules in their place, to be put into a root file system.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }
}

/// Downloads and unpacks below `directory`; the answer is what is kept.
fn fetch_into(directory: &Path, series: Series) -> Result<PathBuf> {
    let [packages, unpacked, kept] =
        ["packages", "unpacked", "kept"].map(|name| directory.join(name));
    for path in [&packages, &unpacked, &kept] {
        fs::create_dir(path).with_context(|| format!("create {}", path.display()))?;
    }
    let apt = Apt::new(directory, series.suite())?;
    apt.download(&apt.kernel()?, &packages)?;
    for package in entries(&packages)? {
        let mut unpack = command("dpkg-deb", &["--extract"]);
        unpack.args([&package, &unpacked]);
        run_quietly(unpack)?;
    }
    // Debian moved modules, and later the image, below /usr.
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|path| unpacked.join(path))
        .into_iter()
        .find(|path| path.is_dir())
        .context("the packages have no modules")?;
    let release = only_entry(&modules)?;
    let image = match entries(&unpacked.join("boot")) {
        Ok(boot) => boot.into_iter().find(|path| is_image(path)),
        Err(_) => None,
    };
    let image = image.unwrap_or_else(|| release.join("vmlinuz"));
    fs::rename(&image, kept.join("vmlinuz"))
        .with_context(|| format!("the packages have no {}", image.display()))?;
    keep_modules(&release, &kept.join("root"))?;
    Ok(kept)
}

/// Moves the modules that matter, as plain files, and their index to `root`.
fn keep_modules(release: &Path, root: &Path) -> Result<()> {
    let name = release.file_name().context("a release without a name")?;
    let kept = root.join("lib/modules").join(name);
    for directory in MODULES {
        let from = release.join("kernel").join(directory);
        let to = kept.join("kernel").join(directory);
        if from.is_dir() {
            let parent = to.parent().context("no parent")?;
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
            fs::rename(&from, &to).with_context(|| format!("keep {}", from.display()))?;
        }
    }
    for path in entries(release)? {
        if let Some(file) = path.file_name()
            && file.to_string_lossy().starts_with("modules.")
        {
            fs::rename(&path, kept.join(file))
                .with_context(|| format!("keep {}", path.display()))?;
        }
    }
    let mut compressed = Vec::new();
    files(&kept, &mut |path| {
        if path.extension().is_some_and(|extension| extension == "xz") {
            compressed.push(path);
        }
    })?;
    for some in compressed.chunks(500) {
        let mut unpack = command("xz", &["--decompress", "--threads=1", "--"]);
        unpack.args(some);
        run_quietly(unpack)?;
    }
    let mut index = command("depmod", &["--basedir"]);
    index.arg(root).arg(name);
    run_quietly(index)
}

fn is_image(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
}

/// Every file below a directory.
pub(super) fn files(directory: &Path, found: &mut impl FnMut(PathBuf)) -> Result<()> {
    for path in entries(directory)? {
        if path.is_dir() && !path.is_symlink() {
            files(&path, found)?;
        } else {
            found(path);
        }
    }
    Ok(())
}

/// What is in a directory, sorted.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let named = || format!("list {}", directory.display());
    let mut paths = fs::read_dir(directory)
        .with_context(named)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()
        .with_context(named)?;
    paths.sort();
    Ok(paths)
}

fn only_entry(directory: &Path) -> Result<PathBuf> {
    let mut entries = entries(directory)?;
    ensure!(
        entries.len() == 1,
        "{} has {} entries instead of one",
        directory.display(),
        entries.len()
    );
    Ok(entries.remove(0))
}

/// Another suite of Debian, beside the state of the machine's own apt, which does not change.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(directory: &Path, suite: &str) -> Result<Self> {
        let state = directory.join("apt");
        for path in ["lists/partial", "cache/archives/partial"] {
            let path = state.join(path);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let source = state.join("suite.sources");
        fs::write(&source, source_of(&mirror()?, suite))
            .with_context(|| format!("write {}", source.display()))?;
        let state = state.display();
        let options = [
            format!("Dir::Etc::SourceList={}", source.display()),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={state}/lists"),
            "Dir::State::Status=/dev/null".to_owned(),
            format!("Dir::Cache={state}/cache"),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        let apt = Self {
            options: options
                .into_iter()
                .flat_map(|option| ["-o".to_owned(), option])
                .collect(),
        };
        let mut update = apt.command("apt-get");
        update.arg("update");
        run_quietly(update).with_context(|| format!("read the packages of Debian {suite}"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> std::process::Command {
        let mut command = command(program, &["-qq"]);
        command.args(&self.options);
        command
    }

    /// The packages with the image and the modules of the suite's kernel.
    fn kernel(&self) -> Result<Vec<String>> {
        let mut depends = self.command("apt-cache");
        depends.args(["depends", "--recurse", "--important", PACKAGE]);
        let packages: Vec<String> = output(depends)?
            .lines()
            .filter(|line| has_kernel(line))
            .map(str::to_owned)
            .collect();
        ensure!(!packages.is_empty(), "{PACKAGE} depends on no kernel");
        Ok(packages)
    }

    fn download(&self, packages: &[String], to: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        download.arg("download").args(packages).current_dir(to);
        run_quietly(download).with_context(|| format!("download {}", packages.join(", ")))
    }
}

/// Is this the name of a package with a kernel's image or modules, not of one that only depends on it?
fn has_kernel(package: &str) -> bool {
    ["linux-image-", "linux-binary-", "linux-modules-"]
        .iter()
        .filter_map(|prefix| package.strip_prefix(prefix))
        .any(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

fn source_of(mirror: &str, suite: &str) -> String {
    let mut source = format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n");
    if Path::new(KEYRING).is_file() {
        source.push_str(&format!("Signed-By: {KEYRING}\n"));
    }
    source
}

/// Where this machine has its own packages of Debian from.
fn mirror() -> Result<String> {
    let mut targets = command("apt-get", &["indextargets"]);
    targets.args(["--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]);
    // The label of the security updates, which are elsewhere, is another one.
    output(targets)
        .context("ask apt for its sources")?
        .lines()
        .find_map(|line| line.strip_prefix("Debian "))
        .map(str::to_owned)
        .context("this machine has no package source of Debian, which the kernels come from")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_with_a_kernel_are_downloaded() {
        for package in [
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
        ] {
            assert!(has_kernel(package), "{package}");
        }
        for package in [
            "linux-image-cloud-amd64",
            "linux-modules-cloud-amd64",
            "linux-base-7.3.4+deb13-cloud-amd64",
            "  Depends: linux-image-6.1.0-50-cloud-amd64",
        ] {
            assert!(!has_kernel(package), "{package}");
        }
    }
}
