//! Looking whether somebody else changed the tables, and repairing them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use crate::daemon::{RunError, map_writer::MapWriter, pulse::Pulse, retry::Retry};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(30);

/// What a check needs.
pub struct Checker {
    pub map_writer: Arc<Mutex<MapWriter>>,
    /// Someone asks for a check.
    pub asked: Arc<Notify>,
    pub retry: Retry,
    /// Entries that were repaired since the agent started.
    pub repaired: Arc<AtomicU64>,
    pub pulse: Pulse,
}

impl Checker {
    /// Checks until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        // They were just written.
        let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
                () = self.asked.notified() => {}
                () = self.retry.due() => {}
            }
            let busy = self.pulse.busy("the tables to be compared");
            let map_writer = Arc::clone(&self.map_writer);
            let repaired = tokio::task::spawn_blocking(move || {
                let mut map_writer = map_writer.lock();
                map_writer.repair()
            });
            let repaired = repaired.await?;
            drop(busy);
            match repaired {
                Ok(repaired) => {
                    self.retry.succeeded();
                    self.tell(&repaired);
                }
                Err(error) => self.retry.failed(Some(error.to_string())),
            }
        }
    }

    fn tell(&self, repaired: &BTreeMap<&'static str, u64>) {
        let count = repaired.values().sum();
        self.repaired.fetch_add(count, Ordering::Relaxed);
        if count > 0 {
            let tables = repaired.iter();
            let tables: Vec<_> = tables
                .map(|(table, count)| format!("{count} of {table}"))
                .collect();
            log::warn!(
                "Somebody else changed the tables: repaired {count} entries, {}",
                tables.join(", ")
            );
        }
    }
}
