//! The answers of the control API.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, mpsc, oneshot};
use truename_common::layout::{Counter, VERSION};

use super::{Control, attachment::Attachment, view};
use crate::{
    api::{Clock, EventRow, InterfaceRow, Request, Response, Service, State, Status, Timestamp},
    config::Config,
    datapath::{DatapathError, Pins, Tables, TablesMut},
    explain,
    reconcile::Kernel as _,
};

/// What changes while the agent runs.
pub struct Live {
    interfaces: Vec<InterfaceRow>,
    missing: Vec<String>,
    /// What of the configuration is left out.
    left_out: Vec<String>,
    mode: &'static str,
}

/// Reads the kernel tables for clients.
pub struct AgentService {
    inner: Arc<Inner>,
    events: broadcast::Sender<EventRow>,
    control: mpsc::Sender<Control>,
}

struct Inner {
    config: Arc<Config>,
    pins: Pins,
    started: Timestamp,
    live: Mutex<Live>,
}

impl Live {
    /// The state of an attachment and of the plan.
    pub fn new(attachment: &Attachment, left_out: &[String]) -> Self {
        Self {
            interfaces: attachment.rows(),
            missing: attachment.missing(),
            left_out: left_out.to_vec(),
            mode: attachment.mode().name(),
        }
    }
}

impl AgentService {
    pub fn new(
        config: Arc<Config>,
        pins: Pins,
        live: Live,
        events: broadcast::Sender<EventRow>,
        control: mpsc::Sender<Control>,
    ) -> Self {
        let inner = Inner {
            config,
            pins,
            started: Timestamp::now(),
            live: Mutex::new(live),
        };
        Self {
            inner: Arc::new(inner),
            events,
            control,
        }
    }

    /// Tells of changed attachments.
    pub fn update(&self, live: Live) {
        *self
            .inner
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = live;
    }

    async fn detach(&self) -> Response {
        let (done, answer) = oneshot::channel();
        if self.control.send(Control::Detach(done)).await.is_err() {
            return Response::Error("the agent is stopping".to_owned());
        }
        match answer.await {
            Ok(Ok(links)) => Response::Detached(links),
            Ok(Err(error)) => Response::Error(error),
            Err(_) => Response::Error("the agent is stopping".to_owned()),
        }
    }
}

impl Service for AgentService {
    async fn answer(&self, request: Request) -> Response {
        if request == Request::Detach {
            return self.detach().await;
        }
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || inner.read(&request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => Response::Error(error.to_string()),
            Err(error) => Response::Error(error.to_string()),
        }
    }

    fn subscribe(&self) -> broadcast::Receiver<EventRow> {
        self.events.subscribe()
    }
}

impl Inner {
    fn read(&self, request: &Request) -> Result<Response, DatapathError> {
        let tables = Tables::open(&self.pins)?;
        let config = &*self.config;
        let clock = Clock::read();
        Ok(match request {
            Request::Status => Response::Status(Box::new(self.status(&tables)?)),
            Request::Endpoints => Response::Endpoints(view::endpoints(
                config,
                &tables.names()?,
                &tables.flow_keys()?,
            )),
            Request::Aliases => {
                Response::Aliases(view::aliases(config, &clock, &tables.aliases()?))
            }
            Request::Flows => Response::Flows(view::flows(config, &clock, &tables.flows()?)),
            Request::Peers => Response::Peers(view::peers(config, &clock, &tables.peers()?)),
            Request::Explain(question) => {
                let present = TablesMut::open(&self.pins)?.present()?;
                let now = clock.monotonic_ns();
                Response::Explanation(explain::explain(&present, config, now, question))
            }
            Request::Monitor | Request::Detach => {
                Response::Error("this is no question about tables".to_owned())
            }
        })
    }

    fn status(&self, tables: &Tables) -> Result<Status, DatapathError> {
        let counters = tables.counters()?;
        let (interfaces, missing, mode) = {
            let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            (live.interfaces.clone(), live.missing.clone(), live.mode)
        };
        let problems = problems(&interfaces, &missing, &counters);
        Ok(Status {
            state: if problems.is_empty() {
                State::Ok
            } else {
                State::Degraded
            },
            problems,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            table_version: VERSION,
            pid: std::process::id(),
            started: self.started,
            config: self.config.file.clone(),
            control_socket: self.config.agent.control_socket.clone(),
            bpffs: self.config.agent.bpffs.clone(),
            attach_mode: mode.to_owned(),
            interfaces,
            endpoints: self.config.endpoints.len(),
            flows: tables.flow_keys()?.len(),
            flow_capacity: tables.flow_capacity(),
            counters: counters
                .into_iter()
                .map(|(counter, value)| (counter.label().to_owned(), value))
                .collect(),
        })
    }
}

/// What is wanted and does not work, one sentence each.
fn problems(
    interfaces: &[InterfaceRow],
    missing: &[String],
    counters: &[(Counter, u64)],
) -> Vec<String> {
    let mut problems: Vec<_> = interfaces
        .iter()
        .filter_map(|row| row.error.clone())
        .collect();
    problems.extend(
        missing
            .iter()
            .map(|name| format!("the interface {name} is gone")),
    );
    if interfaces.iter().all(|row| row.program.is_none()) {
        problems.push("no interface is attached: nothing is translated".to_owned());
    }
    let full = counters
        .iter()
        .find(|(counter, _)| *counter == Counter::TableFull);
    if let Some((_, count)) = full.filter(|(_, count)| *count > 0) {
        problems.push(format!(
            "{count} packet(s) of new flows passed untranslated because the flow table was full; raise max_rpc_flows and restart after `truename detach`"
        ));
    }
    problems
}
