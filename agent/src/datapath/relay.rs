//! What the kernel knows of relays: the program that steers, the sockets it steers to, and whose connections.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use aya::{
    maps::{MapData, SockMap},
    programs::{SkLookup, links::FdLink},
};
use truename_common::{
    layout::{FiveTuple, Names, Peer, PeerKey, Socket, map, relay, relay_listener, steered},
    wire::authority,
};

use super::{
    PROGRAM_STEER, Pins,
    access::{Table, entries, get, insert, open, remove, replace},
    bpffs::{list, make_directory, remove_file},
    error::DatapathError,
    sys,
};

/// The key of what is known of an endpoint without a client.
fn nobody(endpoint: Socket) -> FiveTuple {
    FiveTuple {
        endpoint: endpoint.address,
        endpoint_port: endpoint.port,
        protocol: endpoint.protocol,
        ..FiveTuple::default()
    }
}

/// The tables of relays, opened from their pins.
pub struct Steering {
    pins: Pins,
    relays: Table<Socket, u32>,
    listeners: SockMap<MapData>,
    steered: Table<FiveTuple, u64>,
    names: Table<Socket, Names>,
    peers: Table<PeerKey, Peer>,
}

impl Steering {
    /// Opens the tables.
    ///
    /// # Errors
    /// When one is not pinned or looks different.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            pins: pins.clone(),
            relays: open(pins, map::RELAYS)?,
            listeners: open(pins, map::RELAY_LISTENERS)?,
            steered: open(pins, map::STEERED)?,
            names: open(pins, map::NAMES)?,
            peers: open(pins, map::PEERS)?,
        })
    }

    /// Attaches the program to a network namespace, in place of that of an earlier agent. It stays there without the agent.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&self, namespace: impl AsFd, inode: u64) -> Result<(), DatapathError> {
        let refused = DatapathError::program(PROGRAM_STEER);
        let path = self.pins.program(PROGRAM_STEER);
        let mut program = SkLookup::from_pin(&path).map_err(refused)?;
        let refused = DatapathError::program(PROGRAM_STEER);
        let attach = || {
            let link = program.attach(namespace)?;
            program.take_link(link)
        };
        let link: FdLink = { attach }().map_err(refused)?.into();
        let path = self.pins.relays().join(inode.to_string());
        // Somebody may have removed it.
        make_directory(&self.pins.relays())?;
        remove_file(&path)?;
        link.pin(&path)
            .map(drop)
            .map_err(|source| DatapathError::Pin { path, source })
    }

    /// Whether the program is attached to a network namespace.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn is_attached(pins: &Pins, inode: u64) -> Result<bool, DatapathError> {
        let path = pins.relays().join(inode.to_string());
        let found = sys::link_namespace(&path).map_err(DatapathError::pins("read", &path))?;
        Ok(found.is_some_and(|namespace| u64::from(namespace) == inode))
    }

    /// The network namespaces with a pinned link, by their inodes.
    ///
    /// # Errors
    /// When the pins cannot be listed.
    pub fn pinned(&self) -> Result<Vec<u64>, DatapathError> {
        let pins = list(&self.pins.relays())?;
        let inodes = pins
            .iter()
            .filter_map(|pin| pin.file_name()?.to_str()?.parse().ok());
        Ok(inodes.collect())
    }

    /// Removes the program from a network namespace.
    ///
    /// # Errors
    /// When the pin cannot be removed.
    pub fn detach(&self, inode: u64) -> Result<(), DatapathError> {
        let path = self.pins.relays().join(inode.to_string());
        // Fails for a namespace that is gone, which needs no detaching.
        let _ = sys::detach_link(&path);
        remove_file(&path)
    }

    /// The endpoints with a relay, and the [value](relay) of each.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn relays(&self) -> Result<BTreeMap<Socket, u32>, DatapathError> {
        Ok(entries(&self.relays, map::RELAYS)?.into_iter().collect())
    }

    /// Has connections for relay `number` accepted by a listening socket.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn listen(
        &mut self,
        number: u32,
        is_v6: bool,
        socket: &impl AsRawFd,
    ) -> Result<(), DatapathError> {
        let at = relay_listener(number, is_v6);
        let set = self.listeners.set(at, socket, 0);
        set.map_err(DatapathError::table("write", map::RELAY_LISTENERS))
    }

    /// Gives an endpoint a relay, which listens.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn serve(&mut self, endpoint: Socket, value: u32) -> Result<(), DatapathError> {
        insert(&mut self.relays, &endpoint, value, map::RELAYS)?;
        remove(&mut self.steered, &nobody(endpoint), map::STEERED).map(drop)
    }

    /// From now on nobody relays for an endpoint: new connections are held for a while.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn hold(&mut self, endpoint: Socket, now_ns: u64) -> Result<(), DatapathError> {
        let away = steered::at(steered::AWAY, now_ns);
        insert(&mut self.steered, &nobody(endpoint), away, map::STEERED)
    }

    /// Tells whether an endpoint with a relay listens. If it does not, its clients are refused.
    ///
    /// # Errors
    /// When the table cannot be read or written.
    pub fn set_down(&mut self, endpoint: Socket, is_down: bool) -> Result<(), DatapathError> {
        let Some(value) = get(&self.relays, &endpoint, map::RELAYS)? else {
            return Ok(());
        };
        let wanted = match is_down {
            true => value | relay::DOWN,
            false => value & !relay::DOWN,
        };
        if wanted != value {
            replace(&mut self.relays, &endpoint, wanted, map::RELAYS)?;
        }
        Ok(())
    }

    /// Takes the relay of an endpoint away. New connections go to the endpoint itself. Connections that are there keep
    /// their marks.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn leave(&mut self, endpoint: Socket) -> Result<(), DatapathError> {
        remove(&mut self.relays, &endpoint, map::RELAYS)?;
        for (key, _) in entries(&self.steered, map::STEERED)? {
            if key.endpoint() == endpoint && key.client_port == 0 {
                remove(&mut self.steered, &key, map::STEERED)?;
            }
        }
        Ok(())
    }

    /// Marks a connection as the relay's own, so that it is neither steered nor translated. What it is marked with.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn own(&mut self, connection: &FiveTuple, now_ns: u64) -> Result<u64, DatapathError> {
        let mark = steered::at(steered::OWN, now_ns);
        insert(&mut self.steered, connection, mark, map::STEERED)?;
        Ok(mark)
    }

    /// What a connection is marked with; 0: nothing.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn mark(&self, connection: &FiveTuple) -> Result<u64, DatapathError> {
        Ok(get(&self.steered, connection, map::STEERED)?.unwrap_or(0))
    }

    /// Takes the mark of a connection away, unless a later connection with the same addresses and ports has it.
    ///
    /// # Errors
    /// When the table cannot be read or written.
    pub fn forget(&mut self, connection: &FiveTuple, mark: u64) -> Result<(), DatapathError> {
        if mark != 0 && self.mark(connection)? == mark {
            remove(&mut self.steered, connection, map::STEERED)?;
        }
        Ok(())
    }

    /// Takes the marks of all connections away that are as old as this and not in use.
    ///
    /// # Errors
    /// When the table cannot be read or written.
    pub fn sweep(
        &mut self,
        age: Duration,
        now_ns: u64,
        is_used: impl Fn(&FiveTuple, u64) -> bool,
    ) -> Result<(), DatapathError> {
        for (key, mark) in entries(&self.steered, map::STEERED)? {
            let is_old = u128::from(steered::age_ns(mark, now_ns)) >= age.as_nanos();
            if key.client_port != 0 && is_old && !is_used(&key, mark) {
                self.forget(&key, mark)?;
            }
        }
        Ok(())
    }

    /// Notes whether the alias of a connection's client fits. One that does not counts for all later connections.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn note(&mut self, connection: &FiveTuple, fits: bool) -> Result<(), DatapathError> {
        let client = FiveTuple {
            client_port: 0,
            ..*connection
        };
        let known = get(&self.steered, &client, map::STEERED)?;
        let value = if fits {
            steered::IN_PLACE
        } else {
            steered::RELAYED
        };
        if known == Some(value) || known == Some(steered::RELAYED) {
            return Ok(());
        }
        insert(&mut self.steered, &client, value, map::STEERED)
    }

    /// Notes the names that an endpoint has announced, unless its name is configured.
    ///
    /// # Errors
    /// When a table cannot be read or written.
    pub fn learn(&mut self, endpoint: Socket, names: Names) -> Result<(), DatapathError> {
        match self.names(endpoint)? {
            Some(known) if known.configured == 1 => Ok(()),
            Some(known) if (known.canonical, known.system) == (names.canonical, names.system) => {
                Ok(())
            }
            _ => insert(&mut self.names, &endpoint, names, map::NAMES),
        }
    }

    /// Notes what is known of a client, as the kernel program does: under what it announced, and as the latest at its
    /// address.
    ///
    /// # Errors
    /// When the table cannot be read or written.
    pub fn meet(&mut self, connection: &FiveTuple, peer: &Peer) -> Result<(), DatapathError> {
        let mut key = PeerKey {
            endpoint: connection.endpoint(),
            client: connection.client,
            ..PeerKey::default()
        };
        let mut peer = *peer;
        if !peer.announced.is_empty() {
            key.origin = authority::hash(peer.announced.as_bytes());
            if let Some(known) = get(&self.peers, &key, map::PEERS)?
                && peer.alias.is_empty()
            {
                // Another connection of the client may have told its alias.
                peer.alias = known.alias;
            }
        }
        insert(&mut self.peers, &key, peer, map::PEERS)?;
        if key.origin != 0 && !peer.alias.is_empty() {
            key.origin = 0;
            insert(&mut self.peers, &key, peer, map::PEERS)?;
        }
        Ok(())
    }

    /// The clients whose connections are relayed.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn clients(&self) -> Result<Vec<FiveTuple>, DatapathError> {
        let all = entries(&self.steered, map::STEERED)?;
        let relayed = all.into_iter();
        let relayed = relayed.filter(|(_, value)| *value == steered::RELAYED);
        Ok(relayed.map(|(key, _)| key).collect())
    }

    /// The names of an endpoint, configured or learned.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn names(&self, endpoint: Socket) -> Result<Option<Names>, DatapathError> {
        match get(&self.names, &endpoint, map::NAMES)? {
            Some(names) => Ok(Some(names)),
            None => get(&self.names, &endpoint.any(), map::NAMES),
        }
    }

    /// All endpoints whose names are known.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn named(&self) -> Result<Vec<Socket>, DatapathError> {
        let all = entries(&self.names, map::NAMES)?;
        Ok(all.into_iter().map(|(endpoint, _)| endpoint).collect())
    }
}
