//! Noticing tasks that hang: each says what it waits for, and a thread of its own looks whether it gets any further.
//!
//! The thread counts its own looks instead of reading a clock, so that an agent that was stopped for a while, or a host that slept, is
//! not taken for one that hangs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// Looks without progress after which a task hangs.
const PATIENCE: u32 = 5;

/// The tasks of the agent.
#[derive(Clone, Default)]
pub struct Pulses(Arc<Mutex<BTreeMap<&'static str, Work>>>);

/// What a task does.
#[derive(Default)]
struct Work {
    /// What it waits for; none if it waits for events, which may take any time.
    what: Option<&'static str>,
    /// Looks since it began.
    looks: u32,
}

/// Says what a task does.
#[derive(Clone)]
pub struct Pulse {
    pulses: Pulses,
    name: &'static str,
}

/// A task does something as long as this lives.
pub struct Busy<'a> {
    pulse: &'a Pulse,
    before: Option<&'static str>,
}

impl Pulses {
    /// Starts to look, until the last handle of these is dropped.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn watched() -> std::io::Result<Self> {
        let pulses = Self::default();
        let watched = Arc::downgrade(&pulses.0);
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                while look(&watched) {
                    thread::sleep(LOOK);
                }
            })?;
        Ok(pulses)
    }

    /// That of a task.
    pub fn of(&self, name: &'static str) -> Pulse {
        let pulse = Pulse {
            pulses: self.clone(),
            name,
        };
        pulse.set(None);
        pulse
    }

    /// Shows that the threads which run tasks still do so; for ever.
    pub async fn beat(self) {
        let pulse = self.of("runtime");
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pulse.set(Some("a thread that runs tasks"));
            ticks.tick().await;
        }
    }

    /// The tasks that hang, a sentence each.
    pub fn hanging(&self) -> Vec<String> {
        let works = self.lock();
        let hanging = works.iter().filter(|(_, work)| work.looks >= PATIENCE);
        hanging
            .map(|(name, work)| {
                format!(
                    "the task {name} hangs: it has waited {} s for {}",
                    work.looks,
                    work.what.unwrap_or("nothing")
                )
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pulse {
    /// What the task waits for from now on. It may take some seconds; what takes longer is told.
    pub fn busy(&self, what: &'static str) -> Busy<'_> {
        let before = self.set(Some(what));
        Busy {
            pulse: self,
            before,
        }
    }

    fn set(&self, what: Option<&'static str>) -> Option<&'static str> {
        let mut works = self.pulses.lock();
        let work = works.entry(self.name).or_default();
        if work.looks >= PATIENCE {
            log::warn!("The task {} goes on after {} s", self.name, work.looks);
        }
        work.looks = 0;
        std::mem::replace(&mut work.what, what)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.pulse.set(self.before);
    }
}

/// Looks once; false if nobody has the tasks any more.
fn look(watched: &Weak<Mutex<BTreeMap<&'static str, Work>>>) -> bool {
    let Some(works) = watched.upgrade() else {
        return false;
    };
    let mut works = works.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, work) in works.iter_mut() {
        let Some(what) = work.what else { continue };
        work.looks = work.looks.saturating_add(1);
        if work.looks == PATIENCE {
            log::error!("The task {name} hangs: it has waited {PATIENCE} s for {what}");
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_who_does_not_come_round_and_what_it_waits_for() {
        let pulses = Pulses::default();
        let watched = Arc::downgrade(&pulses.0);
        let (slow, idle) = (pulses.of("slow"), pulses.of("idle"));
        let look = |times: u32| (0..times).for_each(|_| assert!(look(&watched)));
        let busy = slow.busy("the kernel");
        look(PATIENCE - 1);
        assert!(pulses.hanging().is_empty());
        {
            let _inner = slow.busy("a lock");
            look(PATIENCE + 2);
            let told = pulses.hanging();
            assert_eq!(told, ["the task slow hangs: it has waited 7 s for a lock"]);
        }
        assert!(pulses.hanging().is_empty(), "it went on");
        look(PATIENCE);
        assert_eq!(pulses.hanging().len(), 1);
        drop(busy);
        look(10 * PATIENCE);
        assert!(pulses.hanging().is_empty());
        drop((slow, idle, pulses));
        assert!(!super::look(&watched));
    }
}
