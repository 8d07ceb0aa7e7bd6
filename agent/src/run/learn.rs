//! From the handshakes that the kernel program saw to the topology.

use std::time::Duration;

use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use truename_common::layout::EventKind;

use super::{RunError, pulse::Pulse};
use crate::{
    api::EventRow,
    datapath::{DatapathError, Pins, Tables},
    topology::{Facts, Reporter, learned},
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
    pub pulse: Pulse,
}

impl Learner {
    /// Learns until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        loop {
            let pins = self.pins.clone();
            let busy = self.pulse.busy("peers and names to be read");
            let learned = tokio::task::spawn_blocking(move || read(&pins)).await?;
            drop(busy);
            match learned {
                Ok(facts) => self.reporter.facts(facts, Some(REFRESH)),
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

    /// Waits for a handshake that tells something.
    async fn news(&mut self) {
        let told = [EventKind::PeerSeen, EventKind::CanonicalLearned].map(EventKind::label);
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

fn read(pins: &Pins) -> Result<Facts, DatapathError> {
    let tables = Tables::open(pins)?;
    Ok(learned::facts(&tables.peers()?, &tables.names()?))
}
