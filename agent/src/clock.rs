//! A point in time on the clock that the kernel program uses, too.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: [`crate::api::Clock::at`] makes a date of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
        Self(seconds * 1_000_000_000 + nanoseconds)
    }

    /// From the kernel's nanoseconds.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// As the kernel's nanoseconds.
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to this; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This much later.
    pub fn after(self, duration: Duration) -> Self {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_forward_and_never_below_zero() {
        let (first, second) = (Moment::now(), Moment::now());
        assert!(second >= first);
        assert_eq!(first.since(first.after(Duration::MAX)), Duration::ZERO);
        let later = first.after(Duration::from_secs(3));
        assert_eq!(later.since(first), Duration::from_secs(3));
    }
}
