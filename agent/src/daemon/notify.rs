//! What the service manager is told (`sd_notify(3)`). Without one, nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The agent works; `status` is a sentence for people.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again. [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("Cannot read the clock: {error}"),
    }
}

/// The agent ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The agent is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// When to tell that the agent is alive: twice as often as the service manager wants it; None if it does
/// not ask.
pub fn watchdog() -> Option<Interval> {
    let period = sd_notify::watchdog_enabled()? / 2;
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("Cannot notify the service manager: {error}");
    }
}
