//! Follows leader records by list and watch.

use std::{pin::pin, time::Duration};

use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Place,
    records::{Map, Maps, facts},
};
use crate::discovery::{Kind, Reporter, Source, SourceId, sources::ha::retries};

/// How long one watch lasts. To begin the next confirms what is known, and a server that has silently gone is
/// noticed soon after.
const WATCH: Duration = Duration::from_secs(30);
/// A server that ends watches sooner than this is not asked again at once.
const SHORT: Duration = Duration::from_millis(500);
/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// When a source is heard of next, if all is well.
const NEXT: Option<Duration> = Some(WATCH.saturating_add(ANSWER));

/// Follows the leaders of one cluster.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    place: Place,
}

/// Why the leaders are not known now.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// No server is known.
    #[error(
        "cannot find a Kubernetes API server: {0}; run in a pod, or set topology.kubernetes.kubeconfig"
    )]
    Config(String),
    /// The server does not answer as it should.
    #[error("cannot {action} ConfigMaps with the labels {selector}: {error}")]
    Api {
        action: &'static str,
        selector: String,
        error: kube::Error,
    },
    /// The server does not answer.
    #[error(
        "cannot list ConfigMaps with the labels {selector}: no answer within {} s",
        ANSWER.as_secs()
    )]
    Silent { selector: String },
}

impl Kubernetes {
    /// For the cluster at this place.
    pub const fn new(place: Place) -> Self {
        Self { place }
    }

    /// The labels that Flink gives to all its ConfigMaps of leaders.
    fn selector(&self) -> String {
        format!(
            "app={},configmap-type=high-availability",
            self.place.cluster_id()
        )
    }

    fn failure(&self, action: &'static str, error: kube::Error) -> Failure {
        Failure::Api {
            action,
            selector: self.selector(),
            error,
        }
    }

    async fn connect(&self) -> Result<Api<ConfigMap>, Failure> {
        let mut config = match self.place.kubeconfig() {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .map_err(|error| Failure::Config(error.to_string()))?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| Failure::Config(error.to_string()))?
            }
            None => Config::infer()
                .await
                .map_err(|error| Failure::Config(error.to_string()))?,
        };
        config.connect_timeout = Some(ANSWER);
        config.read_timeout = Some(WATCH + ANSWER);
        // The client would try again in silence; here every failure is told.
        config.default_retry = false;
        let client =
            Client::try_from(config).map_err(|error| Failure::Config(error.to_string()))?;
        Ok(match self.place.namespace() {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::default_namespaced(client),
        })
    }

    /// Follows until something fails. `good` is called whenever facts were reported.
    async fn follow(
        &self,
        reporter: &Reporter,
        mut good: impl FnMut() + Send,
    ) -> Result<(), Failure> {
        let api = self.connect().await?;
        let (mut maps, mut version) = self.list(&api, reporter).await?;
        reporter.facts(facts(&maps), NEXT);
        good();
        loop {
            let start = Instant::now();
            let watched = self.watch(&api, &mut maps, &mut version, reporter).await?;
            if start.elapsed() < SHORT {
                sleep(SHORT).await;
            }
            if watched == Watched::TooOld {
                (maps, version) = self.list(&api, reporter).await?;
                reporter.facts(facts(&maps), NEXT);
            }
            good();
        }
    }

    /// All that is there, and the version of it.
    async fn list(
        &self,
        api: &Api<ConfigMap>,
        reporter: &Reporter,
    ) -> Result<(Maps, String), Failure> {
        reporter.waits("the ConfigMaps to be listed");
        let parameters = ListParams::default().labels(&self.selector());
        let list = timeout(ANSWER, api.list(&parameters))
            .await
            .map_err(|_| Failure::Silent {
                selector: self.selector(),
            })?
            .map_err(|error| self.failure("list", error))?;
        let version = list.metadata.resource_version.unwrap_or_default();
        let maps = list
            .items
            .into_iter()
            .filter_map(|map| {
                let named = Map::named(self.place.cluster_id(), &map.name_any())?;
                Some((named, map.data.unwrap_or_default()))
            })
            .collect();
        Ok((maps, version))
    }

    /// Takes changes since `version` until the watch is over.
    async fn watch(
        &self,
        api: &Api<ConfigMap>,
        maps: &mut Maps,
        version: &mut String,
        reporter: &Reporter,
    ) -> Result<Watched, Failure> {
        let parameters = WatchParams::default()
            .labels(&self.selector())
            .timeout(WATCH.as_secs() as u32);
        let failed = |error| self.failure("watch", error);
        reporter.waits("an answer");
        let events = match api.watch(&parameters, version).await {
            Ok(events) => events,
            Err(kube::Error::Api(status)) if status.code == GONE => return Ok(Watched::TooOld),
            Err(error) => return Err(failed(error)),
        };
        // The server knows the version, and what follows it will come.
        reporter.unchanged(NEXT);
        let mut events = pin!(events);
        while let Some(event) = events.try_next().await.map_err(failed)? {
            let (map, there) = match event {
                WatchEvent::Added(map) | WatchEvent::Modified(map) => (map, true),
                WatchEvent::Deleted(map) => (map, false),
                WatchEvent::Bookmark(bookmark) => {
                    *version = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(status) if status.code == GONE => return Ok(Watched::TooOld),
                WatchEvent::Error(status) => return Err(failed(kube::Error::Api(status))),
            };
            if let Some(new) = map.resource_version() {
                *version = new;
            }
            let Some(named) = Map::named(self.place.cluster_id(), &map.name_any()) else {
                continue;
            };
            if there {
                maps.insert(named, map.data.unwrap_or_default());
            } else {
                maps.remove(&named);
            }
            reporter.facts(facts(maps), NEXT);
        }
        Ok(Watched::Over)
    }
}

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// Its time was over, or the connection broke: the client does not tell which, but the next watch does.
    Over,
    /// The server no longer knows what has changed since the version that is known here.
    TooOld,
}

/// The status of a version that is too old.
const GONE: u16 = 410;

impl Source for Kubernetes {
    fn id(&self) -> SourceId {
        SourceId {
            kind: Kind::Kubernetes,
            place: self.place.to_string(),
        }
    }

    async fn observe(self, reporter: Reporter) {
        let mut times = retries();
        loop {
            if let Err(failure) = self.follow(&reporter, || times = retries()).await {
                // `retries` has no end.
                let time = times.next().unwrap_or(WATCH);
                reporter.failed(failure, Some(time));
                sleep(time).await;
            }
        }
    }
}
