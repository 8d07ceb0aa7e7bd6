//! What is to be translated, and how truename is told so.

use std::{fmt::Write as _, net::SocketAddr, ops::RangeInclusive};

use super::family::Family;

/// What travels to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// The word in configurations, the same everywhere.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Whether the target sees the node's address instead of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snat {
    /// If the target is another host.
    Auto,
    /// Never: the target's answers pass the node anyway.
    Never,
}

/// Where a service leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// Its share of new connections.
    pub weight: u32,
}

/// An alias and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What travels.
    pub protocol: Protocol,
    /// The alias. Unspecified: every address of the node.
    pub listen: SocketAddr,
    /// One or more.
    pub targets: Vec<Target>,
    /// Whether clients are hidden from the targets.
    pub snat: Snat,
    /// What becomes of connections to a former target: a word of truename's configuration.
    pub on_change: Option<&'static str>,
}

impl Service {
    /// A service with one target.
    pub fn new(protocol: Protocol, listen: SocketAddr, target: SocketAddr) -> Self {
        Self::weighted(protocol, listen, &[(target, 1)])
    }

    /// A service with several targets and their weights.
    pub fn weighted(protocol: Protocol, listen: SocketAddr, targets: &[(SocketAddr, u32)]) -> Self {
        let targets = targets
            .iter()
            .map(|&(address, weight)| Target { address, weight })
            .collect();
        Self {
            protocol,
            listen,
            targets,
            snat: Snat::Auto,
            on_change: None,
        }
    }
}

/// An alias that a test uses, and what is special about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// What is special.
    pub what: &'static str,
    /// The version of IP.
    pub family: Family,
    /// By which clients know the target.
    pub listen: SocketAddr,
    /// What it stands for.
    pub target: SocketAddr,
}

/// All that a translator is told.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// What is translated.
    pub services: Vec<Service>,
    /// Source ports for connections to other hosts.
    pub snat_ports: Option<RangeInclusive<u16>>,
    /// Entries of the connection table.
    pub max_flows: Option<u32>,
    /// What becomes of a new connection when the table is full.
    pub when_full: Option<&'static str>,
    /// Whether netfilter sees what truename forwards: a word of its configuration.
    pub netfilter: Option<&'static str>,
    /// Where truename forwards in XDP: a word of its configuration.
    pub xdp: Option<&'static str>,
    /// Whether truename chooses its interfaces itself.
    pub interfaces_are_automatic: bool,
    /// Interfaces of the node beyond those that every lab has.
    pub interfaces: Vec<&'static str>,
    /// Seconds after which silent connections are forgotten, by state as truename calls it.
    pub timeouts: Vec<(&'static str, u32)>,
}

impl Rules {
    /// Services, and all else as it is.
    pub fn new(services: Vec<Service>) -> Self {
        Self {
            services,
            ..Self::default()
        }
    }

    /// A service for each alias.
    pub fn aliases(protocol: Protocol, aliases: &[Alias]) -> Self {
        Self::new(
            aliases
                .iter()
                .map(|alias| Service::new(protocol, alias.listen, alias.target))
                .collect(),
        )
    }

    /// The configuration file of truename.
    pub(super) fn configuration(&self, interfaces: &[&str]) -> String {
        let interfaces = [interfaces, &self.interfaces].concat();
        let mut text = format!("[datapath]\ninterfaces = {interfaces:?}\n");
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        if let Some(ports) = &self.snat_ports {
            line(format!(
                "snat_ports = \"{}-{}\"",
                ports.start(),
                ports.end()
            ));
        }
        if let Some(flows) = self.max_flows {
            line(format!("max_flows = {flows}"));
        }
        if let Some(when_full) = self.when_full {
            line(format!("when_full = {when_full:?}"));
        }
        if let Some(netfilter) = self.netfilter {
            line(format!("netfilter = {netfilter:?}"));
        }
        if let Some(xdp) = self.xdp {
            line(format!("xdp = {xdp:?}"));
        }
        line("[datapath.timeouts]".to_owned());
        for (state, seconds) in &self.timeouts {
            line(format!("{state} = \"{seconds}s\""));
        }
        for (number, service) in self.services.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write_service(&mut text, number, service);
        }
        text
    }
}

fn write_service(text: &mut String, number: usize, service: &Service) -> std::fmt::Result {
    let protocol = service.protocol.word();
    writeln!(text, "[[service]]")?;
    writeln!(text, "name = \"s{number}\"")?;
    writeln!(text, "listen = \"{}\"", service.listen)?;
    writeln!(text, "protocol = \"{protocol}\"")?;
    match &service.targets[..] {
        [only] => writeln!(text, "target = \"{}\"", only.address)?,
        several => {
            writeln!(text, "target = [")?;
            for Target { address, weight } in several {
                writeln!(text, "  {{ address = \"{address}\", weight = {weight} }},")?;
            }
            writeln!(text, "]")?;
        }
    }
    if service.snat == Snat::Never {
        writeln!(text, "snat = \"never\"")?;
    }
    if let Some(on_change) = service.on_change {
        writeln!(text, "on_change = \"{on_change}\"")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_the_configuration() {
        let [alias, one, two] = ["10.0.0.1:80", "10.0.0.2:8080", "10.0.0.3:8080"]
            .map(|address| address.parse().unwrap());
        let mut rules = Rules::new(vec![
            Service::new(Protocol::Udp, alias, one),
            Service::weighted(Protocol::Tcp, alias, &[(one, 1), (two, 3)]),
        ]);
        rules.services[1].snat = Snat::Never;
        rules.services[1].on_change = Some("reset");
        rules.snat_ports = Some(61_000..=61_003);
        rules.max_flows = Some(16);
        rules.when_full = Some("evict");
        rules.xdp = Some("generic");
        rules.timeouts = vec![("time_wait", 1)];
        let expected = r#"[datapath]
interfaces = ["c0", "lo"]
snat_ports = "61000-61003"
max_flows = 16
when_full = "evict"
xdp = "generic"
[datapath.timeouts]
time_wait = "1s"
[[service]]
name = "s0"
listen = "10.0.0.1:80"
protocol = "udp"
target = "10.0.0.2:8080"
[[service]]
name = "s1"
listen = "10.0.0.1:80"
protocol = "tcp"
target = [
  { address = "10.0.0.2:8080", weight = 1 },
  { address = "10.0.0.3:8080", weight = 3 },
]
snat = "never"
on_change = "reset"
"#;
        assert_eq!(rules.configuration(&["c0", "lo"]), expected);
    }
}
