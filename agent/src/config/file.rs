//! Reading a configuration file: keys, types and values, but not how they go together.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{
    Agent, Aliases, ConfigError, Datapath, Endpoint, Frontend, Interface, NamesPlane, Relay,
    Selector, Service, TIMEOUT_KEYS, Timeouts, frontend, names,
    reader::{Entry, Section, Source, check_name, read_path},
    relay, service,
    topology::{self, Topology},
};
use crate::name::Authority;

/// The file that is read if it exists and no other is named.
pub const DEFAULT_FILE: &str = "/etc/truename/truename.toml";

const SECTIONS: &[&str] = &[
    "agent", "datapath", "endpoint", "service", "topology", "relay", "frontend", "names",
];
const AGENT: &[&str] = &["control_socket", "bpffs", "metrics", "log"];
const DATAPATH: &[&str] = &[
    "interfaces",
    "xdp",
    "max_flows",
    "max_rpc_flows",
    "snat_ports",
    "netfilter",
    "when_full",
    "timeouts",
];
const ENDPOINT: &[&str] = &["name", "protocol", "listen", "canonical", "aliases"];
/// Largest file: ten times what fills every table.
const FILE_MAX: u64 = 16 << 20;
/// Bounds of the table sizes.
const FLOWS: (u32, u32) = (16, 1 << 24);
/// An entry of the table of RPC flows has about 13 KiB.
const RPC_FLOWS: (u32, u32) = (16, 1 << 20);

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// `[agent]` over the defaults.
    pub agent: Agent,
    /// `[datapath]` over the defaults.
    pub datapath: Datapath,
    /// `[[endpoint]]`.
    pub endpoints: Vec<Endpoint>,
    /// `[[service]]`.
    pub services: Vec<Service>,
    /// `[topology]`.
    pub topology: Topology,
    /// `[relay]`.
    pub relay: Relay,
    /// `[frontend]`.
    pub frontend: Frontend,
    /// `[names]`.
    pub names: NamesPlane,
    /// Where it was read.
    pub path: Option<PathBuf>,
}

impl File {
    /// Reads the named file, or the default one if it exists, or nothing. `timeouts` are those of
    /// this host, for what the file does not say.
    ///
    /// # Errors
    /// When the file cannot be read or says something invalid.
    pub fn load(path: Option<&Path>, timeouts: Timeouts) -> Result<Self, ConfigError> {
        let (path, optional) = match path {
            Some(path) => (path, false),
            None => (Path::new(DEFAULT_FILE), true),
        };
        match read(path) {
            Ok(text) => Self::with(timeouts).read(path, &text),
            Err(error) if optional && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::with(timeouts))
            }
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Reads a text; `path` is for messages.
    ///
    /// # Errors
    /// When the text says something invalid.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::default().read(path, text)
    }

    /// What is so before a file is read.
    fn with(timeouts: Timeouts) -> Self {
        let mut file = Self::default();
        file.datapath.timeouts = timeouts;
        file
    }

    fn read(mut self, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source::new(path.to_owned(), text);
        let document = source.parse()?;
        let root = Section::new(
            &source,
            "the file",
            document.get_ref(),
            document.span(),
            SECTIONS,
        )?;
        self.path = Some(path.to_owned());
        if let Some(section) = root.table("agent", AGENT)? {
            self.read_agent(&section)?;
        }
        if let Some(section) = root.table("datapath", DATAPATH)? {
            self.read_datapath(&section)?;
        }
        for section in root.tables("endpoint", ENDPOINT)? {
            self.endpoints.push(read_endpoint(&section)?);
        }
        for section in root.tables("service", service::KEYS)? {
            self.services.push(service::read(&section)?);
        }
        if let Some(section) = root.table("topology", topology::KEYS)? {
            self.topology = topology::read(&section)?;
        }
        if let Some(section) = root.table("relay", relay::KEYS)? {
            self.relay = relay::read(&section)?;
        }
        if let Some(section) = root.table("frontend", frontend::KEYS)? {
            self.frontend = frontend::read(&section)?;
        }
        if let Some(section) = root.table("names", names::KEYS)? {
            self.names = names::read(&section)?;
        }
        Ok(self)
    }

    fn read_agent(&mut self, section: &Section<'_>) -> Result<(), ConfigError> {
        if let Some(entry) = section.get("control_socket") {
            self.agent.control_socket = read_path(&entry)?;
        }
        if let Some(entry) = section.get("bpffs") {
            self.agent.bpffs = read_path(&entry)?;
        }
        if let Some(entry) = section.get("log") {
            self.agent.log = read_level(&entry)?;
        }
        if let Some(entry) = section.get("metrics") {
            self.agent.metrics = match entry.string()? {
                "" => None,
                _ => Some(entry.parse::<SocketAddr>()?),
            };
        }
        Ok(())
    }

    fn read_datapath(&mut self, section: &Section<'_>) -> Result<(), ConfigError> {
        if let Some(entry) = section.get("interfaces") {
            self.datapath.interfaces = read_interfaces(&entry)?;
        }
        if let Some(entry) = section.get("max_rpc_flows") {
            self.datapath.max_rpc_flows = entry.number(RPC_FLOWS.0, RPC_FLOWS.1)?;
        }
        if let Some(entry) = section.get("max_flows") {
            self.datapath.max_flows = entry.number(FLOWS.0, FLOWS.1)?;
        }
        if let Some(entry) = section.get("snat_ports") {
            self.datapath.snat_ports = entry.parse()?;
        }
        if let Some(entry) = section.get("netfilter") {
            self.datapath.netfilter = entry.parse()?;
        }
        if let Some(entry) = section.get("when_full") {
            self.datapath.when_full = entry.parse()?;
        }
        if let Some(section) = section.table("timeouts", &TIMEOUT_KEYS)? {
            self.datapath.timeouts.read(&section)?;
        }
        if let Some(entry) = section.get("xdp") {
            self.datapath.xdp = entry.parse()?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > FILE_MAX {
        let why = format!("it is larger than {} MiB", FILE_MAX >> 20);
        return Err(io::Error::other(why));
    }
    fs::read_to_string(path)
}

fn read_level(entry: &Entry<'_>) -> Result<log::LevelFilter, ConfigError> {
    let text = entry.string()?;
    text.parse()
        .map_err(|_| entry.bad(text, "write off, error, warn, info, debug or trace"))
}

fn read_interfaces(entry: &Entry<'_>) -> Result<Vec<Interface>, ConfigError> {
    let mut interfaces = Vec::new();
    for (text, origin) in entry.strings()? {
        let selector = text
            .parse::<Selector>()
            .map_err(|error| ConfigError::BadValue {
                origin: origin.clone(),
                what: "interface".to_owned(),
                value: text.clone(),
                reason: error.to_string(),
            })?;
        interfaces.push(Interface { selector, origin });
    }
    if interfaces.is_empty() {
        return Err(entry.bad("[]", "name at least one interface, or write [\"auto\"]"));
    }
    Ok(interfaces)
}

fn read_endpoint(section: &Section<'_>) -> Result<Endpoint, ConfigError> {
    let entry = section.need("name", "\"jobmanager\"")?;
    let name = entry.string()?;
    check_name(name).map_err(|reason| entry.bad(name, reason))?;
    Ok(Endpoint {
        name: name.to_owned(),
        protocol: section.need("protocol", "\"pekko\"")?.parse()?,
        listen: section
            .need("listen", "\"10.0.0.1:6123\" or \"*:6123\"")?
            .parse()?,
        canonical: section
            .get("canonical")
            .map(|entry| entry.parse())
            .transpose()?,
        aliases: section
            .get("aliases")
            .map_or(Ok(Aliases::Any), |entry| read_aliases(&entry))?,
        origin: section.origin(),
    })
}

fn read_aliases(entry: &Entry<'_>) -> Result<Aliases, ConfigError> {
    if !entry.is_list() {
        return match entry.string()? {
            "any" => Ok(Aliases::Any),
            other => Err(entry.bad(other, "write \"any\" or a list, e.g. [\"localhost:6123\"]")),
        };
    }
    let mut aliases = Vec::new();
    for (text, origin) in entry.strings()? {
        let alias = text
            .parse::<Authority>()
            .map_err(|error| ConfigError::BadValue {
                origin,
                what: "alias".to_owned(),
                value: text.clone(),
                reason: error.to_string(),
            })?;
        aliases.push(alias);
    }
    Ok(Aliases::Listed(aliases))
}
