//! BPF file systems: where they are, and directories on them.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

use super::error::DatapathError;

/// `BPF_FS_MAGIC`.
const MAGIC: u32 = 0xcafe_4a11;

/// The nearest directory that exists, and whether it is on a BPF file system.
pub(super) fn nearest_file_system(path: &Path) -> (PathBuf, bool) {
    let nearest = path.ancestors().find(|directory| directory.exists());
    let nearest = nearest.unwrap_or(Path::new("/"));
    (nearest.to_owned(), is_bpffs(nearest))
}

/// Whether a path is on a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.f_type as u32 == MAGIC)
}

/// Whether a path is a directory on the file system of the one that it is in, and no link to another.
pub(super) fn is_inside(path: &Path) -> bool {
    let outer = path.parent().and_then(|outer| fs::metadata(outer).ok());
    let inner = fs::symlink_metadata(path).ok();
    inner
        .zip(outer)
        .is_some_and(|(inner, outer)| inner.is_dir() && inner.dev() == outer.dev())
}

/// Where BPF file systems are mounted.
pub(super) fn mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let (place, file_system) = line.split_once(" - ")?;
        let place = place.split(' ').nth(4)?;
        (file_system.split(' ').next() == Some("bpf")).then(|| unescaped(place))
    });
    mounts.collect()
}

/// A path as `mountinfo` writes it: spaces, tabs, line ends and backslashes are octal there.
fn unescaped(text: &str) -> PathBuf {
    let known = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let plain = |text: String, (escape, plain): (&str, &str)| text.replace(escape, plain);
    known.into_iter().fold(text.to_owned(), plain).into()
}

/// Makes a directory that need not be new.
pub(super) fn make_directory(path: &Path) -> Result<(), DatapathError> {
    fs::create_dir_all(path).map_err(DatapathError::pins("make the directory", path))
}

/// Removes a directory that need not exist; whether it is gone. One that is not empty stays.
pub(super) fn remove_empty(path: &Path) -> Result<bool, DatapathError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(true),
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy => Ok(false),
            _ => Err(DatapathError::pins("remove", path)(error)),
        },
    }
}

/// Removes a pin that need not exist.
pub(super) fn remove_file(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::pins("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// The paths in a directory that need not exist.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let failed = || DatapathError::pins("list", directory);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed()(error)),
    };
    entries
        .map(|entry| Ok(entry.map_err(failed())?.path()))
        .collect()
}

/// The paths in a directory that need not exist, of the directory of a version. Links are not followed.
pub(super) fn list_inside(directory: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    match is_inside(directory) && directory.parent().is_some_and(is_inside) {
        true => list(directory),
        false => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_paths_of_mounts() {
        assert_eq!(unescaped("/sys/fs/bpf"), Path::new("/sys/fs/bpf"));
        assert_eq!(unescaped(r"/a\040b\134c"), Path::new(r"/a b\c"));
    }
}
