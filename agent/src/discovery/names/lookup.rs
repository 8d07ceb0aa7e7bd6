//! The addresses of host names, as this host finds them.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    net::IpAddr,
    pin::Pin,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::dns::look_up;

/// Look-ups at a time.
pub(super) const AT_ONCE: usize = 32;
/// Answers that come within this time of each other are told together.
const GATHER: Duration = Duration::from_millis(50);
/// How long a look-up may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// An answer is asked for again after this time, or later if there are many names:
const REFRESH: Duration = Duration::from_secs(10);
/// no more than one in this time.
const PACE: Duration = Duration::from_millis(10);

/// The addresses of a name, or why there are none.
pub type Found = Result<Vec<IpAddr>, String>;
/// An answer that is awaited.
pub(super) type Answering = Pin<Box<dyn Future<Output = Found> + Send>>;

/// Looks names up, again and again, and remembers the last good answers.
pub struct Lookup {
    ask: fn(String) -> Answering,
    names: BTreeMap<String, Name>,
    /// Names that are to be asked for when there is room.
    waiting: VecDeque<String>,
    running: JoinSet<(String, Found)>,
}

#[derive(Default)]
struct Name {
    /// The last good answer.
    addresses: Vec<IpAddr>,
    /// Why the last question had no good answer.
    error: Option<String>,
    /// When it was answered last.
    answered: Option<Instant>,
    /// Whether an answer is awaited, or will be.
    is_asked: bool,
}

impl Lookup {
    /// By the name service of this host.
    pub fn of_host() -> Self {
        Self::by(|name| Box::pin(async move { look_up(&name).await }))
    }

    fn by(ask: fn(String) -> Answering) -> Self {
        Self {
            ask,
            names: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: JoinSet::new(),
        }
    }

    /// Looks for these names from now on, and no others. An answer that is older than the time beside the
    /// name is asked for again, those with the shortest time first. In a Tokio runtime.
    pub fn want<'a>(&mut self, names: impl Iterator<Item = (&'a str, Duration)>) {
        let wanted: BTreeMap<&str, Duration> = names.collect();
        self.names
            .retain(|name, _| wanted.contains_key(name.as_str()));
        let now = Instant::now();
        let mut old = Vec::new();
        for (name, max_age) in wanted {
            let known = self.names.entry(name.to_owned()).or_default();
            let is_old = known.answered.is_none_or(|at| now - at >= max_age);
            if is_old && !known.is_asked {
                known.is_asked = true;
                old.push((max_age, name));
            }
        }
        old.sort_by_key(|(max_age, _)| *max_age);
        let names = old.into_iter().map(|(_, name)| name.to_owned());
        self.waiting.extend(names);
        self.ask_more();
    }

    fn ask_more(&mut self) {
        while self.running.len() < AT_ONCE
            && let Some(name) = self.waiting.pop_front()
        {
            if !self.names.contains_key(&name) {
                continue;
            }
            let answer = (self.ask)(name.clone());
            self.running.spawn(async move {
                let answer = timeout(PATIENCE, answer).await;
                let slow = |_| Err(format!("no answer within {} s", PATIENCE.as_secs()));
                (name, answer.unwrap_or_else(slow))
            });
        }
    }

    /// Waits for answers, and for those that come soon after the first one; for ever if none is awaited.
    /// Cancel-safe.
    pub async fn answered(&mut self) {
        let Some(mut joined) = self.running.join_next().await else {
            return std::future::pending().await;
        };
        let soon = Instant::now() + GATHER;
        loop {
            if let Ok((name, found)) = joined {
                self.note(&name, found);
            }
            self.ask_more();
            match timeout_at(soon, self.running.join_next()).await {
                Ok(Some(next)) => joined = next,
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn note(&mut self, name: &str, found: Found) {
        let Some(known) = self.names.get_mut(name) else {
            return;
        };
        known.is_asked = false;
        known.answered = Some(Instant::now());
        known.error = None;
        match found {
            Ok(addresses) => known.addresses = addresses,
            Err(error) => known.error = Some(error),
        }
    }

    /// Whether a wanted name has never been answered.
    pub fn is_open(&self, name: &str) -> bool {
        let known = self.names.get(name);
        known.is_none_or(|known| known.answered.is_none())
    }

    /// The last good answer, else why there is none.
    pub fn find(&self, name: &str) -> Found {
        match self.names.get(name) {
            Some(known) if !known.addresses.is_empty() => Ok(known.addresses.clone()),
            Some(Name {
                error: Some(error), ..
            }) => Err(error.clone()),
            _ => Err("it has not been looked up yet".to_owned()),
        }
    }

    /// Names whose last good answer is kept although the last question had none, a sentence each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.names.iter().filter_map(|(name, known)| {
            let error = known.error.as_ref().filter(|_| !known.addresses.is_empty());
            error.map(|error| format!("the name {name}: {error}; its last addresses are kept"))
        })
    }

    /// How old an answer may become. Many names are asked for less often.
    pub fn refresh(&self) -> Duration {
        let names = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        REFRESH.max(PACE.saturating_mul(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// Names say themselves how they are answered.
    fn ask(name: String) -> Answering {
        Box::pin(async move {
            match name.split_once('-') {
                Some(("good", last)) => Ok(vec![address(last.parse().unwrap())]),
                Some(("slow", _)) => std::future::pending().await,
                _ => Err("no such host".to_owned()),
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_and_asked_for_again() {
        let mut lookup = Lookup::by(ask);
        let day = Duration::from_secs(86_400);
        let names = ["good-1", "bad"].map(|name| (name, day));
        lookup.want(names.into_iter());
        assert!(lookup.is_open("good-1") && lookup.is_open("bad"));
        while lookup.is_open("good-1") || lookup.is_open("bad") {
            lookup.answered().await;
        }
        assert_eq!(lookup.find("good-1"), Ok(vec![address(1)]));
        assert_eq!(lookup.find("bad"), Err("no such host".to_owned()));
        lookup.want(names.into_iter());
        assert!(lookup.running.is_empty(), "they are fresh");

        // A name that cannot be looked up any more keeps its addresses, and that is told.
        lookup.note("good-1", Err("gone".to_owned()));
        assert_eq!(lookup.find("good-1"), Ok(vec![address(1)]));
        let problems: Vec<_> = lookup.problems().collect();
        assert_eq!(
            problems,
            ["the name good-1: gone; its last addresses are kept"]
        );
        lookup.want([("good-1", Duration::ZERO)].into_iter());
        lookup.answered().await;
        assert_eq!(lookup.problems().count(), 0);
        assert!(lookup.find("bad").is_err(), "it is not wanted any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_name_is_given_up_and_does_not_hold_up_others() {
        let mut lookup = Lookup::by(ask);
        let names = ["good-1", "slow-1"].map(|name| (name, REFRESH));
        lookup.want(names.into_iter());
        lookup.answered().await;
        assert!(!lookup.is_open("good-1") && lookup.is_open("slow-1"));
        lookup.answered().await;
        assert_eq!(
            lookup.find("slow-1"),
            Err("no answer within 5 s".to_owned())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn many_names_are_asked_for_some_at_a_time() {
        let names: Vec<_> = (0..2000).map(|n| format!("n{n}")).collect();
        let wanted = || names.iter().map(|name| (name.as_str(), REFRESH * 10));
        let mut lookup = Lookup::by(|_| Box::pin(async { Ok(vec![address(1)]) }));
        lookup.want(wanted());
        assert_eq!(lookup.running.len(), AT_ONCE);
        assert_eq!(lookup.refresh(), PACE * 2000);
        while names.iter().any(|name| lookup.is_open(name)) {
            lookup.answered().await;
        }
        // One that is not wanted any more is not asked for.
        lookup.want(names.iter().map(|name| (name.as_str(), Duration::ZERO)));
        lookup.want([("n7", REFRESH)].into_iter());
        while !lookup.running.is_empty() {
            lookup.answered().await;
        }
        assert!(lookup.waiting.is_empty() && lookup.names.len() == 1);
    }
}
