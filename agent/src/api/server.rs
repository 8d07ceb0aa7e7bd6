//! The agent's side of the control API.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::{UnixListener, UnixStream},
    sync::{Semaphore, broadcast},
    task::JoinSet,
};

use super::{API_VERSION, EventRow, Line, Request, Response};

/// Longest request.
const LINE_MAX: u64 = 4096;
/// Clients at once.
const CLIENTS_MAX: usize = 64;
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
    #[error("cannot listen at {}: {source}; make its directory writable (in a container, by a volume), or choose another socket with --control-socket", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
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
            return Ok(());
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
        let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
        let (stopping, _) = broadcast::channel::<()>(1);
        let mut clients = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                            log::warn!("Too many clients at the control socket; one was turned away");
                            continue;
                        };
                        let service = Arc::clone(&service);
                        let mut stopped = stopping.subscribe();
                        clients.spawn(async move {
                            let _slot = slot;
                            if let Err(error) = serve_client(stream, &*service, &mut stopped).await {
                                log::debug!("A client of the control socket is gone: {error}");
                            }
                        });
                    }
                    Err(error) => log::warn!("Cannot accept a client: {error}"),
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

/// Answers one client until it hangs up or the agent stops.
async fn serve_client<S: Service>(
    stream: UnixStream,
    service: &S,
    stopped: &mut broadcast::Receiver<()>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut read).take(LINE_MAX);
        tokio::select! {
            length = limited.read_until(b'\n', &mut line) => {
                if length? == 0 {
                    return Ok(());
                }
            }
            _ = stopped.recv() => return Ok(()),
        }
        let request = match parse(&line) {
            Ok(request) => request,
            Err(message) => {
                send(&mut write, Response::Error(message)).await?;
                return Ok(());
            }
        };
        if request == Request::Monitor {
            return monitor(&mut read, &mut write, service, stopped).await;
        }
        send(&mut write, service.answer(request).await).await?;
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
    let line: Line<Request> = serde_json::from_slice(line).map_err(garbled)?;
    Ok(line.body)
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
    write.write_all(&line).await
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
