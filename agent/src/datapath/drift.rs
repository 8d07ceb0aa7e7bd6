//! What somebody else took away or replaced.

use std::{fmt, path::PathBuf};

/// Something of ours that somebody else took away or replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drift {
    /// What hangs on a side of an interface.
    Program {
        /// Its number.
        ifindex: u32,
        /// Its name.
        interface: String,
        /// `ingress`, `egress` or `xdp`.
        side: &'static str,
    },
    /// What steers connections to the relay.
    Steering {
        /// The inode of the network namespace.
        inode: u64,
    },
    /// A pin.
    Pin(PathBuf),
    /// Entries of a table.
    Table(&'static str),
}

impl Drift {
    /// The interface that it is about.
    pub(super) const fn ifindex(&self) -> Option<u32> {
        match self {
            Self::Program { ifindex, .. } => Some(*ifindex),
            Self::Steering { .. } | Self::Pin(_) | Self::Table(_) => None,
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program {
                interface, side, ..
            } => write!(f, "the program on {interface} ({side})"),
            Self::Steering { inode } => {
                write!(
                    f,
                    "the relay's program in the network namespace net:[{inode}]"
                )
            }
            Self::Pin(path) => write!(f, "the pin {}", path.display()),
            Self::Table(name) => write!(f, "entries of the table {name}"),
        }
    }
}
