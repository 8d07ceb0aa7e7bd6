//! A mock of an HTTP server on loopback that says what a test wants, however wrong.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A request as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, one hopes.
    pub method: String,
    /// With the query.
    pub path: String,
    /// Header lines, in small letters.
    pub headers: Vec<String>,
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// 200 with this body.
    Json(String),
    /// 200 with this body and entity tag, or 304 if the client has it.
    Tagged(String, String),
    /// This status with this body.
    Status(u16, String),
    /// 307 to there.
    Redirect(String),
    /// These bytes as they are, then the end.
    Raw(Vec<u8>),
    /// These bytes, then so many times the others, then the end.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes one by one, a tenth of a second apart, while the client listens.
    Drip(Vec<u8>),
    /// Nothing, and no end either.
    Silence,
}

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// The listening socket, of which only `shutdown` is used: it wakes the listener, from whatever
    /// namespace.
    wake: TcpStream,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    /// To be shut when the server ends.
    connections: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

impl Server {
    /// Listens on a free port of 127.0.0.1; `answer` may change its mind from one request to the next.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let wake = TcpStream::from(OwnedFd::from(listener.try_clone()?));
        let shared = Arc::new(Shared::default());
        let answer = Arc::new(answer);
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.stopped.load(Ordering::Acquire) {
                        break;
                    }
                    let (shared, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                    if let Ok(copy) = stream.try_clone() {
                        lock(&shared.connections).push(copy);
                    }
                    // It ends with its connection, which the server shuts.
                    std::thread::spawn(move || {
                        // Clients come and go as they like.
                        let _ = serve(&stream, &shared, &*answer);
                        let _ = stream.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Ok(Self {
            address,
            wake,
            shared,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// How many requests for a path so far.
    pub fn count(&self, path: &str) -> usize {
        let requests = lock(&self.shared.requests);
        requests
            .iter()
            .filter(|request| request.path == path)
            .count()
    }

    /// Shuts all connections, as a server does that is restarted or has had enough.
    pub fn hang_up(&self) {
        for connection in lock(&self.shared.connections).drain(..) {
            // It may be shut already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        let _ = self.wake.shutdown(Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.hang_up();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    mut stream: &TcpStream,
    shared: &Shared,
    answer: &(impl Fn(&Request) -> Reply + ?Sized),
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        lock(&shared.requests).push(request.clone());
        match answer(&request) {
            Reply::Json(body) => stream.write_all(&whole(200, "", &body))?,
            Reply::Tagged(tag, body) => {
                if request.headers.contains(&format!("if-none-match: {tag}")) {
                    stream.write_all(&whole(304, &format!("ETag: {tag}\r\n"), ""))?;
                } else {
                    stream.write_all(&whole(200, &format!("ETag: {tag}\r\n"), &body))?;
                }
            }
            Reply::Status(status, body) => stream.write_all(&whole(status, "", &body))?,
            Reply::Redirect(to) => {
                stream.write_all(&whole(307, &format!("Location: {to}\r\n"), ""))?;
            }
            Reply::Raw(bytes) => return stream.write_all(&bytes),
            Reply::Endless(first, again) => {
                stream.write_all(&first)?;
                while !shared.stopped.load(Ordering::Acquire) {
                    stream.write_all(&again)?;
                }
                return Ok(());
            }
            Reply::Drip(bytes) => {
                for byte in bytes {
                    if shared.stopped.load(Ordering::Acquire) {
                        break;
                    }
                    stream.write_all(&[byte])?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                return Ok(());
            }
            // Until somebody shuts it.
            Reply::Silence => while read(&mut reader)?.is_some() {},
        }
    }
    Ok(())
}

fn whole(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Mock\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let mut words = lines.first().into_iter().flat_map(|line| line.split(' '));
    let mut word = || words.next().unwrap_or_default().to_owned();
    Ok(Some(Request {
        method: word(),
        path: word(),
        headers: lines
            .iter()
            .skip(1)
            .map(|line| line.to_lowercase())
            .collect(),
    }))
}
