//! Aliases that are longer than the canonical name: left alone as a whole, or relayed.

use std::{
    io::{ErrorKind, Read, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use truename_tests::{
    namespace::Namespace,
    process::Process,
    scratch::Scratch,
    traffic::{DEADLINE, Dial, Lab},
    truename::{Truename, binary},
    wait::wait_until,
    wire::{Envelope, Names, associate, control},
};

/// The port of the endpoint.
const PORT: u16 = 7123;
/// A name of a Service in Kubernetes.
const LONG: &str = "flink-jobmanager.prod.svc.cluster.example.org";

/// A client and a node, and truename between them.
struct Hosts {
    // Dropped in this order: what uses a namespace goes first.
    listener: TcpListener,
    truename: Truename,
    /// A process beside the node, as a container has one.
    _process: Process,
    scratch: Scratch,
    lab: Lab,
    names: Names,
}

impl Hosts {
    fn new(lab: Lab, flags: &[&str]) -> Self {
        Self::named(lab, Names::flink("jm", LONG), flags)
    }

    fn named(lab: Lab, names: Names, flags: &[&str]) -> Self {
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
            hosts.wait_for_relay();
        }
        hosts
    }

    fn wait_for_relay(&self) {
        wait_until(DEADLINE, "the relay", || {
            let (status, _) = self.truename.status()?;
            let serves = status["relay"]["endpoints"] == 1;
            anyhow::ensure!(serves, "{status}");
            Ok(())
        })
        .unwrap();
    }

    fn dial(&self) -> std::io::Result<TcpStream> {
        let to = self.listener.local_addr().unwrap();
        let client = self.lab.client().run(|| TcpStream::connect(to)).unwrap()?;
        client.set_read_timeout(Some(DEADLINE))?;
        Ok(client)
    }

    /// The same from a fixed port.
    fn dial_from(&self, port: u16) -> TcpStream {
        let dial = Dial {
            port,
            to: Some(self.listener.local_addr().unwrap()),
            ..Dial::default()
        };
        let client = self.lab.dial(dial).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client
    }

    fn accept(&self) -> TcpStream {
        let (server, _) = self.listener.accept().unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        server
    }

    /// A connection on which both sides have announced themselves.
    fn connect(&self) -> (TcpStream, TcpStream) {
        self.announce(self.dial().unwrap())
    }

    /// The same with a connection that the client has made.
    fn announce(&self, mut client: TcpStream) -> (TcpStream, TcpStream) {
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
    fn relayed(&self) -> (TcpStream, TcpStream) {
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
    fn request(&self, name: &str, size: usize) -> Vec<u8> {
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
    fn answer(&self, name: &str, size: usize) -> Vec<u8> {
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
    fn exchange(&self, client: &mut TcpStream, server: &mut TcpStream, name: &str, size: usize) {
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

    fn counter(&self, name: &str) -> u64 {
        self.truename.counter(name).unwrap()
    }

    /// Waits until so many connections are relayed.
    fn wait_for_connections(&self, count: u64) {
        wait_until(DEADLINE, "connections of the relay", || {
            let (status, _) = self.truename.status()?;
            anyhow::ensure!(status["relay"]["connections"] == count, "{status}");
            Ok(())
        })
        .unwrap();
    }
}

/// Sends until the other side, which does not read, takes no more. How many bytes it took.
fn fill(stream: &mut TcpStream, bytes: &[u8]) -> usize {
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
fn pass(from: &mut TcpStream, to: &mut TcpStream, sent: &[u8], expected: &[u8]) {
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

fn read_frame(from: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    from.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut body).unwrap();
    body
}

fn assert_reset(stream: &mut TcpStream) {
    let read = stream.read(&mut [0; 1]);
    let error = read.expect_err("the connection ended without a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// A reset after the end of what the other side sent.
fn assert_broken(stream: &mut TcpStream) {
    let written = stream.write(&[0]);
    let error = written.expect_err("the connection goes on");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
}

#[test]
fn without_a_relay_a_connection_is_left_alone_from_its_first_frame() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &[]);
    let (mut client, mut server) = hosts.connect();
    for _ in 0..2 {
        hosts.exchange(&mut client, &mut server, &hosts.names.alias.to_string(), 10);
    }
    assert_eq!(hosts.counter("no_fit"), 1);
    for counter in ["rewritten_inbound", "rewritten_outbound", "reset_relay"] {
        assert_eq!(hosts.counter(counter), 0, "{counter}");
    }
    let alias = format!("{LONG}:6123");
    let rows = hosts
        .truename
        .rows("aliases", &[("alias", &alias)])
        .unwrap();
    assert_eq!(
        (&rows[0]["no_fit"], &rows[0]["relayed"]),
        (&true.into(), &false.into())
    );
    hosts
        .truename
        .rows("flows", &[("alias", &alias), ("state", "left_alone")])
        .unwrap();
    let from = client.local_addr().unwrap().ip().to_string();
    let to = hosts.listener.local_addr().unwrap().to_string();
    let explained = hosts.truename.words(&["explain", &from, &to]).unwrap();
    assert!(
        explained.contains("enabled = true in [relay]"),
        "{explained}"
    );
    let text = hosts.truename.text("status").unwrap();
    assert!(text.contains("enabled = true in [relay]"), "{text}");
}

#[test]
fn a_client_whose_alias_fits_is_relayed_once_and_then_translated_in_place() {
    let names = Names::flink("jobmanager", "jm");
    let hosts = Hosts::named(Lab::direct().unwrap(), names, &["--relay"]);
    let (client, server) = hosts.relayed();
    assert_eq!(hosts.counter("relay_steered"), 1);
    drop((client, server));
    let (mut client, mut server) = hosts.connect();
    client.write_all(&hosts.request("jm:6123", 10)).unwrap();
    let arrived = read_frame(&mut server);
    assert_ne!(arrived[..], hosts.request("jm:6123", 10)[4..]);
    assert_eq!(hosts.counter("rewritten_inbound"), 1);
    assert_eq!(hosts.counter("relay_steered"), 1);
}

#[test]
fn a_long_alias_that_nobody_could_relay_is_reset_and_relayed_when_somebody_can() {
    let mut hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    hosts.truename.kill_agent();
    // Nothing is known of the client: its alias may fit.
    let (mut client, _server) = hosts.connect();
    let alias = hosts.names.alias.to_string();
    client.write_all(&hosts.request(&alias, 10)).unwrap();
    assert_reset(&mut client);
    let refused = hosts.dial().expect_err("somebody accepts");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    hosts.truename.start_agent().unwrap();
    hosts.wait_for_relay();
    hosts.relayed();
    // The first reset may be lost.
    assert!(hosts.counter("reset_relay") >= 1);
    assert!(hosts.counter("relay_refused") >= 1);
}

#[test]
fn a_connection_is_relayed_where_the_node_is_on_this_host() {
    for lab in [Lab::direct().unwrap(), Lab::direct_v6().unwrap()] {
        is_relayed(lab);
    }
}

#[test]
fn a_connection_is_relayed_where_the_node_is_in_a_container() {
    is_relayed(Lab::routed().unwrap());
}

fn is_relayed(lab: Lab) {
    let hosts = Hosts::new(lab, &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    // The node sees an address of its own.
    let seen = server.peer_addr().unwrap().ip();
    assert_eq!(seen, hosts.listener.local_addr().unwrap().ip());
    for size in [0, 100, 200, 20_000, (10 << 20) - 1000] {
        hosts.exchange(&mut client, &mut server, "jm:6123", size);
    }
    let alias = format!("{LONG}:6123");
    let relayed = [("alias", alias.as_str()), ("state", "relayed")];
    let rows = hosts.truename.rows("flows", &relayed).unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    let rows = hosts
        .truename
        .rows("aliases", &[("alias", &alias)])
        .unwrap();
    assert_eq!(rows[0]["relayed"], true);
    assert_eq!(hosts.counter("reset_relay"), 0);
    assert_eq!(hosts.counter("rewritten_inbound"), 0);
    // Each side ends by itself.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    let last = hosts.answer("jm:6123", 10);
    pass(&mut server, &mut client, &last, &hosts.answer(&alias, 10));
    drop(server);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    drop(client);
    // Another one is relayed at once.
    let (mut client, mut server) = hosts.connect();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    assert_eq!(hosts.counter("reset_relay"), 0);
}

#[test]
fn resets_pass_the_relay() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (client, mut server) = hosts.relayed();
    reset(client);
    assert_reset(&mut server);
    let (mut client, server) = hosts.connect();
    reset(server);
    assert_reset(&mut client);
    // And where nobody listens, the client is told.
    let _open = hosts.connect();
    let Hosts {
        listener,
        lab,
        truename: _truename,
        ..
    } = hosts;
    let to = listener.local_addr().unwrap();
    drop(listener);
    let mut client = lab
        .client()
        .run(|| TcpStream::connect(to))
        .unwrap()
        .unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_reset(&mut client);
    // A node that is started again gets its port, although relayed connections have it.
    lab.server().run(|| TcpListener::bind(to)).unwrap().unwrap();
}

fn reset(stream: TcpStream) {
    truename_tests::traffic::reset(stream).unwrap();
}

#[test]
fn a_reset_passes_a_relay_that_waits_to_write_or_has_seen_an_end() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let heartbeats = control(3).repeat(1000);
    // The node does not read.
    let (mut client, server) = hosts.relayed();
    fill(&mut client, &heartbeats);
    reset(client);
    hosts.wait_for_connections(0);
    drop(server);
    // The client does not read, and the node goes.
    let (client, mut server) = hosts.connect();
    fill(&mut server, &heartbeats);
    reset(server);
    hosts.wait_for_connections(0);
    drop(client);
    // The client has ended its side before.
    let (client, mut server) = hosts.connect();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    reset(client);
    hosts.wait_for_connections(0);
    assert_broken(&mut server);
    // And the node.
    let (mut client, server) = hosts.connect();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    reset(server);
    hosts.wait_for_connections(0);
    assert_broken(&mut client);
}

#[test]
fn a_port_that_is_used_again_belongs_to_its_new_connection() {
    const PORT: u16 = 40123;
    let names = Names::flink("jobmanager", "jm");
    let mut hosts = Hosts::named(Lab::direct().unwrap(), names, &["--relay"]);
    // The first connection hangs until the second one is there.
    let (mut client, first) = hosts.announce(hosts.dial_from(PORT));
    fill(&mut client, &control(3).repeat(1000));
    reset(client);
    let (mut client, mut server) = hosts.announce(hosts.dial_from(PORT));
    drop(first);
    hosts.wait_for_connections(1);
    hosts.exchange(&mut client, &mut server, "jobmanager:6123", 10);
    assert_eq!(hosts.counter("rewritten_inbound"), 0);
    // A relayed connection that a killed agent had is not one for ever. Now the alias is known to fit.
    hosts.truename.kill_agent();
    reset(client);
    hosts.truename.start_agent().unwrap();
    hosts.wait_for_relay();
    let (mut client, mut server) = hosts.announce(hosts.dial_from(PORT));
    client.write_all(&hosts.request("jm:6123", 10)).unwrap();
    let arrived = read_frame(&mut server);
    assert_ne!(arrived[..], hosts.request("jm:6123", 10)[4..]);
    assert_eq!(hosts.counter("rewritten_inbound"), 1);
}

#[test]
fn a_slow_reader_slows_the_sender_down_and_loses_nothing() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    let frame = hosts.request(&hosts.names.alias.to_string(), 100_000);
    let expected = hosts.request("jm:6123", 100_000);
    let sent = fill(&mut client, &frame);
    let rest = frame.len() - sent % frame.len();
    let frames = sent / frame.len() + 1;
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(&frame[frame.len() - rest..]).unwrap());
        for number in 0..frames {
            let mut arrived = vec![0; expected.len()];
            server.read_exact(&mut arrived).unwrap();
            assert!(arrived == expected, "frame {number} of {frames}");
        }
    });
}

#[test]
fn bytes_that_come_one_by_one_arrive() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    client.set_nodelay(true).unwrap();
    let frame = hosts.request(&hosts.names.alias.to_string(), 10);
    for byte in &frame {
        client.write_all(std::slice::from_ref(byte)).unwrap();
    }
    let expected = hosts.request("jm:6123", 10);
    assert_eq!(read_frame(&mut server), expected[4..]);
}

#[test]
fn connections_that_send_nothing_cost_little_and_those_beyond_the_limit_are_reset() {
    let lab = Lab::direct().unwrap();
    let hosts = Hosts::new(lab, &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    let memory = resident(&hosts.truename);
    let idle: Vec<_> = (0..1000)
        .map(|_| (hosts.dial().unwrap(), hosts.accept()))
        .collect();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    let more = resident(&hosts.truename) - memory;
    assert!(more < 64 << 10, "{more} KiB for {} connections", idle.len());
    // 1024 is the limit.
    let mut beyond: Vec<_> = (0..24).map(|_| hosts.dial().unwrap()).collect();
    let last = beyond.last_mut().unwrap();
    assert_reset(last);
    let (status, code) = hosts.truename.status().unwrap();
    assert_eq!(status["relay"]["refused"], 1);
    assert_eq!(code, 3, "{status}");
}

/// KiB of an agent's memory.
fn resident(truename: &Truename) -> u64 {
    let path = format!("/proc/{}/status", truename.agent().unwrap().pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_killed_agent_ends_connections_and_its_successor_relays_again() {
    let mut hosts = Hosts::new(Lab::routed().unwrap(), &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    hosts.truename.kill_agent();
    for stream in [&mut client, &mut server] {
        match stream.read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
    }
    // Nobody translates: the client is refused, and tries again.
    let refused = hosts.dial().expect_err("somebody accepts");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    hosts.truename.start_agent().unwrap();
    hosts.wait_for_relay();
    let (mut client, mut server) = hosts.connect();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    assert_eq!(hosts.counter("reset_relay"), 0);
    // Everything goes with a detach.
    hosts.truename.detach().unwrap();
    let (mut client, mut server) = hosts.connect();
    let alias = hosts.names.alias.to_string();
    hosts.exchange(&mut client, &mut server, &alias, 10);
    let _ = (&hosts.scratch, Namespace::name(hosts.lab.host()));
}
