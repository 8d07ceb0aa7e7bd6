//! A client and a node with truename between them, and what they do with their connections.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use truename_tests::{
    process::Process,
    scratch::Scratch,
    traffic::{DEADLINE, Dial, Lab},
    truename::{Truename, binary},
    wait::wait_until,
    wire::{Envelope, Names, associate},
};

/// The port of the endpoint.
const PORT: u16 = 7123;

/// A name of a Service in Kubernetes.
pub const LONG: &str = "flink-jobmanager.prod.svc.cluster.example.org";

/// A client and a node, and truename between them.
pub struct Hosts {
    // Dropped in this order: what uses a namespace goes first.
    pub listener: TcpListener,
    pub truename: Truename,
    /// A process beside the node, as a container has one.
    _process: Process,
    pub scratch: Scratch,
    pub lab: Lab,
    pub names: Names,
}

impl Hosts {
    pub fn new(lab: Lab, flags: &[&str]) -> Self {
        Self::named(lab, Names::flink("jm", LONG), flags)
    }

    pub fn named(lab: Lab, names: Names, flags: &[&str]) -> Self {
        Self::configured(lab, names, flags, "")
    }

    /// With the relay and these lines in its section.
    pub fn with(lab: Lab, relay: &str) -> Self {
        Self::configured(lab, Names::flink("jm", LONG), &["--relay"], relay)
    }

    pub fn configured(lab: Lab, names: Names, flags: &[&str], relay: &str) -> Self {
        let scratch = Scratch::new("relay").unwrap();
        let address = SocketAddr::new(lab.address().ip(), PORT);
        let listener = lab
            .server()
            .run(|| TcpListener::bind(address))
            .unwrap()
            .unwrap();
        let mut command = lab.server().command(Path::new("sleep"), &[]).unwrap();
        command.arg("1000");
        let process = Process::spawn("container", command, scratch.path()).unwrap();
        let mut arguments: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        for interface in lab.interfaces() {
            arguments.extend(["--interface".to_owned(), (*interface).to_owned()]);
        }
        let file = scratch.path().join("truename.toml");
        std::fs::write(&file, format!("[relay]\n{relay}")).unwrap();
        arguments.extend(["--config".to_owned(), file.display().to_string()]);
        // The canonical name is learned.
        arguments.extend(["--endpoint".to_owned(), format!("pekko={address}")]);
        let mut truename =
            Truename::prepared(binary().unwrap(), lab.host(), &scratch, arguments).unwrap();
        truename.start_agent().unwrap();
        let hosts = Self {
            listener,
            truename,
            _process: process,
            scratch,
            lab,
            names,
        };
        if flags.contains(&"--relay") {
            hosts.truename.wait_relay(1).unwrap();
        }
        hosts
    }

    /// Has the agent read another section of the relay.
    pub fn reload(&self, relay: &str) {
        let file = self.scratch.path().join("truename.toml");
        std::fs::write(&file, format!("[relay]\n{relay}")).unwrap();
        let agent = self.truename.agent().unwrap();
        let mark = agent.mark();
        agent.hang_up().unwrap();
        agent.wait_line(mark, &["Reloaded"], DEADLINE).unwrap();
    }

    pub fn dial(&self) -> std::io::Result<TcpStream> {
        let to = self.listener.local_addr().unwrap();
        let client = self.lab.client().run(|| TcpStream::connect(to)).unwrap()?;
        client.set_read_timeout(Some(DEADLINE))?;
        Ok(client)
    }

    /// The same from a fixed port.
    pub fn dial_from(&self, port: u16) -> TcpStream {
        let dial = Dial {
            port,
            to: Some(self.listener.local_addr().unwrap()),
            ..Dial::default()
        };
        let client = self.lab.dial(dial).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client
    }

    pub fn accept(&self) -> TcpStream {
        let (server, _) = self.listener.accept().unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        server
    }

    /// A connection on which both sides have announced themselves.
    pub fn connect(&self) -> (TcpStream, TcpStream) {
        self.announce(self.dial().unwrap())
    }

    /// The same with a connection that the client has made.
    pub fn announce(&self, mut client: TcpStream) -> (TcpStream, TcpStream) {
        let mut server = self.accept();
        client
            .write_all(&associate("flink", &self.names.client, 7))
            .unwrap();
        read_frame(&mut server);
        server
            .write_all(&associate("flink", &self.names.canonical, 8))
            .unwrap();
        read_frame(&mut client);
        (client, server)
    }

    /// A connection that is relayed.
    pub fn relayed(&self) -> (TcpStream, TcpStream) {
        let (mut client, mut server) = self.connect();
        self.exchange(
            &mut client,
            &mut server,
            &self.names.canonical.to_string(),
            10,
        );
        (client, server)
    }

    /// A message to the node, which the client calls `name`.
    pub fn request(&self, name: &str, size: usize) -> Vec<u8> {
        Envelope {
            recipient: self.names.path(&name, "/user/rm"),
            sender: Some(self.names.path(&self.names.client, "/temp/a")),
            body: vec![b'x'; size],
            serializer: 1,
            ..Envelope::default()
        }
        .frame()
    }

    /// A message of the node, which calls itself `name`.
    pub fn answer(&self, name: &str, size: usize) -> Vec<u8> {
        Envelope {
            recipient: self.names.path(&self.names.client, "/temp/a"),
            sender: Some(self.names.path(&name, "/user/rm")),
            body: vec![b'y'; size],
            serializer: 1,
            ..Envelope::default()
        }
        .frame()
    }

    /// Sends a message each way; the node must get it as one to `name`.
    pub fn exchange(
        &self,
        client: &mut TcpStream,
        server: &mut TcpStream,
        name: &str,
        size: usize,
    ) {
        let (alias, canonical) = (
            self.names.alias.to_string(),
            self.names.canonical.to_string(),
        );
        let is_translated = name == canonical;
        pass(
            client,
            server,
            &self.request(&alias, size),
            &self.request(name, size),
        );
        let answered = if is_translated { &alias } else { &canonical };
        pass(
            server,
            client,
            &self.answer(&canonical, size),
            &self.answer(answered, size),
        );
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.truename.counter(name).unwrap()
    }

    /// Waits until so many connections are relayed.
    pub fn wait_for_connections(&self, count: u64) {
        wait_until(DEADLINE, "connections of the relay", || {
            let (status, _) = self.truename.status()?;
            anyhow::ensure!(status["relay"]["connections"] == count, "{status}");
            Ok(())
        })
        .unwrap();
    }
}

/// Sends until the other side, which does not read, takes no more. How many bytes it took.
pub fn fill(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut more = |stream: &mut TcpStream| {
        let before = sent;
        while let Ok(count) = stream.write(&bytes[sent % bytes.len()..]) {
            sent += count;
            assert!(sent < 256 << 20, "nothing holds the sender back");
        }
        sent != before
    };
    while more(stream) {
        std::thread::sleep(Duration::from_millis(200));
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Sends bytes while they are read on the other side.
pub fn pass(from: &mut TcpStream, to: &mut TcpStream, sent: &[u8], expected: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(sent).unwrap());
        let mut arrived = vec![0; expected.len()];
        to.read_exact(&mut arrived).unwrap();
        assert!(
            arrived == expected,
            "{:?} instead of {:?}",
            String::from_utf8_lossy(&arrived[..arrived.len().min(200)]),
            String::from_utf8_lossy(&expected[..expected.len().min(200)])
        );
    });
}

pub fn read_frame(from: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    from.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut body).unwrap();
    body
}

pub fn assert_reset(stream: &mut TcpStream) {
    let read = stream.read(&mut [0; 1]);
    let error = read.expect_err("the connection ended without a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// A reset after the end of what the other side sent.
pub fn assert_broken(stream: &mut TcpStream) {
    let written = stream.write(&[0]);
    let error = written.expect_err("the connection goes on");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
}

pub fn reset(stream: TcpStream) {
    truename_tests::traffic::reset(stream).unwrap();
}

/// Accepts, and ends, what is still to be accepted.
pub fn take_all(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    while listener.accept().is_ok() {}
    listener.set_nonblocking(false).unwrap();
}
