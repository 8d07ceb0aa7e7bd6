//! Logs the problems that `status` has, when they come and when they go.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::{RunError, service::AgentService};
use crate::api::{Finding, Request, Response, Service as _};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether a source of the topology hangs, which costs nothing.
const OFTEN: Duration = Duration::from_secs(1);

/// The problems that were told, without their numbers.
#[derive(Default)]
struct Told(BTreeMap<String, String>);

/// Looks until it is told to stop.
pub async fn problems(service: Arc<AgentService>, stop: CancellationToken) -> Result<(), RunError> {
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut often = interval_at(Instant::now() + OFTEN, OFTEN);
    often.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told, mut sources) = (Told::default(), Told::default());
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
            _ = often.tick() => {
                let (new, over) = sources.change(&service.source_problems());
                if new.is_empty() && over.is_empty() {
                    continue;
                }
            }
        }
        if let Response::Status(status) = service.answer(Request::Status).await {
            let details = status.problem_details.into_iter();
            let found: Vec<_> = details
                .map(|row| Finding::new(row.code, row.problem))
                .collect();
            let (new, over) = told.change(&found);
            for problem in new {
                log::warn!("Degraded: {problem}");
            }
            for problem in over {
                log::info!("No longer: {problem}");
            }
        }
    }
}

impl Told {
    /// What is new, and what is over.
    fn change(&mut self, problems: &[Finding]) -> (Vec<String>, Vec<String>) {
        let of = |found: &Finding| (found.without_numbers(), found.sentence.clone());
        let now: BTreeMap<_, _> = problems.iter().map(of).collect();
        let beyond = |these: &BTreeMap<String, String>, those: &BTreeMap<String, String>| {
            let beyond = these.iter().filter(|(key, _)| !those.contains_key(*key));
            beyond.map(|(_, problem)| problem.clone()).collect()
        };
        let change = (beyond(&now, &self.0), beyond(&self.0, &now));
        self.0 = now;
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Code;

    #[test]
    fn a_problem_is_told_when_it_comes_and_when_it_goes() {
        let mut told = Told::default();
        let fails =
            |age: &str| format!("the source http://10.0.0.1:81 has failed for {age}, it says 7");
        let off = "net.ipv4.ip_forward is off".to_owned();
        let mut change = |sentences: &[String]| {
            let found = Finding::all(Code::Source, sentences.iter().cloned());
            told.change(&found.collect::<Vec<_>>())
        };
        assert_eq!(change(&[fails("17s")]), (vec![fails("17s")], vec![]));
        let (new, over) = change(&[fails("2m"), off.clone()]);
        assert_eq!((new, over), (vec![off.clone()], vec![]));
        let other = fails("1s").replace("10.0.0.1", "10.0.0.2");
        let (new, over) = change(&[other.clone(), off]);
        assert_eq!((new, over), (vec![other], vec![fails("2m")]));
    }
}
