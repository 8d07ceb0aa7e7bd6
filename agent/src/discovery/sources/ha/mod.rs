//! What leaders write about themselves into the store of Flink's high-availability services.
//!
//! [`zookeeper`] and [`kubernetes`] are the stores; each has a pure half, from what is stored to
//! [`Facts`], and a [`crate::discovery::Source`] that watches. Both have two layouts: Flink up to 1.14
//! elects every part of a JobManager by itself, later versions keep all in one place.

mod java;
pub mod kubernetes;
mod told;
pub mod zookeeper;

pub use told::Told;

use std::time::Duration;

use crate::{
    backoff::delays,
    discovery::{Claim, Component, Facts},
    name::Session,
};

/// How often a source that waits for changes says that it still does.
const CONFIRM: Duration = Duration::from_secs(10);
/// The shortest and the longest time between two tries to reach a store.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The parts of a JobManager that are elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    ResourceManager,
    Dispatcher,
    RestServer,
}

impl Part {
    const ALL: [Self; 3] = [Self::ResourceManager, Self::Dispatcher, Self::RestServer];

    /// For messages.
    const fn leader(self) -> &'static str {
        match self {
            Self::ResourceManager => "leader of the resource manager",
            Self::Dispatcher => "leader of the dispatcher",
            Self::RestServer => "leader of the REST server",
        }
    }

    /// Adds what the leader of this part says, if it is well-formed.
    fn claim(self, address: &str, session: Session, facts: &mut Facts) {
        let session = Some(session);
        let component = match self {
            Self::ResourceManager => Component::ResourceManager,
            Self::Dispatcher => Component::Dispatcher,
            Self::RestServer => {
                if let Some(address) = facts.check(self.leader(), address) {
                    facts.add(Claim::LeaderRest { address, session });
                }
                return;
            }
        };
        if let Some(address) = facts.check(self.leader(), address) {
            facts.add(Claim::LeaderRpc {
                component,
                address,
                session,
            });
        }
    }
}

/// Times to wait between tries.
fn retries() -> impl Iterator<Item = Duration> + Send {
    let (shortest, longest) = RETRY;
    delays(shortest, longest)
}

/// What leaders say of themselves, in short.
#[cfg(test)]
fn said(facts: &Facts) -> Vec<String> {
    let short = |claim: &Claim| match claim {
        Claim::LeaderRpc {
            component,
            address,
            session: Some(_),
        } => format!("{} {address}", component.name()),
        Claim::LeaderRest {
            address,
            session: Some(_),
        } => format!("REST {address}"),
        other => panic!("{other:?}"),
    };
    facts.claims().map(short).collect()
}
