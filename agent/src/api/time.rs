//! The kernel counts nanoseconds since the host started; people and JSON want dates.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;

/// A point in time; RFC 3339 in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

/// The difference between the kernel's monotonic clock and the calendar.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    monotonic_ns: u64,
    now: jiff::Timestamp,
}

impl Clock {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self {
            monotonic_ns: Moment::now().ns(),
            now: jiff::Timestamp::now(),
        }
    }

    /// The kernel's time of this reading.
    pub const fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns
    }

    /// The calendar's time of a kernel's time; `None` for 0, which stands for never.
    pub fn at(&self, monotonic_ns: u64) -> Option<Timestamp> {
        if monotonic_ns == 0 {
            return None;
        }
        let offset = i128::from(monotonic_ns) - i128::from(self.monotonic_ns);
        // Microseconds are what a person or a script can use.
        let nanoseconds = (self.now.as_nanosecond() + offset) / 1000 * 1000;
        jiff::Timestamp::from_nanosecond(nanoseconds)
            .ok()
            .map(Timestamp)
    }
}

impl Timestamp {
    /// Now.
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        Self(jiff::Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> i64 {
        self.0.as_second()
    }

    /// How long ago it is, for people: `3s`, `12m`, `5h`, `8d`.
    pub fn ago(self) -> String {
        let seconds = jiff::Timestamp::now().as_second() - self.0.as_second();
        duration(seconds.max(0).unsigned_abs())
    }

    /// The time of the day, in UTC, with milliseconds.
    pub fn clock(self) -> String {
        let text = format!("{:.3}", self.0);
        text.split_once('T')
            .map_or(text.clone(), |(_, time)| time.to_owned())
    }
}

/// So many seconds, for people: `3s`, `12m`, `5h`, `8d`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.0)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_and_survives_json() {
        let clock = Clock {
            monotonic_ns: 5_000_000_000,
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        assert_eq!(clock.at(0), None);
        let time = clock.at(6_500_000_000).unwrap();
        assert_eq!(time.to_string(), "1970-01-01T00:00:01.500000Z");
        assert_eq!(time.clock(), "00:00:01.500Z");
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
    }
}
