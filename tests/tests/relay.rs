//! Aliases that are longer than the canonical name: left alone as a whole, or relayed.

use std::{
    io::{ErrorKind, Read, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use truename_common::layout::VERSION;
use truename_tests::{
    namespace::Namespace,
    pinned::detach_link,
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
        Self::configured(lab, names, flags, "")
    }

    /// With the relay and these lines in its section.
    fn with(lab: Lab, relay: &str) -> Self {
        Self::configured(lab, Names::flink("jm", LONG), &["--relay"], relay)
    }

    fn configured(lab: Lab, names: Names, flags: &[&str], relay: &str) -> Self {
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
    fn reload(&self, relay: &str) {
        let file = self.scratch.path().join("truename.toml");
        std::fs::write(&file, format!("[relay]\n{relay}")).unwrap();
        let agent = self.truename.agent().unwrap();
        let mark = agent.mark();
        agent.hang_up().unwrap();
        agent.wait_line(mark, &["Reloaded"], DEADLINE).unwrap();
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
    // The relay and the kernel program mean the same client.
    let rows = hosts
        .truename
        .rows("peers", &[("alias", "jm:6123")])
        .unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
}

#[test]
fn a_long_alias_that_nobody_could_relay_is_reset_and_relayed_when_somebody_can() {
    let mut hosts = Hosts::with(Lab::direct().unwrap(), "hold = \"0s\"");
    hosts.truename.kill_agent();
    // Nothing is known of the client: its alias may fit.
    let (mut client, _server) = hosts.connect();
    let alias = hosts.names.alias.to_string();
    client.write_all(&hosts.request(&alias, 10)).unwrap();
    assert_reset(&mut client);
    let refused = hosts.dial().expect_err("somebody accepts");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    hosts.truename.start_agent().unwrap();
    hosts.truename.wait_relay(1).unwrap();
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
    let from = client.local_addr().unwrap().ip().to_string();
    let to = hosts.listener.local_addr().unwrap().to_string();
    let explained = hosts.truename.words(&["explain", &from, &to]).unwrap();
    let expected =
        format!("the alias {alias} is longer than the canonical name: its connections are relayed");
    assert!(explained.contains(&expected), "{explained}");
    let announced = hosts.names.client.to_string();
    let peer = [("announced", announced.as_str()), ("alias", alias.as_str())];
    let rows = hosts.truename.rows("peers", &peer).unwrap();
    assert_eq!((rows.len(), &rows[0]["client"]), (1, &from.into()));
    assert_eq!(rows[0]["system"], "flink");
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
fn the_kernel_asks_silent_clients_and_nodes_whether_they_are_there() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (client, server) = hosts.relayed();
    let mine = [&client, &server].map(|stream| stream.local_addr().unwrap().to_string());
    wait_until(DEADLINE, "two timers of the relay", || {
        let mut command = hosts.lab.server().command(Path::new("ss"), &[])?;
        command.args(["-Htno", "state", "established"]);
        let shown = String::from_utf8(command.output()?.stdout)?;
        // One to the client, and one to the node.
        let asked = shown.lines().filter(|line| {
            let peer = line.split_whitespace().nth(3).unwrap_or_default();
            mine.iter().any(|mine| mine == peer) && line.contains("timer:(keepalive,")
        });
        anyhow::ensure!(asked.count() == 2, "{shown}");
        Ok(())
    })
    .unwrap();
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
}

#[test]
fn where_nobody_listens_clients_are_refused_until_somebody_does() {
    let mut hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let _open = hosts.relayed();
    let to = hosts.listener.local_addr().unwrap();
    let server = hosts.lab.server().clone();
    let listen = || server.run(|| TcpListener::bind(to)).unwrap().unwrap();
    // The listener goes, and nothing tells of it but the first client that comes.
    let elsewhere = server.run(|| TcpListener::bind("127.0.0.1:0"));
    drop(std::mem::replace(
        &mut hosts.listener,
        elsewhere.unwrap().unwrap(),
    ));
    let dial = || {
        let client = hosts.lab.client().run(|| TcpStream::connect(to)).unwrap();
        client.inspect(|client| client.set_read_timeout(Some(DEADLINE)).unwrap())
    };
    assert_reset(&mut dial().unwrap());
    let refused = || {
        wait_until(DEADLINE, "a refusal", || {
            let error = dial().err();
            let error = error.map(|error| error.kind());
            anyhow::ensure!(error == Some(ErrorKind::ConnectionRefused), "{error:?}");
            Ok(())
        })
        .unwrap();
    };
    refused();
    // A node that is started again gets its port, although a relayed connection has it.
    hosts.listener = listen();
    let connected = || wait_until(DEADLINE, "a connection", || Ok(dial()?)).unwrap();
    let (mut client, mut server) = hosts.announce(connected());
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
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
    hosts.truename.wait_relay(1).unwrap();
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
    // It slows nobody else down.
    let (mut other, mut its) = hosts.connect();
    hosts.exchange(&mut other, &mut its, "jm:6123", 20_000);
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
fn a_frame_that_ends_early_passes_as_far_as_it_came() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    let ends = |from: &mut TcpStream, to: &mut TcpStream, sent: &[u8], expected: &[u8]| {
        from.write_all(sent).unwrap();
        from.shutdown(Shutdown::Write).unwrap();
        let mut arrived = Vec::new();
        to.read_to_end(&mut arrived).unwrap();
        assert!(arrived == expected, "{} bytes", arrived.len());
    };
    // A frame of the node is translated when it is complete.
    let answer = &hosts.answer("jm:6123", 100_000)[..50_000];
    ends(&mut server, &mut client, answer, answer);
    // Of a long frame of the client the recipient is.
    let sent = hosts.request(&hosts.names.alias.to_string(), 100_000);
    let arrives = hosts.request("jm:6123", 100_000);
    let shorter = sent.len() - arrives.len();
    let (sent, arrives) = (&sent[..50_000], &arrives[..50_000 - shorter]);
    ends(&mut client, &mut server, sent, arrives);
    hosts.wait_for_connections(0);
}

#[test]
fn connections_that_send_nothing_cost_little_and_those_beyond_the_limit_are_reset() {
    let lab = Lab::direct().unwrap();
    let hosts = Hosts::with(lab, "handshake_timeout = \"15s\"");
    let (mut client, mut server) = hosts.relayed();
    // One sends a byte a second.
    let mut slow = (hosts.dial().unwrap(), hosts.accept());
    let memory = resident(&hosts.truename);
    let idle: Vec<_> = (0..1000)
        .map(|_| (hosts.dial().unwrap(), hosts.accept()))
        .collect();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    let more = resident(&hosts.truename) - memory;
    assert!(more < 64 << 10, "{more} KiB for {} connections", idle.len());
    // 1024 is the limit.
    let mut beyond: Vec<_> = (0..23).map(|_| hosts.dial().unwrap()).collect();
    let last = beyond.last_mut().unwrap();
    assert_reset(last);
    let (status, code) = hosts.truename.status().unwrap();
    assert_eq!(status["relay"]["refused"], 1);
    assert_eq!(code, 3, "{status}");
    // They do not stay for ever.
    let associate = associate("flink", &hosts.names.client, 7);
    let mut bytes = associate.iter();
    while let Some(byte) = bytes.next()
        && slow.0.write_all(&[*byte]).is_ok()
    {
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(bytes.next().is_some(), "it could say all");
    assert_reset(&mut slow.1);
    for (mut client, mut server) in idle {
        assert_reset(&mut client);
        assert_reset(&mut server);
    }
    hosts.wait_for_connections(1);
    let (status, _) = hosts.truename.status().unwrap();
    assert_eq!(status["relay"]["silent"], 1023, "{status}");
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
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
    let mut hosts = Hosts::with(Lab::routed().unwrap(), "hold = \"1s\"");
    let (mut client, mut server) = hosts.relayed();
    hosts.truename.kill_agent();
    for stream in [&mut client, &mut server] {
        match stream.read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
    }
    // Nobody translates: the client is held, and then refused.
    let refused = hosts.dial().expect_err("somebody accepts");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    hosts.truename.start_agent().unwrap();
    hosts.truename.wait_relay(1).unwrap();
    let (mut client, mut server) = hosts.connect();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    assert_eq!(hosts.counter("reset_relay"), 0);
    assert!(hosts.counter("relay_held") >= 1);
    // Everything goes with a detach.
    hosts.truename.detach().unwrap();
    let (mut client, mut server) = hosts.connect();
    let alias = hosts.names.alias.to_string();
    hosts.exchange(&mut client, &mut server, &alias, 10);
    let _ = (&hosts.scratch, Namespace::name(hosts.lab.host()));
}

#[test]
fn what_somebody_removed_steers_again() {
    let hosts = Hosts::with(Lab::routed().unwrap(), "");
    drop(hosts.relayed());
    let relays = hosts.truename.bpffs().join(format!("v{VERSION}/relays"));
    let link = || {
        let mut pins = std::fs::read_dir(&relays).unwrap();
        pins.next().unwrap().unwrap().path()
    };
    let remove = |path: &Path| std::fs::remove_dir_all(path).unwrap();
    let sabotages: [(&str, &dyn Fn()); 4] = [
        ("the link", &|| std::fs::remove_file(link()).unwrap()),
        ("what hangs by the link", &|| detach_link(&link()).unwrap()),
        ("the links", &|| remove(&relays)),
        ("everything", &|| remove(hosts.truename.bpffs())),
    ];
    let reattached = || match hosts.truename.status() {
        Ok((status, _)) => status["reattached"].as_u64().unwrap(),
        // A table without its pin.
        Err(_) => 0,
    };
    for (what, sabotage) in sabotages {
        let before = reattached();
        sabotage();
        wait_until(DEADLINE, what, || {
            anyhow::ensure!(reattached() > before && relays.exists(), "not yet");
            let pins = std::fs::read_dir(&relays)?;
            anyhow::ensure!(pins.count() == 1, "not attached yet");
            Ok(())
        })
        .unwrap();
        drop(hosts.relayed());
    }
}

/// Has clients connect one after the other while something happens. None may be refused.
fn under_load(listener: &TcpListener, client: &Namespace, work: impl FnOnce()) {
    let to = listener.local_addr().unwrap();
    let (is_over, count) = (&AtomicBool::new(false), &AtomicU32::new(0));
    let dial = &|| {
        while !is_over.load(Relaxed) {
            if let Err(error) = TcpStream::connect(to) {
                panic!("after {count:?} connections: {error}");
            }
            count.fetch_add(1, Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let ten_more = || {
        let before = count.load(Relaxed);
        wait_until(DEADLINE, "ten connections", || {
            anyhow::ensure!(count.load(Relaxed) >= before + 10, "{count:?}");
            Ok(())
        })
        .unwrap();
    };
    std::thread::scope(|scope| {
        let dialling: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| client.run(dial).unwrap()))
            .collect();
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                drop(listener.accept().unwrap());
            }
        });
        let worked = catch_unwind(AssertUnwindSafe(|| {
            ten_more();
            work();
            ten_more();
        }));
        is_over.store(true, Relaxed);
        let dialled: Vec<_> = dialling.into_iter().map(|it| it.join()).collect();
        // The one that accepts wakes up and sees that it is over.
        drop(client.run(|| TcpStream::connect(to)));
        worked.unwrap_or_else(|panic| resume_unwind(panic));
        dialled.into_iter().for_each(Result::unwrap);
    });
    take_all(listener);
}

/// Accepts, and ends, what is still to be accepted.
fn take_all(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    while listener.accept().is_ok() {}
    listener.set_nonblocking(false).unwrap();
}

#[test]
fn an_agent_that_is_started_again_refuses_nobody() {
    let mut hosts = Hosts::new(Lab::routed().unwrap(), &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    let truename = &mut hosts.truename;
    under_load(&hosts.listener, hosts.lab.client(), || {
        truename.stop_agent().unwrap();
        assert_reset(&mut client);
        assert_reset(&mut server);
        truename.start_agent().unwrap();
        truename.wait_relay(1).unwrap();
        truename.kill_agent();
        truename.start_agent().unwrap();
        truename.wait_relay(1).unwrap();
    });
    assert!(hosts.counter("relay_held") >= 1);
    assert_eq!(hosts.counter("relay_refused"), 0);
    assert_eq!(hosts.counter("reset_relay"), 0);
    hosts.wait_for_connections(0);
    // The relay may have connected since, for a client that had gone.
    take_all(&hosts.listener);
    hosts.relayed();
}

#[test]
fn a_relay_that_is_turned_off_refuses_nobody_and_resets_or_drains() {
    let names = Names::flink("jm", LONG);
    let hosts = Hosts::configured(Lab::direct().unwrap(), names, &[], "enabled = true");
    hosts.truename.wait_relay(1).unwrap();
    let (mut client, mut server) = hosts.relayed();
    under_load(&hosts.listener, hosts.lab.client(), || {
        hosts.reload("enabled = false");
        wait_until(DEADLINE, "no relay", || {
            let steered = hosts.counter("relay_steered");
            drop(hosts.dial()?);
            anyhow::ensure!(hosts.counter("relay_steered") == steered, "{steered}");
            Ok(())
        })
        .unwrap();
    });
    // What was there goes on.
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    hosts.reload("enabled = true\non_change = \"reset\"");
    hosts.truename.wait_relay(1).unwrap();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    hosts.reload("enabled = false\non_change = \"reset\"");
    assert_reset(&mut client);
    assert_reset(&mut server);
}

#[test]
fn a_client_of_an_endpoint_with_another_protocol_is_relayed_once() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let hello = [0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5];
    for _ in 0..2 {
        let (mut client, mut server) = (hosts.dial().unwrap(), hosts.accept());
        // The node speaks first, and waits for the answer.
        pass(&mut server, &mut client, b"hi\n", b"hi\n");
        pass(&mut client, &mut server, &hello, &hello);
        pass(&mut server, &mut client, &hello, &hello);
        assert_eq!(hosts.counter("relay_steered"), 1);
    }
}
