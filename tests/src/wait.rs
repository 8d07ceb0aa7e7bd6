//! Waiting for what has no event, always with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `condition` until it has a value; fails with `what` and the last reason when the time is over.
///
/// Only for things without an event to wait for, such as an answer over HTTP.
///
/// # Errors
/// The deadline passed.
pub fn wait_until<T>(
    timeout: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= timeout => {
                bail!("{what}: not within {timeout:?}: {error:#}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
