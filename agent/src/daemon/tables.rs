//! The kernel tables as [`crate::explain`] asks them.

use truename_common::{
    layout::{Authority, Conntrack, Endpoint, FiveTuple, Names, Service, Settings, Socket, Target},
    nat,
};

use crate::{
    api::Clock,
    config::{Config, index},
    datapath::{ServiceTables, Tables},
    explain::Source,
    sysctl,
};

/// The kernel tables, and the configuration for their names.
pub struct KernelTables<'a> {
    pub config: &'a Config,
    pub tables: &'a Tables,
    pub services: &'a ServiceTables,
}

impl nat::Tables for KernelTables<'_> {
    fn slot(&self, position: u32) -> Option<u32> {
        self.services.slot(position)
    }

    fn moved(&self, original: &FiveTuple) -> Option<u32> {
        nat::Tables::moved(self.services, original)
    }

    fn target(&self, number: u32) -> Option<Target> {
        self.services.target(number)
    }
}

impl Source for KernelTables<'_> {
    fn port_flags(&self, port: u16) -> u8 {
        self.tables.port_flags(port).unwrap_or_default()
    }

    fn service(&self, alias: &Socket) -> Option<Service> {
        self.services.service(alias).ok()?
    }

    fn aliases(&self) -> Vec<Socket> {
        let services = self.services.services().unwrap_or_default();
        services.into_iter().map(|(alias, _)| alias).collect()
    }

    fn connection(&self, key: &FiveTuple) -> Option<Conntrack> {
        self.services.connection(key).ok()?
    }

    fn tried(&self, hash: u64) -> u32 {
        self.services.tried(hash).unwrap_or_default()
    }

    fn settings(&self) -> Settings {
        self.services.settings().unwrap_or_default()
    }

    fn endpoint(&self, at: &Socket) -> Option<Endpoint> {
        self.tables.endpoint(at).ok()?
    }

    fn names(&self, at: &Socket) -> Option<Names> {
        self.tables.names_of(at).ok()?
    }

    fn listed(&self, endpoint: u32) -> Vec<Authority> {
        let listed = self.tables.listed().unwrap_or_default();
        let of_it = listed.into_iter().filter(|key| key.endpoint == endpoint);
        of_it.map(|key| key.alias).collect()
    }

    fn service_name(&self, alias: &Socket) -> Option<String> {
        index::service(self.config, *alias).map(|service| service.name.clone())
    }

    fn endpoint_name(&self, at: &Socket) -> Option<String> {
        index::endpoint(self.config, *at).map(|endpoint| endpoint.name.clone())
    }

    fn forwards(&self, v4: bool, own: bool) -> bool {
        sysctl::is_on(match (v4, own) {
            (true, false) => sysctl::FORWARD_V4,
            (false, false) => sysctl::FORWARD_V6,
            (true, true) => sysctl::LOOPBACK_V4,
            (false, true) => sysctl::LOOPBACK_V6,
        })
    }

    fn now_ns(&self) -> u64 {
        Clock::read().monotonic_ns()
    }
}
