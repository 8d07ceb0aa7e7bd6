//! What can go wrong between the agent and the kernel. Every message is one line that names the
//! thing and the remedy.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError};

use crate::netlink::NetlinkError;

/// An error of a library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A failure of the datapath.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// Built with `AYA_BUILD_SKIP`.
    #[error(
        "this truename was built without its kernel program; build it again without AYA_BUILD_SKIP"
    )]
    NoObject,
    /// Not a BPF file system, and not below the place where one is mounted.
    #[error(
        "{} is not on a BPF file system: mount one there (mount -t bpf bpf {}), or choose a path below /sys/fs/bpf with --bpffs",
        path.display(),
        mount_point.display()
    )]
    NotBpffs {
        /// The configured path.
        path: PathBuf,
        /// The nearest directory that exists.
        mount_point: PathBuf,
    },
    /// A BPF file system on which nothing can be made.
    #[error("cannot write to {}: {source}; mount it for reading and writing, or choose another place with --bpffs", path.display())]
    ReadOnly {
        /// The nearest directory that exists.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// A name that no file can have there.
    #[error(
        "{} has a dot in its name, which nothing on a BPF file system can have; choose another place with --bpffs",
        .0.display()
    )]
    Dot(PathBuf),
    /// A directory of this version's name that truename did not make.
    #[error(
        "{} was not made by truename; choose another place with --bpffs",
        .0.display()
    )]
    NotOurs(PathBuf),
    /// The standard place could not be mounted.
    #[error(
        "cannot mount the BPF file system at /sys/fs/bpf: {0}; mount it (mount -t bpf bpf /sys/fs/bpf), and give a container the host's (--volume /sys/fs/bpf:/sys/fs/bpf)"
    )]
    Mount(io::Error),
    /// Another agent holds the pins.
    #[error(
        "another agent uses the pins in {}; stop it, or choose another place with --bpffs",
        .0.display()
    )]
    Busy(PathBuf),
    /// Pins of a later version.
    #[error(
        "{} was made by a newer truename (table version {found}, this one knows {known}); start that version, or remove its pins with its `truename detach`",
        path.display()
    )]
    NewerPins {
        /// The directory of that version.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A pinned table that cannot be opened, whatever it is.
    #[error("cannot open the pinned table {}: {}", path.display(), one_line(source))]
    OpenTable {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// Pins of this version whose tables look different.
    #[error("the pinned table {} does not fit this version: {}; run `truename detach`", path.display(), one_line(source))]
    ForeignTable {
        /// The pin.
        path: PathBuf,
        /// What differs.
        source: MapError,
    },
    /// Pins that serve another namespace.
    #[error(
        "the pins in {} belong to another network namespace (net:[{inode}]), where they are in use; enter it with nsenter --net=…, or choose another place with --bpffs",
        path.display()
    )]
    OtherNamespace {
        /// Where they are.
        path: PathBuf,
        /// The number of the namespace.
        inode: String,
    },
    /// A file operation on the pins.
    #[error("cannot {action} {}: {source}", path.display())]
    Pins {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The object or one of its maps.
    #[error("the kernel refused the tables: {}", one_line(.0))]
    Load(#[from] EbpfError),
    /// A program.
    #[error("the kernel refused the program {name}: {}", one_line(source))]
    Program {
        /// Its name.
        name: &'static str,
        /// The answer.
        source: Box<ProgramError>,
    },
    /// The object lacks something: it does not fit this agent.
    #[error("the kernel program has no {kind} \"{name}\"; build the workspace again")]
    Missing {
        /// `program` or `table`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A table operation.
    #[error("cannot {action} the table {name}: {}", one_line(source))]
    Table {
        /// What was tried.
        action: &'static str,
        /// Its name.
        name: &'static str,
        /// The answer.
        source: MapError,
    },
    /// The barrier between two steps of a change.
    #[error("cannot wait for the programs that are running: {0}")]
    Barrier(io::Error),
    /// The interfaces.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// An interface.
    #[error("cannot attach to {interface} ({direction}): {}", one_line(&**source))]
    Attach {
        /// Its name.
        interface: String,
        /// `ingress`, `egress` or `clsact`.
        direction: &'static str,
        /// The answer.
        source: Cause,
    },
    /// An interface whose packets cannot be read.
    #[error(
        "cannot attach to {interface}: packets of its device type (ARPHRD {arphrd}) have neither an Ethernet nor an IP header in front"
    )]
    Framing {
        /// Its name.
        interface: String,
        /// Its type.
        arphrd: u16,
    },
    /// A pin.
    #[error("cannot pin {}: {}", path.display(), one_line(source))]
    Pin {
        /// Where.
        path: PathBuf,
        /// The answer.
        source: PinError,
    },
}

impl DatapathError {
    pub(super) fn pins(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Pins {
            action,
            path,
            source,
        }
    }

    /// A pinned table that is not what it should be: only its type and sizes are a reason to begin anew.
    pub(super) fn pinned_table(path: &std::path::Path) -> impl Fn(MapError) -> Self {
        let path = path.to_owned();
        move |source| {
            let path = path.clone();
            match source {
                MapError::InvalidMapType { .. }
                | MapError::InvalidKeySize { .. }
                | MapError::InvalidValueSize { .. } => Self::ForeignTable { path, source },
                _ => Self::OpenTable { path, source },
            }
        }
    }

    pub(super) fn program(name: &'static str) -> impl FnOnce(ProgramError) -> Self {
        move |source| Self::Program {
            name,
            source: Box::new(source),
        }
    }

    pub(super) fn table(action: &'static str, name: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Table {
            action,
            name,
            source,
        }
    }
}

/// An error and its causes on one line; of a verifier's log, which has thousands, the verdict.
fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let part = match text.split_once(VERIFIER_LOG) {
            Some((call, log)) => {
                log::debug!("{text}");
                format!("{call}the verifier says: {}", verdict(log))
            }
            None => text.lines().map(str::trim).collect::<Vec<_>>().join(" "),
        };
        if !parts.iter().any(|previous| previous.contains(&part)) {
            parts.push(part);
        }
        next = error
            .source()
            .filter(|cause| !cause.to_string().contains(VERIFIER_LOG));
    }
    parts.join(": ")
}

/// What aya writes before the log.
const VERIFIER_LOG: &str = "Verifier output: ";

/// The line that says what is wrong: the last one before the statistics.
fn verdict(log: &str) -> &str {
    let statistics = ["verification time", "stack depth", "processed "];
    log.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start)))
        .unwrap_or("nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_type_and_size_are_a_reason_to_begin_anew() {
        let of = DatapathError::pinned_table(std::path::Path::new("/b/PORTS"));
        let wrong = of(MapError::InvalidKeySize {
            size: 4,
            expected: 8,
        });
        assert!(wrong.to_string().contains("run `truename detach`"));
        for number in [libc::EMFILE, libc::EROFS, libc::EACCES, libc::ENOENT] {
            let cause = io::Error::from_raw_os_error(number);
            let words = cause.to_string();
            let text = of(MapError::IoError(cause)).to_string();
            assert!(text.contains(&words) && !text.contains("detach"), "{text}");
        }
    }

    #[test]
    fn a_verifier_log_becomes_one_line() {
        let log = "the syscall failed. Verifier output: 0: R1=ctx()\n1: (85) call x#26\nR4 invalid zero-sized read\nverification time 1 usec\nprocessed 28 insns\n";
        let error = std::io::Error::other(log);
        assert_eq!(
            one_line(&error),
            "the syscall failed. the verifier says: R4 invalid zero-sized read"
        );
        let error = std::io::Error::other("two\n lines");
        assert_eq!(one_line(&error), "two lines");
    }
}
