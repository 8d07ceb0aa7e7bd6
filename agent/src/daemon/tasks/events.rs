//! From the kernel's ring buffer to the log and to whoever monitors.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use aya::maps::{MapData, RingBuf};
use parking_lot::Mutex;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, broadcast},
};
use tokio_util::sync::CancellationToken;
use truename_common::layout::{Counter, Event, EventKind};

use crate::{
    api::{Clock, EventRow},
    daemon::{
        Current, RunError,
        limit::{Admitted, Limit},
        rows::event,
    },
};

/// Events that are logged in a second: clients cause them, and must not fill a disk.
const LOGGED: u32 = 100;
/// Events that a slow monitor may be behind.
pub const BACKLOG: usize = 4096;

/// Where events go.
pub struct EventReader {
    pub config: Current,
    /// Whoever monitors.
    pub events: broadcast::Sender<EventRow>,
    /// Is told of connections that found the table full.
    pub full: Arc<Notify>,
    /// Connections that were refused, by service.
    pub refused: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl EventReader {
    /// Reads events until it is told to stop.
    pub async fn run(
        self,
        ring: RingBuf<MapData>,
        stop: CancellationToken,
    ) -> Result<(), RunError> {
        // SAFETY: the ring buffer owns its descriptor, keeps it open and always returns the same one.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let mut ring = ring.map_err(|error| RunError::Events(error.into()))?;
        let mut limit = Limit::new(LOGGED);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                guard = ring.readable_mut() => {
                    let mut guard = guard.map_err(RunError::Events)?;
                    self.read_all(guard.get_inner_mut(), &mut limit);
                    guard.clear_ready();
                }
            }
        }
    }

    fn read_all(&self, ring: &mut RingBuf<MapData>, limit: &mut Limit) {
        let clock = Clock::read();
        let config = Arc::clone(&self.config.borrow());
        while let Some(item) = ring.next() {
            let Some(event) = parse(&item) else {
                log::warn!("An event of {} bytes is not of this version", item.len());
                continue;
            };
            let row = event::event(&config, &clock, &event);
            if event.kind == EventKind::Refused as u32 {
                self.refused(&event, &row);
            }
            match limit.admit(Instant::now()) {
                Admitted::Yes => log::info!("{}", event::sentence(&row)),
                Admitted::After(unlogged) => {
                    log::warn!("{unlogged} event(s) were not logged: there were too many");
                    log::info!("{}", event::sentence(&row));
                }
                Admitted::No => {}
            }
            // An error means that nobody monitors.
            let _ = self.events.send(row);
        }
    }

    fn refused(&self, event: &Event, row: &EventRow) {
        if event.detail == Counter::NatTableFull as u32 {
            self.full.notify_one();
        }
        let mut refused = self.refused.lock();
        *refused.entry(row.endpoint.clone()).or_default() += 1;
    }
}

fn parse(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: there are enough bytes, every bit pattern is an Event (it is aya::Pod), and the
    // read does not need alignment.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}
