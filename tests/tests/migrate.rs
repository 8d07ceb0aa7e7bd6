//! An agent takes over what one of table version 2 left, without breaking a flow.
//!
//! `fixtures/v2/truename.o` is the kernel program of the last commit with table version 2, as it was built
//! there, without debugging information. It is loaded, filled and attached here in the way of its agent.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, ProgramArray},
    programs::{LinkOrder, SchedClassifier, TcAttachType, links::FdLink, tc::TcAttachOptions},
};
use truename::datapath::{Pins, ServiceTables};
use truename_common::layout::{
    Authority, Conntrack, ConntrackState, Endpoint, FiveTuple, Names, Policy, Protocol, Service,
    Settings, Slots, Socket, TCP, Target, VERSION, map, port_flags, target_flags, v4_mapped,
};
use truename_tests::{
    scratch::Scratch,
    traffic::{Connection, Dial, Lab, Pace},
    truename::{Truename, binary},
    wait::wait_until,
    wire::{self, Piece},
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
    "TRIED",
    map::SETTINGS,
    "TRIES",
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

/// What an agent of version 2 leaves when it ends: pinned tables, programs and links. `fill` writes what it was told.
fn leave_old(
    lab: &Lab,
    root: &Path,
    fill: impl FnOnce(&mut Ebpf, &Lab) -> Result<()>,
) -> Result<()> {
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
    chain(&mut old, &version)?;
    let program: &mut SchedClassifier = old
        .program_mut("tn_ether")
        .context("the old program")?
        .try_into()?;
    program.load()?;
    program.pin(version.join("programs/tn_ether"))?;
    for interface in lab.interfaces() {
        // "7: s0@if6: <BROADCAST,…"
        let shown = lab.host().ip(&format!("-o link show dev {interface}"))?;
        let ifindex = shown.split(':').next().context("its number")?;
        for (side, name) in [
            (TcAttachType::Ingress, "ingress"),
            (TcAttachType::Egress, "egress"),
        ] {
            let link = lab.host().run(|| -> Result<_> {
                let options = TcAttachOptions::TcxOrder(LinkOrder::default());
                let id = program.attach_with_options(interface, side, options)?;
                Ok(FdLink::try_from(program.take_link(id)?)?)
            })??;
            link.pin(version.join(format!("links/{interface}-{ifindex}-{name}")))?;
        }
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

fn socket(address: SocketAddr) -> Socket {
    Socket {
        address: match address.ip() {
            IpAddr::V4(v4) => v4_mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        },
        port: address.port(),
        protocol: TCP,
        pad: 0,
    }
}

/// One endpoint.
fn fill_endpoint(old: &mut Ebpf, lab: &Lab) -> Result<()> {
    let (socket, port) = (socket(lab.address()), lab.address().port());
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

/// One service, whose target is the server.
fn fill_service(old: &mut Ebpf, lab: &Lab) -> Result<()> {
    let target = Target {
        address: socket(lab.address()).address,
        port: lab.address().port(),
        flags: target_flags::LOCAL,
        ..Target::default()
    };
    let service = Service {
        id: 1,
        slots: Slots { first: 0, count: 1 },
        ..Service::default()
    };
    // The source ports are those that agents choose from if they are not told others.
    let settings = Settings {
        timeouts: [30, 30, 7200, 60, 60, 5, 30, 120],
        loopback: 1,
        first_port: 1024,
        last_port: 65_535,
        tag: 0x746e,
        flags: 0,
        pad: 0,
    };
    let mut targets: Array<_, Target> =
        Array::try_from(old.map_mut(map::TARGETS).context("TARGETS")?)?;
    targets.set(0, target, 0)?;
    let mut slots: Array<_, u32> = Array::try_from(old.map_mut(map::SLOTS).context("SLOTS")?)?;
    slots.set(0, 0, 0)?;
    let mut all: Array<_, Settings> =
        Array::try_from(old.map_mut(map::SETTINGS).context("SETTINGS")?)?;
    all.set(0, settings, 0)?;
    let mut services: HashMap<_, Socket, Service> =
        HashMap::try_from(old.map_mut(map::SERVICES).context("SERVICES")?)?;
    services.insert(socket(alias()), service, 0)?;
    let mut ports: Array<_, u8> = Array::try_from(old.map_mut(map::PORTS).context("PORTS")?)?;
    ports.set(u32::from(alias().port()), port_flags::SERVICE, 0)?;
    ports.set(u32::from(target.port), port_flags::TARGET, 0)?;
    Ok(())
}

/// What clients of the service call the server.
fn alias() -> SocketAddr {
    SocketAddr::from(([10, 99, 0, 100], 7000))
}

/// An installation whose pins are those of version 2; no agent runs.
fn old(lab: &Lab, scratch: &Scratch) -> Truename {
    let endpoint = format!("pekko={}=jobmanager:6123", lab.address());
    let interfaces = lab.interfaces().iter();
    let interfaces = interfaces.flat_map(|interface| ["--interface", interface]);
    let arguments = interfaces.chain(["--endpoint", &endpoint]);
    let arguments = arguments.map(str::to_owned).collect();
    let truename = Truename::prepared(binary().unwrap(), lab.host(), scratch, arguments).unwrap();
    leave_old(lab, truename.bpffs(), fill_endpoint).unwrap();
    truename
}

#[test]
fn connections_of_the_version_before_go_on_while_the_new_agent_takes_over() {
    assert_eq!(
        VERSION, 3,
        "keep the object of the version before as a fixture"
    );
    go_on(&Lab::direct().unwrap());
}

#[test]
fn connections_that_pass_two_interfaces_go_on_while_the_new_agent_takes_over() {
    go_on(&Lab::routed().unwrap());
}

fn go_on(lab: &Lab) {
    let scratch = Scratch::new("migrate").unwrap();
    let mut truename = old(lab, &scratch);
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

/// An installation with a service whose pins are those of version 2; no agent runs. The new agent is given more arguments.
fn old_service(lab: &Lab, scratch: &Scratch, more: &[&str]) -> Truename {
    let address = format!("address add {}/24 dev s0", alias().ip());
    lab.server().ip(&address).unwrap();
    let service = format!("tcp={}={}", alias(), lab.address());
    let arguments = ["--interface", "s0", "--service", &service];
    let arguments = arguments.iter().chain(more).map(|word| (*word).to_owned());
    let arguments = arguments.collect();
    let truename = Truename::prepared(binary().unwrap(), lab.server(), scratch, arguments).unwrap();
    leave_old(lab, truename.bpffs(), fill_service).unwrap();
    truename
}

/// A client of the service.
fn through(port: u16) -> Dial {
    Dial {
        port,
        to: Some(alias()),
        ..Dial::default()
    }
}

/// A question and an answer.
fn talk(connection: &Connection, round: u32, what: &str) {
    let question = format!("question {round}").into_bytes();
    let answer = format!("answer {round}").into_bytes();
    let asked = connection.client_sends(&question, &[Piece::Exact(question.clone())]);
    let answered =
        asked.and_then(|()| connection.server_sends(&answer, &[Piece::Exact(answer.clone())]));
    if let Err(error) = answered {
        panic!("{what}: {error:#}");
    }
}

/// The connections that the new agent's tables have.
fn connections(truename: &Truename) -> Result<Vec<(FiveTuple, Conntrack)>> {
    let mut connections = Vec::new();
    ServiceTables::open(&Pins::new(truename.bpffs()))?
        .visit_connections(|key, entry| connections.push((key, entry)))?;
    Ok(connections)
}

/// The one from this port of the client.
fn connection(truename: &Truename, port: u16) -> Result<(FiveTuple, Conntrack)> {
    let known = connections(truename)?;
    let mut found = known
        .into_iter()
        .filter(|(_, entry)| entry.client_port == port);
    found
        .next()
        .with_context(|| format!("no connection from port {port}"))
}

#[test]
fn connections_through_services_of_the_version_before_go_on() {
    const SAME: u16 = 40_000;
    let lab = Lab::direct().unwrap();
    let scratch = Scratch::new("migrate").unwrap();
    let mut truename = old_service(&lab, &scratch, &[]);
    let direct = Dial {
        port: SAME,
        ..Dial::default()
    };
    let direct = lab.connect(direct).unwrap();
    // Its port is taken at the target, so that it has another one there.
    let moved = lab.connect(through(SAME)).unwrap();
    let resets = lab.connect(through(SAME + 1)).unwrap();
    let during = lab.connect(through(SAME + 2)).unwrap();
    for (round, connection) in (0..).zip([&direct, &moved, &resets, &during]) {
        talk(connection, round, "with the old program");
    }
    let over = AtomicBool::new(false);
    let (rounds, begun) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut begun = Vec::new();
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                talk(&during, rounds, "while the new agent takes over");
                if begun.len() < 1000 {
                    begun.push(lab.connect(through(0)).expect("a connection meanwhile"));
                }
                for connection in begun.iter().rev().take(3) {
                    talk(connection, rounds, "of a connection that began meanwhile");
                }
                rounds += 1;
            }
            (rounds, begun)
        });
        truename.start_agent().unwrap();
        over.store(true, Ordering::Relaxed);
        traffic.join().unwrap()
    });
    assert!(rounds > 2, "{rounds} rounds only");
    for connection in [&direct, &moved, &resets, &during]
        .into_iter()
        .chain(&begun)
    {
        talk(connection, rounds, "with the new program");
    }
    let (key, entry) = connection(&truename, SAME).unwrap();
    assert_ne!(entry.tries, 0);
    assert_ne!(key.client_port, SAME);
    assert_eq!(connections(&truename).unwrap().len(), 3 + begun.len());
    // The numbers of its segments were not known.
    resets.reset().unwrap();
    wait_until(Duration::from_secs(10), "the reset", || {
        let (_, entry) = connection(&truename, SAME + 1)?;
        let state = entry.state;
        anyhow::ensure!(state == ConntrackState::Closed as u8, "{state}");
        Ok(())
    })
    .unwrap();
    let (status, code) = truename.status().unwrap();
    assert_eq!(code, 0, "{status}");
}

#[test]
fn a_reset_counts_on_a_connection_of_the_version_before_that_was_silent_since() {
    const PORT: u16 = 40_000;
    let lab = Lab::direct().unwrap();
    let scratch = Scratch::new("migrate").unwrap();
    let mut truename = old_service(&lab, &scratch, &[]);
    let silent = lab.connect(through(PORT)).unwrap();
    talk(&silent, 0, "with the old program");
    truename.start_agent().unwrap();
    let (_, entry) = connection(&truename, PORT).unwrap();
    assert_eq!((entry.ends, entry.acked), ([0; 2], [0; 2]));
    silent.reset().unwrap();
    let (_, entry) = connection(&truename, PORT).unwrap();
    assert_eq!(entry.state, ConntrackState::Closed as u8);
}

#[test]
fn as_many_connections_of_the_version_before_go_on_as_fit() {
    const COUNT: u16 = 20;
    for (max_flows, fit) in [(131_072, 20), (16, 16)] {
        let lab = Lab::direct().unwrap();
        let scratch = Scratch::new("migrate").unwrap();
        let file = scratch.path().join("sized.toml");
        let sized = format!("[datapath]\nmax_flows = {max_flows}\n");
        fs::write(&file, sized).unwrap();
        let file = file.display().to_string();
        let mut truename = old_service(&lab, &scratch, &["--config", &file]);
        let opened: Vec<_> = (0..COUNT)
            .map(|number| lab.connect(through(40_000 + number)).unwrap())
            .collect();
        truename.start_agent().unwrap();
        let known = connections(&truename).unwrap();
        assert_eq!(known.len(), fit, "{known:?}");
        let log = truename.agent().unwrap().lines(0).join("\n");
        let words = format!("Took over {fit} connection(s) through services of table version 2");
        assert!(log.contains(&words), "{log}");
        let words = "No room for 4 connection(s) through services of table version 2";
        assert_eq!(log.contains(words), fit < usize::from(COUNT), "{log}");
        for (_, entry) in known {
            let number = entry.client_port - 40_000;
            talk(&opened[usize::from(number)], 0, "with the new program");
        }
    }
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
        .wait_line(0, &["cannot replace"], Duration::from_secs(30))
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
            Duration::from_secs(30),
        )
        .unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    exchange(&connection, 0, "with the old program still");
    truename.kill_agent();
    fs::remove_dir_all(truename.bpffs()).unwrap();
}
