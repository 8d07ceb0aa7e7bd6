//! The pins: paths, versions, and who may use them.
//!
//! ```text
//! <bpffs>/v<VERSION>/maps/NAME
//!                    programs/NAME
//!                    links/<ifname>-<ifindex>-{ingress,egress}
//!                    chains/<n>              the programs that those of one load go on with
//!                    relays/<inode>          the link of the program that steers, by network namespace
//!                    xdp/<ifindex>-{native,generic}
//!                    clsact/<ifindex>        a qdisc that we added (an empty directory)
//!                    sysctl/<switch>=<value> a switch of the kernel that we set, and its value before (an empty directory)
//!                    netns-<inode>           the network namespace served (an empty directory)
//! ```
//!
//! Only BPF objects and directories can be made on a BPF file system, and no name may have a dot.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access},
    mount::{MountFlags, mount},
};
use truename_common::layout::{VERSION, map};

use super::{
    Direction, PROGRAM_STEER, PROGRAMS,
    bpffs::{
        self, is_bpffs, is_inside, list, list_inside, make_directory, nearest_file_system,
        remove_empty, remove_file,
    },
    error::DatapathError,
    pinned::PINNED,
    sys, xdp_mode,
};
use crate::sysctl;

/// Where the BPF file system is mounted on every host.
const STANDARD: &str = "/sys/fs/bpf";

/// Whether a name is one that we give.
type IsOurs = fn(&str) -> bool;

/// The directories of a version in the order in which they are removed, and which names in them are ours.
const CONTENTS: [(&str, IsOurs); 8] = [
    ("links", |name| parse_link(name).is_some()),
    ("relays", is_number),
    ("xdp", |name| xdp_mode::parse(name).is_some()),
    ("programs", is_program),
    ("chains", is_number),
    ("maps", is_map),
    ("clsact", is_number),
    ("sysctl", |name| parse_switch(name).is_some()),
];

/// The tables that table versions up to 2 pinned.
const FORMER: [&str; 18] = [
    "PORTS",
    "ENDPOINTS",
    "NAMES",
    "LISTED",
    "RPC_FLOWS",
    "PEERS",
    "ALIASES",
    "SERVICES",
    "SLOTS",
    "TARGETS",
    "CONNTRACK",
    "MOVED",
    "TRIED",
    "SETTINGS",
    "TRIES",
    "XDP_DEVICES",
    "COUNTERS",
    "EVENTS",
];

/// The tables whose layout has changed since the first agent with [`VERSION`], and how they are pinned now. The flows of
/// an agent before that are adopted, as those of an older version.
const RENAMED: [(&str, &str); 2] = [
    (map::RPC_FLOWS, "RPC_FLOWS_2"),
    (map::ONE_SIDED_FLOWS, "ONE_SIDED_FLOWS_2"),
];

/// The tables that got another name in the code since then, and the names of their pins, which stay until [`VERSION`]
/// changes: a connection needs its bits over an upgrade.
const FORMER_NAMES: [(&str, &str); 2] = [
    (map::PORT_BITMAP, "TRIED"),
    (map::PORT_TRY_HISTOGRAM, "TRIES"),
];

/// The name of the pin of a table.
pub(super) fn pin_name(table: &str) -> &str {
    let mut names = RENAMED.iter().chain(&FORMER_NAMES);
    names
        .find(|(known, _)| *known == table)
        .map_or(table, |(_, pin)| pin)
}

/// The directory of the pins of one installation.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

/// The exclusive right to change the pins; it ends with the process.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the lock lives as long as the file is open")] File);

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// Its pin.
    pub path: PathBuf,
    /// The number of its interface.
    pub ifindex: u32,
    /// Its side.
    pub direction: Direction,
}

impl Pins {
    /// The pins below `root`. Does not look at them.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The configured directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this version.
    pub fn version(&self) -> PathBuf {
        self.of_version(VERSION)
    }

    /// The directory of a version.
    pub(super) fn of_version(&self, version: u32) -> PathBuf {
        self.root.join(format!("v{version}"))
    }

    /// The pin of a table.
    pub fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(pin_name(name))
    }

    /// The pins of this version's tables that this agent does not use any more.
    pub(super) fn unused_maps(&self) -> Vec<PathBuf> {
        let maps = self.version().join("maps");
        RENAMED.iter().map(|(table, _)| maps.join(table)).collect()
    }

    /// The pin of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.version().join("programs").join(name)
    }

    /// The pin of a link.
    pub fn link(&self, interface: &str, ifindex: u32, direction: Direction) -> PathBuf {
        let interface = interface.replace('.', "_");
        self.version()
            .join("links")
            .join(format!("{interface}-{ifindex}-{}", direction.name()))
    }

    /// The mark that we added a clsact qdisc to an interface.
    pub(super) fn clsact(&self, ifindex: u32) -> PathBuf {
        self.version().join("clsact").join(ifindex.to_string())
    }

    /// A pin for the table of programs of one load.
    pub(super) fn new_chain(&self) -> Result<PathBuf, DatapathError> {
        let numbers = self
            .chains()?
            .into_iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
        let next = numbers.max().map_or(0, |last| last.wrapping_add(1));
        Ok(self.version().join("chains").join(next.to_string()))
    }

    /// The pins of the tables of programs.
    pub(super) fn chains(&self) -> Result<Vec<PathBuf>, DatapathError> {
        list(&self.version().join("chains"))
    }

    /// The directory of the links of the XDP program.
    pub(super) fn xdp(&self) -> PathBuf {
        self.version().join("xdp")
    }

    /// The directory of the links of the program that steers.
    pub(super) fn relays(&self) -> PathBuf {
        self.version().join("relays")
    }

    /// Whether tables of this version are pinned.
    pub fn exist(&self) -> bool {
        self.version().join("maps").is_dir()
    }

    /// Whether the directory, or the nearest that exists, is on a BPF file system.
    pub fn is_mounted(&self) -> bool {
        nearest_file_system(&self.root).1
    }

    /// Checks what can be checked without changing anything: the file system, the versions and the namespace.
    ///
    /// # Errors
    /// When the place cannot be used.
    pub fn check(&self) -> Result<(), DatapathError> {
        match nearest_file_system(&self.root) {
            (_, true) => {}
            (_, false) if self.root.starts_with(STANDARD) => {}
            (mount_point, false) => return Err(self.not_bpffs(mount_point)),
        }
        let (nearest, is_bpffs) = nearest_file_system(&self.root);
        let made = self.root.strip_prefix(&nearest).unwrap_or(Path::new(""));
        if made.to_string_lossy().contains('.') {
            return Err(DatapathError::Dot(self.root.clone()));
        }
        if is_bpffs && let Err(error) = access(&nearest, Access::WRITE_OK) {
            return Err(DatapathError::ReadOnly {
                path: nearest,
                source: error.into(),
            });
        }
        let version = self.version();
        let is_free = fs::symlink_metadata(&version).is_err()
            || is_inside(&version) && list(&version)?.is_empty();
        if !is_free && !is_ours(&version) {
            return Err(DatapathError::NotOurs(version));
        }
        self.refuse_newer()?;
        self.refuse_other_namespace()
    }

    /// That no agent uses the pins now.
    ///
    /// # Errors
    /// When one does.
    pub fn check_free(&self) -> Result<(), DatapathError> {
        if self.root.exists() && is_bpffs(&self.root) {
            return self.lock().map(drop);
        }
        Ok(())
    }

    /// That existing pins are on a BPF file system; whether there are any.
    pub(super) fn exist_on_bpffs(&self) -> Result<bool, DatapathError> {
        if !self.root.exists() {
            return Ok(false);
        }
        if is_bpffs(&self.root) {
            return Ok(true);
        }
        Err(self.not_bpffs(self.root.clone()))
    }

    /// Mounts the file system if need be, makes the directories and takes the lock.
    ///
    /// # Errors
    /// When the place cannot be used, or another agent uses it.
    pub fn prepare(&self) -> Result<Lock, DatapathError> {
        self.check()?;
        if !nearest_file_system(&self.root).1 {
            mount(
                "bpf",
                STANDARD,
                "bpf",
                MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
                None,
            )
            .map_err(|error| DatapathError::Mount(error.into()))?;
            log::info!("Mounted the BPF file system at {STANDARD}");
        }
        make_directory(&self.root)?;
        let lock = self.lock()?;
        for (_, version) in self.versions()? {
            leave_namespaces(&version, &namespace()?)?;
        }
        self.make_directories()?;
        Ok(lock)
    }

    /// Makes the directories of this version, first the mark of the network namespace: interface numbers mean
    /// nothing in another one.
    pub(super) fn make_directories(&self) -> Result<(), DatapathError> {
        make_directory(&self.version().join(namespace()?))?;
        for directory in ["maps", "programs", "links", "relays", "chains"] {
            make_directory(&self.version().join(directory))?;
        }
        Ok(())
    }

    /// Refuses pins that serve another network namespace, as long as that is there.
    pub(super) fn refuse_other_namespace(&self) -> Result<(), DatapathError> {
        let own = namespace()?;
        for (_, version) in self.versions()? {
            for mark in namespaces(&version, &own)? {
                let mut is_served = false;
                for link in links_in(&version)? {
                    let found = sys::link_info(&link.path);
                    let found = found.map_err(DatapathError::pins("read", &link.path))?;
                    is_served |= found.is_some_and(|link| link.ifindex != 0);
                }
                let inode = mark.rsplit_once('-').map_or("", |(_, inode)| inode);
                if is_served || exists(inode) {
                    return Err(DatapathError::OtherNamespace {
                        path: self.root.clone(),
                        inode: inode.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Remembers the value that a switch of the kernel had before truename set it.
    ///
    /// # Errors
    /// When the mark cannot be made.
    pub fn mark_switch(&self, switch: &str, before: &str) -> Result<(), DatapathError> {
        let directory = self.version().join("sysctl");
        let name = format!("{}={before}", switch.replace('/', "-"));
        let known = list(&directory)?;
        let is_marked = known.iter().any(|path| {
            let known = path.file_name().unwrap_or_default().to_string_lossy();
            known.split_once('=').map(|(switch, _)| switch) == name.split_once('=').map(|(s, _)| s)
        });
        if is_marked {
            return Ok(());
        }
        make_directory(&directory.join(name))
    }

    /// The switches that truename set, of all versions, with their values before.
    pub(super) fn switches(&self) -> Result<Vec<(&'static str, String)>, DatapathError> {
        let mut switches = Vec::new();
        for (_, version) in self.versions()? {
            for path in list_inside(&version.join("sysctl"))? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                switches.extend(parse_switch(&name));
            }
        }
        Ok(switches)
    }

    /// The numbers of our programs, and of those of all other installations that are seen from here.
    pub(super) fn programs(&self) -> Result<(BTreeSet<u32>, BTreeSet<u32>), DatapathError> {
        let own = programs_in(&self.root)?;
        let mut others = BTreeSet::new();
        let here = fs::canonicalize(&self.root).ok();
        for other in installations()? {
            if Some(&other) != here.as_ref() {
                others.extend(programs_in(&other)?);
            }
        }
        Ok((own, others))
    }

    /// Takes the lock of existing pins.
    pub(super) fn lock(&self) -> Result<Lock, DatapathError> {
        let directory = File::open(&self.root).map_err(DatapathError::pins("open", &self.root))?;
        match directory.try_lock() {
            Ok(()) => Ok(Lock(directory)),
            Err(TryLockError::WouldBlock) => Err(DatapathError::Busy(self.root.clone())),
            Err(TryLockError::Error(source)) => {
                Err(DatapathError::pins("lock", &self.root)(source))
            }
        }
    }

    /// The pinned links of this version.
    pub fn links(&self) -> Result<Vec<PinnedLink>, DatapathError> {
        links_in(&self.version())
    }

    /// The pinned links of older versions.
    pub(super) fn older_links(&self) -> Result<Vec<PinnedLink>, DatapathError> {
        let mut links = Vec::new();
        for (_, path) in self
            .versions()?
            .iter()
            .filter(|(number, _)| *number < VERSION)
        {
            links.extend(links_in(path)?);
        }
        Ok(links)
    }

    /// The directories of versions that truename made, with their numbers. A directory with such a name that
    /// somebody else made is not among them.
    pub fn versions(&self) -> Result<Vec<(u32, PathBuf)>, DatapathError> {
        let paths = list(&self.root)?;
        Ok(paths
            .into_iter()
            .filter_map(|path| Some((version_of(&path)?, path)))
            .filter(|(_, path)| is_ours(path))
            .collect())
    }

    /// Removes what truename pinned for a version: links first, because a program without its tables must
    /// not see packets. What somebody else put there stays, and is returned.
    ///
    /// # Errors
    /// When the directory is on no BPF file system, or a pin cannot be removed.
    pub(super) fn remove_version(&self, version: &Path) -> Result<Vec<PathBuf>, DatapathError> {
        if !is_bpffs(version) {
            return Err(self.not_bpffs(version.to_owned()));
        }
        let mut left = Vec::new();
        for (name, is_known) in CONTENTS {
            let directory = version.join(name);
            if !is_inside(&directory) {
                // A link to somewhere else, or something else that is mounted there.
                left.extend(directory.symlink_metadata().is_ok().then_some(directory));
                continue;
            }
            for path in list(&directory)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let is_mark = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
                match (is_known(&name), is_mark) {
                    (true, false) => remove_file(&path)?,
                    (true, true) if remove_empty(&path)? => {}
                    _ => left.push(path),
                }
            }
            remove_empty(&directory)?;
        }
        let known = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            is_namespace(&name) || CONTENTS.iter().any(|(known, _)| *known == name)
        };
        let (marks, others): (Vec<_>, Vec<_>) = list(version)?.into_iter().partition(known);
        left.extend(others);
        // The mark stays as long as anything does: it says whose the directory is.
        if left.is_empty() {
            for mark in marks {
                remove_empty(&mark)?;
            }
            remove_empty(version)?;
        }
        Ok(left)
    }

    fn not_bpffs(&self, mount_point: PathBuf) -> DatapathError {
        DatapathError::NotBpffs {
            path: self.root.clone(),
            mount_point,
        }
    }

    /// The numbers of the interfaces to which we added a clsact qdisc.
    pub(super) fn clsact_marks(&self) -> Result<Vec<u32>, DatapathError> {
        let paths = list_inside(&self.version().join("clsact"))?;
        Ok(paths
            .iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect())
    }

    /// Refuses pins of later versions.
    pub(super) fn refuse_newer(&self) -> Result<(), DatapathError> {
        match self.versions()?.into_iter().max() {
            Some((found, path)) if found > VERSION => Err(DatapathError::NewerPins {
                path,
                found,
                known: VERSION,
            }),
            _ => Ok(()),
        }
    }
}

/// Forgets other namespaces than `own` that pins of a version served, which are gone.
fn leave_namespaces(version: &Path, own: &str) -> Result<(), DatapathError> {
    for mark in namespaces(version, own)? {
        for link in links_in(version)? {
            remove_file(&link.path)?;
        }
        log::info!("The network namespace that these pins served is gone");
        remove_empty(&version.join(mark))?;
    }
    Ok(())
}

/// The marks of other namespaces than `own` that pins of a version serve.
fn namespaces(version: &Path, own: &str) -> Result<Vec<String>, DatapathError> {
    let names = list(version)?.into_iter().map(|path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    });
    Ok(names
        .filter(|name| is_namespace(name) && name != own)
        .collect())
}

/// Whether a process or a mount has the network namespace. Those of other mount namespaces are not seen.
fn exists(inode: &str) -> bool {
    let wanted = format!("net:[{inode}]");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_mounted = mounts
        .lines()
        .any(|line| line.split(' ').nth(3) == Some(&wanted));
    is_mounted || {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let links =
            processes.filter_map(|process| fs::read_link(process.path().join("ns/net")).ok());
        links.into_iter().any(|link| link == Path::new(&wanted))
    }
}

/// The directories on BPF file systems in which an installation of truename has pinned something.
fn installations() -> Result<Vec<PathBuf>, DatapathError> {
    let mut found = Vec::new();
    let mut unseen: Vec<PathBuf> = bpffs::mounts();
    while let Some(directory) = unseen.pop() {
        let (versions, others): (Vec<_>, Vec<_>) = list(&directory)?
            .into_iter()
            .filter(|path| is_inside(path))
            .partition(|path| version_of(path).is_some() && is_ours(path));
        unseen.extend(others);
        if !versions.is_empty() {
            found.push(directory);
        }
    }
    Ok(found)
}

/// The numbers of the programs that an installation pinned.
fn programs_in(root: &Path) -> Result<BTreeSet<u32>, DatapathError> {
    let mut ids = BTreeSet::new();
    for (_, version) in Pins::new(root).versions()? {
        let programs = list_inside(&version.join("programs"))?;
        ids.extend(programs.iter().filter_map(|path| sys::object_id(path).ok()));
    }
    Ok(ids)
}

/// Splits `net-ipv4-conf-lo-accept_local=0`.
fn parse_switch(name: &str) -> Option<(&'static str, String)> {
    let (name, before) = name.split_once('=')?;
    let mut known = sysctl::LOOPBACK.into_iter().chain([sysctl::LOOPBACK_V6]);
    let switch = known.find(|switch| switch.replace('/', "-") == name)?;
    Some((switch, before.to_owned()))
}

/// The pinned links of a version.
fn links_in(version: &Path) -> Result<Vec<PinnedLink>, DatapathError> {
    let mut links = Vec::new();
    for path in list_inside(&version.join("links"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((ifindex, direction)) = parse_link(&name) {
            links.push(PinnedLink {
                path,
                ifindex,
                direction,
            });
        }
    }
    Ok(links)
}

/// `netns-<inode>` of the calling process.
fn namespace() -> Result<String, DatapathError> {
    let path = Path::new("/proc/self/ns/net");
    let inode = fs::metadata(path)
        .map_err(DatapathError::pins("read", path))?
        .ino();
    Ok(format!("netns-{inode}"))
}

/// The number of a version whose directory has this name.
fn version_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()
}

/// Whether truename made the directory of a version: it marks each with the namespace it serves before it
/// pins anything, and pins its programs.
fn is_ours(version: &Path) -> bool {
    let has_mark = || {
        let inside = list(version).unwrap_or_default();
        inside.iter().any(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            is_namespace(&name) && path.is_dir()
        })
    };
    let has_program = || {
        let programs = version.join("programs");
        PROGRAMS.iter().any(|name| programs.join(name).exists())
    };
    is_inside(version) && (has_mark() || has_program())
}

/// Whether a name is `netns-<inode>`.
fn is_namespace(name: &str) -> bool {
    name.strip_prefix("netns-").is_some_and(is_number)
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_program(name: &str) -> bool {
    let name = name.strip_suffix("-new").unwrap_or(name);
    PROGRAMS.contains(&name) || name == PROGRAM_STEER
}

fn is_map(name: &str) -> bool {
    PINNED.contains(&name) || FORMER.contains(&name) || RENAMED.iter().any(|(_, pin)| *pin == name)
}

/// Splits `<ifname>-<ifindex>-<direction>`; names may have hyphens.
fn parse_link(name: &str) -> Option<(u32, Direction)> {
    let (rest, direction) = name.rsplit_once('-')?;
    let (_, ifindex) = rest.rsplit_once('-')?;
    let direction = Direction::BOTH
        .into_iter()
        .find(|known| known.name() == direction)?;
    Some((ifindex.parse().ok()?, direction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_links() {
        let pins = Pins::new("/b");
        let path = pins.link("br-a1.100", 12, Direction::Egress);
        assert_eq!(
            path,
            Path::new(&format!("/b/v{VERSION}/links/br-a1_100-12-egress"))
        );
        assert_eq!(
            parse_link("br-a1_100-12-egress"),
            Some((12, Direction::Egress))
        );
        assert_eq!(parse_link("lo-1-ingress"), Some((1, Direction::Ingress)));
        for wrong in ["lo", "lo-1", "lo-x-ingress", "lo-1-sideways"] {
            assert_eq!(parse_link(wrong), None);
        }
    }

    #[test]
    fn a_link_to_another_directory_is_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir_all(elsewhere.join("netns-1")).unwrap();
        fs::create_dir_all(elsewhere.join("links")).unwrap();
        fs::write(elsewhere.join("links/s0-2-ingress"), "precious").unwrap();
        fs::create_dir(&root).unwrap();
        let pins = Pins::new(&root);
        std::os::unix::fs::symlink(&elsewhere, pins.version()).unwrap();
        assert!(pins.versions().unwrap().is_empty());
        assert!(pins.links().unwrap().is_empty());
        fs::remove_file(pins.version()).unwrap();
        fs::create_dir_all(pins.version().join("netns-1")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("links"), pins.version().join("links")).unwrap();
        assert_eq!(pins.versions().unwrap().len(), 1);
        assert!(pins.links().unwrap().is_empty());
    }

    #[test]
    fn refuses_newer_pins_and_other_file_systems() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path());
        assert!(matches!(pins.check(), Err(DatapathError::NotBpffs { .. })));
        assert!(pins.refuse_newer().is_ok());
        fs::create_dir_all(directory.path().join("v0/netns-1")).unwrap();
        assert!(pins.refuse_newer().is_ok());
        // Somebody else's.
        fs::create_dir_all(directory.path().join("v8/maps")).unwrap();
        assert!(pins.refuse_newer().is_ok());
        assert_eq!(pins.versions().unwrap().len(), 1);
        fs::create_dir_all(directory.path().join("v9/netns-1")).unwrap();
        let error = pins.refuse_newer().unwrap_err().to_string();
        assert!(error.contains("newer truename (table version 9"), "{error}");
    }
}
