//! The kernel tables as they are now, read beside the agent.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use truename_common::layout::{Service, Socket, TCP, Target, VERSION, map};

use crate::prog_run::address_of;

/// What services stand for, by the word of the kernel tables alone.
pub struct ServiceTables {
    services: HashMap<MapData, Socket, Service>,
    slots: Array<MapData, u32>,
    targets: Array<MapData, Target>,
}

impl ServiceTables {
    /// Opens the tables that are pinned below `bpffs`.
    ///
    /// # Errors
    /// They are not.
    pub fn open(bpffs: &Path) -> Result<Self> {
        let pinned = |name: &str| {
            let path = bpffs.join(format!("v{VERSION}/maps/{name}"));
            MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))
        };
        Ok(Self {
            services: HashMap::try_from(Map::HashMap(pinned(map::SERVICES)?))?,
            slots: Array::try_from(Map::Array(pinned(map::SLOTS)?))?,
            targets: Array::try_from(Map::Array(pinned(map::TARGETS)?))?,
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
