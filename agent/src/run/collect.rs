//! Forgetting flows that have ended or fallen silent.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use truename_common::{layout::RpcFlow, wire::flow::state};

use super::RunError;
use crate::{
    api::Clock,
    datapath::{DatapathError, Pins, Tables},
};

/// How often the table is looked through.
const EVERY: Duration = Duration::from_secs(30);
/// A flow that is silent for this long is forgotten. Longer than the two hours after which TCP
/// sends its first keep-alive by default would keep dead flows; a flow that speaks again is
/// adopted at its next frame.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);
/// A closed flow is kept for the retransmissions of its end.
const CLOSED: Duration = Duration::from_secs(60);

/// Looks through the table until it is told to stop.
pub async fn collect(pins: Pins, stop: CancellationToken) -> Result<(), RunError> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let pins = pins.clone();
        match tokio::task::spawn_blocking(move || sweep(&pins)).await? {
            Ok(0) => {}
            Ok(count) => log::debug!("Forgot {count} flow(s)"),
            Err(error) => log::warn!("{error}"),
        }
    }
}

/// The number of flows that were forgotten.
fn sweep(pins: &Pins) -> Result<usize, DatapathError> {
    let mut tables = Tables::open(pins)?;
    let mut count = 0;
    for key in tables.flow_keys()? {
        // The clock is read before the flow, so that a packet in between makes it younger.
        let now = Clock::read().monotonic_ns();
        if tables.flow(&key)?.is_some_and(|flow| is_over(&flow, now)) {
            tables.remove_flow(&key)?;
            count += 1;
        }
    }
    Ok(count)
}

fn is_over(flow: &RpcFlow, now: u64) -> bool {
    let silent = Duration::from_nanos(now.saturating_sub(flow.seen_ns));
    silent > IDLE || (state::is_closed(flow.flags) && silent > CLOSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_lives() {
        let minute = 60_000_000_000;
        let flow = |flags, seen_ns| RpcFlow {
            flags,
            seen_ns,
            ..RpcFlow::default()
        };
        let now = 200 * minute;
        assert!(!is_over(&flow(0, now), now));
        assert!(!is_over(&flow(0, now + 5), now));
        assert!(!is_over(&flow(0, now - 119 * minute), now));
        assert!(is_over(&flow(0, now - 121 * minute), now));
        assert!(!is_over(&flow(state::RESET, now - minute / 2), now));
        assert!(is_over(&flow(state::RESET, now - 2 * minute), now));
        assert!(!is_over(&flow(state::FIN_INBOUND, now - 2 * minute), now));
    }
}
