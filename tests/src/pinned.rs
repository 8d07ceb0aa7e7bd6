//! The pinned tables, behind the agent's back, and directories for pins.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use truename_common::layout::{Service, Socket, TCP, Target, VERSION, map};

use crate::{
    cleanup,
    prog_run::address_of,
    sys,
    truename::{Truename, ensure_bpffs},
};

/// A directory of the BPF file system, which stands for that of a host. Removed on drop, with what is pinned there.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes one.
    ///
    /// # Errors
    /// The BPF file system cannot be mounted.
    pub fn new(label: &str) -> Result<Self> {
        ensure_bpffs()?;
        let path = Path::new(cleanup::BPFFS).join(cleanup::unique_name(label));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What stays is swept by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Opens a table of an installation.
///
/// # Errors
/// It is not pinned, or of another type.
pub fn table<T: TryFrom<Map, Error = MapError>>(truename: &Truename, name: &str) -> Result<T> {
    let version = PathBuf::from(format!("v{VERSION}"));
    let path = truename.bpffs().join(version).join("maps").join(name);
    let opened = || T::try_from(Map::from_map_data(MapData::from_pin(&path)?)?);
    opened().with_context(|| format!("open {}", path.display()))
}

/// Detaches what hangs by a pinned link, and leaves the pin where it is.
///
/// # Errors
/// No link is pinned there.
pub fn detach_link(path: &Path) -> Result<()> {
    sys::detach_link(path).with_context(|| format!("detach {}", path.display()))
}

/// What services stand for, by the word of the kernel tables alone.
pub struct ServiceTables {
    services: HashMap<MapData, Socket, Service>,
    slots: Array<MapData, u32>,
    targets: Array<MapData, Target>,
}

impl ServiceTables {
    /// Opens the tables of an installation.
    ///
    /// # Errors
    /// They are not pinned.
    pub fn open(truename: &Truename) -> Result<Self> {
        Ok(Self {
            services: table(truename, map::SERVICES)?,
            slots: table(truename, map::SLOTS)?,
            targets: table(truename, map::TARGETS)?,
        })
    }

    /// Where new TCP connections to an alias go; nowhere, if there is no such service.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn targets(&self, alias: SocketAddr) -> Result<BTreeSet<SocketAddr>> {
        let key = Socket {
            address: address_of(alias.ip()),
            port: alias.port(),
            protocol: TCP,
            pad: 0,
        };
        let slots = match self.services.get(&key, 0) {
            Ok(service) => service.slots,
            Err(MapError::KeyNotFound) => return Ok(BTreeSet::new()),
            Err(error) => return Err(error).with_context(|| format!("read the service {alias}")),
        };
        let numbers = (slots.first..slots.first + slots.count)
            .map(|position| self.slots.get(&position, 0))
            .collect::<Result<BTreeSet<u32>, _>>()
            .context("read the slots")?;
        numbers
            .into_iter()
            .map(|number| {
                let target = self.targets.get(&number, 0).context("read a target")?;
                let address = IpAddr::V6(Ipv6Addr::from(target.address)).to_canonical();
                Ok(SocketAddr::new(address, target.port))
            })
            .collect()
    }
}
