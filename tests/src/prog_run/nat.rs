//! The tables of the address translator, written as the agent would.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, PerCpuArray};
use truename_common::{
    layout::{
        Conntrack, Counter, FiveTuple, SLOTS_PER_SERVICE, Service, Settings, Slots, Socket, Target,
        map, port_flags, target_flags,
    },
    nat::{self, Tables, Weighted},
};

use super::{
    datagram::Datagram,
    packet::{Link, check_sums},
    program::{Program, address_of},
    run::{Place, Verdict},
    sockets::tuple,
};

/// A target on this host.
pub fn local(socket: SocketAddr) -> Target {
    target(socket, None, target_flags::LOCAL)
}

/// A target elsewhere that sees this source address.
pub fn remote(socket: SocketAddr, source: IpAddr) -> Target {
    target(socket, Some(source), target_flags::SNAT)
}

/// A target elsewhere that sees the client, and answers by way of this host.
pub fn routed(socket: SocketAddr) -> Target {
    target(socket, None, 0)
}

fn target(socket: SocketAddr, source: Option<IpAddr>, flags: u16) -> Target {
    Target {
        address: address_of(socket.ip()),
        source: source.map_or([0; 16], address_of),
        port: socket.port(),
        flags,
        pad: [0; 4],
    }
}

/// A program with services.
pub struct Nat {
    /// The program.
    pub program: Program,
    /// What it was told beside its tables.
    pub settings: Settings,
    link: Link,
    /// Numbers that the next service gets.
    services: u32,
    targets: u32,
    slots: u32,
}

impl Nat {
    /// Loads the program for devices of this kind. It has no services yet.
    ///
    /// # Panics
    /// The kernel refuses it.
    pub fn new(object: &[u8], link: Link) -> Self {
        Self::load(object, link, &[], false)
    }

    /// As above, with tables of other sizes.
    ///
    /// # Panics
    /// As above.
    pub fn limited(object: &[u8], entries: &[(&'static str, u32)]) -> Self {
        Self::load(object, Link::Ethernet, entries, false)
    }

    /// As above, with the RPC translator.
    ///
    /// # Panics
    /// As above.
    pub fn with_rpc(object: &[u8]) -> Self {
        Self::load(object, Link::Ethernet, &[], true)
    }

    fn load(object: &[u8], link: Link, entries: &[(&'static str, u32)], with_rpc: bool) -> Self {
        let name = match link {
            Link::Raw => "tn_raw",
            _ => "tn_ether",
        };
        let settings = Settings {
            timeouts: [30, 30, 7200, 60, 60, 5, 30, 120],
            loopback: 1,
            first_port: 50_000,
            last_port: 50_999,
            tag: 0x746e,
            flags: 0,
            pad: 0,
        };
        let mut nat = Self {
            program: Program::limited(object, name, entries, with_rpc).expect("the program loads"),
            settings,
            link,
            services: 0,
            targets: 0,
            slots: 0,
        };
        nat.set(settings);
        nat
    }

    /// Replaces the settings.
    ///
    /// # Panics
    /// The table cannot be written.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.put(map::SETTINGS, 0, settings);
    }

    /// Makes a service with equal targets, and answers it.
    ///
    /// # Panics
    /// A table cannot be written.
    pub fn service(&mut self, alias: SocketAddr, protocol: u8, targets: &[Target]) -> Service {
        let numbers = targets
            .iter()
            .map(|target| self.add_target(*target))
            .collect();
        let slots = self.slots(numbers);
        self.services += 1;
        let service = Service {
            id: self.services,
            slots,
            ..Service::default()
        };
        self.publish(alias, protocol, service);
        service
    }

    /// Puts a target into a free place, and answers its number.
    ///
    /// # Panics
    /// A table cannot be written.
    pub fn add_target(&mut self, target: Target) -> u32 {
        let number = self.targets;
        self.targets += 1;
        self.put(map::TARGETS, number, target);
        self.mark(target.port, port_flags::TARGET);
        number
    }

    /// Fills free slots with targets of equal weight.
    ///
    /// # Panics
    /// A table cannot be written.
    pub fn slots(&mut self, numbers: Vec<u32>) -> Slots {
        self.weighted_slots(numbers.into_iter().map(|number| (number, 1)).collect())
    }

    /// Fills free slots with targets of some weights.
    ///
    /// # Panics
    /// A table cannot be written.
    pub fn weighted_slots(&mut self, targets: Vec<(u32, u32)>) -> Slots {
        let mut table = match targets.as_slice() {
            [] => Vec::new(),
            [(only, _)] => vec![*only],
            several => {
                let weighted = |(target, weight): &(u32, u32)| Weighted {
                    target: *target,
                    identity: u64::from(*target) + 1,
                    weight: *weight,
                };
                let weighted: Vec<_> = several.iter().map(weighted).collect();
                let mut table = vec![0; SLOTS_PER_SERVICE as usize];
                assert!(nat::fill(&mut table, &weighted), "nobody has a weight");
                table
            }
        };
        let first = self.slots;
        for number in table.drain(..) {
            self.put(map::SLOTS, self.slots, number);
            self.slots += 1;
        }
        let count = self.slots - first;
        Slots { first, count }
    }

    /// Writes a service as it is.
    ///
    /// # Panics
    /// A table cannot be written.
    pub fn publish(&mut self, alias: SocketAddr, protocol: u8, service: Service) {
        let key = Socket {
            address: address_of(alias.ip()),
            port: alias.port(),
            protocol,
            pad: 0,
        };
        self.insert(map::SERVICES, key, service);
        self.mark(alias.port(), port_flags::SERVICE);
    }

    /// Lists a connection as one that stays with the target of this number.
    ///
    /// # Panics
    /// The table cannot be written.
    pub fn moves(&mut self, original: FiveTuple, target: u32) {
        self.insert(map::MOVED, original, target);
    }

    /// Makes an address one of this host.
    ///
    /// # Panics
    /// The table cannot be written.
    pub fn owns(&mut self, address: IpAddr) {
        self.program.owns(address).expect("it can be written");
    }

    /// Writes a connection.
    ///
    /// # Panics
    /// The table cannot be written.
    pub fn connect(&mut self, key: FiveTuple, entry: Conntrack) {
        self.insert(map::CONNTRACK, key, entry);
    }

    /// Removes a connection.
    ///
    /// # Panics
    /// It is not there, or the table cannot be written.
    pub fn forget(&mut self, key: &FiveTuple) {
        let table = self.program.map(map::CONNTRACK).expect("there is a table");
        let mut table: HashMap<_, FiveTuple, Conntrack> =
            HashMap::try_from(table).expect("it is a hash");
        table.remove(key).expect("it can be removed");
    }

    /// All connections, by their keys.
    ///
    /// # Panics
    /// The table cannot be read.
    pub fn connections(&self) -> Vec<(FiveTuple, Conntrack)> {
        let mut all = self
            .program
            .entries::<FiveTuple, Conntrack>(map::CONNTRACK)
            .expect("the table can be read");
        all.sort_by_key(|(key, _)| *key);
        all
    }

    /// The connection between these sockets, as the target sees them.
    ///
    /// # Panics
    /// There is none.
    pub fn connection(&self, client: SocketAddr, target: SocketAddr, protocol: u8) -> Conntrack {
        let key = tuple(client, target, protocol);
        let all = self.connections();
        let found = all.iter().find(|(found, _)| *found == key);
        found
            .unwrap_or_else(|| panic!("{key:?} is not among {all:#?}"))
            .1
    }

    /// Empties the tables of services and of their connections. Targets, slots and ports stay.
    ///
    /// # Panics
    /// A table cannot be written.
    pub fn clear(&mut self) {
        self.empty::<Socket, Service>(map::SERVICES);
        self.empty::<FiveTuple, Conntrack>(map::CONNTRACK);
        self.empty::<FiveTuple, u32>(map::MOVED);
    }

    fn empty<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) {
        let table = self.program.map(name).expect("there is a table");
        let mut table: HashMap<_, K, V> = HashMap::try_from(table).expect("it is a hash");
        let keys: Vec<K> = table.keys().map(|key| key.expect("a key")).collect();
        for key in keys {
            table.remove(&key).expect("it can be removed");
        }
    }

    /// An entry of a hash.
    pub fn lookup<K: aya::Pod, V: aya::Pod>(&self, name: &str, key: &K) -> Option<V> {
        let table = self.program.table(name).ok()?;
        let table: HashMap<_, K, V> = HashMap::try_from(table).ok()?;
        table.get(key, 0).ok()
    }

    /// What has a port: bits of [`port_flags`].
    ///
    /// # Panics
    /// The table cannot be read.
    pub fn port(&self, port: u16) -> u8 {
        let table = self.program.table(map::PORTS).expect("there is one");
        let table: Array<_, u8> = Array::try_from(table).expect("it is one");
        table.get(&u32::from(port), 0).expect("it can be read")
    }

    /// The histogram of [`map::PORT_TRY_HISTOGRAM`].
    ///
    /// # Panics
    /// The table cannot be read.
    pub fn tries(&self) -> Vec<u64> {
        let table = self
            .program
            .table(map::PORT_TRY_HISTOGRAM)
            .expect("there is one");
        let table: PerCpuArray<_, u64> = PerCpuArray::try_from(table).expect("it is one");
        (0..=nat::MAX_PORT_TRIES)
            .map(|index| table.get(&index, 0).expect("it can be read").iter().sum())
            .collect()
    }

    /// The candidates that connections with this one's hash were given, a bit for each.
    ///
    /// # Panics
    /// The table cannot be read.
    pub fn tried(&self, original: &FiveTuple) -> u32 {
        self.tried_of(nat::hash(original))
    }

    /// The same for a hash.
    ///
    /// # Panics
    /// As above.
    pub fn tried_of(&self, hash: u64) -> u32 {
        let table = self.program.table(map::PORT_BITMAP).expect("there is one");
        let table: Array<_, u32> = Array::try_from(table).expect("it is one");
        let half = |half| {
            let position = nat::tried_position(hash, half);
            table.get(&position, 0).expect("it can be read")
        };
        half(0) | half(1)
    }

    /// Asserts the value of a counter.
    ///
    /// # Panics
    /// It has another one.
    #[track_caller]
    pub fn assert_count(&self, counter: Counter, expected: u64) {
        let count = self.program.count(counter).expect("counters can be read");
        assert_eq!(count, expected, "{}", counter.label());
    }

    /// The packet goes on as another, byte for byte.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn becomes(&self, place: Place, packet: &Datagram, expected: &Datagram) {
        let verdict = self.run(place, &packet.bytes());
        assert_eq!(verdict, Verdict::Next(expected.bytes()));
        check_sums(self.link, &expected.bytes()).expect("the oracle is right");
    }

    /// The packet is sent on as another, byte for byte.
    ///
    /// # Panics
    /// It is not.
    #[track_caller]
    pub fn forwards(&self, place: Place, packet: &Datagram, expected: &Datagram) {
        let verdict = self.run(place, &packet.bytes());
        assert_eq!(verdict, Verdict::Redirect(expected.bytes()));
        check_sums(self.link, &expected.bytes()).expect("the oracle is right");
    }

    /// The packet goes on as it is.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn passes(&self, place: Place, packet: &Datagram) {
        let bytes = packet.bytes();
        assert_eq!(self.run(place, &bytes), Verdict::Next(bytes));
    }

    /// The packet is dropped.
    ///
    /// # Panics
    /// It is not.
    #[track_caller]
    pub fn drops(&self, place: Place, packet: &Datagram) {
        assert_eq!(self.run(place, &packet.bytes()), Verdict::Drop);
    }

    /// The sender of the packet is told of an error.
    ///
    /// # Panics
    /// It is not.
    #[track_caller]
    pub fn refuses(&self, place: Place, packet: &Datagram) {
        const ICMP: u8 = 1;
        const ICMPV6: u8 = 58;
        let Verdict::Redirect(bytes) = self.run(place, &packet.bytes()) else {
            panic!("nothing is sent back");
        };
        let (at, expected) = match packet.source {
            SocketAddr::V4(_) => (14 + 9, ICMP),
            SocketAddr::V6(_) => (14 + 6, ICMPV6),
        };
        assert_eq!(bytes[at], expected, "no ICMP error: {bytes:?}");
    }

    /// Runs the program on any bytes.
    ///
    /// # Panics
    /// It cannot be run, or changed a length that it may not change.
    #[track_caller]
    pub fn run(&self, place: Place, packet: &[u8]) -> Verdict {
        self.program
            .run_at(place, packet)
            .expect("the program runs")
    }

    /// Bytes of kernel memory that a table takes.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn memory(&self, table: &str) -> Result<u64> {
        let table = match self.program.table(table)? {
            Map::HashMap(table) | Map::Array(table) => table,
            _ => anyhow::bail!("{table} is another kind of table"),
        };
        let path = format!("/proc/self/fdinfo/{}", table.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let value = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        Ok(value.context("no memlock")?.trim().parse()?)
    }

    fn mark(&mut self, port: u16, flag: u8) {
        let ports = self.program.map(map::PORTS).expect("there is a table");
        let mut ports: Array<_, u8> = Array::try_from(ports).expect("it is an array");
        let port = u32::from(port);
        let flags = ports.get(&port, 0).expect("it can be read") | flag;
        ports.set(port, flags, 0).expect("it can be written");
    }

    fn put<V: aya::Pod>(&mut self, name: &str, index: u32, value: V) {
        let table = self.program.map(name).expect("there is a table");
        let mut table: Array<_, V> = Array::try_from(table).expect("it is an array");
        table.set(index, value, 0).expect("it can be written");
    }

    pub(super) fn insert<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: K, value: V) {
        let table = self.program.map(name).expect("there is a table");
        let mut table: HashMap<_, K, V> = HashMap::try_from(table).expect("it is a hash");
        table.insert(key, value, 0).expect("it can be written");
    }
}

/// The tables as user space reads them.
impl Tables for Nat {
    fn slot(&self, position: u32) -> Option<u32> {
        let table = self.program.table(map::SLOTS).ok()?;
        let table: Array<_, u32> = Array::try_from(table).ok()?;
        table.get(&position, 0).ok()
    }

    fn moved(&self, original: &FiveTuple) -> Option<u32> {
        self.lookup(map::MOVED, original)
    }

    fn target(&self, number: u32) -> Option<Target> {
        let table = self.program.table(map::TARGETS).ok()?;
        let table: Array<_, Target> = Array::try_from(table).ok()?;
        table.get(&number, 0).ok()
    }
}
