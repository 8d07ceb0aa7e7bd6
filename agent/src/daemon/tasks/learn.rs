//! From the handshakes that the kernel program saw to the topology.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use truename_common::layout::EventKind;

use crate::{
    api::EventRow,
    daemon::{RunError, pulse::Pulse},
    datapath::{DatapathError, Pins, Tables},
    discovery::{Facts, Kind, Reporter, Snapshot, sources::learned},
    name::{Authority, literal},
};

/// The tables are read at most this often, however many handshakes there are.
const PAUSE: Duration = Duration::from_secs(1);
/// Peers that are seen again are told by no event.
const REFRESH: Duration = Duration::from_secs(10);

/// Reads the tables when something was learned.
pub struct Learner {
    pub pins: Pins,
    pub events: broadcast::Receiver<EventRow>,
    pub reporter: Reporter,
    /// Tells what connections tell that are older than the agent.
    pub addressed: Reporter,
    pub topology: watch::Receiver<Snapshot>,
    pub pulse: Pulse,
}

impl Learner {
    /// Learns until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        loop {
            let (pins, wanted) = (self.pins.clone(), self.wanted());
            let busy = self.pulse.busy("peers and names to be read");
            let learned = tokio::task::spawn_blocking(move || read(&pins, &wanted)).await?;
            drop(busy);
            match learned {
                Ok([facts, addressed]) => {
                    self.reporter.facts(facts, Some(REFRESH));
                    self.addressed.facts(addressed, Some(REFRESH));
                }
                Err(error) => self.reporter.failed(error, Some(REFRESH)),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // Late or in time: it is read again.
                _ = async {
                    tokio::time::sleep(PAUSE).await;
                    timeout(REFRESH, self.news()).await
                } => {}
            }
        }
    }

    /// The canonical names whose hosts are written as names, and whose addresses nobody confirms.
    fn wanted(&self) -> BTreeSet<Authority> {
        let topology = Arc::clone(&self.topology.borrow().topology);
        let leader = topology.leader_rpc.iter().map(|known| &known.value.address);
        let workers = topology.workers.values().map(|known| &known.value.rpc);
        let members = topology.members.keys();
        let names = leader.chain(workers).chain(members);
        let names = names.map(|address| address.authority());
        let is_confirmed = |name: &Authority| {
            let known = topology.addresses.get(name).into_iter().flatten();
            let mut kinds = known.map(|known| known.source.kind);
            kinds.any(|kind| kind != Kind::Addressed)
        };
        names
            .filter(|name| literal(name.host()).is_none() && !is_confirmed(name))
            .cloned()
            .collect()
    }

    /// Waits for a handshake that tells something.
    async fn news(&mut self) {
        let told = [
            EventKind::PeerSeen,
            EventKind::CanonicalLearned,
            EventKind::AliasSeen,
        ]
        .map(EventKind::label);
        loop {
            match self.events.recv().await {
                Ok(event) if told.contains(&event.kind.as_str()) => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return,
                // The agent is ending.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

fn read(pins: &Pins, wanted: &BTreeSet<Authority>) -> Result<[Facts; 2], DatapathError> {
    let tables = Tables::open(pins)?;
    let facts = learned::facts(&tables.peers()?, &tables.names()?);
    let mut addressed = Facts::new();
    // Flows are large: without a name that is looked for, none is read.
    let keys = match wanted.is_empty() {
        true => Vec::new(),
        false => tables.flow_keys()?,
    };
    for key in keys {
        if let Some(flow) = tables.flow(&key)? {
            addressed.extend(learned::addressed([(key, flow)].iter(), wanted));
        }
    }
    Ok([facts, addressed])
}
