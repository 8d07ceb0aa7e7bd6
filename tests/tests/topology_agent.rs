//! What a running agent tells of the cluster.

use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use truename_tests::{
    namespace::Namespace,
    scratch::Scratch,
    topology::{self, Server},
    traffic::{Dial, Lab, Pace},
    truename::Truename,
    wait::wait_until,
    wire::{Names, Spec},
};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn handshakes_that_were_seen_are_facts() {
    let lab = Lab::direct().unwrap();
    let truename = lab.truename(None).unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    let script = Spec::mixed(&Names::flink("jobmanager", "jm"), 0, 20).script();
    connection.exchange(&script, Pace::default()).unwrap();
    let client = connection.client_address().unwrap().ip().to_string();
    let server = lab.address().ip().to_string();
    for (name, address) in [("jobmanager:6123", server), ("taskmanager:6122", client)] {
        let wanted = [("kind", "address"), ("name", name), ("source", "learned")];
        let found = wait_until(PATIENCE, name, || truename.rows("topology", &wanted)).unwrap();
        assert_eq!(found[0]["address"], address);
        assert!(found[0]["last_seen"].is_string(), "{found:?}");
        let named = truename
            .rows("names", &[("name", name), ("how", "seen")])
            .unwrap();
        assert_eq!(named[0]["addresses"], json!([address]));
    }
    let peer = truename
        .rows("names", &[("name", "taskmanager:6122")])
        .unwrap();
    assert_eq!(peer[0]["what"], json!(["peer"]));
}

/// A server inside a namespace that says who leads: a host of this name.
fn server(space: &Namespace, leader: &'static str) -> Result<Server> {
    let start = move || Server::start(move |request| topology::flink(leader, 1, &request.path));
    space.run(start)?.context("start a server")
}

/// A configuration with this section.
fn configuration(topology: &str) -> String {
    format!(
        "[datapath]\ninterfaces = [\"lo\"]\n[[endpoint]]\nname = \"jm\"\nprotocol = \"pekko\"\nlisten = \"*:6123\"\n\
         [topology]\n{topology}"
    )
}

fn flink(server: &Server) -> String {
    let url = server.url();
    configuration(&format!(
        "source = \"flink\"\nurls = [\"{url}\"]\npoll = \"200ms\"\n"
    ))
}

#[test]
fn a_server_that_is_gone_is_told_and_what_it_said_is_kept() {
    let (space, scratch) = (
        Namespace::new("topology").unwrap(),
        Scratch::new("topology").unwrap(),
    );
    let server = server(&space, "jm").unwrap();
    let file = scratch.write("truename.toml", &flink(&server)).unwrap();
    let truename = Truename::start_file(&space, &scratch, &file).unwrap();
    let leader = [
        ("kind", "leader-rpc"),
        ("address", "pekko.tcp://flink@jm:6123"),
    ];
    wait_until(PATIENCE, "the leader", || {
        truename.rows("topology", &leader)
    })
    .unwrap();
    let worker = truename
        .rows("topology", &[("kind", "worker"), ("name", "tm-1")])
        .unwrap();
    assert_eq!(worker[0]["note"], "data port 7");

    drop(server);
    let failing = [("kind", "source"), ("source", "flink"), ("name", "failing")];
    let failing = wait_until(PATIENCE, "the failure", || {
        truename.rows("topology", &failing)
    })
    .unwrap();
    let why = failing[0]["note"].as_str().unwrap();
    assert!(why.contains("cannot connect"), "{why}");
    truename.rows("topology", &leader).unwrap();
    let text = truename.text("topology").unwrap();
    assert!(text.contains("worker"), "{text}");
}

#[test]
fn another_topology_needs_no_restart() -> Result<()> {
    let (space, scratch) = (Namespace::new("topology")?, Scratch::new("topology")?);
    let (first, second) = (server(&space, "jm-a")?, server(&space, "jm-b")?);
    // The agent watches the directory; logs are written into the one above.
    let directory = scratch.path().join("etc");
    fs::create_dir(&directory)?;
    let file = directory.join("truename.toml");
    fs::write(&file, flink(&first))?;
    let truename = Truename::start_file(&space, &scratch, &file)?;
    let agent = truename.agent()?;
    let change = |text: &str, word: &str| -> Result<String> {
        let mark = agent.mark();
        let new = directory.join("new");
        fs::write(&new, text)?;
        fs::rename(&new, &file)?;
        agent.wait_line(mark, &[word], PATIENCE)
    };
    let leader = |host: &str| -> Result<()> {
        let address = format!("pekko.tcp://flink@{host}:6123");
        let leader = [("kind", "leader-rpc"), ("address", &*address)];
        wait_until(PATIENCE, &address, || truename.rows("topology", &leader)).map(drop)
    };
    leader("jm-a")?;

    // Refused for another reason: the topology stays as it was, and is followed.
    let refused = flink(&second).replace("[datapath]\n", "[datapath]\nmax_flows = 16\n");
    change(&refused, "restart it")?;
    let asked = first.requests().len();
    wait_until(PATIENCE, "another question", || {
        ensure!(first.requests().len() > asked);
        Ok(())
    })?;
    leader("jm-a")?;
    ensure!(second.requests().is_empty(), "the second server was asked");

    change(&flink(&second), "Reloaded")?;
    leader("jm-b")?;
    let all = truename.text("topology")?;
    ensure!(
        !all.contains("jm-a") && !all.contains(&first.url()),
        "{all}"
    );
    let asked = first.requests().len();
    change(&configuration("source = \"none\"\n"), "Reloaded")?;
    let rows = truename.json("topology")?;
    let rows = rows.as_array().context("no rows")?;
    // The configuration itself and handshakes are sources in any case.
    let sources: Vec<_> = rows.iter().map(|row| &row["source"]).collect();
    ensure!(
        sources == ["configuration", "learned", "addressed"],
        "{rows:?}"
    );
    ensure!(first.requests().len() == asked, "the first is still asked");
    Ok(())
}

/// An agent that knows what the file says, on a host with these hosts and the name server 127.0.0.1.
fn knowing(space: &Namespace, scratch: &Scratch, facts: &str, hosts: &str) -> Result<Truename> {
    let facts = scratch.write("facts.toml", facts)?;
    let text = format!(
        "[datapath]\ninterfaces = [\"lo\"]\n[[endpoint]]\nname = \"jobs\"\nprotocol = \"pekko\"\nlisten = \"*:6123\"\n\
         canonical = \"jobmanager:6123\"\n[topology]\nsource = \"file\"\npath = \"{}\"\n",
        facts.display()
    );
    let file = scratch.write("truename.toml", &text)?;
    let arguments = vec!["--config".to_owned(), file.display().to_string()];
    let binary = truename_tests::truename::binary()?;
    let mut truename = Truename::prepared(binary, space, scratch, arguments)?;
    let resolver = "nameserver 127.0.0.1\noptions timeout:30 attempts:1\n";
    truename.put_file(scratch.write("hosts", hosts)?, "/etc/hosts");
    truename.put_file(scratch.write("resolv.conf", resolver)?, "/etc/resolv.conf");
    truename.start_agent()?;
    Ok(truename)
}

/// Where a name is by the hosts file, as the C library reads it.
fn by_hosts_file(space: &Namespace, file: &Path, name: &str) -> Result<Vec<String>> {
    let files = [(file.to_owned(), PathBuf::from("/etc/hosts"))];
    let mut getent = space.command(Path::new("getent"), &files)?;
    let output = getent.args(["-s", "files", "ahosts", name]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter(|line| line.contains("STREAM"));
    let addresses = lines.filter_map(|line| line.split(' ').next());
    Ok(addresses.map(str::to_owned).collect())
}

#[test]
fn names_have_addresses_by_the_file_by_look_up_and_by_themselves() {
    let (space, scratch) = (
        Namespace::new("names").unwrap(),
        Scratch::new("names").unwrap(),
    );
    let facts = r#"
        [leader]
        rpc = "pekko.tcp://flink@jobmanager:6123"
        rest = "http://10.0.0.1:8081"
        [[worker]]
        id = "tm-1"
        rpc = "pekko.tcp://flink@stated:6122"
        [[worker]]
        id = "tm-2"
        rpc = "pekko.tcp://flink@worker.invalid:6122"
        [[address]]
        name = "stated:6122"
        address = "10.0.0.3"
    "#;
    let hosts = "127.0.0.1 localhost\n10.0.0.1 jobmanager\n10.9.9.9 stated\n";
    let truename = knowing(&space, &scratch, facts, hosts).unwrap();
    wait_until(PATIENCE, "the facts", || {
        truename.rows("topology", &[("kind", "worker"), ("name", "tm-1")])
    })
    .unwrap();

    let names = truename.json("names").unwrap();
    let short: Vec<_> = names
        .as_array()
        .unwrap()
        .iter()
        .map(|row| json!([row["name"], row["what"], row["addresses"], row["how"]]))
        .collect();
    assert_eq!(
        short,
        [
            json!([
                "jobmanager:6123",
                ["leader rpc", "endpoint jobs"],
                ["10.0.0.1"],
                "lookup"
            ]),
            json!(["10.0.0.1:8081", ["leader rest"], ["10.0.0.1"], "address"]),
            json!(["stated:6122", ["worker tm-1"], ["10.0.0.3"], "file"]),
            json!(["worker.invalid:6122", ["worker tm-2"], [], null]),
        ]
    );
    let why = names[3]["note"].as_str().unwrap();
    assert!(why.contains("cannot be looked up"), "{why}");
    let table = truename.text("names").unwrap();
    assert!(table.contains("leader rpc, endpoint jobs"), "{table}");

    let lines = truename.words(&["names", "--format", "hosts"]).unwrap();
    let file = scratch.write("new-hosts", &lines).unwrap();
    for (name, addresses) in [
        ("jobmanager", &["10.0.0.1"][..]),
        ("stated", &["10.0.0.3"]),
        ("worker.invalid", &[]),
        ("leader", &[]),
    ] {
        let found = by_hosts_file(&space, &file, name).unwrap();
        assert_eq!(found, addresses, "{lines}");
    }
    assert!(
        lines.contains("\n# worker.invalid (worker tm-2): "),
        "{lines}"
    );
    let block = truename.words(&["names", "--format", "coredns"]).unwrap();
    let start = "hosts {\n    10.0.0.1 jobmanager  # leader rpc, endpoint jobs\n";
    assert!(
        block.starts_with(start) && block.ends_with("    fallthrough\n}\n"),
        "{block}"
    );
}

#[test]
fn a_name_server_that_hangs_holds_up_neither_the_answer_nor_the_end() {
    let (space, scratch) = (
        Namespace::new("names").unwrap(),
        Scratch::new("names").unwrap(),
    );
    // It takes questions and answers none.
    let _server = space
        .run(|| UdpSocket::bind("127.0.0.1:53"))
        .unwrap()
        .unwrap();
    let workers = (0..2000).map(|n| {
        format!(
            "[[worker]]\nid = \"tm-{n:04}\"\nrpc = \"pekko.tcp://flink@tm-{n}.example.org:6122\"\n"
        )
    });
    let facts = workers.collect::<String>();
    let hosts = "127.0.0.1 localhost\n10.0.0.1 jobmanager\n";
    let mut truename = knowing(&space, &scratch, &facts, hosts).unwrap();
    wait_until(PATIENCE, "the facts", || {
        truename.rows("topology", &[("kind", "worker"), ("name", "tm-1999")])
    })
    .unwrap();
    let begin = Instant::now();
    let names = truename.json("names").unwrap();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let names = names.as_array().unwrap();
    assert_eq!(names.len(), 2001);
    assert_eq!(names[0]["addresses"], json!(["10.0.0.1"]));
    let late = names[1..].iter().filter(|row| {
        let note = row["note"].as_str().unwrap_or_default();
        note.starts_with("no answer within 5 s")
    });
    assert_eq!(late.count(), 2000);
    // The threads that look names up hang for longer.
    let begin = Instant::now();
    truename.stop_agent().unwrap();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}
