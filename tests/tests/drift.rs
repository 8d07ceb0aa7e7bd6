//! Tables that somebody else changed are repaired, and what fails is tried again.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, MapData};
use truename::{
    datapath::{Pins, TablesMut},
    reconcile::{Kernel as _, Present},
};
use truename_common::layout::{
    Endpoint, ListedAlias, Service, Settings, Slots, Socket, TCP, Target, map, v4_mapped,
};
use truename_tests::{
    pinned::table,
    scratch::Scratch,
    traffic::{Connection, Dial, Lab, Pace},
    truename::Truename,
    wait::wait_until,
    wire::{Names, Spec},
};

/// How long a repair may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// An endpoint, a service with several targets, and one on every address.
const CONFIGURATION: &str = r#"
[datapath]
interfaces = ["s0"]
[[endpoint]]
name = "jm"
protocol = "pekko"
listen = "10.99.0.1:6123"
aliases = ["jm:6123", "other:6123"]
[[service]]
name = "several"
protocol = "tcp"
listen = "10.99.0.1:81"
target = ["10.99.0.1:8080", "10.99.0.1:8081"]
[[service]]
name = "every"
protocol = "tcp"
listen = "*:82"
target = "10.99.0.1:8082"
"#;

struct Place {
    truename: Truename,
    tables: TablesMut,
    lab: Lab,
    // Dropped last.
    _scratch: Scratch,
}

impl Place {
    fn new() -> Result<Self> {
        let lab = Lab::direct()?;
        let scratch = Scratch::new("drift")?;
        let file = scratch.path().join("truename.toml");
        fs::write(&file, CONFIGURATION)?;
        let truename = Truename::start_file(lab.server(), &scratch, &file)?;
        let tables = TablesMut::open(&Pins::new(truename.bpffs()))?;
        Ok(Self {
            truename,
            tables,
            lab,
            _scratch: scratch,
        })
    }

    /// What the agent wrote.
    fn written(&self) -> Result<Present> {
        let mut present = self.tables.owned()?;
        present.names.clear();
        Ok(present)
    }

    /// Has the agent look, and waits until it says what it repaired.
    fn repaired(&self, what: &str) -> Result<()> {
        let agent = self.truename.agent()?;
        let mark = agent.mark();
        agent.hang_up()?;
        agent
            .wait_line(mark, &["Somebody else changed", what], SOON)
            .map(drop)
    }

    fn count(&self) -> Result<u64> {
        let (status, _) = self.truename.status()?;
        status["repaired"].as_u64().context("a number")
    }
}

fn exchange(connection: &Connection, round: u64) -> Result<()> {
    let spec = Spec::mixed(&Names::flink("jobmanager", "jm"), round, 20);
    let spec = if round == 0 {
        spec
    } else {
        spec.continued(round)
    };
    connection
        .exchange(&spec.script(), Pace::default())
        .map(drop)
}

fn alias(port: u16) -> Socket {
    Socket {
        address: v4_mapped([10, 99, 0, 1]),
        port,
        protocol: TCP,
        pad: 0,
    }
}

#[test]
fn what_somebody_else_changed_is_repaired_and_counted() -> Result<()> {
    let place = Place::new()?;
    let truename = &place.truename;
    let flow = place.lab.connect(Dial::default())?;
    exchange(&flow, 0)?;
    let written = place.written()?;
    let mut services: HashMap<MapData, Socket, Service> = table(truename, map::SERVICES)?;
    let mut targets: Array<MapData, Target> = table(truename, map::TARGETS)?;
    let mut slots: Array<MapData, u32> = table(truename, map::SLOTS)?;
    let mut ports: Array<MapData, u8> = table(truename, map::PORTS)?;
    let mut settings: Array<MapData, Settings> = table(truename, map::SETTINGS)?;
    let mut endpoints: HashMap<MapData, Socket, Endpoint> = table(truename, map::ENDPOINTS)?;
    let mut listed: HashMap<MapData, ListedAlias, u8> = table(truename, map::LISTED)?;
    let mut count = 0;
    let mut check = |entries: u64, what: &str| -> Result<()> {
        place.repaired(what)?;
        ensure!(place.written()? == written, "{what}: not as it was");
        count += entries;
        ensure!(
            place.count()? == count,
            "{what}: {} were counted",
            place.count()?
        );
        Ok(())
    };

    let several = services.get(&alias(81), 0)?;
    services.remove(&alias(81))?;
    check(1, "repaired 1 entries, 1 of SERVICES")?;
    let wrong = Service {
        id: several.id + 5,
        flags: 1,
        slots: Slots {
            first: 70_000,
            count: u32::MAX,
        },
        previous: Slots { first: 3, count: 2 },
    };
    services.insert(alias(81), wrong, 0)?;
    services.insert(alias(83), several, 0)?;
    check(2, "2 of SERVICES")?;
    for position in [0, 7, 1020] {
        slots.set(several.slots.first + position, 3, 0)?;
    }
    check(3, "3 of SLOTS")?;
    targets.set(0, Target::default(), 0)?;
    let mut other = targets.get(&1, 0)?;
    other.port += 1;
    targets.set(1, other, 0)?;
    targets.set(9999, other, 0)?;
    check(3, "3 of TARGETS")?;
    ports.set(6123, 0, 0)?;
    ports.set(81, 7, 0)?;
    ports.set(9, 1, 0)?;
    settings.set(0, Settings::default(), 0)?;
    check(4, "repaired 4 entries, 3 of PORTS, 1 of SETTINGS")?;
    let jobmanager = endpoints.get(&alias(6123), 0)?;
    endpoints.remove(&alias(6123))?;
    endpoints.insert(alias(6124), jobmanager, 0)?;
    check(2, "2 of ENDPOINTS")?;
    let keys: Vec<_> = listed.keys().collect::<Result<_, _>>()?;
    ensure!(keys.len() == 2, "{} are listed", keys.len());
    listed.remove(&keys[0])?;
    let foreign = ListedAlias {
        endpoint: 99,
        ..keys[1]
    };
    listed.insert(foreign, 1, 0)?;
    check(2, "2 of LISTED")?;

    // The same flow, which knows its endpoint by number; and what the kernel program learns of it and what
    // connections leave behind is nobody else's work.
    exchange(&flow, 1)?;
    let agent = truename.agent()?;
    let mark = agent.mark();
    agent.hang_up()?;
    agent.wait_line(mark, &["The configuration is as it was"], SOON)?;
    ports.set(9, 1, 0)?;
    check(1, "repaired 1 entries, 1 of PORTS")?;
    let text = truename.text("status")?;
    ensure!(
        text.contains(&format!(
            "{count} table entries that somebody else changed were repaired"
        )),
        "{text}"
    );
    Ok(())
}

#[test]
fn what_fails_is_told_and_tried_again_until_it_succeeds() -> Result<()> {
    let place = Place::new()?;
    let mut services: HashMap<MapData, Socket, Service> = table(&place.truename, map::SERVICES)?;
    // No room is left for another alias.
    let mut foreign = Vec::new();
    loop {
        let key = Socket {
            address: v4_mapped(u32::try_from(foreign.len())?.to_be_bytes()),
            port: 9,
            protocol: TCP,
            pad: 0,
        };
        if services.insert(key, Service::default(), 0).is_err() {
            break;
        }
        foreign.push(key);
    }
    ensure!(foreign.len() > 10_000, "{} fit", foreign.len());
    place.lab.server().ip("addr add 10.99.0.77/24 dev s0")?;
    let problems = || -> Result<Vec<String>> {
        let (status, code) = place.truename.status()?;
        let problems: Vec<String> = serde_json::from_value(status["problems"].clone())?;
        let expected = if problems.is_empty() { 0 } else { 3 };
        ensure!(code == expected, "exit code {code} with {problems:?}");
        Ok(problems)
    };
    wait_until(SOON, "the problem", || {
        let problems = problems()?;
        let is_told = |problem: &String| problem.contains("cannot write the table SERVICES");
        ensure!(problems.iter().any(is_told), "{problems:?}");
        Ok(())
    })?;
    for key in &foreign {
        services.remove(key)?;
    }
    // Nothing else happens that the agent would follow.
    wait_until(2 * SOON, "the end of it", || {
        let problems = problems()?;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    })?;
    let new = Socket {
        address: v4_mapped([10, 99, 0, 77]),
        ..alias(82)
    };
    ensure!(services.get(&new, 0).is_ok(), "the new alias is not there");
    let agent = place.truename.agent()?;
    agent.wait_line(0, &["No more:", "SERVICES"], SOON)?;
    Ok(())
}
