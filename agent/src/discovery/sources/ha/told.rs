//! Leader records in ZooKeeper, where the JobManagers themselves say that they are.

use tokio::sync::watch;

use super::zookeeper::Zookeeper;
use crate::{
    config::Cluster,
    discovery::{Facts, Kind, Reporter, Snapshot, Source, SourceId},
};

/// Follows the records that the topology tells of.
#[derive(Debug)]
pub struct Told {
    seen: watch::Receiver<Snapshot>,
}

impl Told {
    /// The topology is the one that the records become part of.
    pub const fn new(seen: watch::Receiver<Snapshot>) -> Self {
        Self { seen }
    }

    fn records(seen: &mut watch::Receiver<Snapshot>) -> Option<Cluster> {
        let snapshot = seen.borrow_and_update();
        let told = snapshot.topology.records.as_ref()?;
        told.value.parse().ok()
    }
}

impl Source for Told {
    fn id(&self) -> SourceId {
        SourceId {
            kind: Kind::Zookeeper,
            place: String::new(),
        }
    }

    async fn observe(mut self, reporter: Reporter) {
        loop {
            let records = Self::records(&mut self.seen);
            let following = async {
                match records.clone() {
                    Some(Cluster::Zookeeper(place)) => {
                        Zookeeper::new(place).observe(reporter.clone()).await;
                    }
                    _ => {
                        // There are none: that is known.
                        reporter.facts(Facts::new(), None);
                        std::future::pending().await
                    }
                }
            };
            let seen = &mut self.seen;
            let changed = async {
                while seen.changed().await.is_ok() {
                    if Self::records(seen) != records {
                        return;
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                () = following => {}
                () = changed => {}
            }
        }
    }
}
