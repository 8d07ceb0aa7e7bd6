//! The difference between the wanted and the present contents of the kernel tables.
//!
//! Additions come before removals, and what others refer to comes before what refers to it, so
//! that the kernel program finds a usable state after every single step. Applying the difference
//! twice changes nothing.
//!
//! When the targets of a service change, its connections stay where they are: the service looks
//! through its old choice, too, until those that the new one would send elsewhere are listed in
//! `MOVED`. A service may reset those with former targets instead: they are forgotten, and what their
//! clients send next goes to a present target, which knows nothing of them.
//!
//! [`repair`] does the same to what somebody else changed: wanted is then what was wanted before.

mod change;
#[cfg(test)]
mod failure_tests;
#[cfg(test)]
mod service_tests;
mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use truename_common::layout::{Authority, Endpoint, Names, Slots, Socket};

use crate::{
    config::Ports,
    plan::{Connected, Held, Tables, listed_key},
};

pub use change::{Change, Entry};

/// The present contents of the kernel tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// `PORTS`: the ports with flags.
    pub ports: BTreeMap<u16, u8>,
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<Socket, Endpoint>,
    /// `NAMES`, configured and learned.
    pub names: BTreeMap<Socket, Names>,
    /// `LISTED`.
    pub listed: BTreeSet<(u32, Authority)>,
    /// `ADDRESSES`.
    pub addresses: BTreeSet<[u8; 16]>,
    /// The tables of services.
    pub held: Held,
}

/// The kernel tables.
pub trait Kernel {
    /// Why a table cannot be read or written.
    type Error;

    /// What the tables hold beside connections and where they stay.
    ///
    /// # Errors
    /// When one cannot be read.
    fn owned(&self) -> Result<Present, Self::Error>;

    /// What connections need of the tables, which hold `held` beside them, if this range of source ports is wanted.
    ///
    /// # Errors
    /// When one cannot be read.
    fn connected(&self, held: &Held, ports: Ports) -> Result<Connected, Self::Error>;

    /// What the tables of services hold, of connections only those of these aliases.
    ///
    /// # Errors
    /// When one cannot be read.
    fn held(&self, aliases: &BTreeSet<Socket>) -> Result<Held, Self::Error>;

    /// What some slots hold, also such as no service refers to.
    ///
    /// # Errors
    /// When they cannot be read.
    fn slots(&self, range: Slots) -> Result<Vec<u32>, Self::Error>;

    /// Makes a change.
    ///
    /// # Errors
    /// When the table cannot be written.
    fn apply(&mut self, change: &Change) -> Result<(), Self::Error>;

    /// Waits until no processor works with what was read before.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn barrier(&self) -> Result<(), Self::Error>;
}

impl Present {
    /// The numbers of the endpoints, for [`crate::plan::plan`].
    pub fn numbers(&self) -> BTreeMap<Socket, u32> {
        self.endpoints
            .iter()
            .map(|(socket, endpoint)| (*socket, endpoint.id))
            .collect()
    }
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Reconciled {
    /// What the tables hold now, of what was planned.
    pub wanted: Tables,
    /// The entries that were others.
    pub changed: BTreeSet<Entry>,
}

/// Brings the kernel tables to what `plan` wants, given what they hold. It wants this range of source ports.
///
/// # Errors
/// When a table cannot be read or written. What was done so far is a usable state, from which the
/// next call goes on.
pub fn reconcile<K: Kernel>(
    kernel: &mut K,
    ports: Ports,
    plan: impl FnOnce(&Present) -> Tables,
) -> Result<Reconciled, K::Error> {
    let mut done = Reconciled::default();
    let mut present = kernel.owned()?;
    let unsettled = services::unsettled(&present.held);
    if !unsettled.is_empty() {
        done.settle(kernel, &unsettled)?;
        present = kernel.owned()?;
    }
    present.held.connected = kernel.connected(&present.held, ports)?;
    done.wanted = plan(&present);
    done.bring(kernel, &present)?;
    Ok(done)
}

/// Brings the kernel tables back to what a call before left there.
///
/// Nothing is planned or settled by what they hold: that is somebody else's. A service, a target and an
/// endpoint keep the numbers by which connections know them.
///
/// # Errors
/// As [`reconcile`].
pub fn repair<K: Kernel>(kernel: &mut K, wanted: Tables) -> Result<Reconciled, K::Error> {
    let mut done = Reconciled {
        wanted,
        ..Reconciled::default()
    };
    let mut present = kernel.owned()?;
    for range in done.wanted.services.slots.keys() {
        // The service that refers to it was changed; it may be as it was.
        if !present.held.slots.contains_key(range) {
            present.held.slots.insert(*range, kernel.slots(*range)?);
        }
    }
    done.bring(kernel, &present)?;
    Ok(done)
}

impl Reconciled {
    fn bring<K: Kernel>(&mut self, kernel: &mut K, present: &Present) -> Result<(), K::Error> {
        let steps = diff(&self.wanted, present);
        self.apply(kernel, &steps.additions)?;
        if !steps.unsettled.is_empty() {
            self.settle(kernel, &steps.unsettled)?;
        }
        self.apply(kernel, &steps.removals)
    }

    fn apply<K: Kernel>(&mut self, kernel: &mut K, steps: &[Change]) -> Result<(), K::Error> {
        for change in steps {
            kernel.apply(change)?;
            self.changed.insert(change.entry());
        }
        Ok(())
    }

    fn settle<K: Kernel>(
        &mut self,
        kernel: &mut K,
        aliases: &BTreeSet<Socket>,
    ) -> Result<(), K::Error> {
        // A connection that a processor begins by the old choice is in its table before this returns.
        kernel.barrier()?;
        let held = kernel.held(aliases)?;
        let steps = services::settle(held, aliases);
        self.apply(kernel, &steps)?;
        for change in steps {
            if let Change::Service(alias, settled) = change
                && let Some(wanted) = self.wanted.services.services.get_mut(&alias)
            {
                *wanted = settled;
            }
        }
        Ok(())
    }
}

/// The steps from `present` to `wanted`.
fn diff(wanted: &Tables, present: &Present) -> services::Steps {
    let mut steps = services::diff(&wanted.services, &present.held);
    let mut additions = add_endpoints(wanted, present);
    let new = wanted.addresses.difference(&present.addresses);
    additions.extend(new.map(|address| Change::Address(*address)));
    for (port, flags) in &wanted.ports {
        let now = present.ports.get(port).copied().unwrap_or_default();
        if now | flags != now {
            additions.push(Change::Port(*port, now | flags));
        }
    }
    additions.append(&mut steps.additions);
    steps.additions = additions;
    for port in wanted.ports.keys().chain(present.ports.keys()) {
        let flags = wanted.ports.get(port).copied().unwrap_or_default();
        let now = present.ports.get(port).copied().unwrap_or_default();
        if now & !flags != 0 {
            steps.removals.push(Change::Port(*port, flags));
        }
    }
    steps.removals.extend(remove_endpoints(wanted, present));
    let gone = present.addresses.difference(&wanted.addresses);
    let gone = gone.map(|address| Change::RemoveAddress(*address));
    steps.removals.extend(gone);
    steps
}

fn add_endpoints(wanted: &Tables, present: &Present) -> Vec<Change> {
    let mut steps = Vec::new();
    steps.extend(
        wanted
            .listed
            .difference(&present.listed)
            .copied()
            .map(listed_key)
            .map(Change::List),
    );
    for (socket, names) in &wanted.names {
        let now = present.names.get(socket);
        if !now.is_some_and(|now| now.configured == 1 && now.canonical == names.canonical) {
            // The system is learned even where the authority is configured.
            let system = now.map(|now| now.system).unwrap_or_default();
            steps.push(Change::Name(*socket, Names { system, ..*names }));
        }
    }
    for (socket, endpoint) in &wanted.endpoints {
        if present.endpoints.get(socket) != Some(endpoint) {
            steps.push(Change::Endpoint(*socket, *endpoint));
        }
    }
    steps
}

fn remove_endpoints(wanted: &Tables, present: &Present) -> Vec<Change> {
    let mut steps = Vec::new();
    for socket in present
        .endpoints
        .keys()
        .filter(|socket| !wanted.endpoints.contains_key(socket))
    {
        steps.push(Change::RemoveEndpoint(*socket));
    }
    for (socket, names) in &present.names {
        let keep = if names.configured == 1 {
            // The kernel program notes the configured name of a wildcard endpoint for each of its
            // instances, with the system that it learned.
            let instance_of = wanted.names.get(&socket.any());
            wanted.names.contains_key(socket)
                || instance_of.is_some_and(|wanted| wanted.canonical == names.canonical)
        } else {
            // Learned for an endpoint, or for one instance of a wildcard endpoint.
            wanted.endpoints.contains_key(socket) || wanted.endpoints.contains_key(&socket.any())
        };
        if !keep {
            steps.push(Change::RemoveName(*socket));
        }
    }
    steps.extend(
        present
            .listed
            .difference(&wanted.listed)
            .copied()
            .map(listed_key)
            .map(Change::Unlist),
    );
    steps
}
