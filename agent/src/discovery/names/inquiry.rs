//! Host names that are looked up once, all together.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use super::{
    dns::look_up,
    lookup::{AT_ONCE, Answering, Found, PATIENCE},
};

/// Looks names up, so many at a time, however many clients ask for them.
pub struct Inquiry {
    ask: fn(String) -> Answering,
    places: Arc<Semaphore>,
}

impl Inquiry {
    /// By the name service of this host.
    pub fn of_host() -> Self {
        Self::by(|name| Box::pin(async move { look_up(&name).await }))
    }

    fn by(ask: fn(String) -> Answering) -> Self {
        Self {
            ask,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The answers to all of these names, the first ones first. It takes 5 s at the most: what is not
    /// answered by then says so. In a Tokio runtime.
    pub async fn all(&self, names: Vec<String>) -> BTreeMap<String, Found> {
        let late = format!("no answer within {} s", PATIENCE.as_secs());
        let late = names.iter().map(|name| (name.clone(), Err(late.clone())));
        let mut answers: BTreeMap<_, Found> = late.collect();
        let mut running = JoinSet::new();
        let asking = async {
            for name in names {
                // It is never closed.
                let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                    break;
                };
                let answer = (self.ask)(name.clone());
                running.spawn(async move {
                    let found = answer.await;
                    drop(place);
                    (name, found)
                });
            }
            while let Some(joined) = running.join_next().await {
                answers.extend(joined);
            }
        };
        // Whether it is late or not: what is there counts.
        let _ = timeout(PATIENCE, asking).await;
        while let Some(joined) = running.try_join_next() {
            answers.extend(joined);
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    /// Names say themselves how long they take, in milliseconds.
    fn ask(name: String) -> Answering {
        Box::pin(async move {
            let (_, time) = name.split_once('-').unwrap();
            sleep(Duration::from_millis(time.parse().unwrap())).await;
            Ok(vec![[10, 0, 0, 1].into()])
        })
    }

    fn names(count: usize, milliseconds: u64) -> Vec<String> {
        let names = (0..count).map(|n| format!("n{n}-{milliseconds}"));
        names.collect()
    }

    fn answered(answers: &BTreeMap<String, Found>) -> usize {
        answers.values().filter(|answer| answer.is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_answered_some_at_a_time() {
        let (inquiry, begin) = (Inquiry::by(ask), Instant::now());
        let answers = inquiry.all(names(10_000, 10)).await;
        assert_eq!((answers.len(), answered(&answers)), (10_000, 10_000));
        let rounds = 10_000_f64 / AT_ONCE as f64;
        let took = begin.elapsed().as_secs_f64();
        assert!(took > rounds * 0.01 && took < rounds * 0.012, "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_service_that_hangs_is_given_up() {
        let (inquiry, begin) = (Inquiry::by(ask), Instant::now());
        let mut slow = names(10_000, 60_000);
        slow.insert(0, "quick-1".to_owned());
        let answers = inquiry.all(slow).await;
        assert_eq!(begin.elapsed().as_secs(), PATIENCE.as_secs());
        assert_eq!((answers.len(), answered(&answers)), (10_001, 1));
        let late = &answers["n9999-60000"];
        assert_eq!(late, &Err("no answer within 5 s".to_owned()));

        // What was given up holds no place.
        assert_eq!(answered(&inquiry.all(names(1, 0)).await), 1);
        assert_eq!(inquiry.places.available_permits(), AT_ONCE);
    }
}
