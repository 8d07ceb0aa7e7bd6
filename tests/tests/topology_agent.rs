//! What a running agent tells of the cluster.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
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
    }
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
    // What handshakes tell is a source in any case.
    ensure!(
        rows.len() == 1 && rows[0]["source"] == "learned",
        "{rows:?}"
    );
    ensure!(first.requests().len() == asked, "the first is still asked");
    Ok(())
}
