//! What a plan goes by of the connections. There may be very many, so they are summed up while they are read.

use truename_common::{
    layout::{Conntrack, FiveTuple, Settings, Target, conntrack_flags},
    nat,
};

use super::facts::{BySocket, Connected, Held, number};
use crate::config::Ports;

/// Sums up connections, one after the other.
pub struct Summary {
    targets: BySocket,
    present: Settings,
    wanted: Settings,
    connected: Connected,
}

impl Summary {
    /// For what the tables hold beside connections, and the wanted range of source ports.
    pub fn new(held: &Held, ports: Ports) -> Self {
        Self {
            targets: held.by_socket(),
            present: held.settings,
            wanted: Settings {
                first_port: ports.first,
                last_port: ports.last,
                ..held.settings
            },
            connected: Connected::default(),
        }
    }

    /// Takes an entry of `CONNTRACK` into account.
    pub fn add(&mut self, key: &FiveTuple, entry: &Conntrack) {
        let connected = &mut self.connected;
        connected.any = true;
        if entry.flags & conntrack_flags::DIRECT == 0 {
            connected.service = connected.service.max(Some(entry.service));
        }
        connected.targets.insert((key.endpoint, key.endpoint_port));
        if self.wanted != self.present && !connected.is_placed {
            self.connected.is_placed = self.is_placed(key, entry);
        }
    }

    /// Takes an entry of `MOVED` into account.
    pub fn add_moved(&mut self, original: &FiveTuple, target: u32) {
        self.connected.aliases_moved.insert(original.endpoint());
        self.connected.targets_moved.insert(target);
    }

    /// All of it.
    pub fn finish(self) -> Connected {
        self.connected
    }

    /// Whether a connection would have another key with the wanted settings.
    fn is_placed(&self, key: &FiveTuple, entry: &Conntrack) -> bool {
        if entry.flags & conntrack_flags::DIRECT != 0 {
            // It has no target of a service: only its port was replaced.
            let target = Target {
                address: key.endpoint,
                port: key.endpoint_port,
                ..Target::default()
            };
            let original = entry.original(key.protocol);
            let (hash, tries) = (nat::hash(&original), u32::from(entry.tries));
            return nat::key(&original, &target, &self.wanted, hash, tries) != *key;
        }
        let number = |settings| number(&self.targets, settings, key, entry);
        number(&self.present) != number(&self.wanted)
    }
}

#[cfg(test)]
impl Held {
    /// The same with its connections summed up, as a plan wants it.
    pub fn summed_up(mut self, ports: Ports) -> Self {
        let mut summary = Summary::new(&self, ports);
        for (key, entry) in &self.connections {
            summary.add(key, entry);
        }
        for (original, target) in &self.moved {
            summary.add_moved(original, *target);
        }
        self.connected = summary.finish();
        self
    }
}
