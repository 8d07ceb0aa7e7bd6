use crate::layout::{ConntrackState as State, conntrack_flags};

/// What a TCP segment says about its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
}

/// State of a TCP connection and who sent a FIN, after a segment.
///
/// As in Linux' conntrack, without its window check (see [`super::reset_by`]). One that is picked up on its way is established as soon as
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
