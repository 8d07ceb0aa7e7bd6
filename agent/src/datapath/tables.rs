//! The kernel tables, opened from their pins.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf, SockMap};
use truename_common::layout::{
    AliasKey, AliasStat, CapturedName, CapturedRecords, Conntrack, Counter, Endpoint, FiveTuple,
    Handshake, Head, HeadKey, Link, ListedAlias, Names, Page, PageKey, Peer, PeerKey, RpcFlow,
    Service, Settings, Slots, Socket, Target, map,
};

use super::{
    Pins, ServiceTables,
    access::{Table, capacity, entries, get, insert, open, remove},
    batch,
    error::DatapathError,
    pinned::PINNED,
    sys,
};
use crate::{
    config::Ports,
    plan::{Connected, Held},
    reconcile::{Change, Kernel, Present},
};

/// How many pages of marks are listed at once.
const PAGE_WALK: usize = 1 << 16;
/// How many heads are listed at once.
const HEAD_WALK: usize = 1 << 13;

/// The tables that are only read, or whose entries are only removed.
pub struct Tables {
    ports: Array<MapData, u8>,
    endpoints: Table<Socket, Endpoint>,
    listed: Table<ListedAlias, u8>,
    names: Table<Socket, Names>,
    flows: Flows,
    flow_capacity: u32,
    handshakes: Table<FiveTuple, Handshake>,
    ready_pages: Table<PageKey, Page>,
    pages: Table<PageKey, Page>,
    heads: Table<HeadKey, Head>,
    peers: Table<PeerKey, Peer>,
    aliases: Table<AliasKey, AliasStat>,
    counters: PerCpuArray<MapData, u64>,
}

/// The two tables of RPC flows.
struct Flows {
    /// Of which both sides were seen.
    both_sides: Table<FiveTuple, RpcFlow>,
    one_side: Table<FiveTuple, RpcFlow>,
}

impl Flows {
    fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            both_sides: open(pins, map::RPC_FLOWS)?,
            one_side: open(pins, map::ONE_SIDED_FLOWS)?,
        })
    }

    /// The tables, with their names. A flow moves from the first to the second, and is in both for a moment: so a reader
    /// misses none.
    const fn tables(&self) -> [(&Table<FiveTuple, RpcFlow>, &'static str); 2] {
        [
            (&self.one_side, map::ONE_SIDED_FLOWS),
            (&self.both_sides, map::RPC_FLOWS),
        ]
    }

    fn get(&self, key: &FiveTuple) -> Result<Option<RpcFlow>, DatapathError> {
        for (table, name) in self.tables() {
            if let Some(flow) = get(table, key, name)? {
                return Ok(Some(flow));
            }
        }
        Ok(None)
    }

    fn remove(&mut self, key: &FiveTuple) -> Result<bool, DatapathError> {
        let was = remove(&mut self.one_side, key, map::ONE_SIDED_FLOWS)?;
        Ok(remove(&mut self.both_sides, key, map::RPC_FLOWS)? || was)
    }
}

/// The tables that the agent owns.
pub struct TablesMut {
    ports: Array<MapData, u8>,
    endpoints: Table<Socket, Endpoint>,
    names: Table<Socket, Names>,
    listed: Table<ListedAlias, u8>,
    flows: Flows,
    addresses: Table<[u8; 16], u8>,
    services: ServiceTables,
}

impl Tables {
    /// Opens the tables.
    ///
    /// # Errors
    /// When one is not pinned or looks different.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            ports: open(pins, map::PORTS)?,
            endpoints: open(pins, map::ENDPOINTS)?,
            listed: open(pins, map::LISTED)?,
            names: open(pins, map::NAMES)?,
            flows: Flows::open(pins)?,
            flow_capacity: capacity(pins, map::RPC_FLOWS)?,
            handshakes: open(pins, map::HANDSHAKES)?,
            ready_pages: open(pins, map::READY_PAGES)?,
            pages: open(pins, map::PAGES)?,
            heads: open(pins, map::HEADS)?,
            peers: open(pins, map::PEERS)?,
            aliases: open(pins, map::ALIASES)?,
            counters: open(pins, map::COUNTERS)?,
        })
    }

    /// What has a port, of any address.
    pub fn port_flags(&self, port: u16) -> Result<u8, DatapathError> {
        let flags = self.ports.get(&u32::from(port), 0);
        flags.map_err(DatapathError::table("read", map::PORTS))
    }

    /// An endpoint.
    pub fn endpoint(&self, at: &Socket) -> Result<Option<Endpoint>, DatapathError> {
        get(&self.endpoints, at, map::ENDPOINTS)
    }

    /// The names of an endpoint.
    pub fn names_of(&self, at: &Socket) -> Result<Option<Names>, DatapathError> {
        get(&self.names, at, map::NAMES)
    }

    /// The aliases that endpoints with a list answer to.
    pub fn listed(&self) -> Result<Vec<ListedAlias>, DatapathError> {
        let listed = entries(&self.listed, map::LISTED)?;
        Ok(listed.into_iter().map(|(alias, _)| alias).collect())
    }

    /// Names, configured and learned.
    pub fn names(&self) -> Result<Vec<(Socket, Names)>, DatapathError> {
        entries(&self.names, map::NAMES)
    }

    /// RPC flows.
    pub fn flows(&self) -> Result<BTreeMap<FiveTuple, RpcFlow>, DatapathError> {
        let mut flows = BTreeMap::new();
        self.visit_flows(|key, flow| {
            flows.insert(key, flow);
        })?;
        Ok(flows)
    }

    /// Shows every RPC flow; one that becomes two-sided meanwhile twice.
    pub fn visit_flows(
        &self,
        mut visit: impl FnMut(FiveTuple, RpcFlow),
    ) -> Result<(), DatapathError> {
        for (table, name) in self.flows.tables() {
            batch::visit(table, name, &mut visit)?;
        }
        Ok(())
    }

    /// RPC flows of which both sides were seen, that fit.
    pub const fn flow_capacity(&self) -> u32 {
        self.flow_capacity
    }

    /// The keys of the RPC flows, without their values, which are large.
    pub fn flow_keys(&self) -> Result<Vec<FiveTuple>, DatapathError> {
        let mut all = BTreeSet::new();
        for (table, name) in self.flows.tables() {
            for key in table.keys() {
                all.insert(key.map_err(DatapathError::table("list", name))?);
            }
        }
        Ok(all.into_iter().collect())
    }

    /// One RPC flow, if it is still there.
    pub fn flow(&self, key: &FiveTuple) -> Result<Option<RpcFlow>, DatapathError> {
        self.flows.get(key)
    }

    /// Forgets an RPC flow; whether it was there. What it counted is added to its alias.
    pub fn remove_flow(&mut self, key: &FiveTuple) -> Result<bool, DatapathError> {
        let Some(flow) = self.flows.get(key)? else {
            return Ok(false);
        };
        let alias = flow.alias_key(key);
        if flow.unreported != [0; 2]
            && let Some(mut stat) = get(&self.aliases, &alias, map::ALIASES)?
        {
            flow.report(&mut stat);
            insert(&mut self.aliases, &alias, stat, map::ALIASES)?;
        }
        self.flows.remove(key)
    }

    /// Connections that have not carried data.
    pub fn handshakes(&self) -> Result<Vec<(FiveTuple, Handshake)>, DatapathError> {
        entries(&self.handshakes, map::HANDSHAKES)
    }

    /// Forgets a handshake, if it is still the same.
    pub fn remove_handshake(
        &mut self,
        key: &FiveTuple,
        seen: &Handshake,
    ) -> Result<(), DatapathError> {
        if get(&self.handshakes, key, map::HANDSHAKES)?.as_ref() == Some(seen) {
            remove(&mut self.handshakes, key, map::HANDSHAKES)?;
        }
        Ok(())
    }

    /// The keys of the pages of marks.
    pub fn page_keys(&self) -> Result<BTreeSet<PageKey>, DatapathError> {
        // The walk begins again where a page went meanwhile: it must end all the same.
        let mut keys = BTreeSet::new();
        for (table, name) in [
            (&self.ready_pages, map::READY_PAGES),
            (&self.pages, map::PAGES),
        ] {
            for key in table.keys().take(PAGE_WALK) {
                keys.insert(key.map_err(DatapathError::table("list", name))?);
            }
        }
        Ok(keys)
    }

    /// Forgets a page of marks.
    pub fn remove_page(&mut self, key: &PageKey) -> Result<bool, DatapathError> {
        Ok(remove(&mut self.ready_pages, key, map::READY_PAGES)?
            || remove(&mut self.pages, key, map::PAGES)?)
    }

    /// The keys of the heads of ranges beyond holes.
    pub fn head_keys(&self) -> Result<Vec<HeadKey>, DatapathError> {
        let keys = self.heads.keys().take(HEAD_WALK);
        keys.map(|key| key.map_err(DatapathError::table("list", map::HEADS)))
            .collect()
    }

    /// Forgets the head of a range.
    pub fn remove_head(&mut self, key: &HeadKey) -> Result<bool, DatapathError> {
        remove(&mut self.heads, key, map::HEADS)
    }

    /// Clients.
    pub fn peers(&self) -> Result<Vec<(PeerKey, Peer)>, DatapathError> {
        entries(&self.peers, map::PEERS)
    }

    /// Aliases in use, with what flows have counted and not reported.
    pub fn aliases(&self) -> Result<BTreeMap<AliasKey, AliasStat>, DatapathError> {
        let mut aliases: BTreeMap<_, _> =
            entries(&self.aliases, map::ALIASES)?.into_iter().collect();
        for (key, flow) in self.flows()? {
            if let Some(stat) = aliases.get_mut(&flow.alias_key(&key)) {
                flow.report(stat);
            }
        }
        Ok(aliases)
    }

    /// The counters, summed over the processors.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, DatapathError> {
        let read = |counter: &Counter| match self.counters.get(&(*counter as u32), 0) {
            Ok(values) => Ok((*counter, values.iter().sum())),
            Err(error) => Err(DatapathError::table("read", map::COUNTERS)(error)),
        };
        Counter::ALL.iter().map(read).collect()
    }

    /// The ring buffer of events. It has one reader.
    ///
    /// # Errors
    /// When it is not pinned.
    pub fn events(pins: &Pins) -> Result<RingBuf<MapData>, DatapathError> {
        open(pins, map::EVENTS)
    }
}

impl TablesMut {
    /// Opens the tables.
    ///
    /// # Errors
    /// When one is not pinned or looks different.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            ports: open(pins, map::PORTS)?,
            endpoints: open(pins, map::ENDPOINTS)?,
            names: open(pins, map::NAMES)?,
            listed: open(pins, map::LISTED)?,
            flows: Flows::open(pins)?,
            addresses: open(pins, map::ADDRESSES)?,
            services: ServiceTables::open(pins)?,
        })
    }
}

impl Kernel for TablesMut {
    type Error = DatapathError;

    fn connected(&self, held: &Held, ports: Ports) -> Result<Connected, DatapathError> {
        self.services.connected(held, ports)
    }

    fn held(&self, aliases: &BTreeSet<Socket>) -> Result<Held, DatapathError> {
        self.services.held(aliases)
    }

    fn owned(&self) -> Result<Present, DatapathError> {
        let mut present = Present {
            endpoints: entries(&self.endpoints, map::ENDPOINTS)?
                .into_iter()
                .collect(),
            names: entries(&self.names, map::NAMES)?.into_iter().collect(),
            listed: entries(&self.listed, map::LISTED)?
                .into_iter()
                .map(|(key, _)| (key.endpoint, key.alias))
                .collect(),
            addresses: entries(&self.addresses, map::ADDRESSES)?
                .into_iter()
                .map(|(address, _)| address)
                .collect(),
            held: self.services.owned()?,
            ..Present::default()
        };
        batch::visit(&self.ports, map::PORTS, |port: u32, flags: u8| {
            if let (Ok(port), 1..) = (u16::try_from(port), flags) {
                present.ports.insert(port, flags);
            }
        })?;
        Ok(present)
    }

    fn slots(&self, range: Slots) -> Result<Vec<u32>, DatapathError> {
        self.services.slots(range)
    }

    fn apply(&mut self, change: &Change) -> Result<(), DatapathError> {
        match *change {
            Change::List(key) => insert(&mut self.listed, &key, 1, map::LISTED),
            Change::Name(socket, names) => insert(&mut self.names, &socket, names, map::NAMES),
            Change::Endpoint(socket, endpoint) => {
                insert(&mut self.endpoints, &socket, endpoint, map::ENDPOINTS)
            }
            Change::Port(port, flags) => self
                .ports
                .set(u32::from(port), flags, 0)
                .map_err(DatapathError::table("write", map::PORTS)),
            Change::RemoveEndpoint(socket) => {
                remove(&mut self.endpoints, &socket, map::ENDPOINTS).map(drop)
            }
            Change::RemoveName(socket) => remove(&mut self.names, &socket, map::NAMES).map(drop),
            Change::Unlist(key) => remove(&mut self.listed, &key, map::LISTED).map(drop),
            Change::Address(address) => insert(&mut self.addresses, &address, 1, map::ADDRESSES),
            Change::RemoveAddress(address) => {
                remove(&mut self.addresses, &address, map::ADDRESSES).map(drop)
            }
            Change::Forget(key) => {
                self.flows.remove(&key)?;
                self.services.apply(change)
            }
            Change::Target(..)
            | Change::Slot(..)
            | Change::Settings(_)
            | Change::Service(..)
            | Change::Move(..)
            | Change::RemoveService(_) => self.services.apply(change),
        }
    }

    fn barrier(&self) -> Result<(), DatapathError> {
        sys::wait_for_programs().map_err(DatapathError::Barrier)
    }
}

/// Makes these the interfaces that frames may be sent to from XDP.
///
/// # Errors
/// When the table cannot be read or written.
pub(super) fn set_xdp_devices(pins: &Pins, devices: &[u32]) -> Result<(), DatapathError> {
    let mut table: Table<u32, u8> = open(pins, map::XDP_DEVICES)?;
    for (index, _) in entries(&table, map::XDP_DEVICES)? {
        if !devices.contains(&index) {
            remove(&mut table, &index, map::XDP_DEVICES)?;
        }
    }
    devices
        .iter()
        .try_for_each(|index| insert(&mut table, index, 1, map::XDP_DEVICES))
}

/// Whether these are the interfaces that [`set_xdp_devices`] made such.
///
/// # Errors
/// When the table cannot be read.
pub(super) fn has_xdp_devices(pins: &Pins, devices: &[u32]) -> Result<bool, DatapathError> {
    let table: Table<u32, u8> = open(pins, map::XDP_DEVICES)?;
    let present = entries(&table, map::XDP_DEVICES)?;
    let present: BTreeMap<_, _> = present.into_iter().collect();
    Ok(present == devices.iter().map(|index| (*index, 1)).collect())
}

/// Tells the kernel program the link addresses of the attached interfaces.
///
/// # Errors
/// When the table cannot be read or written.
pub(super) fn set_links(pins: &Pins, links: &BTreeMap<u32, Link>) -> Result<(), DatapathError> {
    let present = links_of(pins)?;
    let mut table: Table<u32, Link> = open(pins, map::LINKS)?;
    for index in present.keys().filter(|index| !links.contains_key(index)) {
        remove(&mut table, index, map::LINKS)?;
    }
    links
        .iter()
        .filter(|(index, link)| present.get(index) != Some(link))
        .try_for_each(|(index, link)| insert(&mut table, index, *link, map::LINKS))
}

/// What the kernel program knows of interfaces.
///
/// # Errors
/// When the table cannot be read.
pub(super) fn links_of(pins: &Pins) -> Result<BTreeMap<u32, Link>, DatapathError> {
    let table: Table<u32, Link> = open(pins, map::LINKS)?;
    Ok(entries(&table, map::LINKS)?.into_iter().collect())
}

/// That the tables that are pinned already look as this version expects.
///
/// # Errors
/// Names the first that does not.
pub fn check_tables(pins: &Pins) -> Result<(), DatapathError> {
    let pinned = |name| pins.map(name).exists();
    for name in PINNED {
        if !pinned(name) {
            continue;
        }
        match name {
            map::PORTS => drop(open::<Array<MapData, u8>>(pins, name)?),
            map::ENDPOINTS => drop(open::<Table<Socket, Endpoint>>(pins, name)?),
            map::NAMES => drop(open::<Table<Socket, Names>>(pins, name)?),
            map::LISTED => drop(open::<Table<ListedAlias, u8>>(pins, name)?),
            map::RPC_FLOWS | map::ONE_SIDED_FLOWS => {
                drop(open::<Table<FiveTuple, RpcFlow>>(pins, name)?);
            }
            map::HANDSHAKES => drop(open::<Table<FiveTuple, Handshake>>(pins, name)?),
            map::READY_PAGES | map::PAGES => drop(open::<Table<PageKey, Page>>(pins, name)?),
            map::HEADS => drop(open::<Table<HeadKey, Head>>(pins, name)?),
            map::PEERS => drop(open::<Table<PeerKey, Peer>>(pins, name)?),
            map::ALIASES => drop(open::<Table<AliasKey, AliasStat>>(pins, name)?),
            map::SERVICES => drop(open::<Table<Socket, Service>>(pins, name)?),
            map::SLOTS | map::PORT_BITMAP => drop(open::<Array<MapData, u32>>(pins, name)?),
            map::TARGETS => drop(open::<Array<MapData, Target>>(pins, name)?),
            map::CONNTRACK => drop(open::<Table<FiveTuple, Conntrack>>(pins, name)?),
            map::MOVED => drop(open::<Table<FiveTuple, u32>>(pins, name)?),
            map::XDP_DEVICES => drop(open::<Table<u32, u8>>(pins, name)?),
            map::RELAYS => drop(open::<Table<Socket, u32>>(pins, name)?),
            map::RELAY_LISTENERS => drop(open::<SockMap<MapData>>(pins, name)?),
            map::CAPTURED => {
                drop(open::<Table<CapturedName, CapturedRecords>>(pins, name)?);
            }
            map::CAPTURED_UNTIL => drop(open::<Array<MapData, u64>>(pins, name)?),
            map::ASKED | map::STEERED => drop(open::<Table<FiveTuple, u64>>(pins, name)?),
            map::ADDRESSES => drop(open::<Table<[u8; 16], u8>>(pins, name)?),
            map::LINKS => drop(open::<Table<u32, Link>>(pins, name)?),
            map::SETTINGS => drop(open::<Array<MapData, Settings>>(pins, name)?),
            map::PORT_TRY_HISTOGRAM | map::COUNTERS => {
                drop(open::<PerCpuArray<MapData, u64>>(pins, name)?)
            }
            _ => drop(open::<RingBuf<MapData>>(pins, name)?),
        }
    }
    Ok(())
}
