//! From the kernel's ring buffer to the log and to whoever monitors.

use std::{sync::Arc, time::Instant};

use aya::maps::{MapData, RingBuf};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, broadcast},
};
use tokio_util::sync::CancellationToken;
use truename_common::layout::{Counter, Event, EventKind};

use super::{
    RunError,
    limit::{Admitted, Limit},
    view,
};
use crate::{
    api::{Clock, EventRow},
    config::Config,
    datapath::{Pins, Tables},
};

/// Events that are logged in a second: clients cause them, and must not fill a disk.
const LOGGED: u32 = 100;
/// Events that a slow monitor may be behind.
pub const BACKLOG: usize = 4096;

/// Reads events until it is told to stop. `full` is told of connections that found the table full.
pub async fn drain(
    pins: Pins,
    config: Arc<Config>,
    events: broadcast::Sender<EventRow>,
    full: Arc<Notify>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let ring = Tables::events(&pins)?;
    // SAFETY: the ring buffer owns its descriptor, keeps it open and always returns the same one.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    let mut ring = ring.map_err(|error| RunError::Events(error.into()))?;
    let mut limit = Limit::new(LOGGED);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            guard = ring.readable_mut() => {
                let mut guard = guard.map_err(RunError::Events)?;
                let refused = read_all(guard.get_inner_mut(), &config, &events, &mut limit);
                if refused {
                    full.notify_one();
                }
                guard.clear_ready();
            }
        }
    }
}

/// Whether one of them tells that the table of connections is full.
fn read_all(
    ring: &mut RingBuf<MapData>,
    config: &Config,
    events: &broadcast::Sender<EventRow>,
    limit: &mut Limit,
) -> bool {
    let clock = Clock::read();
    let mut full = false;
    while let Some(item) = ring.next() {
        let Some(event) = parse(&item) else {
            log::warn!("An event of {} bytes is not of this version", item.len());
            continue;
        };
        full |=
            event.kind == EventKind::Refused as u32 && event.detail == Counter::NatTableFull as u32;
        let row = view::event(config, &clock, &event);
        match limit.admit(Instant::now()) {
            Admitted::Yes => log::info!("{}", view::sentence(&row)),
            Admitted::After(unlogged) => {
                log::warn!("{unlogged} event(s) were not logged: there were too many");
                log::info!("{}", view::sentence(&row));
            }
            Admitted::No => {}
        }
        // An error means that nobody monitors.
        let _ = events.send(row);
    }
    full
}

fn parse(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: there are enough bytes, every bit pattern is an Event (it is aya::Pod), and the
    // read does not need alignment.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}
