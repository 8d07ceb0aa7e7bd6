//! What is over: which connections and flows are forgotten, and which make room when the table is
//! full. Pure.

use std::time::Duration;

use truename_common::{
    layout::{Conntrack, ConntrackState as State, FiveTuple, Handshake, Settings},
    nat,
};

use crate::daemon::expiry::silence;

/// A connection that has carried nothing for so long after its SYN is forgotten.
const OPENING: Duration = Duration::from_secs(60);
/// The part of the table that is free after an eviction, and that must be used before one.
const ROOM: usize = 16;

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcDecision {
    /// It lives.
    Keep,
    /// It was silent for longer than its state allows.
    Forget,
}

/// Whether a connection is over at `now_ns` of the kernel's clock.
pub fn verdict(entry: &Conntrack, now_ns: u64, settings: &Settings) -> GcDecision {
    if nat::is_expired(entry, settings, now_ns) {
        GcDecision::Forget
    } else {
        GcDecision::Keep
    }
}

/// Whether a connection has carried nothing for too long. One that is left alone stays, until the table is full.
pub fn is_handshake_over(handshake: &Handshake, now_ns: u64) -> bool {
    silence(handshake.seen_ns, now_ns) > OPENING && !handshake.is_left_alone()
}

/// The connections that make room.
#[derive(Debug)]
pub struct Evicted {
    /// How many are enough.
    wanted: usize,
    /// By how little they are missed, and their key. The first of a state beyond need are let go.
    candidates: std::collections::BTreeSet<(u8, u64, FiveTuple)>,
}

impl Evicted {
    /// None, or as many as leave a sixteenth of the table free. `used` entries of `capacity` are used;
    /// with `refused`, a connection was refused for want of room.
    pub fn new(used: usize, capacity: usize, refused: bool) -> Self {
        let room = capacity.div_ceil(ROOM);
        let limit = capacity.saturating_sub(room);
        let wanted = if used > limit || refused {
            used.saturating_sub(limit)
        } else {
            0
        };
        Self {
            wanted,
            candidates: std::collections::BTreeSet::new(),
        }
    }

    /// Whether there is anything to evict.
    pub const fn is_needed(&self) -> bool {
        self.wanted > 0
    }

    /// Considers a connection.
    pub fn consider(&mut self, key: FiveTuple, entry: &Conntrack) {
        self.candidates.insert((rank(entry), entry.seen_ns, key));
        if self.candidates.len() > self.wanted {
            self.candidates.pop_last();
        }
    }

    /// Those that go, the least missed first, with when they were seen last.
    pub fn into_keys(self) -> impl Iterator<Item = (FiveTuple, u64)> {
        self.candidates
            .into_iter()
            .map(|(_, seen_ns, key)| (key, seen_ns))
    }
}

/// What is over goes first, then what has not begun, then what lives; within each, the oldest.
const fn rank(entry: &Conntrack) -> u8 {
    match State::from_number(entry.state) {
        State::Closed | State::TimeWait => 0,
        State::SynSent | State::Unreplied => 1,
        State::SynReceived | State::HalfClosed => 2,
        State::Established | State::Replied => 3,
    }
}

#[cfg(test)]
mod tests {
    use truename_common::wire::handshake;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn settings() -> Settings {
        Settings {
            timeouts: crate::config::Timeouts::default().0,
            ..Settings::default()
        }
    }

    fn entry(state: State, seen_ns: u64) -> Conntrack {
        Conntrack {
            state: state as u8,
            seen_ns,
            ..Conntrack::default()
        }
    }

    fn key(client_port: u16) -> FiveTuple {
        FiveTuple {
            client_port,
            ..FiveTuple::default()
        }
    }

    #[test]
    fn a_connection_lives_as_long_as_its_state_allows() {
        let settings = settings();
        let begin = 1000 * SECOND;
        for state in State::ALL {
            let timeout = u64::from(settings.timeouts[state as usize]) * SECOND;
            let entry = entry(state, begin);
            for (now, expected) in [
                // The clock of another processor may be ahead.
                (begin - SECOND, GcDecision::Keep),
                (begin, GcDecision::Keep),
                (begin + timeout, GcDecision::Keep),
                (begin + timeout + 1, GcDecision::Forget),
            ] {
                assert_eq!(verdict(&entry, now, &settings), expected, "{state:?}");
            }
        }
    }

    #[test]
    fn a_connection_without_data_is_forgotten_after_a_minute() {
        let minute = 60 * SECOND;
        let opened = |flags, seen_ns| Handshake {
            flags,
            seen_ns,
            ..Handshake::default()
        };
        let now = 200 * minute;
        assert!(!is_handshake_over(&opened(0, now - minute), now));
        assert!(!is_handshake_over(&opened(0, now + 5), now));
        assert!(is_handshake_over(&opened(0, now - minute - 1), now));
        let left_alone = opened(handshake::state::LEFT_ALONE, 0);
        assert!(!is_handshake_over(&left_alone, now));
    }

    #[test]
    fn a_sixteenth_is_made_free() {
        assert!(!Evicted::new(150, 160, false).is_needed());
        assert_eq!(Evicted::new(151, 160, false).wanted, 1);
        assert_eq!(Evicted::new(160, 160, true).wanted, 10);
        assert_eq!(Evicted::new(16, 16, true).wanted, 1);
        // The refused connection came while the table was full; now it is not.
        assert!(!Evicted::new(100, 160, true).is_needed());
    }

    #[test]
    fn the_least_missed_go_first() {
        let mut evicted = Evicted::new(16 + 4, 21, true);
        assert_eq!(evicted.wanted, 1);
        evicted.wanted = 4;
        for (port, state, seen) in [
            (1, State::Established, 1),
            (2, State::TimeWait, 50),
            (3, State::SynSent, 40),
            (4, State::Unreplied, 30),
            (5, State::Replied, 2),
            (6, State::Closed, 60),
            (7, State::SynSent, 45),
        ] {
            evicted.consider(key(port), &entry(state, seen));
        }
        let ports: Vec<_> = evicted
            .into_keys()
            .map(|(key, _)| key.client_port)
            .collect();
        assert_eq!(ports, [2, 6, 4, 3]);
    }
}
