//! One URL names a cluster: endpoints, services and names follow from it, also where no name resolves.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use truename_tests::{
    http::Http,
    hub::Hub,
    namespace::Namespace,
    process::Process,
    scratch::Scratch,
    timeline::Timeline,
    topology::{Reply, Server, flink},
    truename::Truename,
    wait::wait_until,
    wire::{Envelope, Names, associate},
};

/// The host of the containers.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 61, 40, 1);
const JOB_MANAGER: Ipv4Addr = Ipv4Addr::new(10, 61, 40, 11);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 61, 40, 50);
const SOON: Duration = Duration::from_secs(10);

/// A JobManager that says its name, as Flink does, and no more of it.
fn job_manager(name: &'static str) -> impl Fn(&truename_tests::topology::Request) -> Reply {
    move |request| match request.path.as_str() {
        "/jobmanager/config" => Reply::Json(
            json!([
                {"key": "jobmanager.rpc.address", "value": name},
                {"key": "jobmanager.rpc.port", "value": "6123"},
                {"key": "blob.server.port", "value": "6124"},
                {"key": "queryable-state.enable", "value": "true"},
            ])
            .to_string(),
        ),
        path => flink(name, 1, path),
    }
}

/// A host with a bridge, a container with a JobManager, and a client.
struct Place {
    // Dropped in this order.
    job_manager: Option<Server>,
    container: Namespace,
    client: Namespace,
    hub: Hub,
}

impl Place {
    fn new() -> Result<Self> {
        let hub = Hub::new(HOST)?;
        hub.space().sysctl("net/ipv4/ip_forward", "1")?;
        let [container, client] = [("jm", JOB_MANAGER), ("client", CLIENT)].map(|(label, at)| {
            let space = Namespace::new(label)?;
            hub.connect(&space, "eth0", &[at])?;
            anyhow::Ok(space)
        });
        let mut place = Self {
            job_manager: None,
            container: container?,
            client: client?,
            hub,
        };
        place.serve("jm-node-1")?;
        Ok(place)
    }

    /// Has a JobManager of this name in the container.
    fn serve(&mut self, name: &'static str) -> Result<()> {
        self.job_manager = None;
        let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8081);
        let server = self
            .container
            .run(|| Server::start_at(at, job_manager(name)))??;
        self.job_manager = Some(server);
        Ok(())
    }

    fn agent(&self, scratch: &Scratch, more: &str) -> Result<Truename> {
        let text = format!(
            "[datapath]\ninterfaces = [\"auto\"]\n[topology]\ncluster = [\"http://{JOB_MANAGER}:8081\"]\n{more}"
        );
        let file = scratch.write("truename.toml", &text)?;
        Truename::start_file(self.hub.space(), scratch, &file)
    }
}

/// What `dig` prints for these words.
fn dig(space: &Namespace, words: &[&str]) -> Result<String> {
    let mut command = space.command(Path::new("dig"), &[])?;
    command.args(["+tries=1", "+time=3"]).args(words);
    let output = command.output().context("run dig")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A name server in a namespace that knows what these arguments say.
fn dnsmasq(space: &Namespace, scratch: &Scratch, arguments: &[&str]) -> Result<Process> {
    let mut command = space.command(Path::new("dnsmasq"), &[])?;
    command.args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--log-facility=-",
        // Two that start at once would both create the default one, and the second would end.
        "--pid-file=",
    ]);
    command.args(arguments);
    let dnsmasq = Process::spawn("dnsmasq", command, scratch.path())?;
    dnsmasq.wait_line(0, &["started"], SOON)?;
    Ok(dnsmasq)
}

/// What the names plane says, in short.
fn resolve(space: &Namespace, words: &[&str]) -> Result<String> {
    dig(space, &[&[&format!("@{HOST}"), "+short"], words].concat())
}

#[test]
fn endpoints_services_and_names_follow_from_a_url() {
    let scratch = Scratch::new("cluster").unwrap();
    let place = Place::new().unwrap();
    let begin = Instant::now();
    let truename = place
        .agent(
            &scratch,
            &format!("[frontend]\naddresses = [\"*\"]\n[names]\nlisten = \"{HOST}:53\"\n"),
        )
        .unwrap();
    let answer = wait_until(SOON, "the name", || {
        let found = resolve(&place.client, &["jm-node-1"])?;
        ensure!(!found.is_empty(), "no answer");
        Ok(found)
    });
    assert_eq!(answer.unwrap(), JOB_MANAGER.to_string());
    Timeline::new().measured(&format!(
        "from the start of an agent to a name that its names plane resolves: {:.3} s",
        begin.elapsed().as_secs_f64()
    ));

    // Services of the leader answer at the host's address.
    let rest = SocketAddr::new(HOST.into(), 8081);
    let body = wait_until(SOON, "the leader's REST", || {
        let mut http = place.client.run(|| Http::connect(rest, SOON))??;
        Ok(http.get("/jobmanager/config")?)
    });
    assert!(body.unwrap().1.contains("jm-node-1"));

    let effective = truename.words(&["config", "show", "--effective"]).unwrap();
    let source = format!("# from flink http://{JOB_MANAGER}:8081");
    for part in [
        format!(
            "{source}\n[[endpoint]]\nname = \"rpc-6123\"\nprotocol = \"pekko\"\nlisten = \"*:6123\""
        ),
        format!("{source}\n[[endpoint]]\nname = \"rpc-6122\""),
        format!("{source}\n[[service]]\nname = \"rest\"\nlisten = \"*:8081\""),
        "target = \"leader:rpc\"".to_owned(),
        "target = \"leader:blob\"".to_owned(),
        "target = \"workers:9069\"".to_owned(),
    ] {
        assert!(effective.contains(&part), "{part}\n{effective}");
    }
    // It is a file that says the same.
    let file = scratch.write("effective.toml", &effective).unwrap();
    let check = ["config", "check", "--file-only", file.to_str().unwrap()];
    truename.words(&check).unwrap();

    // The canonical name is bound to where it was confirmed.
    let endpoints = truename.rows("endpoints", &[("name", "rpc-6123")]).unwrap();
    let wanted = JOB_MANAGER.to_string();
    assert!(
        endpoints
            .iter()
            .any(|row| row["canonical"] == "jm-node-1:6123"
                && row["canonical_source"] == "topology"
                && row["address"] == wanted),
        "{endpoints:?}"
    );

    // A handshake may claim a name, and nobody believes it.
    let listener = place.container.run(|| TcpListener::bind("0.0.0.0:6123"));
    let listener = listener.unwrap().unwrap();
    let mut stream = place
        .client
        .run(|| std::net::TcpStream::connect((JOB_MANAGER, 6123)))
        .unwrap()
        .unwrap();
    let (_server, _) = listener.accept().unwrap();
    let name = Names::flink("jm-node-1", "x").canonical;
    stream.write_all(&associate("flink", &name, 7)).unwrap();
    let claimed = wait_until(SOON, "the claim", || {
        let (status, _) = truename.status()?;
        let notes = status["notes"].as_array().context("notes")?;
        let told = notes.iter().filter_map(|note| note.as_str());
        let mut told = told.filter(|note| note.contains("jm-node-1:6123 was announced"));
        told.next().map(str::to_owned).context("no note")
    });
    assert_eq!(
        claimed.unwrap(),
        format!(
            "jm-node-1:6123 was announced from {CLIENT}, but it is at {JOB_MANAGER} by flink: the announcement is not believed"
        )
    );
    assert_eq!(
        resolve(&place.client, &["jm-node-1"]).unwrap(),
        JOB_MANAGER.to_string()
    );

    let names = truename.rows("names", &[("name", "jm-node-1:6123")]);
    let [name] = &names.unwrap()[..] else {
        panic!("one row")
    };
    assert_eq!(name["how"], "said", "{name}");
    assert_eq!(name["source"], "flink", "{name}");
    assert!(name["last_seen"].is_string(), "{name}");
    assert_eq!(
        name["conflicts"][0]["address"],
        CLIENT.to_string(),
        "{name}"
    );
}

#[test]
fn the_names_plane_answers_and_forwards() {
    let scratch = Scratch::new("names").unwrap();
    let place = Place::new().unwrap();
    // Another name server, as the host has one.
    let upstream = Namespace::new("dns").unwrap();
    let at = Ipv4Addr::new(10, 61, 40, 53);
    place.hub.connect(&upstream, "eth0", &[at]).unwrap();
    let dnsmasq = dnsmasq(
        &upstream,
        &scratch,
        &[
            "--address=/www.example.org/10.9.9.9",
            "--txt-record=text.example.org,hello",
            "--local=/example.org/",
        ],
    )
    .unwrap();
    let truename = place
        .agent(
            &scratch,
            &format!("[names]\nlisten = \"{HOST}:53\"\nupstream = \"{at}:53\"\ncapture = false\n"),
        )
        .unwrap();
    let ask = |words: &[&str]| resolve(&place.client, words).unwrap();
    wait_until(SOON, "the name", || {
        ensure!(!resolve(&place.client, &["jm-node-1"])?.is_empty());
        Ok(())
    })
    .unwrap();
    let own = JOB_MANAGER.to_string();
    // What is known of the cluster: over UDP and TCP, with and without EDNS, in any letters.
    for words in [
        &["JM-node-1"][..],
        &["+tcp", "jm-node-1"],
        &["+noedns", "jm-node-1"],
        &["jm-node-1", "any"],
    ] {
        assert_eq!(ask(words), own, "{words:?}");
    }
    assert_eq!(ask(&["-x", &own]), "jm-node-1.");
    assert_eq!(ask(&["jm-node-1", "aaaa"]), "");
    let full = |words: &[&str]| {
        let at = format!("@{HOST}");
        dig(&place.client, &[&[at.as_str()][..], words].concat()).unwrap()
    };
    let none = full(&["jm-node-1", "aaaa"]);
    assert!(
        none.contains("status: NOERROR") && none.contains("ANSWER: 0") && none.contains("SOA"),
        "{none}"
    );
    assert!(full(&["jm-node-1"]).contains("jm-node-1.\t\t5\tIN\tA"));
    // Everything else is the other server's.
    assert_eq!(ask(&["www.example.org"]), "10.9.9.9");
    assert_eq!(ask(&["+tcp", "www.example.org"]), "10.9.9.9");
    assert_eq!(ask(&["text.example.org", "txt"]), "\"hello\"");
    assert!(full(&["no.example.org"]).contains("status: NXDOMAIN"));
    // A name server of the client sends it the questions for the cluster (docs/names.md).
    let recipe = format!("--server=/jm-node-1/{HOST}");
    let _client = self::dnsmasq(&place.client, &scratch, &[&recipe]).unwrap();
    let found = dig(&place.client, &["@127.0.0.1", "+short", "jm-node-1"]).unwrap();
    assert_eq!(found, own);
    // What is no question for it.
    assert!(full(&["version.bind", "txt", "ch"]).contains("status: REFUSED"));
    assert!(full(&["+opcode=notify", "jm-node-1"]).contains("status: NOTIMP"));
    assert!(full(&["+edns=1", "+noednsneg", "jm-node-1"]).contains("status: BADVERS"));
    let counted = |result: &str| {
        let (status, _) = truename.status().unwrap();
        status["questions"][result].as_u64().unwrap()
    };
    assert!(counted("answered") >= 7 && counted("forwarded") >= 4);
    assert_eq!(counted("refused"), 3);

    // An upstream that is silent: an error within the time.
    let socket = place
        .client
        .run(|| std::net::UdpSocket::bind("0.0.0.0:0"))
        .unwrap()
        .unwrap();
    dnsmasq.pause().unwrap();
    let slow = full(&["+time=5", "www.example.org"]);
    assert!(slow.contains("status: SERVFAIL"), "{slow}");
    assert!(counted("unanswered") >= 1);
    // Names of the cluster as before, also in a flood of questions that wait for it.
    wait_until(SOON, "a flood that overflows", || {
        for number in 0..10_000_u16 {
            let [high, low] = number.to_be_bytes();
            let question = b"\x01\0\0\x01\0\0\0\0\0\0\x01x\x03org\0\0\x01\0\x01";
            let question = [&[high, low], &question[..]].concat();
            socket.send_to(&question, (HOST, 53))?;
        }
        // A resolver asks again: the kernel may drop a datagram while the agent has no processor.
        // `dig` prints a line for each time that it heard nothing.
        let patient = resolve(&place.client, &["+tries=4", "+time=2", "jm-node-1"])?;
        assert_eq!(patient.lines().last(), Some(own.as_str()));
        ensure!(counted("overflow") > 0);
        Ok(())
    })
    .unwrap();
    dnsmasq.resume().unwrap();

    // Nonsense, counted; connections that say nothing, too long, or end.
    for nonsense in [
        &b"x"[..],
        &[0xff; 300],
        &[0; 12],
        b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01",
    ] {
        socket.send_to(nonsense, (HOST, 53)).unwrap();
    }
    let mut streams = Vec::new();
    for begin in [&b""[..], b"\xff\xff", b"\0\x01x"] {
        let mut stream = place
            .client
            .run(|| std::net::TcpStream::connect((HOST, 53)))
            .unwrap()
            .unwrap();
        stream.write_all(begin).unwrap();
        streams.push(stream);
    }
    // The longest message there can be.
    let mut long = place
        .client
        .run(|| std::net::TcpStream::connect((HOST, 53)))
        .unwrap()
        .unwrap();
    let mut message = vec![0xff; 2 + 0xffff];
    message[2..6].copy_from_slice(b"\0\x07\x01\0");
    long.write_all(&message).unwrap();
    let mut answer = [0; 14];
    std::io::Read::read_exact(&mut long, &mut answer).unwrap();
    assert_eq!((&answer[2..4], answer[5] & 0x0f), (&b"\0\x07"[..], 1));
    wait_until(SOON, "the counts", || {
        ensure!(counted("malformed") >= 5);
        Ok(())
    })
    .unwrap();
    assert_eq!(ask(&["jm-node-1"]), own);
    assert_eq!(ask(&["+tcp", "jm-node-1"]), own);
}

#[test]
fn what_is_told_of_a_cluster_changes() {
    let scratch = Scratch::new("cluster").unwrap();
    let mut place = Place::new().unwrap();
    let mut truename = place
        .agent(&scratch, "[frontend]\naddresses = [\"*\"]\n")
        .unwrap();
    let services = |truename: &Truename, count: usize| {
        wait_until(SOON, "the services", || {
            let rows = truename.json("services")?;
            let rows = rows.as_array().context("rows")?;
            ensure!(rows.len() == count, "{rows:?}");
            Ok(())
        })
        .unwrap();
    };
    services(&truename, 4);
    // An agent that starts while the cluster cannot be reached goes on with what was known.
    place.job_manager = None;
    truename.stop_agent().unwrap();
    truename.start_agent().unwrap();
    services(&truename, 4);
    let endpoints = truename.rows("endpoints", &[("name", "rpc-6123")]);
    assert!(!endpoints.unwrap().is_empty());

    // A program of this host has a port: the service gives way.
    place.serve("jm-node-1").unwrap();
    let listener = place.hub.space().run(|| TcpListener::bind("0.0.0.0:6124"));
    let listener = listener.unwrap().unwrap();
    truename.stop_agent().unwrap();
    truename.start_agent().unwrap();
    services(&truename, 3);
    let effective = truename.words(&["config", "show", "--effective"]).unwrap();
    let why = "no service is made for leader:blob at *:6124: a program of this host listens";
    assert!(effective.contains(why), "{effective}");
    drop(listener);

    // One that calls itself as every host does tells nobody where it is.
    place.serve("localhost").unwrap();
    wait_until(SOON, "the refusal", || {
        let rows = truename.rows("topology", &[("kind", "refused")])?;
        let is_told = |row: &serde_json::Value| {
            row["note"]
                .as_str()
                .is_some_and(|note| note.contains("set jobmanager.rpc.address"))
        };
        ensure!(rows.iter().any(is_told), "{rows:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn connections_that_are_older_than_the_agent_tell_where_workers_are() {
    let scratch = Scratch::new("cluster").unwrap();
    let place = Place::new().unwrap();
    let worker = Namespace::new("tm").unwrap();
    let at = Ipv4Addr::new(10, 61, 40, 21);
    place.hub.connect(&worker, "eth0", &[at]).unwrap();
    let listener = worker.run(|| TcpListener::bind("0.0.0.0:6122"));
    let listener = listener.unwrap().unwrap();
    let mut client = place
        .container
        .run(|| std::net::TcpStream::connect((at, 6122)))
        .unwrap()
        .unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let frame = || {
        Envelope {
            recipient: "pekko.tcp://flink@tm-1:6122/user/rpc/taskmanager_0".to_owned(),
            body: b"are you there?".to_vec(),
            serializer: 1,
            ..Envelope::default()
        }
        .frame()
    };
    let mut pass = || -> Result<()> {
        use std::io::Read as _;
        client.write_all(&frame())?;
        let mut arrived = vec![0; frame().len()];
        server.set_read_timeout(Some(SOON))?;
        server.read_exact(&mut arrived)?;
        Ok(())
    };
    // The handshake is over before truename comes.
    pass().unwrap();
    let truename = place.agent(&scratch, "").unwrap();
    let row = wait_until(SOON, "the worker's address", || {
        pass()?;
        let rows = truename.rows("names", &[("name", "tm-1:6122"), ("source", "addressed")])?;
        Ok(rows[0].clone())
    });
    let row = row.unwrap();
    assert_eq!(row["addresses"], json!([at.to_string()]), "{row}");
    assert_eq!(row["how"], "seen", "{row}");
}

#[test]
fn questions_of_containers_are_answered_whatever_server_they_go_to() {
    let scratch = Scratch::new("capture").unwrap();
    let place = Place::new().unwrap();
    let other = Namespace::new("dns").unwrap();
    let at = Ipv4Addr::new(10, 61, 40, 53);
    place.hub.connect(&other, "eth0", &[at]).unwrap();
    let six = "fd00:61::53";
    for (space, address) in [(&other, six), (&place.client, "fd00:61::50")] {
        space
            .ip(&format!("address add {address}/64 dev eth0 nodad"))
            .unwrap();
    }
    // It says something else of the cluster's name, which tells who answers.
    let mut servers = Vec::new();
    for space in [&other, place.hub.space()] {
        let known = [
            "--address=/www.example.org/10.9.9.9",
            "--address=/jm-node-1/10.9.9.8",
        ];
        servers.push(dnsmasq(space, &scratch, &known).unwrap());
    }
    let begin = Instant::now();
    let mut truename = place.agent(&scratch, "").unwrap();
    let server = format!("@{at}");
    let ask = |words: &[&str]| {
        let words = [&[server.as_str(), "+short"][..], words].concat();
        dig(&place.client, &words).unwrap()
    };
    let own = JOB_MANAGER.to_string();
    wait_until(SOON, "the name", || {
        ensure!(ask(&["jm-node-1"]) == own);
        Ok(())
    })
    .unwrap();
    Timeline::new().measured(&format!(
        "from the start of an agent to a name that resolves in a container that knows nothing of it: {:.3} s",
        begin.elapsed().as_secs_f64()
    ));
    // It is told which names, and where.
    let names = truename.rows("names", &[("name", "jm-node-1:6123")]);
    assert_eq!(names.unwrap()[0]["captured"], true);
    let (status, _) = truename.status().unwrap();
    let captured = &status["captured"];
    let hosts = captured["hosts"].as_array().unwrap();
    assert!(hosts.contains(&json!("jm-node-1")), "{captured}");
    // That of the JobManager, of the client and of the other server.
    let interfaces = captured["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 3, "{captured}");
    assert!(captured["answered"].as_u64().unwrap() >= 1, "{captured}");
    // Mixed case, with and without EDNS and its options, over IPv6, to a server on the host.
    let (six_server, host) = (format!("@{six}"), format!("@{HOST}"));
    for words in [
        &["JM-Node-1"][..],
        &["+noedns", "jm-node-1"],
        &["+bufsize=4096", "+nsid", "+subnet=10.0.0.0/8", "jm-node-1"],
        &["+norec", "+cd", "jm-node-1"],
        &["+notcp", "jm-node-1", "any"],
        &["+nocookie", &six_server, "jm-node-1"],
        &[&host, "jm-node-1"],
    ] {
        assert_eq!(ask(words), own, "{words:?}");
    }
    let full = dig(&place.client, &[&server, "jm-NODE-1", "aaaa"]).unwrap();
    for part in [
        "status: NOERROR",
        "ANSWER: 0",
        "AUTHORITY: 1",
        ";jm-NODE-1.",
        "SOA",
        "udp: 1232",
    ] {
        assert!(full.contains(part), "{part}\n{full}");
    }
    assert!(!full.contains("WARNING"), "{full}");
    // Other names, and this one over TCP, are the other server's.
    assert_eq!(ask(&["www.example.org"]), "10.9.9.9");
    assert_eq!(ask(&["jm-node-1.www.example.org"]), "10.9.9.9");
    assert_eq!(ask(&["+tcp", "jm-node-1"]), "10.9.9.8");
    // A server within a container's namespace, as Docker's is, which forwards from there.
    let (local, forward) = ("127.0.0.11", format!("--server={at}"));
    let listen = format!("--listen-address={local}");
    let embedded = [&listen, "--bind-interfaces", &forward];
    let embedded = dnsmasq(&place.client, &scratch, &embedded).unwrap();
    let found = dig(
        &place.client,
        &[&format!("@{local}"), "+short", "jm-node-1"],
    )
    .unwrap();
    assert_eq!(found, own);
    drop(embedded);
    // What does not come from a container is none of truename's.
    let from_host = dig(place.hub.space(), &[&server, "+short", "jm-node-1"]).unwrap();
    assert_eq!(from_host, "10.9.9.8");
    assert!(truename.counter("names_captured").unwrap() >= 9);
    assert!(truename.counter("names_passed").unwrap() >= 2);

    // What is no plain question reaches the other server byte for byte.
    let echo = Namespace::new("echo").unwrap();
    let echo_at = Ipv4Addr::new(10, 61, 40, 54);
    place.hub.connect(&echo, "eth0", &[echo_at]).unwrap();
    let socket = |space: &Namespace, port: u16| {
        let socket = space.run(|| std::net::UdpSocket::bind(("0.0.0.0", port)));
        let socket = socket.unwrap().unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    };
    let (receiver, sender) = (socket(&echo, 53), socket(&place.client, 0));
    let header = |bytes: [u8; 12]| bytes.to_vec();
    let plain = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let name = b"\x09jm-node-1\0\0\x01\0\x01";
    let with = |at: usize, value: u8| {
        let mut bytes = plain;
        bytes[at] = value;
        [&header(bytes)[..], name].concat()
    };
    let behind = |bytes: &[u8]| [&plain[..], bytes].concat();
    let labels = |len: usize| [&[len as u8][..], &vec![b'a'; len], b"\0\0\x01\0\x01"].concat();
    let long = [&[63][..], &[b'a'; 63]].concat().repeat(4);
    let whole = behind(name);
    let passed = [
        with(2, 0x81),
        with(2, 0x11),
        with(2, 0x03),
        with(3, 0x40),
        with(5, 0),
        with(5, 2),
        with(7, 1),
        with(9, 1),
        with(11, 1),
        behind(&labels(63)),
        behind(&labels(64)),
        behind(&[&long[..], b"\0\0\x01\0\x01"].concat()),
        behind(&long),
        behind(b"\xc0\x0c\0\x01\0\x01"),
        behind(b"\x09jm-node-1\xc0\x0c\0\x01\0\x01"),
        behind(b"\x09jm-node-1\0\0\x01\0\x03"),
        behind(b"\0\0\x01\0\x01"),
        whole[..whole.len() - 1].to_vec(),
        whole[..14].to_vec(),
        plain[..7].to_vec(),
        Vec::new(),
        [&whole[..], b"x"].concat(),
        [&whole[..], &[0; 600]].concat(),
    ];
    for bytes in &passed {
        sender.send_to(bytes, (echo_at, 53)).unwrap();
        let mut buffer = [0; 2048];
        let (len, from) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.ip()), (&bytes[..], CLIENT.into()));
    }
    // The plain one does not; its answer comes from where it went, whatever the client asks with.
    sender.send_to(&whole, (echo_at, 53)).unwrap();
    let mut buffer = [0; 2048];
    let (len, from) = sender.recv_from(&mut buffer).unwrap();
    assert_eq!(from, SocketAddr::new(echo_at.into(), 53));
    let [a, b, c, d] = JOB_MANAGER.octets();
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, a, b, c, d];
    let wanted = [
        &[0, 7, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0][..],
        name,
        &record,
    ]
    .concat();
    assert_eq!(buffer[..len], wanted);

    // A flood of them delays nobody for long.
    let flood = socket(&place.client, 0);
    for _ in 0..10_000 {
        flood.send_to(&whole, (at, 53)).unwrap();
    }
    wait_until(SOON, "an answer after the flood", || {
        ensure!(ask(&["jm-node-1"]) == own);
        Ok(())
    })
    .unwrap();

    // Without an agent nothing is answered, soon after it was killed.
    truename.kill_agent();
    wait_until(SOON, "the other server's answer", || {
        ensure!(ask(&["jm-node-1"]) == "10.9.9.8");
        Ok(())
    })
    .unwrap();
    truename.start_agent().unwrap();
    wait_until(SOON, "the name again", || {
        ensure!(ask(&["jm-node-1"]) == own);
        Ok(())
    })
    .unwrap();
    truename.stop_agent().unwrap();
    assert_eq!(ask(&["jm-node-1"]), "10.9.9.8");
}
