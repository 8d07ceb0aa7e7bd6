//! A mock of the Kubernetes API: it lists and watches ConfigMaps and, when told to, misbehaves as real
//! servers do. What it says is what a test put into it; nothing of Kubernetes runs.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// A listening mock; its threads end with the process.
#[derive(Debug)]
pub struct KubernetesMock {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What becomes of the watches that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Their time is over.
    Over,
    /// The connection breaks in the middle of an event.
    Cut,
    /// The server says in the stream that it has forgotten the version (410 Gone).
    Gone,
}

/// Misbehaviour of all requests from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// As they should be.
    Good,
    /// An error with this status.
    Status(u16),
    /// Something that is no JSON.
    Garbage,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// The oldest version from which a watch may go on.
    oldest: u64,
    events: Vec<(u64, Value)>,
    ends: Vec<End>,
    answers: Answers,
    requests: Vec<String>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 100,
            oldest: 0,
            events: Vec::new(),
            ends: Vec::new(),
            answers: Answers::Good,
            requests: Vec::new(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }
}

impl KubernetesMock {
    /// Listens on a free port of the loopback address.
    ///
    /// # Errors
    /// There is none.
    pub fn new() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen for the mock")?;
        let address = listener.local_addr().context("the mock's address")?;
        let shared = Arc::<Shared>::default();
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&served);
                // A client that hangs up is no failure.
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Ok(Self { address, shared })
    }

    /// A kubeconfig that leads here, to the namespace `default`.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "mock", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "nobody", "user": {} }],
            "contexts": [{ "name": "mock", "context": { "cluster": "mock", "user": "nobody", "namespace": "default" } }],
            "current-context": "mock",
        })
        .to_string()
    }

    /// Adds or replaces an object, under its name.
    pub fn put(&self, object: &Value) {
        self.shared.change(|state| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let known = state.objects.contains_key(name);
            let kind = if known { "MODIFIED" } else { "ADDED" };
            let stored = state.event(kind, object.clone());
            state.objects.insert(name.to_owned(), stored);
        });
    }

    /// Removes an object.
    pub fn delete(&self, name: &str) {
        self.shared.change(|state| {
            if let Some(object) = state.objects.remove(name) {
                state.event("DELETED", object);
            }
        });
    }

    /// Ends the watches that are open. What is put before the next one opens it will see.
    pub fn end(&self, end: End) {
        self.shared.change(|state| {
            if end == End::Gone {
                state.oldest = state.version;
            }
            state.ends.push(end);
        });
    }

    /// Forgets what happened until now: to watch from before is answered with 410 Gone.
    pub fn compact(&self) {
        self.shared.change(|state| {
            state.version += 1;
            state.oldest = state.version;
            state.events.clear();
        });
    }

    /// How all requests are answered from now on; open watches are cut unless it is [`Answers::Good`].
    pub fn answer(&self, answers: Answers) {
        self.shared.change(|state| {
            state.answers = answers;
            if answers != Answers::Good {
                state.ends.push(End::Cut);
            }
        });
    }

    /// Waits until a request that contains all of `words` has come, after the first `skip` of them; answers
    /// how many requests there are.
    pub fn wait_request(&self, skip: usize, words: &[&str]) -> usize {
        let state = self.shared.lock();
        let state = self.shared.changed.wait_while(state, |state| {
            !state
                .requests
                .iter()
                .skip(skip)
                .any(|request| words.iter().all(|word| request.contains(word)))
        });
        state.unwrap_or_else(PoisonError::into_inner).requests.len()
    }

    /// How many requests contain this word.
    pub fn count(&self, word: &str) -> usize {
        let state = self.shared.lock();
        state
            .requests
            .iter()
            .filter(|request| request.contains(word))
            .count()
    }
}

impl State {
    /// Gives the object a version and tells the watches.
    fn event(&mut self, kind: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.events
            .push((self.version, json!({ "type": kind, "object": object })));
        object
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    // Whoever has seen the request can end its watch.
    let (answers, ended) = shared.change(|state| {
        state.requests.push(request.clone());
        (state.answers, state.ends.len())
    });
    let target = request.split(' ').nth(1).unwrap_or_default();
    let parameter = |name: &str| {
        let query = target.split_once('?')?.1;
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    match answers {
        Answers::Status(code) => return whole(&mut stream, code, &status(code).to_string()),
        Answers::Garbage => return whole(&mut stream, 200, "<html>\u{1b}[2J"),
        Answers::Good => {}
    }
    if !target.starts_with("/api/v1/namespaces/default/configmaps") {
        return whole(&mut stream, 404, &status(404).to_string());
    }
    if parameter("watch") == Some("true") {
        let version = parameter("resourceVersion").and_then(|version| version.parse().ok());
        return watch(&mut stream, shared, version.unwrap_or(0), ended);
    }
    let list = {
        let state = shared.lock();
        let items: Vec<&Value> = state.objects.values().collect();
        let metadata = json!({ "resourceVersion": state.version.to_string() });
        json!({ "kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": items })
    };
    whole(&mut stream, 200, &list.to_string())
}

fn status(code: u16) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("the mock says {code}"), "reason": "Mock", "code": code,
    })
}

fn whole(stream: &mut TcpStream, code: u16, body: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {code} Mock\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends events after `version` until the watches that are open after `ended` ends are ended.
fn watch(
    stream: &mut TcpStream,
    shared: &Shared,
    mut version: u64,
    ended: usize,
) -> io::Result<()> {
    if version < shared.lock().oldest {
        return whole(stream, 410, &status(410).to_string());
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    loop {
        let state = shared.lock();
        let state = shared
            .changed
            .wait_while(state, |state| {
                state.ends.len() == ended && state.events.iter().all(|(at, _)| *at <= version)
            })
            .unwrap_or_else(PoisonError::into_inner);
        let events: Vec<(u64, Value)> = state
            .events
            .iter()
            .filter(|(at, _)| *at > version)
            .cloned()
            .collect();
        let end = state.ends.get(ended).copied();
        drop(state);
        match end {
            Some(End::Over) => return write!(stream, "0\r\n\r\n"),
            Some(End::Cut) => return write!(stream, "40\r\n{{\"type\":\"MODI"),
            Some(End::Gone) => {
                chunk(stream, &json!({ "type": "ERROR", "object": status(410) }))?;
                return write!(stream, "0\r\n\r\n");
            }
            None => {}
        }
        for (at, event) in events {
            chunk(stream, &event)?;
            version = at;
        }
    }
}

fn chunk(stream: &mut TcpStream, event: &Value) -> io::Result<()> {
    let line = format!("{event}\n");
    write!(stream, "{:x}\r\n{line}\r\n", line.len())
}
