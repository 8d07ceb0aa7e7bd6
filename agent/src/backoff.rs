//! How long to wait before what failed is tried again.

use std::{iter, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};

/// Times to wait between tries: from `shortest` on, each about twice the one before, up to `longest`, for
/// ever. Each is longer by chance, at most twice as long, so that hosts that failed together do not try
/// together.
pub fn delays(
    shortest: Duration,
    longest: Duration,
) -> impl Iterator<Item = Duration> + Send + Sync {
    ExponentialBuilder::default()
        .with_min_delay(shortest)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
        .chain(iter::repeat(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_never_end() {
        let (shortest, longest) = (Duration::from_millis(200), Duration::from_secs(10));
        let times: Vec<Duration> = delays(shortest, longest).take(100).collect();
        assert_eq!(times.len(), 100);
        assert!(
            times
                .iter()
                .all(|&time| time >= shortest && time <= 2 * longest)
        );
        assert!(times[0] <= 2 * shortest && times[99] >= longest);
    }
}
