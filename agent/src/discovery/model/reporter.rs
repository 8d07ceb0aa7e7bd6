//! How a source tells what it knows.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::source::{PATIENCE, SourceId};
use crate::{
    clock::Moment,
    discovery::{Facts, Snapshot},
    name::shown,
};

/// A place that facts come from.
///
/// A source reports through the [`Reporter`]: the whole set of its facts whenever it changed, that
/// it is unchanged when that was confirmed, and every failure. It retries by itself, for ever.
pub trait Source: Send + 'static {
    /// Which it is; the same for its whole life.
    fn id(&self) -> SourceId;

    /// How long it may fail before its [`Health`] is degraded.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// Observes for ever. Cancel-safe: the future is dropped, at any point where it waits, when the
    /// agent ends or is configured anew, and has to leave nothing behind. To return is a failure.
    fn observe(self, reporter: Reporter) -> impl Future<Output = ()> + Send;
}

/// By which one source tells what it knows. To tell never waits.
#[derive(Clone, Debug)]
pub struct Reporter {
    id: SourceId,
    shared: Arc<watch::Sender<Snapshot>>,
}

impl Reporter {
    pub(in crate::discovery) const fn new(
        id: SourceId,
        shared: Arc<watch::Sender<Snapshot>>,
    ) -> Self {
        Self { id, shared }
    }

    /// Who tells.
    pub const fn id(&self) -> &SourceId {
        &self.id
    }

    /// It waits for something from now on, until it tells facts or a failure. What takes long is told.
    pub fn waits(&self, what: &'static str) {
        let now = Moment::now();
        self.shared.send_if_modified(|snapshot| {
            snapshot.wait(&self.id, what, now);
            // Nobody has to know before it takes long.
            false
        });
    }

    /// These are all the facts now; they replace those before. `next` is when they will be
    /// confirmed or replaced; `None` if the source waits to be told.
    pub fn facts(&self, facts: Facts, next: Option<Duration>) {
        let now = Moment::now();
        self.shared.send_modify(|snapshot| {
            snapshot.succeed(&self.id, Some(facts), now, next.map(|next| now.after(next)));
        });
    }

    /// The facts are still the same.
    pub fn unchanged(&self, next: Option<Duration>) {
        let now = Moment::now();
        self.shared.send_modify(|snapshot| {
            snapshot.succeed(&self.id, None, now, next.map(|next| now.after(next)));
        });
    }

    /// It was not possible to know; the facts before count. `why` says what was tried, on what, and
    /// why it failed.
    pub fn failed(&self, why: impl fmt::Display, next: Option<Duration>) {
        let now = Moment::now();
        let why: String = why
            .to_string()
            .lines()
            .map(shown_line)
            .collect::<Vec<_>>()
            .join(" ");
        self.shared.send_modify(|snapshot| {
            snapshot.fail(&self.id, why, now, next.map(|next| now.after(next)));
        });
    }
}

/// A line of an error, in pieces that [`shown`] does not cut.
fn shown_line(line: &str) -> String {
    line.split(' ').map(shown).collect::<Vec<_>>().join(" ")
}
