//! Connections that have not carried data: small entries, so that strangers' SYNs cost little.
//!
//! A handshake is confirmed when the endpoint has acknowledged the client's SYN: nobody off the path knows
//! what to acknowledge (RFC 5961, RFC 6528). What TCP would ignore changes nothing here.

use super::stream::Direction;
use crate::layout::{DirectionState, Handshake};

/// Bits of [`Handshake::flags`].
pub mod state {
    /// [`super::Handshake::client_next`] is known.
    pub const CLIENT: u32 = 1;
    /// The endpoint has answered.
    pub const CONFIRMED: u32 = 2;
    /// [`super::Handshake::pending_next`] is known.
    pub const PENDING: u32 = 4;
    /// The first data was no frame.
    pub const LEFT_ALONE: u32 = 8;
    /// The endpoint has answered the pending one.
    pub const PENDING_CONFIRMED: u32 = 16;
}

/// An unanswered SYN gives way to another one after this time.
const EMBRYONIC_NS: u64 = 60_000_000_000;
/// Data that a SYN can carry, which its answer acknowledges with it (RFC 7413).
const SYN_DATA: u32 = 1 << 16;
/// How far behind the handshake the first data that is seen can be.
const FIRST_DATA: u32 = 16 << 20;

impl Handshake {
    #[inline(always)]
    const fn is(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Takes a SYN of the client; `next` is the sequence number behind it.
    #[inline(always)]
    pub fn syn(&mut self, next: u32, scale: u32, now_ns: u64) {
        let is_old = now_ns.wrapping_sub(self.seen_ns) > EMBRYONIC_NS && !self.is(state::CONFIRMED);
        if !self.is(state::CLIENT) || is_old {
            *self = Self {
                client_next: next,
                flags: state::CLIENT,
                scales: [scale, DirectionState::NO_SCALE],
                ..*self
            };
        } else if self.client_next != next
            && (!self.is(state::PENDING) || self.pending_next != next)
        {
            self.pending_next = next;
            self.flags = self.flags & !state::PENDING_CONFIRMED | state::PENDING;
        }
        self.seen_ns = now_ns;
    }

    /// Takes a SYN of the endpoint that acknowledges `ack`. True if it confirms a connection that was not
    /// confirmed before.
    #[inline(always)]
    pub fn syn_ack(&mut self, ack: u32, next: u32, scale: u32) -> bool {
        let answers = |client: u32| ack.wrapping_sub(client) < SYN_DATA;
        if self.is(state::CLIENT) && answers(self.client_next) {
            if self.is(state::CONFIRMED) {
                return false;
            }
            self.endpoint_next = next;
            self.scales[1] = scale;
            self.flags = self.flags & !state::LEFT_ALONE | state::CONFIRMED;
            return true;
        }
        if !self.is(state::PENDING)
            || !answers(self.pending_next)
            || self.is(state::PENDING_CONFIRMED)
        {
            return false;
        }
        // Both may be made up by a stranger: the other one stays.
        self.pending_endpoint = next;
        self.flags = self.flags & !state::LEFT_ALONE | state::PENDING_CONFIRMED;
        true
    }

    /// Data of `way` at `seq` was seen: it tells which of two connections is meant.
    #[inline(always)]
    pub fn settle(&mut self, way: Direction, seq: u32) {
        let is_settled = self.is_confirmed() && self.offset(way, seq).is_some();
        if is_settled || !self.is(state::PENDING_CONFIRMED) {
            return;
        }
        let next = match way {
            Direction::Inbound => self.pending_next,
            Direction::Outbound => self.pending_endpoint,
        };
        if seq.wrapping_sub(next) < FIRST_DATA {
            self.client_next = self.pending_next;
            self.endpoint_next = self.pending_endpoint;
            self.scales = [DirectionState::NO_SCALE; 2];
            self.flags = state::CLIENT | state::CONFIRMED;
        }
    }

    /// Whether both sides have taken part.
    #[inline(always)]
    pub const fn is_confirmed(&self) -> bool {
        self.is(state::CONFIRMED)
    }

    /// Whether the first data of the connection was no frame.
    #[inline(always)]
    pub const fn is_left_alone(&self) -> bool {
        self.is(state::LEFT_ALONE)
    }

    /// How far behind the first byte of its direction `seq` is, if it can belong to this connection.
    #[inline(always)]
    pub fn offset(&self, way: Direction, seq: u32) -> Option<u32> {
        let (next, known) = match way {
            Direction::Inbound => (self.client_next, state::CLIENT),
            Direction::Outbound => (self.endpoint_next, state::CONFIRMED),
        };
        let offset = seq.wrapping_sub(next);
        (self.is(known) && offset < FIRST_DATA).then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Handshake {
        let mut handshake = Handshake::default();
        handshake.syn(1000, 7, 1);
        assert!(handshake.syn_ack(1000, 5000, 8));
        handshake
    }

    #[test]
    fn the_endpoint_confirms_what_the_client_sent() {
        let handshake = opened();
        assert!(handshake.is_confirmed());
        assert_eq!(handshake.offset(Direction::Inbound, 1000), Some(0));
        assert_eq!(handshake.offset(Direction::Outbound, 5010), Some(10));
        assert_eq!(handshake.offset(Direction::Outbound, 4999), None);
        assert_eq!(handshake.scales, [7, 8]);
    }

    #[test]
    fn a_blind_syn_does_not_replace_a_connection() {
        let mut handshake = opened();
        handshake.syn(77, 0, 2);
        assert_eq!(handshake.offset(Direction::Inbound, 1000), Some(0));
        // The endpoint answers it with an acknowledgement, never with a SYN.
        assert!(!handshake.syn_ack(1000, 6000, 0));
        assert_eq!(handshake.offset(Direction::Outbound, 5000), Some(0));
    }

    #[test]
    fn a_blind_syn_and_ack_confirms_nothing() {
        let mut handshake = Handshake::default();
        handshake.syn(1000, 7, 1);
        assert!(!handshake.syn_ack(900_000, 5000, 8));
        assert!(!handshake.is_confirmed());
    }

    #[test]
    fn the_next_connection_of_the_same_ports_is_confirmed_by_its_answer() {
        let mut handshake = opened();
        handshake.syn(77, 3, 2);
        assert!(handshake.syn_ack(77, 6000, 4));
        handshake.settle(Direction::Inbound, 77);
        assert_eq!(handshake.offset(Direction::Inbound, 77), Some(0));
        assert_eq!(handshake.offset(Direction::Outbound, 6000), Some(0));
    }

    #[test]
    fn a_forged_handshake_replaces_none() {
        let mut handshake = opened();
        handshake.syn(9_000_000, 1, 2);
        handshake.syn_ack(9_000_000, 700_000_000, 1);
        handshake.settle(Direction::Inbound, 1000);
        assert_eq!(handshake.offset(Direction::Inbound, 1000), Some(0));
        handshake.settle(Direction::Outbound, 5000);
        assert_eq!(handshake.offset(Direction::Outbound, 5000), Some(0));
    }

    #[test]
    fn a_forged_handshake_before_the_real_one_does_not_hide_it() {
        let mut handshake = Handshake::default();
        handshake.syn(900_000_000, 1, 1);
        handshake.syn(1000, 7, 2);
        assert!(handshake.syn_ack(900_000_000, 700_000_000, 1));
        assert!(handshake.syn_ack(1000, 5000, 8));
        handshake.settle(Direction::Inbound, 1000);
        assert_eq!(handshake.offset(Direction::Inbound, 1000), Some(0));
        assert_eq!(handshake.offset(Direction::Outbound, 5000), Some(0));
    }

    #[test]
    fn a_blind_syn_before_the_real_one_does_not_hide_it() {
        let mut handshake = Handshake::default();
        handshake.syn(900_000_000, 0, 1);
        handshake.syn(1000, 7, 2);
        assert!(handshake.syn_ack(1000, 5000, 8));
        handshake.settle(Direction::Outbound, 5000);
        assert_eq!(handshake.offset(Direction::Inbound, 1000), Some(0));
    }
}
