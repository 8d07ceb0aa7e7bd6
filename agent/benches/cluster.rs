//! What following a cluster costs the agent: from answers about its nodes to the kernel tables.
//!
//! `cargo xtask bench` runs it; it makes tables, attaches nothing, and removes them again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use truename::{
    clock::Moment,
    config::{Config, File, Flags},
    datapath::{Object, Pins, ServiceTables, TablesMut},
    discovery::{Claim, Facts as Said, Kind, SourceId, Topology, Worker, merge, resolve},
    plan::{self, Facts, Held, Roles},
    reconcile,
};
use truename_common::{
    layout::{Conntrack, ConntrackState, FiveTuple, TCP, map, v4_mapped},
    nat,
};

/// Runs of each step; the middle one counts.
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    println!(
        "\nFollowing a cluster (median of {ROUNDS} runs, milliseconds): one service for all workers, and one for each\n"
    );
    println!(
        "| Nodes | merge | resolve | plan | apply to empty tables | one worker moves: plan | apply |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    for nodes in [100, 1000, 10_000] {
        let times = measure(nodes).with_context(|| format!("follow a cluster of {nodes} nodes"))?;
        let times: Vec<_> = times.iter().map(|time| format!("{time:.1}")).collect();
        println!("| {nodes} | {} |", times.join(" | "));
    }
    println!(
        "\nA service gets another target (median of {ROUNDS} runs, milliseconds), by the connections in the table: its own, and another service's\n"
    );
    println!("| Connections | its own | another's |");
    println!("|---:|---:|---:|");
    for connections in [0, 1000, 62_000] {
        let own = change(connections, 0)?;
        let others = change(0, connections)?;
        println!("| {connections} | {own:.1} | {others:.1} |");
    }
    Ok(())
}

/// Milliseconds that a change of a service's targets takes, while it and another one have so many connections.
fn change(own: u32, others: u32) -> Result<f64> {
    let service = |name: &str, target: u8| {
        format!(
            "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"192.0.2.{target}:80\"\ntarget = [\"10.0.0.{target}:8081\", \"10.0.0.9:8081\"]\nsnat = \"never\"\n"
        )
    };
    let config = |first| {
        let text = service("first", first) + &service("second", 2);
        let file = File::parse(
            Path::new("bench.toml"),
            &text.replace("192.0.2.3", "192.0.2.1"),
        )?;
        anyhow::Ok(Config::new(file, Flags::default())?)
    };
    let (before, after) = (config(1)?, config(3)?);
    let facts = facts(Roles::default(), 9);
    let tables = Tables::new(&before)?;
    let mut kernel = TablesMut::open(&tables.pins)?;
    apply(&mut kernel, &before, &facts)?;
    for (service, count) in [(1, own), (2, others)] {
        connect(&tables.pins, &kernel, service, count)?;
    }
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let next = if round % 2 == 0 { &after } else { &before };
        let (applied, time) = timed(|| apply(&mut kernel, next, &facts));
        applied?;
        times.push(time);
    }
    let mut count = 0;
    ServiceTables::open(&tables.pins)?.visit_connections(|_, _| count += 1)?;
    anyhow::ensure!(count == own + others, "{count} connections are left");
    times.sort_unstable();
    Ok(times[ROUNDS / 2].as_secs_f64() * 1000.0)
}

/// Gives a service connections, each with the target that it chooses.
fn connect(pins: &Pins, kernel: &TablesMut, service: u8, count: u32) -> Result<()> {
    let held = reconcile::Kernel::owned(kernel)?.held;
    let map = MapData::from_pin(pins.map(map::CONNTRACK)).context("open the connections")?;
    let mut table: HashMap<_, FiveTuple, Conntrack> = HashMap::try_from(Map::HashMap(map))?;
    let alias = v4_mapped([192, 0, 2, service]);
    for number in 0..count {
        let [_, high, middle, low] = number.to_be_bytes();
        let original = FiveTuple {
            client: v4_mapped([172, 16 + high, middle, low]),
            endpoint: alias,
            client_port: 40_000,
            endpoint_port: 80,
            protocol: TCP,
            pad: [0; 3],
        };
        let hash = nat::hash(&original);
        let wanted = held
            .services
            .iter()
            .find(|(socket, _)| socket.address == alias);
        let (_, service) = wanted.context("there is no such service")?;
        let (_, target) = nat::choose(&held, service, nat::Choice::Current, &original, hash)
            .context("it has no target")?;
        let entry = Conntrack {
            client: original.client,
            alias,
            client_port: original.client_port,
            alias_port: 80,
            service: service.id,
            seen_ns: u64::MAX >> 1,
            state: ConntrackState::Established as u8,
            ..Conntrack::default()
        };
        table.insert(
            nat::key(&original, &target, &held.settings, hash, 0),
            entry,
            0,
        )?;
    }
    Ok(())
}

/// Milliseconds of each step.
fn measure(nodes: u32) -> Result<Vec<f64>> {
    let config = configuration(nodes)?;
    let mut times: [Vec<Duration>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let said = answers(nodes, 0);
        let tables = Tables::new(&config)?;
        let mut kernel = TablesMut::open(&tables.pins)?;
        let (topology, merging) = timed(|| merged(&said));
        let (roles, resolving) = timed(|| roles(&config, &topology));
        let facts = facts(roles, nodes);
        let (_, planning) =
            timed(|| plan::plan(&config, &facts, &BTreeMap::new(), &Held::default()));
        let (applied, applying) = timed(|| apply(&mut kernel, &config, &facts));
        applied?;

        let moved = self::facts(self::roles(&config, &merged(&answers(nodes, 1))), nodes);
        let present = reconcile::Kernel::owned(&kernel)?;
        let numbers = present.numbers();
        let (_, planning_again) = timed(|| plan::plan(&config, &moved, &numbers, &present.held));
        let (applied, applying_again) = timed(|| apply(&mut kernel, &config, &moved));
        applied?;
        let all = [
            merging,
            resolving,
            planning,
            applying,
            planning_again,
            applying_again,
        ];
        for (times, time) in times.iter_mut().zip(all) {
            times.push(time);
        }
    }
    Ok(times
        .iter_mut()
        .map(|times| {
            times.sort_unstable();
            times[ROUNDS / 2].as_secs_f64() * 1000.0
        })
        .collect())
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

/// Tables without programs, removed on drop.
struct Tables {
    pins: Pins,
}

impl Tables {
    fn new(config: &Config) -> Result<Self> {
        let pins = Pins::new(format!("/sys/fs/bpf/truename-bench-{}", std::process::id()));
        pins.check()?;
        drop(pins.prepare()?);
        let tables = Self { pins };
        Object::open(&tables.pins, &config.datapath)?;
        Ok(tables)
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(self.pins.root()) {
            eprintln!("cannot remove {}: {error}", self.pins.root().display());
        }
    }
}

fn configuration(nodes: u32) -> Result<Config> {
    let mut text = "[topology]\nsource = \"flink\"\nurls = [\"http://10.0.0.1:8081\"]\n".to_owned();
    let mut service = |name: &str, listen: &str, target: &str| {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"{listen}\"\ntarget = \"{target}\"\n"
        );
    };
    service("workers", "192.0.2.1:9069", "workers:9069");
    for node in 0..nodes {
        let listen = SocketAddr::new(address(100, node), 6122);
        service(
            &format!("worker-{node}"),
            &listen.to_string(),
            &format!("worker:tm-{node}:6122"),
        );
    }
    let file = File::parse(Path::new("bench.toml"), &text)?;
    Ok(Config::new(file, Flags::default())?)
}

fn address(net: u8, node: u32) -> IpAddr {
    let [_, _, high, low] = node.to_be_bytes();
    [10, net, high, low].into()
}

/// What Flink says of its workers. In the second generation the first worker is another one.
fn answers(nodes: u32, generation: u32) -> Said {
    let mut said = Said::new();
    for node in 0..nodes {
        let place = if node == 0 { generation * nodes } else { node };
        let name = format!("pekko.tcp://flink@{}:6122", address(0, place));
        if let (Ok(id), Ok(rpc)) = (format!("tm-{node}").parse(), name.parse()) {
            said.add(Claim::Worker(Worker {
                id,
                rpc,
                data_port: Some(6121),
            }));
        }
    }
    said
}

fn merged(said: &Said) -> Topology {
    let id = SourceId {
        kind: Kind::Flink,
        place: String::new(),
    };
    merge([(&id, Moment::now(), said)])
}

fn roles(config: &Config, topology: &Topology) -> Roles {
    let targets = config.services.iter().flat_map(|service| &service.targets);
    let roles = targets.filter_map(|target| target.place.role());
    let no_names = |_: &str| Err("there are no names here".to_owned());
    roles
        .map(|role| {
            (
                role.clone(),
                resolve(role, topology, no_names, |_| true).addresses,
            )
        })
        .collect()
}

fn facts(roles: Roles, nodes: u32) -> Facts {
    let own: IpAddr = [10, 255, 0, 1].into();
    Facts {
        names: Arc::default(),
        addresses: [own].into(),
        loopback: 1,
        roles: Arc::new(roles),
        sources: (0..=nodes).map(|node| (address(0, node), own)).collect(),
        ..Facts::default()
    }
}

fn apply(kernel: &mut TablesMut, config: &Config, facts: &Facts) -> Result<()> {
    reconcile::reconcile(kernel, config.datapath.snat_ports, |present| {
        plan::plan(config, facts, &present.numbers(), &present.held)
    })?;
    Ok(())
}
