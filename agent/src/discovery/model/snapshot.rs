//! What all sources have said.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::source::{HANGS, Waiting};
use crate::{
    clock::Moment,
    discovery::{Facts, Health, Report, SourceId, State, Topology, merge},
};

/// What is known at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What every source said last.
    pub reports: BTreeMap<SourceId, Report>,
    /// The sum of it.
    pub topology: Arc<Topology>,
    /// Grows whenever a source says something else than before, not when it confirms.
    pub generation: u64,
}

impl Snapshot {
    /// The sources that are to be told of at this time.
    pub fn degraded(&self, now: Moment) -> impl Iterator<Item = (&SourceId, &Health)> {
        self.reports
            .iter()
            .map(|(id, report)| (id, &report.health))
            .filter(move |(_, health)| health.state(now) >= State::Hanging)
    }

    /// A source begins, or begins again: then what it said counts, and it has to be heard of.
    pub(in crate::discovery) fn begin(&mut self, id: SourceId, patience: Duration, now: Moment) {
        let report = self.reports.entry(id).or_insert_with(|| Report {
            facts: Facts::new(),
            health: Health::new(now, patience),
        });
        report.health.patience = patience;
        report.health.waiting = None;
        report.health.next = report.health.success.map(|_| now);
    }

    /// A source is gone, and what it said with it.
    pub(in crate::discovery) fn end(&mut self, id: &SourceId) {
        if self
            .reports
            .remove(id)
            .is_some_and(|report| report.health.success.is_some())
        {
            self.generation += 1;
            self.merge();
        }
    }

    pub(super) fn wait(&mut self, id: &SourceId, what: &'static str, now: Moment) {
        if let Some(report) = self.reports.get_mut(id) {
            let before = report.health.waiting;
            report.health.waiting = Some(Waiting {
                since: before.map_or(now, |before| before.since),
                tried: now,
                what,
            });
        }
    }

    pub(super) fn succeed(
        &mut self,
        id: &SourceId,
        facts: Option<Facts>,
        now: Moment,
        next: Option<Moment>,
    ) {
        let Some(report) = self.reports.get_mut(id) else {
            return;
        };
        let first = report.health.success.is_none();
        report.health.success = Some(now);
        report.health.failure = None;
        report.health.waiting = None;
        report.health.next = next;
        if let Some(facts) = facts {
            if first || !facts.same_claims(&report.facts) {
                self.generation += 1;
            }
            report.facts = facts;
        }
        self.merge();
    }

    pub(super) fn fail(&mut self, id: &SourceId, why: String, now: Moment, next: Option<Moment>) {
        if let Some(report) = self.reports.get_mut(id) {
            report.health.failure = Some((now, why));
            report.health.next = next;
            // What was given up for want of an answer is no answer.
            let is_silent = |waiting: &Waiting| now.since(waiting.tried) >= HANGS;
            report.health.waiting = report.health.waiting.filter(is_silent);
        }
    }

    fn merge(&mut self) {
        let said = self.reports.iter().filter_map(|(id, report)| {
            let confirmed = report.health.success?;
            Some((id, confirmed, &report.facts))
        });
        self.topology = Arc::new(merge(said));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{Kind, model::source::PATIENCE};

    #[test]
    fn who_begins_again_keeps_its_facts_and_has_to_be_heard_of() {
        let (short, long) = (PATIENCE, PATIENCE * 2);
        let id = SourceId {
            kind: Kind::Flink,
            place: "http://a:1".to_owned(),
        };
        let mut snapshot = Snapshot::default();
        let begun = Moment::from_ns(1);
        snapshot.begin(id.clone(), short, begun);
        snapshot.succeed(&id, Some(Facts::new()), begun, None);
        let again = begun.after(Duration::from_secs(100));
        snapshot.begin(id.clone(), long, again);
        let health = &snapshot.reports[&id].health;
        assert_eq!((health.success, health.patience), (Some(begun), long));
        assert_eq!(health.state(again.after(long)), State::Good);
        let late = again.after(long + Duration::from_secs(1));
        assert_eq!(health.state(late), State::Degraded);
        assert_eq!(snapshot.generation, 1);

        // Three tries are given up for want of an answer; the fourth one is refused at once.
        let mut now = late;
        for _ in 0..3 {
            snapshot.wait(&id, "an answer", now);
            assert_eq!(snapshot.degraded(now.after(HANGS)).count(), 1);
            now = now.after(HANGS);
            snapshot.fail(&id, "no answer".to_owned(), now, Some(now.after(short)));
            assert_eq!(snapshot.reports[&id].health.state(now), State::Hanging);
        }
        let waiting = snapshot.reports[&id].health.waiting.map(|w| w.since);
        assert_eq!(waiting, Some(late));
        snapshot.wait(&id, "an answer", now);
        snapshot.fail(&id, "refused".to_owned(), now, Some(now.after(short)));
        assert_eq!(snapshot.reports[&id].health.waiting, None);
        snapshot.wait(&id, "an answer", now);
        snapshot.succeed(&id, None, now, None);
        assert_eq!(snapshot.reports[&id].health.state(late), State::Good);
        snapshot.end(&id);
        assert_eq!((snapshot.reports.len(), snapshot.generation), (0, 2));
    }
}
