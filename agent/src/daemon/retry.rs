//! What failed is tried again, after 1 s, 2 s, … 30 s, until it succeeds.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::backoff::delays;

/// The shortest and the longest time between two tries; each may be twice as long by chance.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why something does not succeed, for `status`: a sentence while it does not.
#[derive(Clone, Default)]
pub struct Problem(Arc<Mutex<Option<String>>>);

impl Problem {
    /// The sentence.
    pub fn sentence(&self) -> Option<String> {
        let problem = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problem.clone()
    }

    /// Sets the sentence; what it was.
    fn replace(&self, sentence: Option<String>) -> Option<String> {
        let mut problem = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut problem, sentence)
    }
}

/// When something is tried again.
pub struct Retry {
    /// What it is, for people: `the tables are not up to date`.
    what: &'static str,
    problem: Problem,
    delays: Option<Box<dyn Iterator<Item = Duration> + Send + Sync>>,
    due: Option<Instant>,
}

impl Retry {
    /// Nothing has failed yet.
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            problem: Problem::default(),
            delays: None,
            due: None,
        }
    }

    /// Where it is told what fails.
    pub fn problem(&self) -> Problem {
        self.problem.clone()
    }

    /// It failed. Without a reason, which somebody else tells then, it is only tried again.
    pub fn failed(&mut self, why: Option<String>) {
        let sentence = why.map(|why| format!("{}: {why}; it is tried again", self.what));
        if let Some(sentence) = &sentence
            && self.problem.sentence().as_ref() != Some(sentence)
        {
            log::warn!("{sentence}");
        }
        self.problem.replace(sentence);
        let (shortest, longest) = PAUSES;
        let delays = self
            .delays
            .get_or_insert_with(|| Box::new(delays(shortest, longest)));
        self.due = Some(Instant::now() + delays.next().unwrap_or(longest));
    }

    /// It succeeded.
    pub fn succeeded(&mut self) {
        (self.delays, self.due) = (None, None);
        if let Some(sentence) = self.problem.replace(None) {
            log::info!("No more: {sentence}");
        }
    }

    /// Waits until it is to be tried again: for ever, if nothing failed.
    pub fn due(&self) -> impl Future<Output = ()> + Send + use<> {
        let due = self.due;
        async move {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tries_again_later_and_later_until_it_succeeds() {
        let mut retry = Retry::new("it does not work");
        let problem = retry.problem();
        let (shortest, longest) = PAUSES;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            retry.failed(Some("no room".to_owned()));
            let told = problem.sentence().unwrap();
            assert_eq!(told, "it does not work: no room; it is tried again");
            let begin = Instant::now();
            retry.due().await;
            pauses.push(begin.elapsed());
        }
        let at_least = |seconds| Duration::from_secs(seconds);
        let expected = [1, 2, 4, 8, 16, 30, 30, 30].map(at_least);
        for (pause, expected) in pauses.iter().zip(expected) {
            assert!(
                *pause >= expected && *pause <= 2 * expected + shortest,
                "{pauses:?}"
            );
        }
        retry.succeeded();
        assert_eq!(problem.sentence(), None);
        let never = tokio::time::timeout(10 * longest, retry.due()).await;
        assert!(never.is_err());
        // It begins anew; and somebody else tells.
        retry.failed(None);
        assert_eq!(problem.sentence(), None);
        let begin = Instant::now();
        retry.due().await;
        assert!(begin.elapsed() <= 2 * shortest + shortest);
    }
}
