//! Keeps the names plane as the configuration and the topology want it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Moment,
    config::NamesPlane,
    daemon::{
        Current, RunError,
        retry::{Problem, Retry},
    },
    datapath::{Capture, DatapathError, Pins},
    discovery::Snapshot,
    dns::{Counters, Server, Zone},
};

/// Serves names.
pub struct Plane {
    config: Current,
    topology: watch::Receiver<Snapshot>,
    zone: watch::Sender<Arc<Zone>>,
    counters: Arc<Counters>,
    /// What is served, and by whom; none while sockets cannot be bound.
    serving: Option<(NamesPlane, Server)>,
    retry: Retry,
    pins: Pins,
    /// What the kernel program answers, and the zone that this was made from; none where it answers nothing, or its tables
    /// cannot be written.
    capture: Option<(Capture, Arc<Zone>)>,
    capturing: Retry,
    /// The generation of the topology that the zone was made from, and when.
    followed: Option<(u64, Instant)>,
}

/// Of several addresses of a name, the one that was confirmed last counts after this time.
const REFRESH: Duration = Duration::from_secs(5);
/// How often the kernel program is told that the agent is there, and how long it counts as such.
const BEAT: Duration = Duration::from_secs(1);
const ALIVE: Duration = Duration::from_secs(3);

impl Plane {
    /// Nothing is served yet.
    pub fn new(config: Current, topology: watch::Receiver<Snapshot>, pins: Pins) -> Self {
        Self {
            config,
            topology,
            zone: watch::Sender::default(),
            counters: Arc::default(),
            serving: None,
            retry: Retry::new("names are not served"),
            pins,
            capture: None,
            capturing: Retry::new("questions of containers are not answered"),
            followed: None,
        }
    }

    /// Counts the questions.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Where it is told what fails.
    pub fn problems(&self) -> [Problem; 2] {
        [self.retry.problem(), self.capturing.problem()]
    }

    /// Serves until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let config = Arc::clone(&self.config.borrow_and_update());
            self.serve(config.names.clone()).await;
            self.follow();
            self.answer(config.captures_names());
            tokio::select! {
                () = stop.cancelled() => {
                    // What fails here ends by itself.
                    self.answer(false);
                    return Ok(());
                }
                _ = beats.tick() => {}
                () = self.capturing.due() => {}
                Ok(()) = self.topology.changed() => {}
                Ok(()) = self.config.changed() => {}
                () = self.retry.due() => {}
            }
        }
    }

    /// Has the kernel program answer for the zone, for a while; or not.
    fn answer(&mut self, is_wanted: bool) {
        let done = match (is_wanted, self.capture.take()) {
            (true, capture) => self.go_on(capture),
            (false, Some((mut capture, _))) => capture.until(Moment::default()),
            (false, None) => Ok(()),
        };
        match done {
            Ok(()) => self.capturing.succeeded(),
            Err(error) => self.capturing.failed(Some(error.to_string())),
        }
    }

    fn go_on(&mut self, capture: Option<(Capture, Arc<Zone>)>) -> Result<(), DatapathError> {
        let zone = Arc::clone(&self.zone.borrow());
        let mut capture = match capture {
            // A zone that says the same as the one before is not put in its place.
            Some((capture, written)) if Arc::ptr_eq(&written, &zone) => capture,
            other => {
                let mut capture = match other {
                    Some((capture, _)) => capture,
                    None => Capture::open(&self.pins)?,
                };
                capture.follow(zone.hosts())?;
                capture
            }
        };
        capture.until(Moment::now().after(ALIVE))?;
        self.capture = Some((capture, zone));
        Ok(())
    }

    /// Brings the zone to what is known. That a source confirms what it said brings nothing new for a while.
    fn follow(&mut self) {
        let (generation, topology) = {
            let snapshot = self.topology.borrow_and_update();
            (snapshot.generation, Arc::clone(&snapshot.topology))
        };
        let is_known = |(known, at): (u64, Instant)| known == generation && at.elapsed() < REFRESH;
        if self.followed.is_some_and(is_known) {
            return;
        }
        self.followed = Some((generation, Instant::now()));
        let zone = Zone::of(&topology);
        self.zone.send_if_modified(|known| {
            let is_new = **known != zone;
            if is_new {
                *known = Arc::new(zone);
            }
            is_new
        });
    }

    async fn serve(&mut self, wanted: NamesPlane) {
        let is_served = self
            .serving
            .as_ref()
            .is_some_and(|(names, _)| *names == wanted);
        if is_served {
            return;
        }
        // Its sockets are free before others are bound.
        if self.serving.take().is_some() {
            tokio::task::yield_now().await;
        }
        if wanted.listen.is_empty() {
            self.retry.succeeded();
            return;
        }
        let (zone, counters) = (self.zone.subscribe(), Arc::clone(&self.counters));
        match Server::start(&wanted.listen, &wanted.upstream, zone, counters).await {
            Ok(server) => {
                let at: Vec<_> = wanted.listen.iter().map(ToString::to_string).collect();
                log::info!("Names of the cluster are served on {}", at.join(", "));
                self.serving = Some((wanted, server));
                self.retry.succeeded();
            }
            Err(why) => self.retry.failed(Some(why)),
        }
    }
}
