//! From the configured services to the contents of their tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use truename_common::{
    layout::{
        SERVICES_MAX, SLOTS_PER_SERVICE, Service, Settings, Slots, Socket, TARGETS_MAX, Target,
        bytes, ip, service_flags, settings_flags, target_flags,
    },
    nat::{self, Weighted},
};

use super::{
    Facts, Held,
    facts::{TargetKey, identity, same_but_source, target_key},
    ipsec,
    roles::{self, Wanted},
    space::Space,
};
use crate::config::{self, Config, Netfilter, OnChange, Snat, Transport, WhenFull};

/// The wanted contents of the tables of services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// `SERVICES`.
    pub services: BTreeMap<Socket, Service>,
    /// The parts of `SLOTS` that the services refer to.
    pub slots: BTreeMap<Slots, Vec<u32>>,
    /// `TARGETS`: the services', and those that connections or present services still use.
    pub targets: BTreeMap<u32, Target>,
    /// `SETTINGS`.
    pub settings: Settings,
    /// What of the configuration is left out, and why: a sentence each.
    pub left_out: Vec<String>,
    /// Whether something must wait until connections end.
    pub is_waiting: bool,
}

/// Compiles the services. A service keeps its number and a target its own; the slots of a service
/// are written anew only if its targets or their weights are others.
///
/// Nothing that the present tables refer to is given another meaning: what is free after this plan is
/// free for the next one.
pub fn plan(config: &Config, facts: &Facts, held: &Held) -> Services {
    let mut plan = Plan::new(config, facts, held);
    // Their order in the configuration decides nothing.
    let mut services: Vec<_> = config.services.iter().collect();
    services.sort_by_key(|service| (service.protocol, service.listen));
    let wanted: Vec<_> = services
        .into_iter()
        .map(|service| (service, plan.wanted(service)))
        .collect();
    plan.sockets = wanted
        .iter()
        .flat_map(|(service, wanted)| wanted.iter().map(|wanted| socket_of(service, wanted)))
        .collect();
    let resolved: Vec<_> = wanted
        .into_iter()
        .map(|(service, wanted)| {
            let aliases = plan.aliases(service, &wanted);
            (service, aliases, plan.targets(service, &wanted))
        })
        .collect();
    plan.number_targets(&resolved);
    for (service, aliases, targets) in &resolved {
        plan.add(service, aliases, targets);
    }
    plan.finish()
}

/// A service, its aliases, and its targets with their weights.
type Resolved<'a> = (&'a config::Service, Vec<Socket>, Vec<(Target, u32)>);

struct Plan<'a> {
    config: &'a Config,
    facts: &'a Facts,
    held: &'a Held,
    /// The aliases that services name by their address.
    named: BTreeMap<Socket, &'a str>,
    /// The sockets of all targets, which are no aliases.
    sockets: BTreeSet<Socket>,
    numbers: BTreeMap<TargetKey, u32>,
    ids: BTreeSet<u32>,
    next_id: u32,
    space: Space,
    /// The services of which a target is left out because its packets have to be encrypted.
    secret: BTreeSet<(Transport, config::Listen)>,
    out: Services,
}

impl<'a> Plan<'a> {
    fn new(config: &'a Config, facts: &'a Facts, held: &'a Held) -> Self {
        let ids = held.services.values().map(|service| service.id);
        let highest = ids.chain(held.connected.service).max();
        let ranges = held.services.values().flat_map(|s| [&s.slots, &s.previous]);
        Self {
            config,
            facts,
            held,
            named: config
                .services
                .iter()
                .filter(|service| service.listen.address.is_some())
                .map(|service| (service.alias(), service.name.as_str()))
                .collect(),
            sockets: BTreeSet::new(),
            numbers: BTreeMap::new(),
            ids: BTreeSet::new(),
            next_id: highest.map_or(0, |highest| highest.wrapping_add(1)),
            space: Space::without(ranges),
            secret: BTreeSet::new(),
            out: Services {
                settings: settings(config, facts, held),
                ..Services::default()
            },
        }
    }

    /// The targets that a service wants now. One that the topology found is none where a service has its
    /// alias: a packet is translated once.
    fn wanted(&mut self, service: &'a config::Service) -> Vec<Wanted<'a>> {
        let mut wanted = roles::targets(service, &self.facts.roles);
        for wanted in &mut wanted {
            if self.facts.is_drained(service, wanted.socket) {
                wanted.weight = 0;
            }
        }
        wanted.retain(|wanted| {
            let Some(name) = self.named.get(&socket_of(service, wanted)) else {
                return true;
            };
            self.out.left_out.push(format!(
                "the service \"{}\" leaves out its target {}: it is an alias of the service \"{name}\", and a packet is translated once; have the name resolve to the node's own address on this host",
                service.name, roles::shown(wanted)
            ));
            false
        });
        wanted
    }

    /// The aliases that a service has on this host.
    fn aliases(&mut self, service: &config::Service, wanted: &[Wanted<'_>]) -> Vec<Socket> {
        let at = |address| Socket {
            address: bytes(address),
            port: service.listen.port,
            protocol: service.protocol.number(),
            pad: 0,
        };
        let all: Vec<IpAddr> = match (service.listen.address, wanted.first()) {
            (Some(address), _) => vec![address],
            (None, Some(target)) => self.own_addresses(target.socket.is_ipv4()).collect(),
            // It is not known of which family they are; what another agent knew counts.
            (None, None) => {
                let held = |address: &IpAddr| self.held.services.contains_key(&at(*address));
                let addresses = self.facts.addresses.iter().copied();
                addresses.filter(held).collect()
            }
        };
        let mut aliases = Vec::new();
        for address in all {
            let alias = at(address);
            let shown = config::Listen {
                address: Some(address),
                port: alias.port,
            };
            if let Some(endpoint) = self.endpoint_at(service.protocol, shown) {
                self.out.left_out.push(format!(
                    "the service \"{}\" leaves out its alias {shown}: the endpoint \"{endpoint}\" listens there",
                    service.name
                ));
            } else if self.sockets.contains(&alias) {
                // The target of `*` may well be one of the addresses that it stands for.
                let is_own = |wanted: &Wanted<'_>| socket_of(service, wanted) == alias;
                if !wanted.iter().any(is_own) {
                    self.out.left_out.push(format!(
                        "the service \"{}\" leaves out its alias {shown}: it is a target of another service",
                        service.name
                    ));
                }
            } else {
                aliases.push(alias);
            }
        }
        aliases
    }

    /// The host's addresses of a family. Those of one link only mean nothing without it.
    fn own_addresses(&self, v4: bool) -> impl Iterator<Item = IpAddr> + use<'a> {
        let facts = self.facts;
        facts.addresses.iter().copied().filter(move |address| {
            let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            address.is_ipv4() == v4 && !is_link_local
        })
    }

    fn endpoint_at(&self, protocol: Transport, at: config::Listen) -> Option<&'a str> {
        let endpoints = self.config.endpoints.iter();
        let mut there = endpoints.filter(|e| protocol == Transport::Tcp && e.listen == at);
        there.next().map(|endpoint| endpoint.name.as_str())
    }

    /// The targets of a service that take new connections.
    fn targets(&mut self, service: &config::Service, wanted: &[Wanted<'_>]) -> Vec<(Target, u32)> {
        let mut targets = Vec::new();
        for wanted in wanted.iter().filter(|wanted| wanted.weight > 0) {
            match self.target(service, wanted) {
                Some(target) if self.is_secret(service, &target, wanted) => {}
                Some(target) => targets.push((target, wanted.weight)),
                None => self.out.left_out.push(format!(
                    "the service \"{}\" leaves out its target {}: this host has no route to it",
                    service.name,
                    roles::shown(wanted)
                )),
            }
        }
        let most = SLOTS_PER_SERVICE as usize;
        if targets.len() > most {
            self.out.left_out.push(format!(
                "the service \"{}\" has {} targets, and sends connections to the first {most} only: a service has so many slots",
                service.name,
                targets.len()
            ));
            targets.truncate(most);
        }
        targets
    }

    /// Whether packets to a target have to be encrypted, which those that truename forwards are not.
    fn is_secret(&mut self, service: &config::Service, target: &Target, to: &Wanted<'_>) -> bool {
        if target.flags & target_flags::LOCAL != 0 {
            return false;
        }
        let has_source = target.flags & target_flags::SNAT != 0;
        let source = has_source.then(|| ip(target.source));
        let Some(sentence) = ipsec::refusal(self.config, self.facts, service, source, to) else {
            return false;
        };
        self.secret.insert((service.protocol, service.listen));
        self.out.left_out.push(sentence);
        true
    }

    fn target(&self, service: &config::Service, wanted: &Wanted<'_>) -> Option<Target> {
        let address = wanted.socket.ip();
        let is_local = self.facts.is_local(address);
        let is_snat = match service.snat {
            // What listens on a loopback address can answer only such an address.
            Snat::Auto if address.is_loopback() => true,
            Snat::Auto => !is_local,
            Snat::Always => true,
            Snat::Never => false,
        };
        let mut target = Target {
            address: bytes(address),
            port: wanted.socket.port(),
            ..Target::default()
        };
        if is_local {
            target.flags |= target_flags::LOCAL;
        }
        if !is_snat {
            return Some(target);
        }
        target.flags |= target_flags::SNAT;
        if address.is_loopback() {
            target.source = target.address;
            return Some(target);
        }
        if let Some(source) = self.facts.sources.get(&address) {
            target.source = bytes(*source);
            return Some(target);
        }
        // A route that is gone may come back: connections and new ones stay with what was known.
        let mut known = self.held.targets.values();
        known.find(|held| same_but_source(held, &target)).copied()
    }

    /// Gives numbers to the targets: the one that it has, or the lowest free one.
    fn number_targets(&mut self, resolved: &[Resolved<'_>]) {
        let present: BTreeMap<TargetKey, u32> = self
            .held
            .targets
            .iter()
            .rev()
            .map(|(number, target)| (target_key(target), *number))
            .collect();
        let wanted: BTreeMap<TargetKey, Target> = resolved
            .iter()
            .flat_map(|(_, _, targets)| targets)
            .map(|(target, _)| (target_key(target), *target))
            .collect();
        let mut free = (0..TARGETS_MAX).filter(|number| !self.held.targets.contains_key(number));
        for (key, target) in wanted {
            let Some(number) = present.get(&key).copied().or_else(|| free.next()) else {
                continue;
            };
            self.numbers.insert(key, number);
            self.out.targets.insert(number, target);
        }
    }

    fn add(&mut self, service: &config::Service, aliases: &[Socket], targets: &[(Target, u32)]) {
        if aliases.is_empty() {
            return;
        }
        let is_unknown = roles::unknown(service, &self.facts.roles).next().is_some();
        let is_held = |alias| self.held.services.contains_key(alias);
        if is_unknown && aliases.iter().any(is_held) {
            // What another agent knew counts until this one knows.
            return self.keep(aliases);
        }
        let present: Vec<Service> = aliases
            .iter()
            .filter_map(|alias| self.held.services.get(alias).copied())
            .collect();
        let slots = match self.slots(&present, targets) {
            Ok(slots) => slots,
            Err(what) => {
                self.out.left_out.push(format!(
                    "the service \"{}\" stays as it is for now: no {what} is free",
                    service.name
                ));
                self.out.is_waiting = true;
                return self.keep(aliases);
            }
        };
        if slots.count == 0 {
            self.out.left_out.push(format!(
                "the service \"{}\" returns \"port unreachable\" to new connections and datagrams: it has no target",
                service.name
            ));
        }
        let id = self.id(&present);
        let mut left_out = 0;
        for alias in aliases {
            if self.out.services.len() >= SERVICES_MAX as usize {
                left_out += 1;
                continue;
            }
            let mut flags = 0;
            if self.held.connected.aliases_moved.contains(alias) {
                flags |= service_flags::MOVED;
            }
            // Connections to a target whose packets have to be encrypted from now on must not go on.
            let is_secret = self.secret.contains(&(service.protocol, service.listen));
            if service.on_change == OnChange::Reset || is_secret {
                flags |= service_flags::RESET;
            }
            if !self.facts.has_alias(alias) {
                flags |= service_flags::UNASSIGNED;
            }
            if ip(alias.address).is_loopback() {
                flags |= service_flags::LOOPBACK;
            }
            self.out.services.insert(
                *alias,
                Service {
                    id,
                    flags,
                    slots,
                    previous: Slots::default(),
                },
            );
        }
        if left_out > 0 {
            self.out.left_out.push(format!(
                "the service \"{}\" leaves out {left_out} alias(es): {SERVICES_MAX} fit the kernel table",
                service.name
            ));
        }
    }

    /// Leaves the entries of a service as they are.
    fn keep(&mut self, aliases: &[Socket]) {
        for alias in aliases {
            let Some(present) = self.held.services.get(alias) else {
                continue;
            };
            self.ids.insert(present.id);
            self.out.services.insert(*alias, *present);
            if let Some(contents) = self.held.slots.get(&present.slots) {
                self.out.slots.insert(present.slots, contents.clone());
            }
        }
    }

    /// The number that the service has, or a new one.
    fn id(&mut self, present: &[Service]) -> u32 {
        let known = present.iter().map(|service| service.id).min();
        let id = known
            .filter(|id| !self.ids.contains(id))
            .unwrap_or_else(|| {
                let id = self.next_id;
                self.next_id = id.wrapping_add(1);
                id
            });
        self.ids.insert(id);
        id
    }

    /// The slots of a service: those that it has if they are right, else free ones.
    fn slots(&mut self, present: &[Service], targets: &[(Target, u32)]) -> Result<Slots, String> {
        let weighted: Option<Vec<Weighted>> = targets
            .iter()
            .map(|(target, weight)| {
                Some(Weighted {
                    target: *self.numbers.get(&target_key(target))?,
                    identity: identity(target),
                    weight: *weight,
                })
            })
            .collect();
        let weighted = weighted
            .ok_or_else(|| format!("number for a target ({TARGETS_MAX} fit the kernel table)"))?;
        let count = match weighted.len() {
            0 => return Ok(Slots::default()),
            1 => 1,
            _ => SLOTS_PER_SERVICE,
        };
        let mut contents = vec![0; count as usize];
        nat::fill(&mut contents, &weighted);
        let has = |slots: &Slots| self.held.slots.get(slots) == Some(&contents);
        let present = present.iter().map(|service| service.slots).find(has);
        let slots = match present {
            Some(slots) => slots,
            None => self
                .space
                .take(count)
                .ok_or_else(|| "place for its slots".to_owned())?,
        };
        self.out.slots.insert(slots, contents);
        Ok(slots)
    }

    /// Keeps the targets that something refers to.
    fn finish(mut self) -> Services {
        let ports = self.config.datapath.snat_ports;
        let range = (self.out.settings.first_port, self.out.settings.last_port);
        let honoured = self.out.settings.flags & settings_flags::HONOUR;
        if honoured != wanted_honour(self.config) {
            self.out.is_waiting = true;
            self.out.left_out.push(format!(
                "netfilter = \"{}\" waits until there is no connection; `truename flows flush` ends all",
                self.config.datapath.netfilter.name()
            ));
        }
        if range != (ports.first, ports.last) {
            self.out.is_waiting = true;
            self.out.left_out.push(format!(
                "the source ports {ports} wait until no connection depends on {}-{}; `truename flows flush` ends them",
                range.0, range.1
            ));
        }
        let connected = &self.held.connected;
        let listed: BTreeSet<u32> = self.held.slots.values().flatten().copied().collect();
        for (number, target) in &self.held.targets {
            if connected.targets.contains(&(target.address, target.port))
                || connected.targets_moved.contains(number)
                || listed.contains(number)
            {
                self.out.targets.insert(*number, *target);
            }
        }
        self.out.left_out.sort();
        self.out
    }
}

fn socket_of(service: &config::Service, wanted: &Wanted<'_>) -> Socket {
    Socket {
        address: bytes(wanted.socket.ip()),
        port: wanted.socket.port(),
        protocol: service.protocol.number(),
        pad: 0,
    }
}

/// Whether the stack shall forward.
fn wanted_honour(config: &Config) -> u8 {
    match config.datapath.netfilter {
        Netfilter::Honour => settings_flags::HONOUR,
        Netfilter::Bypass => 0,
    }
}

/// Bits of [`settings_flags`]. Connections are found by who forwards them.
fn flags(config: &Config, held: &Held) -> u8 {
    let evict = match config.datapath.when_full {
        WhenFull::Evict => settings_flags::EVICT,
        WhenFull::Refuse => 0,
    };
    let honour = if held.connected.any {
        held.settings.flags & settings_flags::HONOUR
    } else {
        wanted_honour(config)
    };
    evict | honour
}

/// The settings. The range of source ports stays as it is while a connection was placed by it.
fn settings(config: &Config, facts: &Facts, held: &Held) -> Settings {
    let ports = config.datapath.snat_ports;
    let wanted = Settings {
        timeouts: config.datapath.timeouts.0,
        loopback: facts.loopback,
        first_port: ports.first,
        last_port: ports.last,
        tag: held.settings.tag,
        flags: flags(config, held),
        pad: 0,
    };
    let has_range = held.settings.last_port != 0;
    if has_range && held.connected.is_placed {
        return Settings {
            first_port: held.settings.first_port,
            last_port: held.settings.last_port,
            ..wanted
        };
    }
    wanted
}
