//! The root file system of the virtual machine: programs of this host, in an archive that the kernel unpacks.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Job,
    kernel::{self, Kernel},
};
use crate::command::{command, find, output, run_quietly};

/// The first program, with a place for the jobs.
const INIT: &str = include_str!("init.sh");

/// A root file system that is being put together.
#[derive(Debug)]
pub(crate) struct Image {
    root: PathBuf,
    /// Libraries that are already there.
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    /// One with a shell and the usual tools, in `directory`, which must be empty.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let image = Self {
            root: directory.to_owned(),
            libraries: BTreeSet::new(),
        };
        for directory in ["dev", "etc", "proc", "run", "sys", "tmp", "var"] {
            let path = image.root.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let busybox = find("busybox").context("no busybox here; run cargo xtask setup")?;
        image.copy(&busybox, Path::new("/bin/busybox"))?;
        Ok(image)
    }

    /// Adds a program, without what a debugger needs, and its libraries.
    pub(crate) fn program(&mut self, program: &Path, place: &Path) -> Result<()> {
        let copy = self.copy(program, place)?;
        let mut strip = command("strip", &["--strip-debug"]);
        strip.arg(&copy);
        run_quietly(strip)?;
        let mut ldd = command("ldd", &[]);
        ldd.arg(program);
        for library in libraries(&output(ldd)?) {
            if self.libraries.insert(library.clone()) {
                self.copy(&library, &library)?;
            }
        }
        Ok(())
    }

    /// Adds a file.
    pub(crate) fn copy(&self, file: &Path, place: &Path) -> Result<PathBuf> {
        let path = self.place(place)?;
        fs::copy(file, &path)
            .with_context(|| format!("copy {} to {}", file.display(), path.display()))?;
        Ok(path)
    }

    /// Adds a directory with everything in it, at the same place.
    pub(crate) fn directory(&self, directory: &Path) -> Result<()> {
        let mut copied = Ok(());
        kernel::files(directory, &mut |path| {
            if copied.is_ok() {
                copied = self.copy(&path, &path).map(drop);
            }
        })?;
        copied
    }

    /// Sets what is done after the start, and packs everything.
    pub(crate) fn pack(&self, jobs: &[Job], kernel: &Kernel, archive: &Path) -> Result<()> {
        let path = self.place(Path::new("/init"))?;
        let lines: String = jobs.iter().map(Job::line).collect();
        fs::write(&path, INIT.replace("@JOBS@", &lines))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("write {}", path.display()))?;
        // The kernel unpacks one archive after the other.
        let named = || format!("write {}", archive.display());
        let mut file = File::create(archive).with_context(named)?;
        for root in [&kernel.root(), &self.root] {
            let packed = pack(root)?;
            file.write_all(&packed).with_context(named)?;
        }
        Ok(())
    }

    /// Where a path of the machine is on this host; its directory is made.
    fn place(&self, place: &Path) -> Result<PathBuf> {
        let path = self.root.join(place.strip_prefix("/").unwrap_or(place));
        let parent = path.parent().context("a place without a directory")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        Ok(path)
    }
}

/// An archive of a directory in the form that the kernel reads.
fn pack(root: &Path) -> Result<Vec<u8>> {
    let mut names = Vec::new();
    list(root, root, &mut names)?;
    let mut child = command("cpio", &["--quiet", "--null", "--create", "--format=newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cpio")?;
    let mut input = child.stdin.take().context("cpio has no input")?;
    let output = std::thread::scope(|scope| {
        // It writes before it has read everything.
        scope.spawn(move || input.write_all(&names));
        child.wait_with_output()
    })
    .context("run cpio")?;
    ensure!(output.status.success(), "cpio ended with {}", output.status);
    Ok(output.stdout)
}

/// The names of everything below `directory`, directories first.
fn list(root: &Path, directory: &Path, names: &mut Vec<u8>) -> Result<()> {
    for path in kernel::entries(directory)? {
        let name = path.strip_prefix(root).context("a path outside the root")?;
        names.extend_from_slice(name.as_os_str().as_bytes());
        names.push(0);
        if path.is_dir() && !path.is_symlink() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}

/// The files in what `ldd` says of a program.
fn libraries(ldd: &str) -> Vec<PathBuf> {
    ldd.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2c)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f2d)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(text), expected.map(PathBuf::from));
    }
}
