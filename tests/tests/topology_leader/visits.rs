//! What clients saw while the leader changed.

use std::{io::ErrorKind, time::Instant};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    flink::{Pair, Visit},
    http::KEEP_ALIVE,
};

use super::{KEEPING, SOON, place::Changed};

/// Whether the peer, or its kernel, has ended the connection.
pub fn is_end(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Connections to the former leader have ended soon: those of a leader that was killed at once, those of a
/// silent one by a reset when the tables had changed. Since then all go to the new one, and none fails.
pub fn check(
    visits: &[Visit],
    (old, new): (usize, usize),
    tells: bool,
    changed: &Changed,
) -> Result<()> {
    let (old, new) = (Pair::name(old), Pair::name(new));
    let former = visits.iter().filter(|visit| {
        visit.server.as_ref() == Some(&old) && visit.ended.is_none_or(|(at, _)| at > changed.since)
    });
    let mut ended = 0;
    for visit in former {
        let (at, why) = visit.ended.with_context(|| format!("goes on: {visit:?}"))?;
        let latest = if tells {
            changed.since + SOON
        } else {
            changed.at + KEEP_ALIVE + SOON
        };
        ensure!(at < latest, "ended late: {visit:?}");
        // One that was content may have ended between.
        ensure!(why.is_none_or(is_end), "{visit:?}");
        ensure!(tells || why != Some(ErrorKind::UnexpectedEof), "{visit:?}");
        ended += usize::from(why.is_some());
    }
    ensure!(
        ended >= KEEPING,
        "only {ended} connections were kept until then"
    );
    for visit in visits.iter().filter(|visit| visit.begun > changed.at) {
        let server = visit.server.as_ref();
        ensure!(server.is_none_or(|server| *server == new), "{visit:?}");
        ensure!(
            visit.ended.is_none_or(|(_, why)| why.is_none()),
            "{visit:?}"
        );
    }
    Ok(())
}

/// For how long clients were not served.
pub fn gap(visits: &[Visit], (old, new): (usize, usize), changed: &Changed) -> String {
    let of = |number| {
        let name = Pair::name(number);
        let is_its = move |visit: &&Visit| visit.server.as_ref() == Some(&name);
        visits.iter().filter(is_its)
    };
    let seconds = |time: Option<Instant>, since: Option<Instant>| {
        let time = time
            .zip(since)
            .map(|(time, since)| time.saturating_duration_since(since));
        time.map_or(f64::NAN, |time| time.as_secs_f64())
    };
    let last = of(old).filter_map(|visit| visit.last).max();
    let is_new = |visit: &&Visit| visit.begun >= changed.since;
    let first = of(new).filter(is_new).filter_map(|visit| visit.first).min();
    let is_refused =
        |visit: &&Visit| matches!(visit.ended, Some((_, Some(ErrorKind::ConnectionRefused))));
    let refused = visits.iter().filter(is_new).filter(is_refused);
    format!(
        "clients: nobody answered for {:.3} s, of which {:.3} s after the tables had changed; {} connections \
         refused meanwhile",
        seconds(first, last),
        seconds(first, Some(changed.at)),
        refused.count(),
    )
}
