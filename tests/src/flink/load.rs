//! Clients that ask the REST interface of a leader again and again, and remember who answered.

use std::{
    collections::BTreeMap,
    io,
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{http::Http, namespace::Namespace};

/// Between two requests of a client, and before a refused one tries again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a client waits for an answer: so long that only its connection can move it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients at work until this is dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    visits: Mutex<Vec<Visit>>,
    /// The connections, by client, to be shut at the end.
    connections: Mutex<BTreeMap<usize, TcpStream>>,
    stopped: AtomicBool,
}

/// A connection that a client made, or tried to make.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Which client, from 0.
    pub client: usize,
    /// When it began to connect.
    pub begun: Instant,
    /// The name that the server has for itself, when it has told.
    pub server: Option<String>,
    /// Good answers.
    pub answers: usize,
    /// When the first of them came.
    pub first: Option<Instant>,
    /// When the last of them came.
    pub last: Option<Instant>,
    /// When and why it ended. `None` for a reason if the client was content.
    pub ended: Option<(Instant, Option<io::ErrorKind>)>,
}

impl Load {
    /// Starts clients in a namespace: some that keep their connections, and one more that makes a new one
    /// for every request.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(space: &Namespace, to: SocketAddr, keeping: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut load = Self {
            shared: Arc::clone(&shared),
            clients: Vec::new(),
        };
        for client in 0..=keeping {
            let (shared, space) = (Arc::clone(&shared), space.clone());
            let keeps = client < keeping;
            load.clients.push(
                std::thread::Builder::new()
                    .name(format!("client-{client}"))
                    // The namespace lives as long as the thread; nobody could be told otherwise.
                    .spawn(move || drop(space.run(|| shared.work(client, to, keeps))))?,
            );
        }
        Ok(load)
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// All visits so far, in the order of their beginning.
    pub fn visits(&self) -> Vec<Visit> {
        self.shared.visits().clone()
    }

    /// Makes sure that every client is answered by this server now, on a connection begun after `since`.
    ///
    /// # Errors
    /// One is not.
    pub fn check_served_by(&self, server: &str, since: Instant) -> Result<()> {
        let visits = self.visits();
        for client in 0..self.clients() {
            let served = visits.iter().any(|visit| {
                visit.client == client
                    && visit.begun >= since
                    && visit.server.as_deref() == Some(server)
                    && visit.answers > 0
            });
            let last = visits.iter().rfind(|visit| visit.client == client);
            ensure!(
                served,
                "client {client} is not served by {server}: {last:?}"
            );
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        for connection in lock(&self.shared.connections).values() {
            // It may be shut already.
            let _ = connection.shutdown(Shutdown::Both);
        }
        for client in self.clients.drain(..) {
            // It cannot panic, and there is nobody to tell.
            let _ = client.join();
        }
    }
}

impl Shared {
    fn visits(&self) -> MutexGuard<'_, Vec<Visit>> {
        lock(&self.visits)
    }

    fn work(&self, client: usize, to: SocketAddr, keeps: bool) {
        while !self.stopped.load(Ordering::Acquire) {
            let number = {
                let mut visits = self.visits();
                visits.push(Visit {
                    client,
                    begun: Instant::now(),
                    server: None,
                    answers: 0,
                    first: None,
                    last: None,
                    ended: None,
                });
                visits.len() - 1
            };
            let outcome = self.visit(client, number, to, keeps);
            let why = outcome.err().map(|error| error.kind());
            self.visits()[number].ended = Some((Instant::now(), why));
            std::thread::sleep(PAUSE);
        }
    }

    fn visit(&self, client: usize, number: usize, to: SocketAddr, keeps: bool) -> io::Result<()> {
        let mut http = Http::connect(to, PATIENCE)?;
        lock(&self.connections).insert(client, http.stream()?);
        // Who answers is a question to this server itself; the other is one to whoever leads.
        let mut server = None;
        while !self.stopped.load(Ordering::Acquire) {
            if server.is_none() {
                server = name(&http.get("/jobmanager/config")?.1);
                self.visits()[number].server.clone_from(&server);
            }
            // 503 during an election.
            if http.get("/overview")?.0 == 200 {
                let visit = &mut self.visits()[number];
                visit.answers += 1;
                let now = Instant::now();
                visit.first.get_or_insert(now);
                visit.last = Some(now);
                if !keeps {
                    return Ok(());
                }
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name in a JobManager's configuration.
fn name(config: &str) -> Option<String> {
    let config: Value = serde_json::from_str(config).ok()?;
    let settings = config.as_array()?;
    let address = settings
        .iter()
        .find(|setting| setting["key"] == "jobmanager.rpc.address")?;
    Some(address["value"].as_str()?.to_owned())
}
