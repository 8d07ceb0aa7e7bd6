//! Whether the services go together.

use std::collections::BTreeMap;

use truename_common::layout::{SERVICES_MAX, SLOTS_MAX, TARGETS_MAX};

use super::{
    ConfigError, Listen, Service, Target, Transport,
    error::{Clash, Overlap},
    service::family,
    topology::Topology,
};

/// Checks all rules for services.
pub(super) fn check(services: &[Service]) -> Result<(), ConfigError> {
    let aliases = Aliases::new(services)?;
    for service in services {
        check_targets(service)?;
        for target in &service.targets {
            aliases.check_target(service, target)?;
        }
    }
    check_counts(services)
}

/// That somebody can tell who has the roles.
pub(super) fn check_roles(services: &[Service], topology: &Topology) -> Result<(), ConfigError> {
    let mut targets = services
        .iter()
        .flat_map(|service| service.targets.iter().map(move |target| (service, target)));
    let untold = |target: &Target| {
        target
            .place
            .role()
            .is_some_and(|role| !topology.tells(role))
    };
    match targets.find(|(_, target)| untold(target)) {
        Some((service, target)) => Err(ConfigError::NoTopology {
            origin: target.origin.clone(),
            name: service.name.clone(),
            target: target.place.to_string(),
        }),
        None => Ok(()),
    }
}

/// Which service has which alias.
#[derive(Default)]
struct Aliases<'a> {
    by_socket: BTreeMap<(Transport, Listen), &'a Service>,
    /// The first of each port.
    by_port: BTreeMap<(Transport, u16), &'a Service>,
}

impl<'a> Aliases<'a> {
    fn new(services: &'a [Service]) -> Result<Self, ConfigError> {
        let mut aliases = Self::default();
        let mut names: BTreeMap<&str, &Service> = BTreeMap::new();
        for service in services {
            if let Some(first) = names.insert(&service.name, service) {
                return Err(ConfigError::DuplicateName {
                    what: "service",
                    name: service.name.clone(),
                    first: first.origin.clone(),
                    second: service.origin.clone(),
                });
            }
            if let Some(first) = aliases.insert(service) {
                return Err(ConfigError::Overlap(Box::new(Overlap {
                    what: "service",
                    name: service.name.clone(),
                    listen: service.listen,
                    other: first.name.clone(),
                    other_listen: first.listen,
                    first: first.origin.clone(),
                    second: service.origin.clone(),
                })));
            }
        }
        Ok(aliases)
    }

    /// The service that has the alias already.
    fn insert(&mut self, service: &'a Service) -> Option<&'a Service> {
        let (protocol, listen) = (service.protocol, service.listen);
        let port = (protocol, listen.port);
        let known = match listen.address {
            None => self.by_port.get(&port),
            Some(_) => self.get(protocol, listen),
        };
        if let Some(known) = known {
            return Some(known);
        }
        self.by_socket.insert((protocol, listen), service);
        self.by_port.entry(port).or_insert(service);
        None
    }

    fn get(&self, protocol: Transport, at: Listen) -> Option<&&'a Service> {
        let any = Listen {
            address: None,
            ..at
        };
        self.by_socket
            .get(&(protocol, at))
            .or_else(|| self.by_socket.get(&(protocol, any)))
    }

    /// That a target is not an alias itself. Whether a target is one of this host's addresses, which
    /// `*` stands for, is known only to the plan, except for loopback addresses.
    fn check_target(&self, service: &Service, target: &Target) -> Result<(), ConfigError> {
        let Some(socket) = target.place.fixed() else {
            return Ok(());
        };
        let at = Listen {
            address: Some(socket.ip()),
            port: socket.port(),
        };
        let Some(other) = self.get(service.protocol, at) else {
            return Ok(());
        };
        if other.listen.address.is_none() && !socket.ip().is_loopback() {
            return Ok(());
        }
        let reason = if other.name == service.name {
            "is the service's own alias; name the address that the server listens on".to_owned()
        } else {
            format!(
                "is an alias of the service \"{}\"; a packet is translated once, so name that service's target",
                other.name
            )
        };
        Err(clash(service, target, reason, &other.origin))
    }
}

fn clash(service: &Service, target: &Target, reason: String, first: &super::Origin) -> ConfigError {
    ConfigError::Target(Box::new(Clash {
        service: service.name.clone(),
        target: target.place.to_string(),
        reason,
        first: first.clone(),
        second: target.origin.clone(),
    }))
}

fn check_targets(service: &Service) -> Result<(), ConfigError> {
    let mut seen: BTreeMap<_, &Target> = BTreeMap::new();
    let mut fixed = service.targets.iter().filter_map(|t| t.place.fixed());
    let address = service
        .listen
        .address
        .or_else(|| fixed.next().map(|socket| socket.ip()));
    for target in &service.targets {
        if let Some(first) = seen.insert(&target.place, target) {
            let reason = "is named twice; name it once and give it a weight".to_owned();
            return Err(clash(service, target, reason, &first.origin));
        }
        if let Some(address) = address
            && let Some(ip) = target.place.fixed().map(|socket| socket.ip())
            && address.is_ipv4() != ip.is_ipv4()
        {
            let reason = format!(
                "is {}, the service's other addresses are {}; use one family",
                family(ip),
                family(address)
            );
            return Err(clash(service, target, reason, &service.origin));
        }
    }
    if service.targets.iter().all(|target| target.weight == 0) {
        return Err(ConfigError::NoWeight {
            origin: service.origin.clone(),
            name: service.name.clone(),
        });
    }
    Ok(())
}

fn check_counts(services: &[Service]) -> Result<(), ConfigError> {
    let (mut targets, mut slots) = (0, 0);
    for (index, service) in services.iter().enumerate() {
        targets += service.targets.len();
        slots += service.slots();
        for (what, count, max) in [
            ("services", index + 1, SERVICES_MAX),
            ("targets of services", targets, TARGETS_MAX),
            (
                "slots (1021 for each service with several targets)",
                slots,
                SLOTS_MAX,
            ),
        ] {
            if count > max as usize {
                return Err(ConfigError::TooMany {
                    origin: service.origin.clone(),
                    what,
                    count,
                    max: max as usize,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, File, Flags, OnChange, Place, Role, Snat, to_toml};

    /// A service, in four lines.
    fn service(name: &str, listen: &str, target: &str) -> String {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\ntarget = {target}\nprotocol = \"tcp\"\n"
        )
    }

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::new(File::parse(Path::new("t.toml"), text)?, Flags::default())
    }

    fn message(text: &str) -> String {
        let message = read(text).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn reads_and_shows_services() {
        let text = format!(
            "{}snat = \"never\"\n{}{}",
            service("rest", "10.0.0.10:8081", "\"10.0.0.1:8081\""),
            service(
                "web",
                "[fd00::10]:80",
                "[\"[fd00::1]:80\", { address = \"[fd00::2]:80\", weight = 3 }]"
            ),
            service("dns", "*:53", "\"10.0.0.1:5353\"").replace("tcp", "udp"),
        );
        let config = read(&text).unwrap();
        config.check_runnable().unwrap();
        let [rest, web, dns] = &config.services[..] else {
            panic!("three services")
        };
        assert_eq!((rest.snat, rest.slots()), (Snat::Never, 1));
        assert_eq!((web.targets[1].weight, web.slots()), (3, 1021));
        assert_eq!((dns.protocol, dns.listen.address), (Transport::Udp, None));
        let shown = to_toml(&config).unwrap();
        assert_eq!(to_toml(&read(&shown).unwrap()).unwrap(), shown);
    }

    #[test]
    fn targets_may_be_roles() {
        let topology = "[topology]\nsource = \"flink\"\nurls = [\"http://jm:8081\"]\n";
        let text = format!(
            "{}{}{}on_change = \"reset\"\n{topology}",
            service("rest", "10.0.0.10:8081", "\"leader:rest\""),
            service("any", "10.0.0.10:81", "[\"leader:rpc\", \"10.0.0.1:6123\"]"),
            service(
                "all",
                "*:9069",
                "[{ address = \"workers:9069\", weight = 2 }]"
            ),
        );
        let config = read(&text).unwrap();
        let [rest, any, all] = &config.services[..] else {
            panic!("three services")
        };
        assert_eq!(rest.targets[0].place, Place::Role(Role::LeaderRest));
        assert_eq!((rest.slots(), all.slots()), (1, 1021));
        assert_eq!(
            [rest, any, all].map(|service| service.on_change),
            [OnChange::Reset, OnChange::Drain, OnChange::Reset]
        );
        let shown = to_toml(&config).unwrap();
        assert_eq!(to_toml(&read(&shown).unwrap()).unwrap(), shown);
        assert!(shown.contains("address = \"workers:9069\""), "{shown}");
    }

    #[test]
    fn flags_are_services_too() {
        let flags = Flags {
            services: [
                "tcp=10.0.0.10:80=10.0.0.1:80,10.0.0.2:80",
                "tcp=10.0.0.11:80=10.0.0.1:80",
            ]
            .map(|flag| flag.parse().unwrap())
            .into(),
            ..Flags::default()
        };
        let config = Config::new(File::default(), flags).unwrap();
        let names: Vec<_> = config.services.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["tcp-80", "tcp-80-2"]);
        assert_eq!(config.services[0].targets.len(), 2);
        for (flag, words) in [
            ("tcp=10.0.0.10:80", "write PROTOCOL="),
            (
                "sctp=10.0.0.10:80=10.0.0.1:80",
                "\"sctp\": write tcp or udp",
            ),
            (
                "tcp=10.0.0.10:80=leader:web",
                "write leader:rest, leader:rpc",
            ),
            ("tcp=10.0.0.10:80=*:80", "a target is one address"),
        ] {
            let error = flag.parse::<crate::config::ServiceFlag>().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_mistake_names_both_places() {
        let one = service("a", "10.0.0.10:80", "\"10.0.0.1:80\"");
        for (second, expected) in [
            (
                service("a", "10.0.0.11:80", "\"10.0.0.1:80\""),
                "t.toml:6: the service name \"a\" is already used at t.toml:1",
            ),
            (
                service("b", "10.0.0.10:80", "\"10.0.0.2:80\""),
                "t.toml:6: the service \"b\" listens on 10.0.0.10:80, which overlaps 10.0.0.10:80 of the service \"a\" at t.toml:1; keep one of them",
            ),
            (
                service("b", "*:80", "\"10.0.0.2:80\""),
                "t.toml:6: the service \"b\" listens on *:80, which overlaps 10.0.0.10:80 of the service \"a\" at t.toml:1; keep one of them",
            ),
            (
                service("b", "10.0.0.11:80", "\"10.0.0.10:80\""),
                "t.toml:9: the target 10.0.0.10:80 of the service \"b\" is an alias of the service \"a\"; a packet is translated once, so name that service's target (see t.toml:1)",
            ),
            (
                service("b", "10.0.0.11:80", "\"10.0.0.11:80\""),
                "t.toml:9: the target 10.0.0.11:80 of the service \"b\" is the service's own alias; name the address that the server listens on (see t.toml:6)",
            ),
            (
                service("b", "*:81", "\"127.0.0.1:81\""),
                "t.toml:9: the target 127.0.0.1:81 of the service \"b\" is the service's own alias; name the address that the server listens on (see t.toml:6)",
            ),
            (
                service("b", "10.0.0.11:80", "\"[fd00::1]:80\""),
                "t.toml:9: the target [fd00::1]:80 of the service \"b\" is IPv6, the service's other addresses are IPv4; use one family (see t.toml:6)",
            ),
            (
                service("b", "*:81", "[\"10.0.0.1:80\",\n\"10.0.0.1:80\"]"),
                "t.toml:10: the target 10.0.0.1:80 of the service \"b\" is named twice; name it once and give it a weight (see t.toml:9)",
            ),
            (
                service(
                    "b",
                    "10.0.0.11:80",
                    "[{ address = \"10.0.0.1:80\", weight = 0 }]",
                ),
                "t.toml:6: all targets of the service \"b\" have weight 0; give at least one a weight",
            ),
        ] {
            assert_eq!(message(&format!("{one}{second}")), expected);
        }
        // Another protocol, another host's port.
        let udp = service("b", "10.0.0.10:80", "\"10.0.0.10:81\"").replace("tcp", "udp");
        read(&format!("{one}{udp}")).unwrap();
        read(&service("b", "*:81", "\"10.0.0.1:81\"")).unwrap();
    }

    #[test]
    fn says_what_a_value_must_be() {
        let text = service("a", "10.0.0.10:80", "\"leader:web\"");
        assert_eq!(
            message(&text),
            "t.toml:4: target \"leader:web\": write leader:rest, leader:rpc, leader:blob, workers:PORT or worker:ID:PORT"
        );
        let text = service("a", "10.0.0.10:80", "\"-jm:80\"");
        let expected = "t.toml:4: target \"-jm:80\": the host is no DNS name: labels have";
        assert!(message(&text).starts_with(expected));
        let text = service("a", "10.0.0.10:80", "\"leader.example.org:80\"");
        let name = Role::Host("leader.example.org:80".parse().unwrap());
        assert_eq!(
            read(&text).unwrap().services[0].targets[0].place,
            Place::Role(name)
        );
        let text = service("a", "10.0.0.10:80", "\"leader:rest\"");
        assert_eq!(
            message(&text),
            "t.toml:4: no source tells who has the target leader:rest of the service \"a\": set source or ha in [topology] (workers are told by source = \"flink\" or \"file\")"
        );
        let records =
            "[topology]\nha = \"zookeeper\"\n[topology.zookeeper]\nquorum = [\"zk:2181\"]\n";
        read(&(service("a", "10.0.0.10:80", "\"leader:rest\"") + records)).unwrap();
        for untold in ["workers:80", "worker:tm:80"] {
            let text = service("a", "10.0.0.10:80", &format!("\"{untold}\"")) + records;
            let expected = format!("t.toml:4: no source tells who has the target {untold}");
            assert!(message(&text).starts_with(&expected));
        }
        let text = service("a", "10.0.0.10:80", "\"10.0.0.1:80\"") + "on_change = \"cut\"\n";
        assert_eq!(
            message(&text),
            "t.toml:6: on_change \"cut\": write drain or reset"
        );
        let text = service("a", "10.0.0.10:0", "\"10.0.0.1:80\"");
        assert!(message(&text).starts_with("t.toml:3: listen \"10.0.0.10:0\": the port must be"));
        let text = service("a", "10.0.0.10:80", "\"10.0.0.1:0\"");
        assert!(message(&text).starts_with("t.toml:4: target \"10.0.0.1:0\": the port must be"));
        let text = service("a", "10.0.0.10:80", "[{ adress = \"10.0.0.1:80\" }]");
        assert_eq!(
            message(&text),
            "t.toml:4: unknown key \"adress\" in a target; did you mean \"address\"?"
        );
        assert_eq!(
            message("[datapath.timeouts]\nestablished = \"soon\""),
            "t.toml:2: established \"soon\": write a number and a unit, e.g. 120s, 2m, 5h or 5d"
        );
        assert_eq!(
            message("[datapath.timeouts]\nudp_stream = \"1s\""),
            "t.toml:2: unknown key \"udp_stream\" in [datapath.timeouts]; valid are syn_sent, syn_received, established, half_closed, time_wait, closed, udp, udp_replied"
        );
    }

    #[test]
    fn as_many_as_fit() {
        let several = "[\"10.0.0.1:80\", \"10.0.0.2:80\"]";
        let text: String = (0..257)
            .map(|n| {
                service(
                    &format!("s{n}"),
                    &format!("10.1.{}.{}:80", n / 256, n % 256),
                    several,
                )
            })
            .collect();
        assert_eq!(
            message(&text),
            "t.toml:1281: 262397 slots (1021 for each service with several targets) are more than the 262144 that fit the kernel table"
        );
    }
}
