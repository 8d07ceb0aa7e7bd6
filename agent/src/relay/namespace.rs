//! The network namespace in which an endpoint listens.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd as _;

use crate::netlink::{Inventory, NetlinkError, Requests};

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace.
pub struct Namespace {
    /// Its number.
    pub inode: u64,
    /// Keeps it, and is what is entered.
    pub file: File,
}

impl Namespace {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { inode, file })
    }

    /// The same, to be kept.
    fn again(&self) -> io::Result<Self> {
        Ok(Self {
            inode: self.inode,
            file: self.file.try_clone()?,
        })
    }

    /// Moves the calling thread there.
    pub fn enter(&self) -> io::Result<()> {
        if fs::metadata(OWN)?.ino() == self.inode {
            // This needs no capability.
            return Ok(());
        }
        let network = Some(LinkNameSpaceType::Network);
        Ok(move_into_link_name_space(self.file.as_fd(), network)?)
    }

    fn inventory(&self) -> Option<Inventory> {
        // Only a thread of its own can go there and end there.
        let looked = thread::scope(|scope| {
            let look = || -> Result<Inventory, NetlinkError> {
                self.enter().map_err(NetlinkError::Socket)?;
                Requests::open()?.inventory()
            };
            scope.spawn(look).join()
        });
        match looked {
            Ok(Ok(inventory)) => Some(inventory),
            Ok(Err(error)) => {
                log::debug!(
                    "Cannot look at the network namespace net:[{}]: {error}",
                    self.inode
                );
                None
            }
            Err(_) => None,
        }
    }
}

/// Where endpoints may be: this host and its containers.
pub struct Namespaces {
    requests: Requests,
    host: Inventory,
    /// Looked for when the first address is not this host's.
    containers: Option<Vec<Container>>,
}

/// A namespace behind an interface of this host.
struct Container {
    namespace: Namespace,
    /// The number by which this host's interfaces know it.
    id: i32,
    inventory: Inventory,
}

impl Namespaces {
    /// Looks at this host.
    pub fn look() -> Result<Self, NetlinkError> {
        let mut requests = Requests::open()?;
        let host = requests.inventory()?;
        Ok(Self {
            requests,
            host,
            containers: None,
        })
    }

    /// The namespace that has an address: this one, or that of a container behind a veth of this host.
    pub fn of(&mut self, address: IpAddr) -> Result<Option<Namespace>, NetlinkError> {
        let mut own = self.host.interfaces.values();
        if address.is_loopback() || own.any(|interface| interface.addresses.contains(&address)) {
            return Ok(Namespace::open(Path::new(OWN)).ok());
        }
        let containers = match &mut self.containers {
            Some(containers) => containers,
            none => none.insert(containers(&mut self.requests)?),
        };
        let host = &self.host;
        let mut containers = containers.iter();
        let container = containers.find(|container| {
            let mut there = container.inventory.interfaces.values();
            // Containers of two networks may have the same address; this one's is behind an interface of this host.
            there.any(|interface| {
                let peer = interface.peer.and_then(|peer| host.interfaces.get(&peer));
                let is_peer = peer.is_some_and(|peer| {
                    peer.peer == Some(interface.index) && peer.peer_namespace == Some(container.id)
                });
                interface.addresses.contains(&address) && is_peer
            })
        });
        Ok(container.and_then(|container| container.namespace.again().ok()))
    }
}

/// The namespaces of processes that this host has a number for.
fn containers(requests: &mut Requests) -> Result<Vec<Container>, NetlinkError> {
    let mut containers = Vec::new();
    let mut seen: BTreeSet<u64> = fs::metadata(OWN).map(|own| own.ino()).into_iter().collect();
    for path in processes() {
        let Ok(found) = fs::metadata(&path) else {
            continue;
        };
        if !seen.insert(found.ino()) {
            continue;
        }
        let Ok(namespace) = Namespace::open(&path) else {
            continue;
        };
        let Some(id) = requests.namespace_id(namespace.file.as_fd())? else {
            continue;
        };
        if let Some(inventory) = namespace.inventory() {
            containers.push(Container {
                namespace,
                id,
                inventory,
            });
        }
    }
    Ok(containers)
}

/// Whether a process is in a namespace.
pub fn exists(inode: u64) -> bool {
    let mut namespaces = processes().filter_map(|path| fs::metadata(path).ok());
    namespaces.any(|namespace| namespace.ino() == inode)
}

/// The network namespaces of all processes.
fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .map(|entry| entry.path().join("ns/net"))
}
