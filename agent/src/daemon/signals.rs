//! The signals that the agent hears.

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::RunError;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM` or `SIGINT`: to end.
    End,
    /// `SIGHUP`: to read the configuration again.
    Reload,
}

/// Hears from when it is made.
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hang_up: Stream,
}

impl Signals {
    /// # Errors
    /// When they cannot be handled.
    pub fn new() -> Result<Self, RunError> {
        let hear = |kind| signal(kind).map_err(RunError::Signal);
        Ok(Self {
            terminate: hear(SignalKind::terminate())?,
            interrupt: hear(SignalKind::interrupt())?,
            hang_up: hear(SignalKind::hangup())?,
        })
    }

    /// The next one. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }
}
