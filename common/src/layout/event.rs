use super::{Authority, FiveTuple, plain};

/// What an [`Event`] tells. New kinds are appended; numbers never change.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A client used an alias for the first time; `text` is the alias.
    AliasSeen = 1,
    /// The alias in `text` is longer than the canonical name.
    NoFit = 2,
    /// Bytes of the flow passed unseen; walking began again. `detail` is 0 inbound, 1 outbound.
    Resynchronised = 3,
    /// The flow was found in the middle and is translated from here on.
    Adopted = 4,
    /// The flow is left alone; `detail` is the [`super::Counter`] that says why.
    LeftAlone = 5,
    /// The endpoint announced the canonical name in `text`.
    CanonicalLearned = 6,
    /// A client announced the name in `text`.
    PeerSeen = 7,
    /// A translation was a guess that proved wrong; the connection was reset.
    Reset = 8,
    /// A new connection to a service was refused; `detail` is the [`super::Counter`] that says why,
    /// `flow` what the client sees.
    Refused = 9,
    /// A connection was evicted to make room; `flow` is what the target sees.
    Evicted = 10,
}

impl EventKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: &'static [Self] = &[
        Self::AliasSeen,
        Self::NoFit,
        Self::Resynchronised,
        Self::Adopted,
        Self::LeftAlone,
        Self::CanonicalLearned,
        Self::PeerSeen,
        Self::Reset,
        Self::Refused,
        Self::Evicted,
    ];

    /// The name in `monitor`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AliasSeen => "alias_seen",
            Self::NoFit => "no_fit",
            Self::Resynchronised => "resynchronised",
            Self::Adopted => "adopted",
            Self::LeftAlone => "left_alone",
            Self::CanonicalLearned => "canonical_learned",
            Self::PeerSeen => "peer_seen",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Evicted => "evicted",
        }
    }

    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| *kind as u32 == number)
    }
}

/// One entry of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
    /// An [`EventKind`].
    pub kind: u32,
    /// Depends on the kind.
    pub detail: u32,
    pub flow: FiveTuple,
    pub text: Authority,
    pub pad: [u8; 6],
}

plain!(Event = 320);
