//! A host with a bridge that joins namespaces, and that they all reach.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Result;

use crate::namespace::{Namespace, link};

/// A namespace with a bridge. Others are connected to it, and have addresses of its network.
#[derive(Debug)]
pub struct Hub {
    space: Namespace,
    ports: AtomicU32,
}

impl Hub {
    /// The interface by which the hub itself takes part.
    pub const INTERFACE: &str = "bridge0";

    /// A hub with an address in a /24 network.
    ///
    /// # Errors
    /// Not root.
    pub fn new(address: Ipv4Addr) -> Result<Self> {
        let space = Namespace::new("hub")?;
        space.ip(&format!("link add {} type bridge", Self::INTERFACE))?;
        space.ip(&format!("link set {} up", Self::INTERFACE))?;
        let hub = Self {
            space,
            ports: AtomicU32::new(0),
        };
        hub.add_address(address)?;
        Ok(hub)
    }

    /// The hub itself.
    pub fn space(&self) -> &Namespace {
        &self.space
    }

    /// Gives the hub another address, for which it answers in the network.
    ///
    /// # Errors
    /// It has it.
    pub fn add_address(&self, address: Ipv4Addr) -> Result<()> {
        let interface = Self::INTERFACE;
        self.space
            .ip(&format!("address add {address}/24 dev {interface}"))
            .map(drop)
    }

    /// Connects a namespace, which gets an interface with these addresses.
    ///
    /// # Errors
    /// It has an interface of this name.
    pub fn connect(
        &self,
        space: &Namespace,
        interface: &str,
        addresses: &[Ipv4Addr],
    ) -> Result<()> {
        let port = format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed));
        link((&self.space, &port), (space, interface))?;
        self.space
            .ip(&format!("link set {port} master {}", Self::INTERFACE))?;
        for address in addresses {
            space.ip(&format!("address add {address}/24 dev {interface}"))?;
        }
        Ok(())
    }
}
