use super::reset_by;
use crate::layout::{Conntrack, ConntrackState as State, conntrack_flags};

/// What a TCP segment says about its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
}

/// The numbers of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of its first byte.
    pub seq: u32,
    /// Bytes of its payload.
    pub len: u32,
    /// What it acknowledges, if it has that flag.
    pub ack: u32,
}

/// How far a segment may be ahead of what was seen and be believed. Linux has no more in flight unless it is told to;
/// a stranger who guesses has to send a thousand.
const AHEAD: u32 = 1 << 22;

/// Notes what a segment says about sequence numbers and about resets. False if it is a reset that a stranger made up: nothing of it
/// counts then.
///
/// A reset has the number that its receiver expects (RFC 5961 3.2). That is known while everything is acknowledged, as it is when a
/// connection is idle. Else any reset closes the entry for now, and a side that goes on did not send it.
#[inline(always)]
pub fn note_segment(
    entry: &mut Conntrack,
    from_client: bool,
    segment: Segment,
    numbers: Numbers,
) -> bool {
    let is_over = entry.state == State::Closed as u8 || entry.state == State::TimeWait as u8;
    let (own, other) = if from_client { (0, 1) } else { (1, 0) };
    let (end, acked) = (entry.ends[own], entry.acked[other]);
    let is_made_up = end != 0 && end == acked && numbers.seq != end;
    if segment.rst && is_made_up && !is_over {
        return false;
    }
    if segment.rst || is_over {
        let (state, marks) = reset_by(entry.state, entry.marks, from_client, segment);
        entry.state = state;
        entry.marks = marks;
    }
    if segment.rst {
        return true;
    }
    let begins = segment.syn && (is_over || entry.state == State::SynSent as u8);
    if begins && !segment.ack {
        // Nothing is known of the target's.
        (entry.ends, entry.acked) = ([0; 2], [0; 2]);
    }
    let length = numbers.len + u32::from(segment.syn) + u32::from(segment.fin);
    let next = numbers.seq.wrapping_add(length);
    let is_ahead = |of: u32, number: u32| number.wrapping_sub(of).wrapping_sub(1) < AHEAD;
    let is_acceptable =
        is_ahead(end, next) && (acked == 0 || next == acked || is_ahead(acked, next));
    if begins || end == 0 || is_acceptable {
        entry.ends[own] = next;
    }
    let known = entry.acked[own];
    if segment.ack && (begins || known == 0 || is_ahead(known, numbers.ack)) {
        entry.acked[own] = numbers.ack;
    }
    true
}

/// State of a TCP connection and who sent a FIN, after a segment.
///
/// As in Linux' conntrack, but for its window check (see [`note_segment`]). One that is picked up on its way is established as soon as
/// its target answers.
#[inline(always)]
pub fn next_state(state: State, fins: u8, from_client: bool, segment: Segment) -> (State, u8) {
    let is_over = matches!(state, State::TimeWait | State::Closed);
    if segment.rst {
        return (State::Closed, fins);
    }
    if segment.syn {
        return match (from_client, segment.ack) {
            // The next connection of the same addresses, or the first SYN again.
            (true, false) if is_over => (State::SynSent, 0),
            (false, true) if is_over || state as u8 == State::SynSent as u8 => {
                (State::SynReceived, 0)
            }
            _ => (state, fins),
        };
    }
    let fins = match (segment.fin, from_client) {
        (true, true) if fins == 0 => conntrack_flags::FIN_CLIENT | conntrack_flags::CLIENT_FIRST,
        (true, true) => fins | conntrack_flags::FIN_CLIENT,
        (true, false) => fins | conntrack_flags::FIN_TARGET,
        (false, _) => fins,
    };
    let both = conntrack_flags::FIN_CLIENT | conntrack_flags::FIN_TARGET;
    let next = if is_over {
        state
    } else if fins & both == both {
        State::TimeWait
    } else {
        match (state, from_client) {
            // Nothing is known of it but what the client says.
            (State::SynSent, true) => state,
            _ if fins != 0 => State::HalfClosed,
            (State::SynSent, false) | (State::SynReceived, true) if segment.ack => {
                State::Established
            }
            _ => state,
        }
    };
    (next, fins)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes through `segments`, each with who sent it, and tells the states.
    fn walk<const N: usize>(segments: [(bool, &str); N]) -> [State; N] {
        let (mut state, mut fins) = (State::SynSent, 0);
        segments.map(|(from_client, flags)| {
            let segment = Segment {
                syn: flags.contains('S'),
                ack: flags.contains('A'),
                fin: flags.contains('F'),
                rst: flags.contains('R'),
            };
            (state, fins) = next_state(state, fins, from_client, segment);
            state
        })
    }

    #[test]
    fn follows_a_connection_to_its_end() {
        assert_eq!(
            walk([
                (true, "S"),
                (false, "SA"),
                (true, "A"),
                (false, "A"),
                (true, "FA"),
                (false, "A"),
                (false, "FA"),
                (true, "A"),
                (true, "S"),
                (false, "SA"),
            ]),
            [
                State::SynSent,
                State::SynReceived,
                State::Established,
                State::Established,
                State::HalfClosed,
                State::HalfClosed,
                State::TimeWait,
                State::TimeWait,
                State::SynSent,
                State::SynReceived,
            ]
        );
    }

    #[test]
    fn a_reset_closes_and_a_syn_reopens() {
        assert_eq!(
            walk([
                (false, "RA"),
                (true, "A"),
                (true, "S"),
                (false, "SA"),
                (true, "A")
            ]),
            [
                State::Closed,
                State::Closed,
                State::SynSent,
                State::SynReceived,
                State::Established,
            ]
        );
    }

    #[test]
    fn who_goes_on_sent_no_reset() {
        let segment = |flags: &str| Segment {
            syn: flags.contains('S'),
            ack: flags.contains('A'),
            fin: flags.contains('F'),
            rst: flags.contains('R'),
        };
        for (who, flags, expected) in [
            (true, "A", State::Established),
            (true, "", State::Closed),
            (true, "R", State::Closed),
            // Sent before the other side knew.
            (false, "A", State::Closed),
        ] {
            let mut marks = 0;
            let mut state = State::Established as u8;
            for (from_client, segment) in [(true, segment("R")), (who, segment(flags))] {
                (state, marks) = crate::nat::reset_by(state, marks, from_client, segment);
                (state, _) =
                    crate::nat::advance(crate::layout::TCP, state, 0, from_client, segment);
            }
            assert_eq!(State::from_number(state), expected, "{who} {flags}");
        }
    }

    /// An established connection between sides whose first sequence numbers are these.
    fn idle(client: u32, target: u32) -> Conntrack {
        let mut entry = Conntrack::default();
        for (from_client, flags, seq, len, ack) in [
            (true, "S", client, 0, 0),
            (false, "SA", target, 0, client.wrapping_add(1)),
            (
                true,
                "A",
                client.wrapping_add(1),
                100,
                target.wrapping_add(1),
            ),
            (
                false,
                "A",
                target.wrapping_add(1),
                50,
                client.wrapping_add(101),
            ),
            (
                true,
                "A",
                client.wrapping_add(101),
                0,
                target.wrapping_add(51),
            ),
        ] {
            assert!(note(&mut entry, from_client, flags, (seq, len, ack)));
        }
        assert_eq!(entry.state, State::Established as u8);
        entry
    }

    fn note(
        entry: &mut Conntrack,
        from_client: bool,
        flags: &str,
        (seq, len, ack): (u32, u32, u32),
    ) -> bool {
        let segment = Segment {
            syn: flags.contains('S'),
            ack: flags.contains('A'),
            fin: flags.contains('F'),
            rst: flags.contains('R'),
        };
        let counts = note_segment(entry, from_client, segment, Numbers { seq, len, ack });
        if counts {
            let (state, flags) = crate::nat::advance(
                crate::layout::TCP,
                entry.state,
                entry.flags,
                from_client,
                segment,
            );
            (entry.state, entry.flags) = (state, flags);
        }
        counts
    }

    #[test]
    fn a_reset_counts_by_its_number() {
        for (client, target) in [(1000, 7000), (u32::MAX - 60, u32::MAX - 10)] {
            let ends = [client.wrapping_add(101), target.wrapping_add(51)];
            for (from_client, end) in [(true, ends[0]), (false, ends[1])] {
                let mut entry = idle(client, target);
                for distance in [1, 2, 1 << 16, 1 << 31, u32::MAX] {
                    let seq = end.wrapping_add(distance);
                    assert!(!note(&mut entry, from_client, "R", (seq, 0, 0)));
                }
                assert_eq!(entry.state, State::Established as u8);
                assert!(note(&mut entry, from_client, "R", (end, 0, 0)));
                assert_eq!(entry.state, State::Closed as u8);
                // Who goes on did not send it.
                assert!(note(&mut entry, from_client, "A", (end, 10, 1)));
                assert_eq!(entry.state, State::Established as u8);
            }
        }
    }

    #[test]
    fn numbers_that_are_guessed_change_nothing_known() {
        let mut entry = idle(1000, 7000);
        let known = (entry.ends, entry.acked);
        for from_client in [true, false] {
            note(&mut entry, from_client, "A", (0x8000_0000, 10, 0x9000_0000));
            note(&mut entry, from_client, "S", (0x8000_0000, 0, 0));
        }
        assert_eq!((entry.ends, entry.acked), known);
    }

    #[test]
    fn a_reset_while_data_is_on_its_way_counts() {
        let mut entry = idle(1000, 7000);
        assert!(note(&mut entry, true, "A", (1101, 500, 7051)));
        // By what the target acknowledged last, or by what the client sent last.
        assert!(note(&mut entry, true, "R", (1101, 0, 0)));
        assert_eq!(entry.state, State::Closed as u8);
    }

    #[test]
    fn an_answer_to_a_first_segment_may_reset() {
        let mut entry = Conntrack::default();
        assert!(note(&mut entry, true, "S", (1000, 0, 0)));
        assert!(note(&mut entry, false, "RA", (0, 0, 1001)));
        assert_eq!(entry.state, State::Closed as u8);
        // The next connection has other numbers.
        assert!(note(&mut entry, true, "S", (5000, 0, 0)));
        assert!(note(&mut entry, false, "SA", (90, 0, 5001)));
        assert_eq!((entry.ends, entry.acked), ([5001, 91], [0, 5001]));
    }

    #[test]
    fn one_picked_up_on_its_way_lives_as_its_target_says() {
        for first in ["A", "FA", "", "SA"] {
            assert_eq!(
                walk([(true, first), (true, first), (false, "RA")]),
                [State::SynSent, State::SynSent, State::Closed]
            );
        }
        assert_eq!(
            walk([(true, "A"), (false, "A"), (true, "FA"), (false, "FA")]),
            [
                State::SynSent,
                State::Established,
                State::HalfClosed,
                State::TimeWait
            ]
        );
        assert_eq!(
            walk([(true, "FA"), (false, "A"), (false, "FA")]),
            [State::SynSent, State::HalfClosed, State::TimeWait]
        );
    }

    #[test]
    fn a_second_syn_does_not_reopen_what_is_open() {
        assert_eq!(
            walk([(false, "SA"), (true, "A"), (true, "S"), (false, "A")])[2],
            State::Established
        );
    }
}
