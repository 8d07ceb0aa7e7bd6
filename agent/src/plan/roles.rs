//! The sockets that the targets of services are now.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
};

use crate::config::{Config, Place, Role, Service};

/// The sockets that each role stands for. A role that was never known is absent.
pub type Roles = BTreeMap<Role, Vec<SocketAddr>>;

/// A target of a service, or one of several sockets of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Where connections go.
    pub socket: SocketAddr,
    /// Its share of the new connections.
    pub weight: u32,
    /// The role that it has.
    pub role: Option<&'a Role>,
}

/// The targets of a service, each socket once, all of one address family: that of the alias, else
/// that of the first target.
pub fn targets<'a>(service: &'a Service, roles: &Roles) -> Vec<Wanted<'a>> {
    let mut wanted: Vec<Wanted<'a>> = Vec::new();
    for target in &service.targets {
        let (sockets, role): (&[SocketAddr], _) = match &target.place {
            Place::Fixed(socket) => (std::slice::from_ref(socket), None),
            Place::Role(role) => (roles.get(role).map_or(&[], Vec::as_slice), Some(role)),
        };
        let weight = target.weight;
        wanted.extend(sockets.iter().map(|&socket| Wanted {
            socket,
            weight,
            role,
        }));
    }
    let address = service.listen.address;
    let address = address.or_else(|| wanted.first().map(|first| first.socket.ip()));
    let is_v4 = address.is_some_and(|address| address.is_ipv4());
    let mut seen = HashSet::new();
    wanted.retain(|wanted| wanted.socket.is_ipv4() == is_v4 && seen.insert(wanted.socket));
    wanted
}

/// The roles of a service that were never known.
pub fn unknown<'a>(service: &'a Service, roles: &Roles) -> impl Iterator<Item = &'a Role> {
    let targets = service.targets.iter();
    let wanted = targets.filter_map(|target| target.place.role());
    wanted.filter(|role| !roles.contains_key(role))
}

/// The sockets of all targets.
pub fn sockets(config: &Config, roles: &Roles) -> impl Iterator<Item = SocketAddr> {
    let services = config.services.iter();
    services.flat_map(|service| {
        targets(service, roles)
            .into_iter()
            .map(|wanted| wanted.socket)
    })
}

/// A target for people: `10.0.0.1:8081`, or `leader:rest (10.0.0.1:8081)`.
pub(super) fn shown(wanted: &Wanted<'_>) -> String {
    match wanted.role {
        Some(role) => format!("{role} ({})", wanted.socket),
        None => wanted.socket.to_string(),
    }
}
