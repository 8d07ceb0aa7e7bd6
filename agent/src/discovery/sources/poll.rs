//! Sources that have to be asked again and again.

use std::{future::Future, time::Duration};

use crate::discovery::{Facts, Reporter, Source, SourceId, model::source::PATIENCE};

/// Tries that a source may miss before it is degraded, if that takes longer than [`PATIENCE`].
const MISSES: u32 = 3;

/// Something that can be asked.
pub trait Poll: Send + 'static {
    /// Which it is.
    fn id(&self) -> SourceId;

    /// Asks. Dropped at any point where it waits, it must be able to begin anew.
    ///
    /// # Errors
    /// It is not possible to know: one line that says what was asked and why it failed.
    fn ask(&mut self) -> impl Future<Output = Result<Facts, String>> + Send;
}

/// Asks at intervals.
#[derive(Debug)]
pub struct Polled<P> {
    asked: P,
    interval: Duration,
}

impl<P: Poll> Polled<P> {
    /// Asks after at most `interval`.
    pub const fn new(asked: P, interval: Duration) -> Self {
        Self { asked, interval }
    }
}

impl<P: Poll> Source for Polled<P> {
    fn id(&self) -> SourceId {
        self.asked.id()
    }

    fn patience(&self) -> Duration {
        PATIENCE.max(self.interval * MISSES)
    }

    async fn observe(mut self, reporter: Reporter) {
        loop {
            reporter.waits("an answer");
            let answer = self.asked.ask().await;
            let pause = jittered(self.interval);
            match answer {
                Ok(facts) => reporter.facts(facts, Some(pause)),
                Err(why) => reporter.failed(why, Some(pause)),
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// From four fifths of an interval to the whole: agents that were started together do not ask
/// together for long, and none asks later than configured. Failures do not stretch it: an election
/// is one, and its end is what everybody waits for.
pub fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(fastrand::f64().mul_add(0.2, 0.8))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::discovery::{Follower, Kind, State};

    #[test]
    fn jitter_shortens_only() {
        let interval = Duration::from_secs(2);
        let pauses: Vec<_> = (0..1000).map(|_| jittered(interval)).collect();
        assert!(
            pauses
                .iter()
                .all(|p| (interval * 4 / 5..=interval).contains(p))
        );
        assert!(pauses.iter().any(|p| *p != pauses[0]));
    }

    struct Moody(Arc<AtomicUsize>);

    impl Poll for Moody {
        fn id(&self) -> SourceId {
            SourceId {
                kind: Kind::Flink,
                place: "moody".to_owned(),
            }
        }

        async fn ask(&mut self) -> Result<Facts, String> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 | 2 => Err("GET http://moody: no\nway \u{1b}[2J".to_owned()),
                _ => {
                    let mut facts = Facts::new();
                    facts.add(crate::discovery::Claim::Worker(crate::discovery::Worker {
                        id: "tm".parse().unwrap(),
                        rpc: "pekko.tcp://flink@tm:1".parse().unwrap(),
                        data_port: None,
                    }));
                    Ok(facts)
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_keep_the_last_good_facts() {
        let asked = Arc::new(AtomicUsize::new(0));
        let mut follower = Follower::new();
        let mut seen = follower.subscribe();
        follower.add(Polled::new(
            Moody(Arc::clone(&asked)),
            Duration::from_secs(2),
        ));
        let mut states = Vec::new();
        while asked.load(Ordering::Relaxed) < 5 {
            let snapshot = seen.borrow_and_update().clone();
            let (_, report) = snapshot.reports.first_key_value().unwrap();
            states.push((
                report.health.failure.as_ref().map(|(_, why)| why.clone()),
                snapshot.topology.workers.len(),
                snapshot.generation,
            ));
            let _ = tokio::time::timeout(Duration::from_secs(3), seen.changed()).await;
        }
        states.dedup();
        let why = Some("GET http://moody: no way \\u{1b}[2J".to_owned());
        assert_eq!(
            states,
            [
                (None, 0, 0),
                (why.clone(), 0, 0),
                (None, 1, 1),
                (why, 1, 1),
                (None, 1, 1)
            ]
        );
    }

    #[tokio::test]
    async fn a_source_that_ends_is_told() {
        struct Ends;
        impl Source for Ends {
            fn id(&self) -> SourceId {
                SourceId {
                    kind: Kind::File,
                    place: String::new(),
                }
            }
            async fn observe(self, _: Reporter) {
                panic!("as a bug would");
            }
        }
        let mut follower = Follower::new();
        let mut seen = follower.subscribe();
        follower.add(Ends);
        let snapshot = seen
            .wait_for(|s| s.reports.values().any(|r| r.health.failure.is_some()))
            .await
            .unwrap()
            .clone();
        let health = &snapshot.reports.values().next().unwrap().health;
        assert_eq!(health.state(health.started), State::Failing);
        let later = health.started.after(PATIENCE * 2);
        assert_eq!(snapshot.degraded(later).count(), 1);
    }
}
