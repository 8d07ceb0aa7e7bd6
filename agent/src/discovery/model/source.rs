//! Where facts come from.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    clock::Moment,
    discovery::{Facts, Snapshot},
    name::shown,
};

/// A source that has not succeeded for this long is [`State::Degraded`], unless it says another time.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// A source that has waited for this long without an answer is [`State::Hanging`].
pub const HANGS: Duration = Duration::from_secs(5);

/// What kind of source it is. The order is the precedence where sources contradict each other: what
/// an operator wrote, then what leaders write about themselves, then what members say of one
/// another, then what one server says, then what was merely seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The agent's own configuration.
    Configured,
    /// A file of the operator's.
    File,
    /// Leader records in ZooKeeper.
    Zookeeper,
    /// Leader records in ConfigMaps.
    Kubernetes,
    /// The management interface of an actor cluster.
    Management,
    /// The REST interface of Flink.
    Flink,
    /// Handshakes seen by the kernel program.
    Learned,
    /// Names by which peers address an endpoint, on connections that are older than the agent.
    Addressed,
}

impl Kind {
    /// Whether an operator says so.
    pub const fn is_stated(self) -> bool {
        matches!(self, Self::Configured | Self::File)
    }

    /// Whether it was merely seen in traffic, which anyone may send.
    pub const fn is_seen(self) -> bool {
        matches!(self, Self::Learned | Self::Addressed)
    }

    /// The word in the configuration and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configured => "configuration",
            Self::File => "file",
            Self::Zookeeper => "zookeeper",
            Self::Kubernetes => "kubernetes",
            Self::Management => "pekko-management",
            Self::Flink => "flink",
            Self::Learned => "learned",
            Self::Addressed => "addressed",
        }
    }
}

/// A source by name. Shown as `flink http://jm:8081`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// What kind it is.
    pub kind: Kind,
    /// Where it looks, as configured: a path or URLs. It may be empty.
    pub place: String,
}

impl SourceId {
    /// The hosts of the servers that are asked; none if there are none.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        let asks_servers = matches!(self.kind, Kind::Zookeeper | Kind::Management | Kind::Flink);
        let servers = self.place.split([' ', ',']);
        let servers = servers.filter(move |server| asks_servers && !server.is_empty());
        servers.map(|server| {
            let (_, server) = server.split_once("://").unwrap_or(("", server));
            let (server, _) = server.split_once('/').unwrap_or((server, ""));
            match server.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => host,
                _ => server,
            }
        })
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if !self.place.is_empty() {
            write!(f, " {}", self.place)?;
        }
        Ok(())
    }
}

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

/// What a source said last, and how it fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The last good facts.
    pub facts: Facts,
    /// How it fares.
    pub health: Health,
}

/// How a source fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// When it began.
    pub started: Moment,
    /// When its facts were confirmed last.
    pub success: Option<Moment>,
    /// When and why it failed, if that is later than the last success. One line, escaped.
    pub failure: Option<(Moment, String)>,
    /// When it tries again or confirms; `None` if it waits to be told.
    pub next: Option<Moment>,
    /// How long it may fail.
    pub patience: Duration,
    /// What it waits for.
    pub waiting: Option<Waiting>,
}

/// A wait for somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Since when there was no answer, however often it was tried.
    pub since: Moment,
    /// When it was tried last.
    pub tried: Moment,
    /// What it waits for, as in "it waits for an answer".
    pub what: &'static str,
}

/// How a source fares, in a word; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has not succeeded yet and not tried for long.
    Starting,
    /// Its last try succeeded.
    Good,
    /// It fails, but not for long: its last good facts count.
    Failing,
    /// It has waited for [`HANGS`] without an answer: its last good facts count, and this is to be told.
    Hanging,
    /// It has failed for longer than its patience: its last good facts count, and this is to be told.
    Degraded,
}

impl State {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Good => "good",
            Self::Failing => "failing",
            Self::Hanging => "hanging",
            Self::Degraded => "degraded",
        }
    }
}

impl Health {
    /// Of a source that begins.
    pub const fn new(started: Moment, patience: Duration) -> Self {
        Self {
            started,
            success: None,
            failure: None,
            next: None,
            patience,
            waiting: None,
        }
    }

    /// How it fares at this time.
    pub fn state(&self, now: Moment) -> State {
        let waited = now.since(self.success.unwrap_or(self.started));
        let overdue = self
            .next
            .is_some_and(|next| now.since(next) > self.patience);
        let failed = self.failure.is_some() || self.success.is_none();
        let hangs = |waiting: Waiting| now.since(waiting.since) >= HANGS;
        if self.waiting.is_some_and(hangs) {
            State::Hanging
        } else if overdue || (failed && waited > self.patience) {
            State::Degraded
        } else if self.failure.is_some() {
            State::Failing
        } else if self.success.is_none() {
            State::Starting
        } else {
            State::Good
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_ns(seconds * 1_000_000_000)
    }

    #[test]
    fn degrades_after_its_patience_and_no_sooner() {
        let mut health = Health::new(at(100), Duration::from_secs(15));
        assert_eq!(health.state(at(115)), State::Starting);
        assert_eq!(health.state(at(116)), State::Degraded);
        health.failure = Some((at(101), "no".to_owned()));
        assert_eq!(health.state(at(115)), State::Failing);
        assert_eq!(health.state(at(116)), State::Degraded);
        health.success = Some(at(110));
        assert_eq!(health.state(at(125)), State::Failing);
        assert_eq!(health.state(at(126)), State::Degraded);
        health.failure = None;
        assert_eq!(health.state(at(10_000)), State::Good);
    }

    #[test]
    fn a_source_that_is_overdue_is_degraded() {
        let mut health = Health::new(at(0), Duration::from_secs(15));
        health.success = Some(at(10));
        health.next = Some(at(12));
        assert_eq!(health.state(at(27)), State::Good);
        assert_eq!(health.state(at(28)), State::Degraded);
    }

    #[test]
    fn names_itself() {
        let id = SourceId {
            kind: Kind::Flink,
            place: "http://jm:8081".to_owned(),
        };
        assert_eq!(id.to_string(), "flink http://jm:8081");
        let hosts = |kind, place: &str| {
            let place = place.to_owned();
            let id = SourceId { kind, place };
            id.hosts().map(str::to_owned).collect::<Vec<_>>()
        };
        let urls = "http://jm:8081 https://[fd00::1]/flink http://10.0.0.1:80/";
        assert_eq!(hosts(Kind::Flink, urls), ["jm", "[fd00::1]", "10.0.0.1"]);
        let quorum = "zk1:2181,[fd00::2]:2181/flink/default";
        assert_eq!(hosts(Kind::Zookeeper, quorum), ["zk1", "[fd00::2]"]);
        assert_eq!(hosts(Kind::File, "/etc/topology.toml"), [""; 0]);
        assert!(Kind::File < Kind::Zookeeper && Kind::Flink < Kind::Learned);
    }
}
