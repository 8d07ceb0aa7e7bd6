//! A thread in the network namespace of endpoints. It accepts connections and relays them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
    task::{JoinSet, LocalSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use truename_common::layout::Socket;

use super::{
    connection, down,
    namespace::Namespace,
    shared::{Context, Relays, Suspects},
};
use crate::datapath::Steering;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long is waited when nothing can be accepted, for example for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// A thread at work. It ends when this is dropped, and resets its connections.
pub struct Worker {
    number: u32,
    stop: CancellationToken,
    connections: Arc<AtomicUsize>,
    suspects: Arc<Suspects>,
    thread: Option<JoinHandle<()>>,
}

/// Listening sockets, and whether they are for IPv6.
type Listeners = Vec<(bool, OwnedFd)>;

impl Worker {
    /// Starts a thread in a namespace. Its listening sockets are on loopback addresses, so that nobody but the
    /// program that steers finds them.
    pub fn start(
        namespace: Namespace,
        number: u32,
        steering: Arc<Mutex<Steering>>,
        relays: Arc<Relays>,
    ) -> io::Result<(Self, Listeners)> {
        let stop = CancellationToken::new();
        let connections = Arc::<AtomicUsize>::default();
        let suspects = Arc::<Suspects>::default();
        let (ready, started) = mpsc::sync_channel(1);
        let context = Context {
            steering,
            relays,
            stop: stop.clone(),
            connections: Arc::clone(&connections),
            suspects: Arc::clone(&suspects),
        };
        let work = move || {
            let prepared = prepare(&namespace);
            let (runtime, listeners) = match prepared {
                Ok(prepared) => prepared,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let context = Arc::new(context);
            LocalSet::new().block_on(&runtime, async move {
                let opened = open(listeners);
                let Ok((listeners, descriptors)) = opened else {
                    let error = opened.err().unwrap_or_else(|| io::ErrorKind::Other.into());
                    return drop(ready.send(Err(error)));
                };
                if ready.send(Ok(descriptors)).is_err() {
                    return;
                }
                let mut tasks = JoinSet::new();
                for listener in listeners {
                    tasks.spawn_local(accept(listener, Arc::clone(&context)));
                }
                let watching = tokio::task::spawn_local(down::watch(context));
                // Each ends when all its connections are reset.
                tasks.join_all().await;
                watching.abort();
            });
        };
        let thread = thread::Builder::new()
            .name(format!("relay-{number}"))
            .spawn(work)?;
        let listeners = started
            .recv()
            .map_err(|_| io::Error::other("the thread ended"))??;
        let worker = Self {
            number,
            stop,
            connections,
            suspects,
            thread: Some(thread),
        };
        Ok((worker, listeners))
    }

    /// The number of the relay.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether it has connections.
    pub fn is_in_use(&self) -> bool {
        self.connections.load(Relaxed) > 0
    }

    /// Has it look whether an endpoint listens.
    pub fn look_at(&self, endpoint: Socket) {
        self.suspects.add(endpoint);
    }

    /// Whether the thread is at work.
    pub fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

/// Sockets that are bound, not yet listening, and whether they are for IPv6.
type Bound = Vec<(bool, TcpSocket)>;

fn prepare(namespace: &Namespace) -> io::Result<(runtime::Runtime, Bound)> {
    namespace.enter()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut bound = Vec::new();
    let v4 = TcpSocket::new_v4()?;
    // Accepted sockets have the endpoint's port, and this from here. Otherwise they would keep an endpoint that is
    // started again from its own port.
    v4.set_reuseaddr(true)?;
    v4.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    bound.push((false, v4));
    // A namespace may have no IPv6.
    if let Ok(v6) = TcpSocket::new_v6()
        && v6.set_reuseaddr(true).is_ok()
        && v6.bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).is_ok()
    {
        bound.push((true, v6));
    }
    Ok((runtime, bound))
}

/// Has the sockets listen; in the runtime.
fn open(bound: Bound) -> io::Result<(Vec<TcpListener>, Listeners)> {
    let (mut listeners, mut descriptors) = (Vec::new(), Vec::new());
    for (is_v6, socket) in bound {
        let listener = socket.listen(BACKLOG)?;
        descriptors.push((is_v6, listener.as_fd().try_clone_to_owned()?));
        listeners.push(listener);
    }
    Ok((listeners, descriptors))
}

async fn accept(listener: TcpListener, context: Arc<Context>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = context.stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    connections.spawn_local(connection::relay(stream, client, Arc::clone(&context)));
                }
                Err(error) => {
                    log::warn!("The relay cannot accept a connection: {error}");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.join_all().await;
}
