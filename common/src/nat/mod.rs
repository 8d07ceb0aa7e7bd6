//! Network address translation: which target, which source port, which connection.
//!
//! The kernel program and `truename explain` run the same code over the same tables
//! ([`Tables`]), so that they cannot disagree.

mod hash;
mod lookup;
mod port;
mod slots;
mod tcp;

pub use hash::hash;
pub use lookup::{Choice, Tables, choose, choose_number, key, set_key};
pub use port::{
    MAX_PORT_TRIES, TRIED_DIRECT, TRIED_HALF, TRIED_WRITTEN, source_port, tried_bits,
    tried_position,
};
pub use slots::{Weighted, fill};
pub use tcp::{Numbers, Segment, next_state, note_segment};

use crate::layout::{
    Conntrack, ConntrackState, Service, Settings, TCP, UDP, conntrack_flags, conntrack_marks,
    service_flags,
};

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Whether a connection has been silent for longer than its state allows.
#[inline(always)]
pub fn is_expired(entry: &Conntrack, settings: &Settings, now_ns: u64) -> bool {
    let timeout = settings.timeouts[usize::from(entry.state & 7)];
    now_ns.saturating_sub(entry.seen_ns) > u64::from(timeout) * SECOND_NS
}

/// Whether a new connection may take the place of this one, the target having forgotten it: it is
/// expired, or it is over, the target did not have to wait (TIME_WAIT is for whoever closes first),
/// and nothing of it is on the way any more.
#[inline(always)]
pub fn is_replaceable(entry: &Conntrack, settings: &Settings, now_ns: u64) -> bool {
    let is_forgotten = entry.state == ConntrackState::TimeWait as u8
        && entry.flags & conntrack_flags::CLIENT_FIRST != 0
        && now_ns.saturating_sub(entry.seen_ns) > SECOND_NS;
    is_forgotten || is_expired(entry, settings, now_ns)
}

/// XDP leaves a packet of each direction to tc once in two to this many nanoseconds, four seconds: the kernel asks again for
/// the link address of a neighbour only for packets that pass its stack.
pub const TURN_SHIFT: u32 = 32;

/// The marks of a connection after a packet that tc sees, or whose turn it is to be seen there.
#[inline(always)]
pub const fn take_turn(marks: u8, from_client: bool, now_ns: u64) -> u8 {
    let shift = if from_client {
        conntrack_marks::TURN_CLIENT
    } else {
        conntrack_marks::TURN_TARGET
    };
    let turn = (now_ns >> TURN_SHIFT) as u8 & 3;
    marks & !(3 << shift) | turn << shift
}

/// Whether a new connection that finds no free source port, or no room, may take that of this one: both sides had time to
/// make it one, and did not. So a flood of first packets takes ports and room for some seconds, not for as long as an answer
/// is awaited, whether the target answers or not. An exchange of a question and an answer over UDP is over by then. (In
/// Linux' conntrack these are the entries that are not assured.)
#[inline(always)]
pub fn gives_way(entry: &Conntrack, now_ns: u64) -> bool {
    const BEGINNING_S: u64 = 2;
    let silent_ns = now_ns.saturating_sub(entry.seen_ns);
    let created_s = u64::from(entry.created_s);
    match ConntrackState::from_number(entry.state) {
        ConntrackState::SynSent | ConntrackState::Unreplied => silent_ns > SECOND_NS,
        // The target repeats its answer after a second, after two more, and so on.
        ConntrackState::SynReceived => {
            silent_ns > SECOND_NS / 2 && now_ns / SECOND_NS >= created_s + BEGINNING_S
        }
        ConntrackState::Replied => {
            silent_ns > BEGINNING_S * SECOND_NS
                && entry.seen_ns / SECOND_NS < created_s + BEGINNING_S
        }
        _ => false,
    }
}

/// Which connections make room in a full table, in the order in which they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spare {
    /// Those that may be replaced anyway; see [`is_replaceable`].
    Replaceable,
    /// Those that did not become connections; see [`gives_way`].
    Begun,
    /// Those that are over.
    Over,
    /// Those that the target has not answered.
    Unanswered,
}

impl Spare {
    /// All, in their order.
    pub const ALL: [Self; 4] = [Self::Replaceable, Self::Begun, Self::Over, Self::Unanswered];

    /// The one with this number; of others the last.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Replaceable,
            1 => Self::Begun,
            2 => Self::Over,
            _ => Self::Unanswered,
        }
    }

    /// Whether they go only where `when_full = "evict"` says so.
    #[inline(always)]
    pub const fn is_evicted(self) -> bool {
        matches!(self, Self::Over | Self::Unanswered)
    }

    /// Whether a connection is one of these.
    #[inline(always)]
    pub fn has(self, entry: &Conntrack, settings: &Settings, now_ns: u64) -> bool {
        let state = ConntrackState::from_number(entry.state);
        match self {
            Self::Replaceable => is_replaceable(entry, settings, now_ns),
            Self::Begun => gives_way(entry, now_ns),
            Self::Over => matches!(state, ConntrackState::TimeWait | ConntrackState::Closed),
            Self::Unanswered => {
                matches!(state, ConntrackState::SynSent | ConntrackState::Unreplied)
            }
        }
    }
}

/// Whether a connection that was found by this choice is given up for a new one with the same addresses:
/// it is over, and its service chooses another target now.
#[inline(always)]
pub fn is_left(state: u8, choice: Choice) -> bool {
    let state = ConntrackState::from_number(state);
    let is_over = matches!(state, ConntrackState::TimeWait | ConntrackState::Closed);
    is_over && !matches!(choice, Choice::Current)
}

/// Whether a packet is the first one of a connection, as its sender means it. `segment` is ignored for
/// UDP.
#[inline(always)]
pub fn is_first(protocol: u8, segment: Segment) -> bool {
    protocol != TCP || segment.syn && !(segment.ack || segment.rst || segment.fin)
}

/// Whether any TCP packet to `service` but a RST begins a connection if it has none.
#[inline(always)]
pub const fn takes_any(service: &Service) -> bool {
    service.flags & (service_flags::RESET | service_flags::UNASSIGNED) != 0
}

/// Whether a packet to `service` that has no connection begins one.
#[inline(always)]
pub fn begins(service: &Service, protocol: u8, segment: Segment) -> bool {
    takes_any(service) && !segment.rst || is_first(protocol, segment)
}

/// Who seems to have reset a connection, after a segment of it: bits of [`conntrack_marks`]. A connection whose side goes
/// on that seemed to have sent the RST was not reset: a stranger made it up. The state is then what it is without.
#[inline(always)]
pub fn reset_by(state: u8, marks: u8, from_client: bool, segment: Segment) -> (u8, u8) {
    let own = if from_client {
        conntrack_marks::RST_CLIENT
    } else {
        conntrack_marks::RST_TARGET
    };
    let both = conntrack_marks::RST_CLIENT | conntrack_marks::RST_TARGET;
    if segment.rst {
        (state, marks | own)
    } else if segment.syn {
        (state, marks & !both)
    } else if state == ConntrackState::Closed as u8 && marks & own != 0 && segment.ack {
        (ConntrackState::Established as u8, marks & !both)
    } else {
        (state, marks)
    }
}

/// State and flags of a connection after a packet of it. `segment` is ignored for UDP.
#[inline(always)]
pub fn advance(
    protocol: u8,
    state: u8,
    flags: u8,
    from_client: bool,
    segment: Segment,
) -> (u8, u8) {
    if protocol == UDP {
        let next = if from_client {
            state
        } else {
            ConntrackState::Replied as u8
        };
        return (next, flags);
    }
    let fin =
        conntrack_flags::FIN_CLIENT | conntrack_flags::FIN_TARGET | conntrack_flags::CLIENT_FIRST;
    let (next, fins) = next_state(
        ConntrackState::from_number(state),
        flags & fin,
        from_client,
        segment,
    );
    (next as u8, flags & !fin | fins)
}
