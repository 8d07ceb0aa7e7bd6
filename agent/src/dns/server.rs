//! The sockets of the names plane.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Counters, Zone, count, framing,
    upstream::{ask, servers},
    zone::{Decision, failure, is_negative},
};
use crate::config::{NameServers, Transport};

/// Questions that wait for other name servers at a time.
const WAITING_MAX: usize = 512;
/// Connections at a time.
const CONNECTIONS_MAX: usize = 128;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How long it is waited for a name to become known before it is denied.
const HOLD: Duration = Duration::from_millis(300);
/// How long the servers that were read count.
const FRESH: Duration = Duration::from_secs(1);
/// Room for datagrams that wait while the agent has no processor, in bytes.
/// The kernel counts about 800 for a question, so its default of 208 KiB overflows at 270 of them.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Largest datagram that is read, in bytes: no question has more.
const QUESTION_MAX: usize = 4096;

/// A server at work. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    _tasks: JoinSet<()>,
}

/// What all tasks share.
struct Shared {
    zone: watch::Receiver<Arc<Zone>>,
    upstream: NameServers,
    own: Vec<SocketAddr>,
    /// The servers that are asked, and when they were read.
    servers: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
    counters: Arc<Counters>,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Binds all sockets, and serves. In a Tokio runtime.
    ///
    /// # Errors
    /// One cannot be bound: a sentence.
    pub async fn start(
        listen: &[SocketAddr],
        upstream: &NameServers,
        zone: watch::Receiver<Arc<Zone>>,
        counters: Arc<Counters>,
    ) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            zone,
            upstream: upstream.clone(),
            own: listen.to_vec(),
            servers: Mutex::new(None),
            counters,
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        let mut tasks = JoinSet::new();
        for at in listen {
            let failed = |error: io::Error| match error.kind() {
                ErrorKind::AddrInUse => format!(
                    "{at} is in use; choose another address for listen in [names], e.g. 127.0.0.54:53, or stop the other name server"
                ),
                _ => format!("cannot listen on {at}: {error}"),
            };
            let udp = UdpSocket::bind(at).await.map_err(failed)?;
            // It stays as it is where the capability CAP_NET_ADMIN is missing.
            if let Err(error) = sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER) {
                log::debug!("names: {at} keeps its receive buffer: {error}");
            }
            let udp = Arc::new(udp);
            let tcp = TcpListener::bind(at).await.map_err(failed)?;
            tasks.spawn(datagrams(udp, Arc::clone(&shared)));
            tasks.spawn(connections(tcp, Arc::clone(&shared)));
        }
        Ok(Self { _tasks: tasks })
    }
}

async fn datagrams(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; QUESTION_MAX];
    // They end with this task.
    let mut forwards = JoinSet::new();
    loop {
        let (len, client) = tokio::select! {
            Some(_) = forwards.join_next() => continue,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error of an earlier answer says nothing of the next question.
                Err(_) => {
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        let question = &buffer[..len];
        let decision = {
            let zone = shared.zone.borrow();
            zone.decide(question, client.ip(), Transport::Udp)
        };
        if let Some(answer) = shared.counted(decision) {
            match answer {
                Answer::Now(answer) => {
                    // A client that is gone has no use for it.
                    let _ = socket.send_to(&answer, client).await;
                }
                Answer::Forward => {
                    let Ok(permit) = Arc::clone(&shared.waiting).try_acquire_owned() else {
                        count(&shared.counters.overflow);
                        if let Some(answer) = failure(question) {
                            let _ = socket.send_to(&answer, client).await;
                        }
                        continue;
                    };
                    let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                    let question = question.to_vec();
                    forwards.spawn(async move {
                        let answer = shared.ask(&question, client, Transport::Udp).await;
                        if let Some(answer) = answer {
                            let _ = socket.send_to(&answer, client).await;
                        }
                        drop(permit);
                    });
                }
            }
        }
    }
}

async fn connections(listener: TcpListener, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = open.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, client)) = accepted else {
            // No file descriptor is free: others end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
            count(&shared.counters.overflow);
            continue;
        };
        let shared = Arc::clone(&shared);
        open.spawn(async move {
            // It ends with the client's last question, however that comes about.
            let _ = connection(stream, client, &shared).await;
            drop(permit);
        });
    }
}

async fn connection(mut stream: TcpStream, client: SocketAddr, shared: &Shared) -> io::Result<()> {
    loop {
        let question = timeout(IDLE, framing::read(&mut stream)).await??;
        let decision = {
            let zone = shared.zone.borrow();
            zone.decide(&question, client.ip(), Transport::Tcp)
        };
        let answer = match shared.counted(decision) {
            None => return Ok(()),
            Some(Answer::Now(answer)) => answer,
            Some(Answer::Forward) => match shared.ask(&question, client, Transport::Tcp).await {
                Some(answer) => answer,
                None => return Ok(()),
            },
        };
        timeout(IDLE, framing::write(&mut stream, &answer)).await??;
    }
}

/// What a client gets.
enum Answer {
    Now(Vec<u8>),
    Forward,
}

impl Shared {
    /// The servers to ask; their file is read once a second at the most.
    fn servers(&self) -> Vec<SocketAddr> {
        let mut known = self.servers.lock();
        match &*known {
            Some((at, servers)) if at.elapsed() < FRESH => servers.clone(),
            _ => {
                let servers = servers(&self.upstream, &self.own);
                *known = Some((Instant::now(), servers.clone()));
                servers
            }
        }
    }

    /// Counts a decision; `None`: nothing is answered.
    fn counted(&self, decision: Decision) -> Option<Answer> {
        match decision {
            Decision::Answer(answer) => {
                count(&self.counters.answered);
                Some(Answer::Now(answer))
            }
            Decision::Refuse(answer) => {
                count(&self.counters.refused);
                Some(Answer::Now(answer))
            }
            Decision::Malformed(answer) => {
                count(&self.counters.malformed);
                Some(Answer::Now(answer))
            }
            Decision::Drop => {
                count(&self.counters.malformed);
                None
            }
            Decision::Forward => Some(Answer::Forward),
        }
    }

    /// The answer of other servers, or that there is none. Before a name that may be the cluster's is denied, it gets a
    /// little time to become known: a worker is asked for as soon as it has announced itself.
    async fn ask(
        &self,
        question: &[u8],
        client: SocketAddr,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let servers = self.servers();
        let asked = async {
            let answer = ask(&servers, transport, question).await;
            let is_denied = answer.as_ref().map_or(true, |answer| is_negative(answer));
            if is_denied && self.zone.borrow().resembles(question) {
                sleep(HOLD).await;
            }
            answer
        };
        let mut zone = self.zone.clone();
        let decide = |zone: &Arc<Zone>| zone.decide(question, client.ip(), transport);
        let known = zone.wait_for(|zone| matches!(decide(zone), Decision::Answer(_)));
        let known = tokio::select! {
            answer = asked => return self.asked(answer, question),
            Ok(zone) = known => decide(&zone),
        };
        match self.counted(known) {
            Some(Answer::Now(answer)) => Some(answer),
            _ => None,
        }
    }

    /// Counts what other servers answered.
    fn asked(&self, answer: io::Result<Vec<u8>>, question: &[u8]) -> Option<Vec<u8>> {
        match answer {
            Ok(answer) => {
                count(&self.counters.forwarded);
                Some(answer)
            }
            Err(error) => {
                count(&self.counters.unanswered);
                log::debug!("A question is not answered by the name servers of this host: {error}");
                failure(question)
            }
        }
    }
}
