//! How long connections and flows are kept. Pure.

use std::time::Duration;

use truename_common::{
    layout::{Conntrack, RpcFlow, Settings},
    wire::flow::state,
};

/// An RPC flow without a connection that is silent for this long is forgotten. Longer than the two
/// hours after which TCP sends its first keep-alive by default would keep dead flows; a flow that
/// speaks again is adopted at its next frame.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);
/// A closed flow is kept for the retransmissions of its end.
const CLOSED: Duration = Duration::from_secs(60);

/// How long a connection is kept if nothing is seen of it.
pub fn left(entry: &Conntrack, now_ns: u64, settings: &Settings) -> Duration {
    let timeout = settings.timeouts[usize::from(entry.state & 7)];
    Duration::from_secs(timeout.into()).saturating_sub(silence(entry.seen_ns, now_ns))
}

/// The same of an RPC flow that has no connection.
pub fn flow_left(flow: &RpcFlow, now_ns: u64) -> Duration {
    flow_timeout(flow).saturating_sub(silence(flow.seen_ns, now_ns))
}

/// Whether an RPC flow that has no connection is over.
pub fn is_flow_over(flow: &RpcFlow, now_ns: u64) -> bool {
    silence(flow.seen_ns, now_ns) > flow_timeout(flow)
}

const fn flow_timeout(flow: &RpcFlow) -> Duration {
    if state::is_closed(flow.flags) {
        CLOSED
    } else {
        IDLE
    }
}

/// How long nothing was seen. The clock of another processor may be ahead.
pub const fn silence(seen_ns: u64, now_ns: u64) -> Duration {
    Duration::from_nanos(now_ns.saturating_sub(seen_ns))
}

#[cfg(test)]
mod tests {
    use truename_common::layout::ConntrackState;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_connection_is_kept_for_what_is_left_of_its_timeout() {
        let settings = Settings {
            timeouts: crate::config::Timeouts::default().0,
            ..Settings::default()
        };
        let seen_ns = 1000 * SECOND;
        for state in ConntrackState::ALL {
            let timeout = u64::from(settings.timeouts[state as usize]);
            let entry = Conntrack {
                state: state as u8,
                seen_ns,
                ..Conntrack::default()
            };
            for (now_ns, expected) in [
                (seen_ns - SECOND, timeout),
                (seen_ns, timeout),
                (seen_ns + 3 * SECOND, timeout - 3),
                (seen_ns + (timeout + 1) * SECOND, 0),
            ] {
                let left = left(&entry, now_ns, &settings).as_secs();
                assert_eq!(left, expected, "{state:?}");
            }
        }
    }

    #[test]
    fn an_rpc_flow_alone_lives_for_two_hours() {
        let minute = 60 * SECOND;
        let flow = |flags, seen_ns| RpcFlow {
            flags,
            seen_ns,
            ..RpcFlow::default()
        };
        let now = 200 * minute;
        assert!(!is_flow_over(&flow(0, now), now));
        assert_eq!(flow_left(&flow(0, now - 119 * minute), now).as_secs(), 60);
        assert_eq!(
            flow_left(&flow(state::RESET, now - minute), now).as_secs(),
            0
        );
        assert!(!is_flow_over(&flow(0, now + 5), now));
        assert!(!is_flow_over(&flow(0, now - 119 * minute), now));
        assert!(is_flow_over(&flow(0, now - 121 * minute), now));
        assert!(!is_flow_over(&flow(state::RESET, now - minute / 2), now));
        assert!(is_flow_over(&flow(state::RESET, now - 2 * minute), now));
        assert!(!is_flow_over(
            &flow(state::FIN_INBOUND, now - 2 * minute),
            now
        ));
    }
}
