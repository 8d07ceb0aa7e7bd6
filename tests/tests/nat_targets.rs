//! Services with several targets, and targets and agents that go while traffic runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::nat::{
    Download, Family, Lab, Protocol, Rules, Seen, Service, Translator, Web, beside, connect,
    last_page, page,
};

/// The port that the web servers listen on.
const PORT: u16 = 8080;
/// The weights of the targets, the node itself first.
const WEIGHTS: [u32; 5] = [1, 1, 2, 4, 2];

/// A local and four remote targets of each family behind one alias.
struct Farm {
    lab: Lab,
    web: [Web; 2],
    targets: BTreeMap<String, (SocketAddr, u32)>,
    alias: SocketAddr,
    family: Family,
}

impl Farm {
    fn new(family: Family) -> Result<Self> {
        let lab = Lab::new()?;
        let local = SocketAddr::new(lab.node(family), PORT);
        let remote = [0, 1, 2, 3].map(|number| SocketAddr::new(lab.target(family, number), PORT));
        let web = [
            Web::start(&lab.node, &lab.scratch, &[local])?,
            Web::start(&lab.target, &lab.scratch, &remote)?,
        ];
        let targets = std::iter::once(local)
            .chain(remote)
            .zip(WEIGHTS)
            .map(|(target, weight)| (target.ip().to_string(), (target, weight)))
            .collect();
        let alias = SocketAddr::new(lab.foreign(family, 1), 80);
        Ok(Self {
            lab,
            web,
            targets,
            alias,
            family,
        })
    }

    fn rules(&self) -> Rules {
        let targets: Vec<_> = self.targets.values().copied().collect();
        Rules::new(vec![Service::weighted(Protocol::Tcp, self.alias, &targets)])
    }

    fn connect(&self, port: u16) -> Result<std::net::TcpStream> {
        let from = SocketAddr::new(self.lab.client(self.family), port);
        connect(&self.lab.client, from, self.alias)
    }

    /// The target that a connection from each of some ports reaches.
    fn reached(&self, ports: std::ops::Range<u16>) -> Result<BTreeMap<u16, String>> {
        ports
            .map(|port| Ok((port, target(&last_page(self.connect(port)?, "/who")?)?)))
            .collect()
    }
}

/// The target's address in the answer of `/who`.
fn target(who: &str) -> Result<String> {
    let address = who.split(' ').next().context("an empty answer")?;
    Ok(address.to_owned())
}

#[test]
fn connections_are_shared_out_by_weight_and_stay_where_they_are() {
    for family in Family::BOTH {
        beside(|by| {
            let farm = Farm::new(family)?;
            let mut translator = Translator::start(by, &farm.lab, &farm.rules())?;
            let mut seen = Seen::new();
            let count = 400;
            let reached = farm.reached(20_000..20_000 + count)?;
            let total: u32 = WEIGHTS.iter().sum();
            for (address, (_, weight)) in &farm.targets {
                let share = f64::from(*weight) / f64::from(total);
                let expected = f64::from(count) * share;
                // Five standard deviations: the ports are always the same ones.
                let margin = 5.0 * (expected * (1.0 - share)).sqrt();
                let got = reached.values().filter(|target| *target == address).count() as f64;
                ensure!(
                    (got - expected).abs() < margin,
                    "{address} got {got} of {count}, and not {expected} ± {margin:.0}"
                );
                seen.note(family, address);
            }
            // The choice depends on the addresses and ports alone, also for another agent.
            let some = 20_000..20_040;
            let expected: BTreeMap<_, _> = some
                .clone()
                .map(|port| (port, reached[&port].clone()))
                .collect();
            ensure!(farm.reached(some.clone())? == expected, "other targets");
            translator.change(&farm.lab, &farm.rules())?;
            ensure!(
                farm.reached(some)? == expected,
                "other targets after a restart"
            );
            // A connection never moves.
            let stream = farm.connect(0)?;
            let first = page(&stream, "/who")?;
            for _ in 0..50 {
                ensure!(page(&stream, "/who")? == first, "moved from {first}");
            }
            Ok(seen)
        });
    }
}

#[test]
fn a_removed_target_keeps_its_connections_and_gets_no_more() {
    for family in Family::BOTH {
        beside(|by| {
            let mut farm = Farm::new(family)?;
            let mut translator = Translator::start(by, &farm.lab, &farm.rules())?;
            let mut seen = Seen::new();
            let before = farm.reached(21_000..21_060)?;
            // Downloads from all targets that stop on the way.
            let mut downloads = Vec::new();
            let mut targets = BTreeSet::new();
            for port in 22_000..22_060 {
                let stream = farm.connect(port)?;
                targets.insert(target(&page(&stream, "/who")?)?);
                downloads.push(Download::begin(stream, "/big")?);
            }
            ensure!(
                targets.len() == WEIGHTS.len(),
                "only {targets:?} are in use"
            );
            // The one that has most.
            let removed = farm.lab.target(family, 2).to_string();
            farm.targets.remove(&removed).context("no such target")?;
            translator.change(&farm.lab, &farm.rules())?;
            for (port, target) in farm.reached(23_000..23_060)? {
                ensure!(target != removed, "{port} got the target that was removed");
            }
            // Connections that ended a moment ago, begun again.
            let mut moved = 0;
            for (port, target) in farm.reached(21_000..21_060)? {
                ensure!(
                    target != removed,
                    "{port} got the target that was removed again"
                );
                // nftables mixes all anew.
                if translator.truename().is_some() {
                    let was = &before[&port];
                    ensure!(
                        target == *was || *was == removed,
                        "{port} moved from {was} to {target}"
                    );
                    moved += u32::from(target != *was);
                }
            }
            ensure!(
                translator.truename().is_none() || moved > 0,
                "nobody had to move"
            );
            for (number, download) in downloads.into_iter().enumerate() {
                // Which target's bytes they are does not matter: all have the same.
                let stream = download
                    .finish(farm.web[0].big())
                    .with_context(|| format!("download {number}"))?;
                seen.note("download", number);
                ensure!(targets.contains(&target(&page(&stream, "/who")?)?));
            }
            Ok(seen)
        });
    }
}

#[test]
fn traffic_goes_on_while_agents_come_and_go() {
    for family in Family::BOTH {
        beside(|by| {
            let farm = Farm::new(family)?;
            let mut translator = Translator::start(by, &farm.lab, &farm.rules())?;
            let mut seen = Seen::new();
            let begin = || -> Result<Vec<Download>> {
                (0..10)
                    .map(|_| Download::begin(farm.connect(0)?, "/big"))
                    .collect()
            };
            let [mut early, mut late] = [begin()?, begin()?];
            if let Some(truename) = translator.truename() {
                truename.kill_agent();
            }
            // Nobody is there but the kernel.
            let alone = begin()?;
            for download in early.drain(..5) {
                download.finish(farm.web[1].big())?;
            }
            translator.change(&farm.lab, &farm.rules())?;
            translator.change(&farm.lab, &farm.rules())?;
            let after = begin()?;
            for download in early
                .into_iter()
                .chain(late.drain(..))
                .chain(alone)
                .chain(after)
            {
                let stream = download.finish(farm.web[1].big())?;
                seen.note("download", stream.peer_addr()?);
            }
            Ok(seen)
        });
    }
}
