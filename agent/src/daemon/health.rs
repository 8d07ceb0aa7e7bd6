//! Serves health and metrics, in the runtime that hears signals: also while the agent starts, and while its tasks hang.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    runtime,
    sync::{Mutex, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{pulse::Pulses, retry::Retry, service::AgentService};
use crate::{
    api::{Request, Response, Service as _},
    health::{Page, Subject, accept},
};

/// How long a look into the tables is good for: however many ask, the tables are read once in this time.
const FRESH: Duration = Duration::from_secs(1);

/// Knows what the agent is like.
pub struct Health {
    pulses: Pulses,
    /// Where the tables are read.
    workers: runtime::Handle,
    /// Set when it has started.
    service: OnceLock<Arc<AgentService>>,
    last: Mutex<Last>,
}

/// The last look into the tables.
#[derive(Default)]
struct Last {
    page: Option<(Instant, Arc<Page>)>,
    /// One that has not ended, though nobody may wait for it any more.
    under_way: Option<JoinHandle<Result<Page, String>>>,
}

impl Health {
    /// Of an agent that starts.
    pub fn new(pulses: Pulses, workers: runtime::Handle) -> Self {
        Self {
            pulses,
            workers,
            service: OnceLock::new(),
            last: Mutex::default(),
        }
    }

    /// It has started.
    pub fn started(&self, service: Arc<AgentService>) {
        // It starts once.
        let _ = self.service.set(service);
    }

    /// Serves at the address that is wanted, which may change, until nobody can want another one.
    pub async fn serve(
        self: Arc<Self>,
        mut wanted: watch::Receiver<Option<SocketAddr>>,
        mut retry: Retry,
    ) {
        loop {
            let address = *wanted.borrow_and_update();
            let listening = match address {
                Some(address) => TcpListener::bind(address).await.map(Some),
                None => Ok(None),
            };
            let bound = match (listening, address) {
                (Ok(listener), _) => {
                    retry.succeeded();
                    listener
                }
                (Err(error), address) => {
                    let at = address.map(|address| format!("{address}: "));
                    retry.failed(Some(format!("{}{error}", at.unwrap_or_default())));
                    None
                }
            };
            let serving = async {
                match &bound {
                    Some(listener) => drop(accept(listener, &self).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() {
                    return;
                },
                () = retry.due() => {}
                () = serving => {}
            }
        }
    }
}

impl Subject for Health {
    fn hanging(&self) -> Vec<String> {
        self.pulses.hanging()
    }

    fn has_started(&self) -> bool {
        self.service.get().is_some()
    }

    async fn page(&self) -> Result<Arc<Page>, String> {
        let Some(service) = self.service.get() else {
            return Err("starting".to_owned());
        };
        let mut last = self.last.lock().await;
        if let Some((at, page)) = &last.page
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(page));
        }
        // Whoever does not wait until it ends leaves it to the next one: no look is begun beside another.
        let under_way = last
            .under_way
            .get_or_insert_with(|| self.workers.spawn(look(Arc::clone(service))));
        let looked = under_way.await;
        last.under_way = None;
        let page = Arc::new(looked.map_err(|error| error.to_string())??);
        last.page = Some((Instant::now(), Arc::clone(&page)));
        Ok(page)
    }
}

async fn look(service: Arc<AgentService>) -> Result<Page, String> {
    let unexpected = "the agent answered something else".to_owned();
    let status = match service.answer(Request::Status).await {
        Response::Status(status) => *status,
        Response::Error(why) => return Err(why),
        _ => return Err(unexpected),
    };
    match service.answer(Request::Services).await {
        Response::Services(services) => Ok(Page { status, services }),
        Response::Error(why) => Err(why),
        _ => Err(unexpected),
    }
}
