//! Hearing of a new configuration file.

use std::{io, path::Path, path::PathBuf, time::Duration};

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often it is looked whether a directory is there that was not.
const AGAIN: Duration = Duration::from_secs(30);

/// Watches a directory: editors and Kubernetes put another file in the place of the old one.
pub struct Watch {
    directory: PathBuf,
    events: Option<EventStream<[u8; 4096]>>,
    again: Interval,
}

impl Watch {
    /// Watches from now on, or from when the directory is there.
    pub fn new(directory: &Path) -> Self {
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        again.reset();
        Self {
            directory: directory.to_owned(),
            events: open(directory).ok(),
            again,
        }
    }

    /// Returns when a file may be another one. Nothing is lost if the future is dropped.
    pub async fn changed(&mut self) {
        loop {
            let Some(events) = &mut self.events else {
                self.again.tick().await;
                if let Ok(events) = open(&self.directory) {
                    self.events = Some(events);
                    // It may have come with the directory.
                    return;
                }
                continue;
            };
            match events.next().await {
                Some(Ok(event)) if !event.mask.contains(EventMask::IGNORED) => return,
                _ => self.events = None,
            }
        }
    }
}

/// A file that is not complete yet is none of these.
fn open(directory: &Path) -> io::Result<EventStream<[u8; 4096]>> {
    let inotify = Inotify::init()?;
    let whole = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO;
    inotify.watches().add(directory, whole)?;
    inotify.into_event_stream([0; 4096])
}
