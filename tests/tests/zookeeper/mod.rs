//! A look at leader records beside what is tested.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};
use truename_tests::{flink::Pair, namespace::Namespace, zookeeper::Ensemble};
use zookeeper_client::Client;

/// A client of a ZooKeeper that a [`Pair`] uses.
pub struct Records {
    runtime: Runtime,
    client: Client,
}

impl Records {
    /// Connects from inside a namespace.
    pub fn connect(space: &Namespace, ensemble: &Ensemble) -> Result<Self> {
        // The runtime's thread is started inside, and so are its sockets.
        let runtime = space.run(|| {
            Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
        })??;
        let servers = ensemble.quorum().join(",");
        let connect = runtime.spawn(async move { Client::connect(&servers).await });
        let client = runtime.block_on(connect)??;
        Ok(Self { runtime, client })
    }

    /// When the leader of a part wrote its record first, by ZooKeeper's clock, which is this machine's. A
    /// leader makes a new node: what is left of the one before is removed with its session, or by it.
    pub fn written(&self, part: &str) -> Result<SystemTime> {
        self.find(part)?
            .with_context(|| format!("there is no record of the leader of {part}"))
    }

    /// The same; nothing if there is no record.
    pub fn find(&self, part: &str) -> Result<Option<SystemTime>> {
        let mut times = Vec::new();
        for layout in ["/connection_info", "_lock"] {
            let path = format!("{}{}/leader/{part}{layout}", Pair::ROOT, Pair::CLUSTER);
            let stat = self.runtime.block_on(self.client.check_stat(&path))?;
            // From 1.15 on the lock is another node, of no interest here.
            times.extend(
                stat.filter(|stat| stat.data_length > 0)
                    .map(|stat| stat.ctime),
            );
        }
        let time = times.into_iter().max();
        let time = time.map(u64::try_from).transpose()?;
        Ok(time.map(|milliseconds| SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)))
    }
}
