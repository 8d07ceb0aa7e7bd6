//! Whether the targets of services answer, by the connections that were begun in the last minute.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use truename_common::layout::{Conntrack, ConntrackState as State, FiveTuple, TCP, ip, v4_mapped};

use super::text::socket;
use crate::{
    api::{Clock, Code, Finding},
    config::{Config, Listen, Role, Service, Transport, index},
    netlink::{NetlinkError, Requests},
    plan::{Facts, roles},
};

/// What counts as lately, in seconds.
const LATELY: u32 = 60;
/// A target that has not answered for so long, in seconds, has had the SYN twice.
const SOON: u32 = 3;
/// The longest answer that is a RST and nothing else, in bytes: IP and TCP headers without options.
const RST_V4: u64 = 40;
const RST_V6: u64 = 60;

/// What is wrong with a host that does not answer its neighbours.
pub const UNHEARD: &str =
    "no host of its network says that it has this address (ARP, NDP): is it up?";
/// The ports of RPC that Flink has without configuration.
const RPC_PORTS: [u16; 2] = [6123, 6122];
/// Addresses that are looked for at a time.
const LOOKS_MAX: usize = 64;

/// What became of the connections to a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub answered: usize,
    pub refused: usize,
    pub silent: usize,
}

/// A target of a service: its name, address and port.
type Target<'a> = (&'a str, [u8; 16], u16);

/// What became of the connections that were begun lately.
pub struct Attempts<'a> {
    aliases: index::Services<'a>,
    now_s: u32,
    counts: BTreeMap<Target<'a>, Count>,
    /// The services that have connections.
    used: BTreeSet<&'a str>,
}

impl<'a> Attempts<'a> {
    /// None are known yet.
    pub fn new(config: &'a Config, clock: &Clock) -> Self {
        Self {
            aliases: index::Services::new(config),
            now_s: u32::try_from(clock.monotonic_ns() / 1_000_000_000).unwrap_or(u32::MAX),
            counts: BTreeMap::new(),
            used: BTreeSet::new(),
        }
    }

    /// Takes a connection into account. One over UDP may have no answer and be well.
    pub fn note(&mut self, key: &FiveTuple, entry: &Conntrack) {
        let Some(service) = self.aliases.find(entry.alias(key.protocol)) else {
            return;
        };
        self.used.insert(&service.name);
        let age = self.now_s.saturating_sub(entry.created_s);
        if key.protocol != TCP || age > LATELY {
            return;
        }
        let target = (service.name.as_str(), key.endpoint, key.endpoint_port);
        let is_v4 = key.endpoint[..12] == v4_mapped([0; 4])[..12];
        let rst = if is_v4 { RST_V4 } else { RST_V6 };
        let count = self.counts.entry(target).or_default();
        match State::from_number(entry.state) {
            State::SynSent if age < SOON => {}
            State::SynSent => count.silent += 1,
            // Closed by the client before there was an answer, or by the target with the first one.
            State::Closed if entry.received == 0 => {}
            State::Closed if entry.received <= rst => count.refused += 1,
            _ => count.answered += 1,
        }
    }

    /// What became of those to a target.
    pub fn of(&self, service: &str, address: [u8; 16], port: u16) -> Count {
        let count = self.counts.get(&(service, address, port));
        count.copied().unwrap_or_default()
    }

    /// The targets that answer no connection.
    ///
    /// # Errors
    /// When the kernel does not answer who its neighbours are.
    pub fn problems(&self, requests: &mut Requests) -> Result<Vec<Finding>, NetlinkError> {
        let mut found = Vec::new();
        for (service, address, port) in self.counts.keys() {
            found.extend(self.problem(service, *address, *port, requests)?);
        }
        Ok(found)
    }

    /// Why a target answers no connection, if it was tried and does not.
    ///
    /// # Errors
    /// When the kernel does not answer who its neighbours are.
    pub fn problem(
        &self,
        service: &str,
        address: [u8; 16],
        port: u16,
        requests: &mut Requests,
    ) -> Result<Option<Finding>, NetlinkError> {
        let at = socket(address, port);
        let Count {
            answered,
            refused,
            silent,
        } = self.of(service, address, port);
        Ok(if answered > 0 || refused + silent == 0 {
            None
        } else if silent == 0 {
            let sentence = format!(
                "the target {at} of the service {service} has refused all {refused} connection(s) of the last minute: does it listen at this port?"
            );
            Some(Finding::new(Code::TargetRefuses, sentence))
        } else {
            let why = if requests.is_unreachable(ip(address))? {
                UNHEARD
            } else {
                "is it up, does something filter, and do its answers come back by this host (else: snat = \"always\")?"
            };
            let begun = refused + silent;
            let sentence = format!(
                "the target {at} of the service {service} has answered none of {begun} connection(s) of the last minute: {why}"
            );
            Some(Finding::new(Code::TargetSilent, sentence))
        })
    }

    /// What may be meant so and looks wrong: aliases that nobody has, and names that nobody translates.
    ///
    /// # Errors
    /// When the kernel does not answer by which route it sends.
    pub fn notes(
        &self,
        config: &Config,
        facts: &Facts,
        requests: &mut Requests,
    ) -> Result<Vec<String>, NetlinkError> {
        let mut notes = Vec::new();
        let mut looks = 0;
        for service in &config.services {
            if let Some(alias) = service.listen.address
                && !self.used.contains(service.name.as_str())
                && looks < LOOKS_MAX
            {
                looks += 1;
                notes.extend(unassigned(&service.name, alias, facts, requests)?);
            }
            notes.extend(without_endpoint(config, service, facts));
        }
        Ok(notes)
    }
}

/// That neighbours ask in vain who has an alias, if they do.
pub fn unassigned(
    service: &str,
    alias: IpAddr,
    facts: &Facts,
    requests: &mut Requests,
) -> Result<Option<String>, NetlinkError> {
    if facts.is_local(alias) {
        return Ok(None);
    }
    let unanswered = requests.unanswered_alias(alias)?;
    Ok(unanswered.map(|unanswered| format!(
        "the address {alias} of the service {service} is one of a network of this host, and no interface has it: neighbours without a route by this host ask for it in vain; {}",
        unanswered.remedy()
    )))
}

/// What of these kinds of routing rules may lead a packet another way than the stack's.
pub fn unfollowed(rules: &BTreeSet<&'static str>) -> Vec<String> {
    let mut sentences = Vec::new();
    if rules.contains("fwmark") {
        sentences.push("this host has routing rules by mark (ip rule fwmark): marks that netfilter gives to what comes in do not count for a service, and before Linux 6.10 no mark does".to_owned());
    }
    if rules.contains("uidrange") {
        sentences.push("this host has routing rules by user (ip rule uidrange): they do not count for packets to a service".to_owned());
    }
    if !rules.is_empty() {
        let words = rules.iter().copied().collect::<Vec<_>>().join(", ");
        sentences.push(format!(
            "rules with {words} do not choose the address that a target sees: it is the source address of this host's own route"
        ));
    }
    sentences
}

/// That names in RPC headers are not translated on the way to a target, if they are not.
fn without_endpoint(config: &Config, service: &Service, facts: &Facts) -> Option<String> {
    if service.protocol != Transport::Tcp {
        return None;
    }
    let targets = roles::targets(service, &facts.roles);
    let is_rpc = |target: &roles::Wanted<'_>| {
        target.role == Some(&Role::LeaderRpc) || RPC_PORTS.contains(&target.socket.port())
    };
    let target = targets.into_iter().find(is_rpc)?.socket;
    let at = Listen {
        address: Some(target.ip()),
        port: target.port(),
    };
    if index::endpoint(config, at.to_socket()).is_some() {
        return None;
    }
    let name = &service.name;
    Some(format!(
        "the service {name} leads to {target}, where RPC is spoken as a rule, and there is no endpoint: unless another agent has one, the node drops what names it otherwise; add an [[endpoint]] with listen = \"{target}\""
    ))
}

/// The targets that this host cannot reach, when packets to some of them had to be dropped lately.
///
/// # Errors
/// When the kernel does not answer who its neighbours are.
pub fn unreachable(
    config: &Config,
    facts: &Facts,
    dropped: u64,
    requests: &mut Requests,
) -> Result<Vec<Finding>, NetlinkError> {
    let mut found = Vec::new();
    if dropped == 0 {
        return Ok(found);
    }
    let mut known = BTreeMap::new();
    for service in &config.services {
        for target in roles::targets(service, &facts.roles) {
            let address = target.socket.ip();
            if facts.is_local(address) || known.len() >= LOOKS_MAX {
                continue;
            }
            let why = match known.entry(address) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(place) => {
                    let why = if requests.is_unreachable(address)? {
                        Some((Code::TargetSilent, UNHEARD))
                    } else if requests.interface_to(address)?.is_none() {
                        Some((Code::NoRoute, "this host has no route there"))
                    } else {
                        None
                    };
                    *place.insert(why)
                }
            };
            if let Some((code, why)) = why {
                let (at, name) = (target.socket, &service.name);
                let sentence =
                    format!("the target {at} of the service {name} cannot be reached: {why}");
                found.push(Finding::new(code, sentence));
            }
        }
    }
    if found.is_empty() {
        let sentence = format!(
            "{dropped} packet(s) of services were dropped in the last minute for want of a route or of an answering next hop; ip route get TARGET"
        );
        found.push(Finding::new(Code::NoRoute, sentence));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{File, Flags};

    #[test]
    fn only_rules_that_are_there_are_told() {
        let told = |words: &[&'static str]| unfollowed(&words.iter().copied().collect()).join("\n");
        assert_eq!(told(&[]), "");
        let said = told(&["fwmark", "iif"]);
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.contains("by mark") && said.contains("rules with fwmark, iif"));
        assert!(told(&["uidrange"]).contains("by user"));
    }

    #[test]
    fn what_the_last_minute_tells_of_a_target() {
        let text = "[[service]]\nname = \"w\"\nprotocol = \"tcp\"\nlisten = \"10.0.0.10:80\"\ntarget = \"127.0.0.1:80\"\n";
        let config = File::parse(Path::new("t"), text).unwrap();
        let config = Config::new(config, Flags::default()).unwrap();
        let (clock, mut requests) = (Clock::read(), Requests::open().unwrap());
        let mut attempts = Attempts::new(&config, &clock);
        let now = attempts.now_s;
        let at = v4_mapped([127, 0, 0, 1]);
        let key = FiveTuple {
            endpoint: at,
            endpoint_port: 80,
            protocol: TCP,
            ..FiveTuple::default()
        };
        let entry = |state: State, age: u32, received: u64| Conntrack {
            alias: v4_mapped([10, 0, 0, 10]),
            alias_port: 80,
            state: state as u8,
            created_s: now - age,
            received,
            ..Conntrack::default()
        };
        // Too new, too old, given up by the client.
        attempts.note(&key, &entry(State::SynSent, 1, 0));
        attempts.note(&key, &entry(State::SynSent, 61, 0));
        attempts.note(&key, &entry(State::Closed, 10, 0));
        assert_eq!(attempts.of("w", at, 80), Count::default());
        assert_eq!(attempts.problems(&mut requests).unwrap(), []);
        attempts.note(&key, &entry(State::Closed, 10, 40));
        let [refused] = &attempts.problems(&mut requests).unwrap()[..] else {
            panic!("one problem")
        };
        assert_eq!(refused.code, Code::TargetRefuses);
        attempts.note(&key, &entry(State::SynSent, 10, 0));
        let [silent] = &attempts.problems(&mut requests).unwrap()[..] else {
            panic!("one problem")
        };
        assert_eq!(silent.code, Code::TargetSilent);
        assert!(silent.sentence.contains("127.0.0.1:80 of the service w"));
        attempts.note(&key, &entry(State::Closed, 10, 900));
        assert_eq!(attempts.problems(&mut requests).unwrap(), []);
        let expected = Count {
            answered: 1,
            refused: 1,
            silent: 1,
        };
        assert_eq!(attempts.of("w", at, 80), expected);
    }
}
