//! An agent takes over what one of table version 2 left, without breaking a flow.
//!
//! `fixtures/v2/truename.o` is the kernel program of the last commit with table version 2, as it was built
//! there, without debugging information. It is loaded, filled and attached here in the way of its agent.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, ProgramArray},
    programs::{LinkOrder, SchedClassifier, TcAttachType, links::FdLink, tc::TcAttachOptions},
};
use truename_common::layout::{
    Authority, Endpoint, Names, Policy, Protocol, Socket, TCP, VERSION, map, port_flags, v4_mapped,
};
use truename_tests::{
    scratch::Scratch,
    traffic::{Connection, Dial, Lab, Pace},
    truename::{Truename, binary},
    wire,
};

/// The kernel program of table version 2.
static OLD: &[u8] = aya::include_bytes_aligned!("../fixtures/v2/truename.o");
/// Its pinned tables.
const TABLES: [&str; 18] = [
    map::PORTS,
    map::ENDPOINTS,
    map::NAMES,
    map::LISTED,
    map::RPC_FLOWS,
    map::PEERS,
    map::ALIASES,
    map::SERVICES,
    map::SLOTS,
    map::TARGETS,
    map::CONNTRACK,
    map::MOVED,
    map::TRIED,
    map::SETTINGS,
    map::TRIES,
    map::XDP_DEVICES,
    map::COUNTERS,
    map::EVENTS,
];

fn names() -> wire::Names {
    wire::Names::flink("jobmanager", "jm")
}

fn exchange(connection: &Connection, round: u32, what: &str) {
    let spec = wire::Spec::mixed(&names(), round.into(), 20);
    let spec = match round {
        0 => spec,
        _ => spec.continued(round.into()),
    };
    if let Err(error) = connection.exchange(&spec.script(), Pace::default()) {
        panic!("{what}: {error:#}");
    }
}

/// What an agent of version 2 leaves when it ends: pinned tables, programs and links.
fn leave_old(lab: &Lab, root: &Path) -> Result<()> {
    let version = root.join("v2");
    for directory in ["maps", "programs", "links", "chains"] {
        fs::create_dir_all(version.join(directory))?;
    }
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(map::RPC_FLOWS, 4096);
    for name in TABLES {
        loader.map_pin_path(name, version.join("maps").join(name));
    }
    let mut old = loader.load(OLD).context("load the old program")?;
    fill(&mut old, lab)?;
    // "7: s0@if6: <BROADCAST,…"
    let shown = lab.server().ip("-o link show dev s0")?;
    let ifindex = shown.split(':').next().context("the number of s0")?;
    chain(&mut old, &version)?;
    let program: &mut SchedClassifier = old
        .program_mut("tn_ether")
        .context("the old program")?
        .try_into()?;
    program.load()?;
    program.pin(version.join("programs/tn_ether"))?;
    for (side, name) in [
        (TcAttachType::Ingress, "ingress"),
        (TcAttachType::Egress, "egress"),
    ] {
        let link = lab.server().run(|| -> Result<_> {
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            let id = program.attach_with_options("s0", side, options)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        })??;
        link.pin(version.join(format!("links/s0-{ifindex}-{name}")))?;
    }
    Ok(())
}

/// Fills and pins the table of programs that the attached one goes on with.
fn chain(old: &mut Ebpf, version: &Path) -> Result<()> {
    let program: &mut SchedClassifier = old
        .program_mut("tn_rpc")
        .context("the old program of RPC")?
        .try_into()?;
    program.load()?;
    let program = program.fd()?.try_clone()?;
    let map = old.map_mut("CHAIN").context("CHAIN")?;
    map.pin(version.join("chains/0"))?;
    ProgramArray::try_from(map)?.set(0, &program, 0)?;
    Ok(())
}

fn fill(old: &mut Ebpf, lab: &Lab) -> Result<()> {
    let address = match lab.address().ip() {
        std::net::IpAddr::V4(v4) => v4_mapped(v4.octets()),
        std::net::IpAddr::V6(v6) => v6.octets(),
    };
    let port = lab.address().port();
    let socket = Socket {
        address,
        port,
        protocol: TCP,
        pad: 0,
    };
    let endpoint = Endpoint {
        id: 0,
        protocol: Protocol::Pekko as u8,
        policy: Policy::Any as u8,
        pad: [0; 2],
    };
    let canonical = Authority::new(b"jobmanager:6123").context("an authority")?;
    let mut names: HashMap<_, Socket, Names> =
        HashMap::try_from(old.map_mut(map::NAMES).context("NAMES")?)?;
    names.insert(socket, Names::configured(canonical), 0)?;
    let mut endpoints: HashMap<_, Socket, Endpoint> =
        HashMap::try_from(old.map_mut(map::ENDPOINTS).context("ENDPOINTS")?)?;
    endpoints.insert(socket, endpoint, 0)?;
    let mut ports: Array<_, u8> = Array::try_from(old.map_mut(map::PORTS).context("PORTS")?)?;
    ports.set(u32::from(port), port_flags::ENDPOINT, 0)?;
    Ok(())
}

/// An installation whose pins are those of version 2; no agent runs.
fn old(lab: &Lab, scratch: &Scratch) -> Truename {
    let endpoint = format!("pekko={}=jobmanager:6123", lab.address());
    let arguments = ["--interface", "s0", "--endpoint", &endpoint];
    let arguments = arguments.map(str::to_owned).to_vec();
    let truename = Truename::prepared(binary().unwrap(), lab.server(), scratch, arguments).unwrap();
    leave_old(lab, truename.bpffs()).unwrap();
    truename
}

#[test]
fn connections_of_the_version_before_go_on_while_the_new_agent_takes_over() {
    assert_eq!(
        VERSION, 3,
        "keep the object of the version before as a fixture"
    );
    let lab = Lab::direct().unwrap();
    let scratch = Scratch::new("migrate").unwrap();
    let mut truename = old(&lab, &scratch);
    let connection = lab.connect(Dial::default()).unwrap();
    exchange(&connection, 0, "with the old program");
    let over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut rounds = 1;
            while !over.load(Ordering::Relaxed) {
                exchange(&connection, rounds, "while the new agent takes over");
                rounds += 1;
            }
            rounds
        });
        truename.start_agent().unwrap();
        over.store(true, Ordering::Relaxed);
        traffic.join().unwrap()
    });
    assert!(rounds > 2, "{rounds} rounds only");
    exchange(&connection, rounds, "with the new program");
    // Its flow is not taken over: the new program adopts the connection, and translates it.
    assert_eq!(truename.counter("adopted").unwrap(), 1);
    assert_eq!(truename.counter("resynchronised").unwrap(), 0);
    let (status, code) = truename.status().unwrap();
    assert_eq!(code, 0, "{status}");
    assert_eq!(status["flows"], 1, "{status}");
    let left = fs::read_dir(truename.bpffs())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), [format!("v{VERSION}").as_str()]);
    let new = lab.connect(Dial::default()).unwrap();
    exchange(&new, 0, "a new connection");
}

#[test]
fn an_upgrade_that_fails_leaves_the_version_before_at_work() {
    let lab = Lab::direct().unwrap();
    let scratch = Scratch::new("migrate").unwrap();
    let mut truename = old(&lab, &scratch);
    let connection = lab.connect(Dial::default()).unwrap();
    exchange(&connection, 0, "with the old program");
    // In the way of the program's pin, which comes after the tables were taken over.
    let obstacle = format!("v{VERSION}/programs/tn_ether/obstacle");
    fs::create_dir_all(truename.bpffs().join(&obstacle)).unwrap();
    let agent = truename.spawn_agent().unwrap();
    agent
        .wait_line(0, &["cannot replace"], std::time::Duration::from_secs(30))
        .unwrap();
    truename.kill_agent();
    exchange(&connection, 1, "after the failed upgrade");
    let left = fs::read_dir(truename.bpffs())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    // The obstacle is not truename's, so it is left where it is.
    assert_eq!(left, ["v2", &format!("v{VERSION}")]);
    let obstacle = truename.bpffs().join(obstacle);
    let version = truename.bpffs().join(format!("v{VERSION}"));
    assert!(!version.join("maps").exists());
    assert!(obstacle.is_dir());
}

#[test]
fn a_newer_version_is_refused_in_one_line() {
    let lab = Lab::direct().unwrap();
    let scratch = Scratch::new("migrate").unwrap();
    let mut truename = old(&lab, &scratch);
    let newer = truename.bpffs().join(format!("v{}", VERSION + 1));
    for directory in ["maps", "netns-1"] {
        fs::create_dir_all(newer.join(directory)).unwrap();
    }
    let agent = truename.spawn_agent().unwrap();
    agent
        .wait_line(
            0,
            &["was made by a newer truename"],
            std::time::Duration::from_secs(30),
        )
        .unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    exchange(&connection, 0, "with the old program still");
    truename.kill_agent();
    fs::remove_dir_all(truename.bpffs()).unwrap();
}
