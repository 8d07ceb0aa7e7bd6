//! The agent's side of the control API.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::fs::{Access, access};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::{UnixListener, UnixStream},
    sync::{Notify, Semaphore, broadcast},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{API_VERSION, EventRow, Line, Request, Response};
use crate::name::shown;

/// Longest request.
const LINE_MAX: u64 = 4096;
/// Clients at once. One more takes the place of the one that has been silent for the longest time.
const CLIENTS_MAX: usize = 64;
/// Those of them that may monitor, which they may for as long as they like.
const MONITORS_MAX: usize = 32;
/// How long a client may take for its next request.
const IDLE: Duration = Duration::from_secs(60);
/// How long a client may take to read an answer.
const SEND: Duration = Duration::from_secs(30);
/// How long nobody is accepted after that failed, as it does without free descriptors.
const PAUSE: Duration = Duration::from_millis(200);
/// How long clients may take to read their last answer.
const GOODBYE: Duration = Duration::from_millis(500);
/// Who may use the socket: root and the group of the agent.
const MODE: u32 = 0o660;

/// What the server serves.
pub trait Service: Send + Sync + 'static {
    /// Answers a request other than [`Request::Monitor`].
    fn answer(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// Events from now on.
    fn subscribe(&self) -> broadcast::Receiver<EventRow>;
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An agent listens there.
    #[error("an agent is already running at {}; stop it, or choose another socket with --control-socket", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{} exists and is not a socket; choose another path with --control-socket", .0.display())]
    NotASocket(PathBuf),
    /// The file system or the kernel refused.
    #[error("cannot listen at {}: {source}{}", path.display(), remedy(source))]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// That a socket can be made at `path`.
fn check_directory(path: &Path) -> Result<(), ServerError> {
    let mut outer = path.ancestors().skip(1);
    let Some(nearest) = outer.find(|directory| directory.exists()) else {
        return Ok(());
    };
    let reached = match nearest.is_dir() {
        true => access(nearest, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from),
        false => Err(io::ErrorKind::NotADirectory.into()),
    };
    reached.map_err(|source| ServerError::Listen {
        path: path.to_owned(),
        source,
    })
}

/// What to do about an error of the file system; there are others.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::NotFound => {
            "; make its directory writable (in a container, by a volume), or choose another socket with --control-socket"
        }
        _ => "",
    }
}

/// A listening socket. The file is removed when it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::debug!("Cannot remove {}: {error}", self.0.display());
        }
    }
}

impl Server {
    /// That no agent listens at `path`. Changes nothing.
    ///
    /// # Errors
    /// When one does.
    pub fn check_free(path: &Path) -> Result<(), ServerError> {
        use std::os::unix::fs::FileTypeExt as _;
        let Ok(metadata) = fs::symlink_metadata(path) else {
            return check_directory(path);
        };
        if !metadata.file_type().is_socket() {
            return Err(ServerError::NotASocket(path.to_owned()));
        }
        match StdUnixStream::connect(path) {
            Ok(_) => Err(ServerError::InUse(path.to_owned())),
            Err(_) => Ok(()),
        }
    }

    /// Listens at `path`; a socket that nobody listens at any more is removed first.
    ///
    /// # Errors
    /// When an agent listens there, or the kernel refuses.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        Self::check_free(path)?;
        let failed = |source| ServerError::Listen {
            path: path.to_owned(),
            source,
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        // Nobody may connect between bind and the change of the mode.
        let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(umask);
        let server = Self {
            listener: listener.map_err(failed)?,
            file: SocketFile(path.to_owned()),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed)?;
        Ok(server)
    }

    /// Serves until `stop` completes, then lets the answers that are under way go out.
    pub async fn serve<S: Service>(self, service: Arc<S>, stop: impl Future<Output = ()>) {
        let Self { listener, file } = self;
        let (stopping, _) = broadcast::channel::<()>(1);
        let monitors = Arc::new(Semaphore::new(MONITORS_MAX));
        let mut guests: Vec<Weak<Guest>> = Vec::new();
        let mut clients = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        // While nobody is accepted: until when.
        let mut paused: Option<Instant> = None;
        loop {
            let pause = paused.unwrap_or_else(Instant::now);
            tokio::select! {
                () = &mut stop => break,
                () = sleep_until(pause), if paused.is_some() => paused = None,
                accepted = listener.accept(), if paused.is_none() => match accepted {
                    Ok((stream, _)) => {
                        guests.retain(|guest| guest.strong_count() > 0);
                        if guests.len() >= CLIENTS_MAX && !dismiss(&guests) {
                            clients.spawn(turn_away(stream));
                            continue;
                        }
                        // Silent from the first: of many that come at once, none is asking yet.
                        let guest = Arc::new(Guest::default());
                        guest.silent(Some(Instant::now()));
                        guests.push(Arc::downgrade(&guest));
                        let conversation = Conversation {
                            service: Arc::clone(&service),
                            stopped: stopping.subscribe(),
                            monitors: Arc::clone(&monitors),
                            guest,
                        };
                        clients.spawn(async move {
                            if let Err(error) = conversation.serve(stream).await {
                                log::debug!("A client of the control socket is gone: {error}");
                            }
                        });
                    }
                    Err(error) => {
                        log::warn!("Cannot accept a client at the control socket: {error}; it is tried again");
                        paused = Some(Instant::now() + PAUSE);
                    }
                },
                Some(_) = clients.join_next(), if !clients.is_empty() => {}
            }
        }
        drop(listener);
        drop(file);
        drop(stopping);
        let finished = async { while clients.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, finished).await.is_err() {
            log::debug!("A client of the control socket did not read its answer");
        }
    }
}

/// Somebody who is being served.
#[derive(Default)]
struct Guest {
    /// Since when it asks for nothing.
    silent: Mutex<Option<Instant>>,
    /// Tells it to leave.
    leave: Notify,
}

/// Has the guest leave that has been silent for the longest time; false if all are being answered.
fn dismiss(guests: &[Weak<Guest>]) -> bool {
    let silent = guests.iter().filter_map(Weak::upgrade).filter_map(|guest| {
        let since = *guest.silent.lock();
        since.map(|since| (since, guest))
    });
    let Some((_, guest)) = silent.min_by_key(|(since, _)| *since) else {
        return false;
    };
    // It is told once.
    guest.silent(None);
    guest.leave.notify_one();
    true
}

/// Says that there is no room.
async fn turn_away(mut stream: UnixStream) {
    let words = format!("the agent is answering {CLIENTS_MAX} clients already; try again");
    // It may be gone, or not read it.
    let _ = send(&mut stream, Response::Error(words)).await;
}

impl Guest {
    fn silent(&self, since: Option<Instant>) {
        *self.silent.lock() = since;
    }
}

/// A client that is served, and what that needs.
struct Conversation<S> {
    service: Arc<S>,
    stopped: broadcast::Receiver<()>,
    monitors: Arc<Semaphore>,
    guest: Arc<Guest>,
}

impl<S: Service> Conversation<S> {
    /// Answers one client until it hangs up, is silent for too long, or the agent stops.
    async fn serve(mut self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut read).take(LINE_MAX);
            self.guest.silent(Some(Instant::now()));
            tokio::select! {
                length = limited.read_until(b'\n', &mut line) => {
                    if length? == 0 {
                        return Ok(());
                    }
                }
                () = self.guest.leave.notified() => return Ok(()),
                () = sleep(IDLE) => return Ok(()),
                _ = self.stopped.recv() => return Ok(()),
            }
            self.guest.silent(None);
            if line.len() as u64 == LINE_MAX && !line.ends_with(b"\n") {
                let words = format!("the request is longer than {LINE_MAX} bytes");
                return send(&mut write, Response::Error(words)).await;
            }
            let request = match parse(&line) {
                Ok(request) => request,
                Err(message) => {
                    send(&mut write, Response::Error(message)).await?;
                    return Ok(());
                }
            };
            if request == Request::Monitor {
                let Ok(_place) = Arc::clone(&self.monitors).try_acquire_owned() else {
                    let words = format!("{MONITORS_MAX} clients monitor already");
                    return send(&mut write, Response::Error(words)).await;
                };
                return monitor(&mut read, &mut write, &*self.service, &mut self.stopped).await;
            }
            let answer = self.service.answer(request).await;
            send(&mut write, answer).await?;
        }
    }
}

fn parse(line: &[u8]) -> Result<Request, String> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let garbled = |error| format!("the request cannot be read: {error}");
    let Version { version } = serde_json::from_slice(line).map_err(garbled)?;
    if version != API_VERSION {
        return Err(format!(
            "this agent speaks version {API_VERSION} of the control API, not {version}"
        ));
    }
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(line).map_err(garbled)?;
    let line: Line<Request> = serde_json::from_slice(line).map_err(garbled)?;
    // A misspelt field that was left out would mean all flows.
    let known = line.body.fields();
    let is_known = |name: &&String| {
        !["version", "request"].contains(&name.as_str()) && !known.contains(&name.as_str())
    };
    match fields.keys().find(is_known) {
        None => Ok(line.body),
        Some(name) => {
            let name = shown(name);
            Err(match known {
                [] => format!("unknown field \"{name}\": this request has none"),
                known => format!(
                    "unknown field \"{name}\": this request has {}",
                    known.join(", ")
                ),
            })
        }
    }
}

async fn monitor<S: Service>(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    service: &S,
    stopped: &mut broadcast::Receiver<()>,
) -> io::Result<()> {
    let mut events = service.subscribe();
    loop {
        let mut byte = [0];
        let response = tokio::select! {
            event = events.recv() => match event {
                Ok(event) => Response::Event(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => Response::Missed(missed),
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            _ = stopped.recv() => return Ok(()),
            // The client has nothing more to say: it hung up.
            _ = read.read(&mut byte) => return Ok(()),
        };
        send(write, response).await?;
    }
}

async fn send(write: &mut (impl AsyncWrite + Unpin), response: Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Line::new(response))?;
    line.push(b'\n');
    timeout(SEND, write.write_all(&line)).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Client, ClientError};

    struct Fake(broadcast::Sender<EventRow>);

    impl Service for Fake {
        async fn answer(&self, request: Request) -> Response {
            match request {
                Request::Peers => Response::Peers(Vec::new()),
                other => Response::Error(format!("no {other:?}")),
            }
        }

        fn subscribe(&self) -> broadcast::Receiver<EventRow> {
            self.0.subscribe()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn answers_refuses_and_cleans_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/c.sock");
        let server = Server::bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            MODE
        );
        assert!(matches!(Server::bind(&path), Err(ServerError::InUse(_))));

        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (events, _) = broadcast::channel(4);
        let serving = tokio::spawn(server.serve(Arc::new(Fake(events)), async {
            let _ = stopped.await;
        }));
        let socket = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(&socket).unwrap();
            assert_eq!(
                client.ask(Request::Peers).unwrap(),
                Response::Peers(Vec::new())
            );
            let refused = client.ask(Request::Status);
            assert!(matches!(refused, Err(ClientError::Refused(_))));

            use std::io::{Read as _, Write as _};
            for (line, words) in [
                ("nonsense\n", "cannot be read"),
                ("{\"version\":9,\"request\":\"new\"}\n", "not 9"),
                (
                    "{\"version\":1,\"request\":\"flush\",\"servce\":\"w\"}\n",
                    "unknown field",
                ),
                (
                    "{\"version\":1,\"request\":\"detach\",\"bpffs\":\"/x\"}\n",
                    "this request has none",
                ),
            ] {
                let mut raw = StdUnixStream::connect(&socket).unwrap();
                raw.write_all(line.as_bytes()).unwrap();
                let mut answer = String::new();
                raw.read_to_string(&mut answer).unwrap();
                assert!(answer.contains(words), "{answer}");
            }
        })
        .await
        .unwrap();
        stop.send(()).unwrap();
        serving.await.unwrap();
        assert!(!path.exists());
        assert!(matches!(
            Client::connect(&path),
            Err(ClientError::NotRunning(_))
        ));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn silent_clients_shut_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.sock");
        let server = Server::bind(&path).unwrap();
        let (events, _) = broadcast::channel(4);
        let serving = tokio::spawn(server.serve(Arc::new(Fake(events)), std::future::pending()));
        let ask = || {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                let mut client = Client::connect(&path)?;
                client.ask(Request::Peers)
            })
        };
        let mut silent = Vec::new();
        for round in 0..3 * CLIENTS_MAX {
            silent.push(StdUnixStream::connect(&path).unwrap());
            if round % 16 == 0 {
                assert_eq!(
                    ask().await.unwrap().unwrap(),
                    Response::Peers(Vec::new()),
                    "round {round}"
                );
            }
        }
        // Many at once.
        silent.extend((0..2 * CLIENTS_MAX).map(|_| StdUnixStream::connect(&path).unwrap()));
        assert!(ask().await.unwrap().is_ok());
        // Those that monitor have places of their own, and not all.
        for _ in 0..MONITORS_MAX {
            let mut monitor = StdUnixStream::connect(&path).unwrap();
            use std::io::Write as _;
            monitor
                .write_all(b"{\"version\":1,\"request\":\"monitor\"}\n")
                .unwrap();
            silent.push(monitor);
        }
        assert!(ask().await.unwrap().is_ok());
        serving.abort();
    }

    #[tokio::test]
    async fn a_stale_socket_is_removed_and_a_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Server::bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Server::bind(&path),
            Err(ServerError::NotASocket(_))
        ));
        assert!(path.exists());
    }
}
