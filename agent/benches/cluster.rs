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
use truename::{
    config::{Config, File, Flags},
    datapath::{Object, Pins, TablesMut},
    plan::{self, Facts, Held, Roles},
    reconcile,
    topology::{Claim, Facts as Said, Kind, Moment, SourceId, Topology, Worker, merge, resolve},
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
        let present = reconcile::Kernel::present(&kernel)?;
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
        addresses: [own].into(),
        loopback: 1,
        roles: Arc::new(roles),
        sources: (0..=nodes).map(|node| (address(0, node), own)).collect(),
    }
}

fn apply(kernel: &mut TablesMut, config: &Config, facts: &Facts) -> Result<()> {
    reconcile::reconcile(kernel, |present| {
        plan::plan(config, facts, &present.numbers(), &present.held)
    })?;
    Ok(())
}
