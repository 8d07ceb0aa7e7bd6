//! A loaded kernel program with tables of its own.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, ProgramArray, RingBuf},
    programs::{Program as Loaded, ProgramError, ProgramInfo, SchedClassifier},
};
use truename_common::layout::{
    AliasKey, AliasStat, Authority, CapturedName, CapturedRecords, Counter, Endpoint, EventKind,
    FiveTuple, Link as LinkEntry, ListedAlias, Names, Policy, Protocol, RpcFlow, Socket, TCP,
    link_flags, map, port_flags, v4_mapped,
};

use super::packet::Link;
use crate::{cleanup, truename};

/// The table of programs that `tn_ether` and `tn_raw` go on with, and the one that is in it.
const CHAIN: (&str, &str) = ("CHAIN", "tn_rpc");

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What happened.
    pub kind: EventKind,
    /// Its number.
    pub detail: u32,
    /// Of which flow.
    pub flow: FiveTuple,
    /// Its text.
    pub text: String,
}

/// The aliases of an endpoint, by name.
pub type Aliases = BTreeMap<String, AliasStat>;

/// A loaded program. Its tables are pinned in a directory of its own, which is removed with it.
pub struct Program {
    name: &'static str,
    ebpf: Ebpf,
    events: RefCell<RingBuf<MapData>>,
    /// The kernel empties it when nobody has it open.
    _chain: ProgramArray<MapData>,
    _pins: PinDirectory,
}

/// A directory on the BPF file system.
struct PinDirectory(PathBuf);

impl PinDirectory {
    fn new() -> Result<Self> {
        cleanup::sweep();
        truename::ensure_bpffs()?;
        let path = Path::new(cleanup::BPFFS).join(cleanup::unique_name("prog"));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        // What is left is removed by the next run's sweep.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Program {
    /// Loads the program for devices of this kind from the object.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load(object: &[u8], link: Link) -> Result<Self> {
        Self::named(
            object,
            match link {
                Link::Raw => "tn_raw",
                _ => "tn_ether",
            },
        )
    }

    /// Loads the program with this name.
    ///
    /// # Errors
    /// The kernel refuses it, or there is none.
    pub fn named(object: &[u8], name: &'static str) -> Result<Self> {
        Self::limited(object, name, &[], true)
    }

    /// As above, with tables of other sizes than the object says, and with or without the RPC
    /// translator.
    pub(crate) fn limited(
        object: &[u8],
        name: &'static str,
        entries: &[(&'static str, u32)],
        with_rpc: bool,
    ) -> Result<Self> {
        let pins = PinDirectory::new()?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&pins.0);
        for (table, entries) in entries {
            loader.map_max_entries(table, *entries);
        }
        let mut ebpf = loader.load(object).context("load the object")?;
        let (chain, next) = CHAIN;
        for name in [name, next].into_iter().take(1 + usize::from(with_rpc)) {
            load(&mut ebpf, name)?;
        }
        let chain = ebpf.take_map(chain).context("no table of programs")?;
        let mut chain = ProgramArray::try_from(chain)?;
        if with_rpc {
            let next: &SchedClassifier = ebpf.program(next).context("no program")?.try_into()?;
            chain.set(0, next.fd()?, 0)?;
        }
        let events = ebpf.take_map(map::EVENTS).context("no events")?;
        Ok(Self {
            name,
            ebpf,
            events: RefCell::new(RingBuf::try_from(events)?),
            _chain: chain,
            _pins: pins,
        })
    }

    /// The program, if it is one of tc.
    ///
    /// # Errors
    /// It is not.
    pub fn program(&self) -> Result<&SchedClassifier> {
        let program = self.ebpf.program(self.name).context("no program")?;
        Ok(program.try_into()?)
    }

    /// What the kernel tells about the program.
    ///
    /// # Errors
    /// It tells nothing.
    pub fn info(&self) -> Result<ProgramInfo> {
        Ok(self.loaded(self.name)?.info()?)
    }

    /// Loads another program over the same tables.
    pub(super) fn load_another(&mut self, name: &str) -> Result<()> {
        load(&mut self.ebpf, name)
    }

    /// A program of the object, which may not be loaded.
    pub(super) fn loaded(&self, name: &str) -> Result<&Loaded> {
        let program = self.ebpf.program(name);
        program.with_context(|| format!("the object has no program {name}"))
    }

    /// Makes an address one of this host.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn owns(&mut self, address: IpAddr) -> Result<()> {
        let mut table: HashMap<_, [u8; 16], u8> = HashMap::try_from(self.map(map::ADDRESSES)?)?;
        Ok(table.insert(address_of(address), 1, 0)?)
    }

    /// Makes `socket` an endpoint that answers to any alias, or to the listed ones only. A canonical
    /// authority that is not given has to be learned.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn endpoint(
        &mut self,
        socket: SocketAddr,
        canonical: Option<&str>,
        listed: Option<&[&str]>,
    ) -> Result<()> {
        const ID: u32 = 3;
        let key = key_of(socket);
        let mut table: HashMap<_, ListedAlias, u8> = HashMap::try_from(self.map(map::LISTED)?)?;
        for alias in listed.unwrap_or_default() {
            let entry = ListedAlias {
                endpoint: ID,
                alias: authority(alias)?,
                ..ListedAlias::default()
            };
            table.insert(entry, 1, 0)?;
        }
        if let Some(canonical) = canonical {
            let names = Names::configured(authority(canonical)?);
            let mut table: HashMap<_, Socket, Names> = HashMap::try_from(self.map(map::NAMES)?)?;
            table.insert(key, names, 0)?;
        }
        let policy = if listed.is_some() {
            Policy::Listed
        } else {
            Policy::Any
        };
        let value = Endpoint {
            id: ID,
            protocol: Protocol::Pekko as u8,
            policy: policy as u8,
            ..Endpoint::default()
        };
        let mut table: HashMap<_, Socket, Endpoint> = HashMap::try_from(self.map(map::ENDPOINTS)?)?;
        table.insert(key, value, 0)?;
        let mut ports: Array<_, u8> = Array::try_from(self.map(map::PORTS)?)?;
        let flags = ports.get(&u32::from(socket.port()), 0)? | port_flags::ENDPOINT;
        ports.set(u32::from(socket.port()), flags, 0)?;
        Ok(())
    }

    /// Answers questions of containers for a name.
    ///
    /// # Errors
    /// A table cannot be written.
    pub fn captures(&mut self, name: CapturedName, records: CapturedRecords) -> Result<()> {
        const DNS: u32 = 53;
        let mut names: HashMap<_, CapturedName, CapturedRecords> =
            HashMap::try_from(self.map(map::CAPTURED)?)?;
        names.insert(name, records, 0)?;
        let mut ports: Array<_, u8> = Array::try_from(self.map(map::PORTS)?)?;
        ports.set(DNS, port_flags::CAPTURE, 0)?;
        Ok(())
    }

    /// Until when it does, in nanoseconds of the monotonic clock.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn captures_until(&mut self, ns: u64) -> Result<()> {
        let mut until: Array<_, u64> = Array::try_from(self.map(map::CAPTURED_UNTIL)?)?;
        Ok(until.set(0, ns, 0)?)
    }

    /// Says whether there are containers, and nothing else, behind an interface.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn containers_behind(&mut self, interface: u32, are: bool) -> Result<()> {
        let entry = LinkEntry {
            flags: if are { link_flags::BEHIND } else { 0 },
            ..LinkEntry::default()
        };
        let mut links: HashMap<_, u32, LinkEntry> = HashMap::try_from(self.map(map::LINKS)?)?;
        Ok(links.insert(interface, entry, 0)?)
    }

    /// A counter.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn count(&self, counter: Counter) -> Result<u64> {
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(self.table(map::COUNTERS)?)?;
        Ok(counters.get(&(counter as u32), 0)?.iter().sum())
    }

    /// The flow between two sockets.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn flow(&self, client: SocketAddr, endpoint: SocketAddr) -> Result<Option<RpcFlow>> {
        let key = FiveTuple {
            client: address_of(client.ip()),
            endpoint: address_of(endpoint.ip()),
            client_port: client.port(),
            endpoint_port: endpoint.port(),
            protocol: TCP,
            ..FiveTuple::default()
        };
        for table in FLOWS {
            let mut flows = self.entries::<FiveTuple, RpcFlow>(table)?.into_iter();
            if let Some((_, flow)) = flows.find(|(found, _)| *found == key) {
                return Ok(Some(flow));
            }
        }
        Ok(None)
    }

    /// The number of flows.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn flows(&self) -> Result<usize> {
        let mut count = 0;
        for table in FLOWS {
            let table: HashMap<_, FiveTuple, RpcFlow> = HashMap::try_from(self.table(table)?)?;
            count += table.keys().count();
        }
        Ok(count)
    }

    /// The canonical authority and the system that an endpoint is known by.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn names(&self, socket: SocketAddr) -> Result<Option<(String, String)>> {
        let key = key_of(socket);
        Ok(self
            .entries::<Socket, Names>(map::NAMES)?
            .into_iter()
            .find(|(found, _)| *found == key)
            .map(|(_, names)| (names.canonical.to_string(), names.system.to_string())))
    }

    /// The aliases in use, with what flows have not reported.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn aliases(&self) -> Result<Aliases> {
        let mut aliases = self.entries::<AliasKey, AliasStat>(map::ALIASES)?;
        for table in FLOWS {
            for (key, flow) in self.entries::<FiveTuple, RpcFlow>(table)? {
                let alias = flow.alias_key(&key);
                if let Some((_, stat)) = aliases.iter_mut().find(|(key, _)| *key == alias) {
                    flow.report(stat);
                }
            }
        }
        let named = aliases.into_iter();
        Ok(named
            .map(|(_, stat)| (stat.alias.to_string(), stat))
            .collect())
    }

    /// The events since the last call.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn events(&self) -> Result<Vec<Seen>> {
        let mut events = self.events.borrow_mut();
        let mut seen = Vec::new();
        while let Some(event) = events.next() {
            seen.push(read_event(&event)?);
        }
        Ok(seen)
    }

    pub(super) fn entries<K: Pod, V: Pod>(&self, name: &str) -> Result<Vec<(K, V)>> {
        let table: HashMap<_, K, V> = HashMap::try_from(self.table(name)?)?;
        table.iter().map(|entry| Ok(entry?)).collect()
    }

    pub(super) fn table(&self, name: &str) -> Result<&Map> {
        self.ebpf
            .map(name)
            .with_context(|| format!("no table {name}"))
    }

    pub(super) fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("no table {name}"))
    }
}

/// The tables of RPC flows.
const FLOWS: [&str; 2] = [map::RPC_FLOWS, map::ONE_SIDED_FLOWS];

fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("the object has no program {name}"))?;
    let loaded = match program {
        Loaded::SchedClassifier(program) => program.load(),
        Loaded::Xdp(program) => program.load(),
        Loaded::SkLookup(program) => program.load(),
        _ => bail!("{name} is of another kind"),
    };
    match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        loaded => loaded.with_context(|| format!("load {name}")),
    }
}

/// Reads an event by the offsets of its fields.
fn read_event(bytes: &[u8]) -> Result<Seen> {
    const TEXT: usize = 16 + size_of::<FiveTuple>();
    let word = |at: usize| array(bytes, at).map(u32::from_ne_bytes);
    let number = word(8)?;
    let kind = EventKind::from_number(number).with_context(|| format!("event {number}"))?;
    let len = usize::from(u16::from_ne_bytes(array(bytes, TEXT + 256)?));
    let text = bytes
        .get(TEXT..TEXT + len)
        .context("a text is longer than its event")?;
    Ok(Seen {
        kind,
        detail: word(12)?,
        flow: FiveTuple {
            client: array(bytes, 16)?,
            endpoint: array(bytes, 32)?,
            client_port: u16::from_ne_bytes(array(bytes, 48)?),
            endpoint_port: u16::from_ne_bytes(array(bytes, 50)?),
            protocol: array::<1>(bytes, 52)?[0],
            pad: [0; 3],
        },
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = bytes.get(at..at + N).context("an event is too short")?;
    Ok(bytes.try_into()?)
}

fn authority(text: &str) -> Result<Authority> {
    Authority::new(text.as_bytes()).with_context(|| format!("{text} is too long"))
}

pub(crate) fn address_of(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => [0; 16],
        IpAddr::V4(address) => v4_mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

fn key_of(socket: SocketAddr) -> Socket {
    Socket {
        address: address_of(socket.ip()),
        port: socket.port(),
        protocol: TCP,
        pad: 0,
    }
}
