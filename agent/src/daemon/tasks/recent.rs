//! What the kernel counted in the last minute: problems are about now, not about all that ever was.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use truename_common::layout::Counter;

use crate::{
    daemon::RunError,
    datapath::{DatapathError, Pins, Tables},
};

/// How often the counters are read.
const EVERY: Duration = Duration::from_secs(10);
/// What is recent.
const RECENT: Duration = Duration::from_secs(60);

/// Every counter.
pub type Counters = Vec<(Counter, u64)>;

/// What the counters were, for a minute.
#[derive(Clone, Default)]
pub struct Recent(Arc<Mutex<VecDeque<(Instant, Counters)>>>);

impl Recent {
    /// Reads the counters until it is told to stop.
    pub async fn run(self, pins: Pins, stop: CancellationToken) -> Result<(), RunError> {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let pins = pins.clone();
            let read =
                move || -> Result<Counters, DatapathError> { Tables::open(&pins)?.counters() };
            match tokio::task::spawn_blocking(read).await? {
                Ok(counters) => self.note(Instant::now(), counters),
                // Others tell that tables cannot be read.
                Err(error) => log::debug!("{error}"),
            }
        }
    }

    /// What was counted lately, given what is counted now. What was counted before the agent started is not known to be recent.
    pub fn since(&self, now: &[(Counter, u64)]) -> Counters {
        let history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = |counter| {
            let (_, oldest) = history.front()?;
            oldest.iter().find(|(known, _)| *known == counter)
        };
        let recent = now.iter().map(|(counter, now)| {
            let before = before(*counter).map_or(*now, |(_, before)| *before);
            (*counter, now.saturating_sub(before))
        });
        recent.collect()
    }

    fn note(&self, at: Instant, counters: Counters) {
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        history.push_back((at, counters));
        // The one that is a minute old, or as old as the agent, stays.
        while history
            .get(1)
            .is_some_and(|(next, _)| at.duration_since(*next) >= RECENT)
        {
            history.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let recent = Recent::default();
        let begin = Instant::now();
        let full = |value| vec![(Counter::TableFull, value)];
        assert_eq!(recent.since(&full(7)), full(0), "nothing is known yet");
        recent.note(begin, full(7));
        assert_eq!(recent.since(&full(9)), full(2));
        for seconds in [10, 20, 30, 40, 50, 60] {
            recent.note(begin + Duration::from_secs(seconds), full(9));
        }
        // The first one that knows of it is now a minute old.
        assert_eq!(recent.since(&full(9)), full(2));
        recent.note(begin + Duration::from_secs(70), full(9));
        assert_eq!(recent.since(&full(9)), full(0));
        assert_eq!(recent.0.lock().unwrap().len(), 7);
        // The table was made anew.
        assert_eq!(recent.since(&full(1)), full(0));
    }
}
