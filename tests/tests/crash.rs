//! The agent is killed (SIGKILL) in the middle of its work: the tables end up as they are wanted, and flows
//! go on.
//!
//! Whole agents are killed some times, anywhere between their start and their being ready. What writes the
//! tables is killed more often, in a process of its own that does nothing else, so that most kills hit a
//! change in progress.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use truename::{
    config::{Config, Sources, Timeouts},
    datapath::{Pins, TablesMut},
    plan::{self, Facts},
    reconcile::{self, Kernel as _, Present},
};
use truename_tests::{
    nat,
    random::Random,
    scratch::Scratch,
    traffic::{Connection, Dial, Lab, Pace},
    truename::Truename,
    wire::{Names, Spec},
};

/// How often the writer of the tables is killed, and how often a whole agent.
const KILLS: (u32, u32) = (180, 20);
/// The time for all of them. What is not done then is not done, and told.
const TIME: Duration = Duration::from_secs(55);
/// What the process that only writes tables is told: its pins and its configuration file.
const WRITER: &str = "TRUENAME_TEST_WRITER";

/// A configuration with the endpoint and the service that live flows use, and others at random.
/// `targets` are those of the live service.
fn configuration(random: &mut Random, targets: usize) -> String {
    let mut text = String::from(
        r#"
[datapath]
interfaces = ["s0"]
[[endpoint]]
name = "jm"
protocol = "pekko"
listen = "10.99.0.1:6123"
canonical = "jobmanager:6123"
"#,
    );
    let mut service = |name: &str, port: usize, targets: &[String]| {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"10.99.0.1:{port}\"\nsnat = \"never\"\ntarget = [{}]\n",
            targets.join(", ")
        );
    };
    // Its connection stays where it is, whatever other targets come and go.
    let live: Vec<_> = (0..targets)
        .map(|number| format!("\"10.99.0.1:{}\"", 8080 + number))
        .collect();
    service("live", 81, &live);
    for number in 0..8 {
        if random.below(2) == 0 {
            let targets: Vec<_> = (0..=random.below(3))
                .map(|target| format!("\"10.99.0.{}:7000\"", 20 + target))
                .collect();
            service(&format!("s{number}"), 1000 + number, &targets);
        }
    }
    for number in 0..8 {
        if random.below(2) == 0 {
            text += &format!(
                "[[endpoint]]\nname = \"e{number}\"\nprotocol = \"pekko\"\nlisten = \"10.99.0.1:{}\"\naliases = [\"a{}:1\"]\n",
                2000 + number,
                random.below(3)
            );
        }
    }
    text
}

/// What the host is like, for the writer: as the agent sees it, as far as these configurations ask.
fn facts() -> Facts {
    Facts {
        addresses: ["10.99.0.1".parse().unwrap_or_else(|_| unreachable!())].into(),
        loopback: 1,
        ..Facts::default()
    }
}

fn read(file: &Path) -> Result<Config> {
    let sources = Sources {
        file: Some(file.to_owned()),
        ..Sources::default()
    };
    Ok(sources.read(Timeouts::default())?)
}

/// Brings the tables to a configuration, as the agent does; what they hold then, and what is wanted.
fn write_tables(pins: &Path, file: &Path) -> Result<(Present, plan::Tables)> {
    let config = read(file)?;
    let mut tables = TablesMut::open(&Pins::new(pins))?;
    let done = reconcile::reconcile(&mut tables, config.datapath.snat_ports, |present| {
        plan::plan(&config, &facts(), &present.numbers(), &present.held)
    })?;
    Ok((tables.owned()?, done.wanted))
}

/// The tables hold what is wanted, and nothing besides but what the kernel learned.
fn check(present: &Present, wanted: &plan::Tables) -> Result<()> {
    ensure!(present.endpoints == wanted.endpoints, "endpoints differ");
    ensure!(present.listed == wanted.listed, "listed aliases differ");
    ensure!(present.ports == wanted.ports, "ports differ");
    for (socket, names) in &wanted.names {
        let now = present.names.get(socket).context("a name is missing")?;
        ensure!(now.canonical == names.canonical, "a name differs");
    }
    let (held, services) = (&present.held, &wanted.services);
    ensure!(
        held.services.keys().eq(services.services.keys()),
        "aliases differ"
    );
    for (alias, service) in &services.services {
        let now = &held.services[alias];
        ensure!(
            now.slots == service.slots && now.previous.count == 0 && now.id == service.id,
            "{alias:?} is {now:?} instead of {service:?}"
        );
        ensure!(
            held.slots.get(&now.slots) == services.slots.get(&service.slots),
            "slots differ"
        );
    }
    ensure!(held.targets == services.targets, "targets differ");
    ensure!(held.settings == services.settings, "settings differ");
    Ok(())
}

/// Not a test of its own: what the other one starts and kills.
#[test]
fn writer() -> Result<()> {
    let Some(told) = std::env::var_os(WRITER) else {
        return Ok(());
    };
    let told = told.into_string().ok().context("a text")?;
    let (pins, file) = told.split_once(' ').context("two paths")?;
    println!("writing");
    write_tables(Path::new(pins), Path::new(file)).map(drop)
}

/// A place with live flows.
struct Place {
    truename: Truename,
    file: PathBuf,
    flow: Connection,
    client: TcpStream,
    accepted: TcpStream,
    rounds: u64,
    _lab: Lab,
    scratch: Scratch,
}

impl Place {
    fn new(random: &mut Random) -> Result<Self> {
        let lab = Lab::direct()?;
        let scratch = Scratch::new("crash")?;
        // Nothing but the live service's first target, so that its connection goes there.
        let file = scratch.write("truename.toml", &configuration(random, 1))?;
        let mut truename = Truename::start_file(lab.server(), &scratch, &file)?;
        let flow = lab.connect(Dial::default())?;
        let server = lab.server().run(|| TcpListener::bind("10.99.0.1:8080"))??;
        let client = nat::connect(
            lab.client(),
            "10.99.0.2:0".parse()?,
            "10.99.0.1:81".parse()?,
        )?;
        let (accepted, _) = server.accept()?;
        accepted.set_read_timeout(Some(Duration::from_secs(10)))?;
        truename.kill_agent();
        let mut place = Self {
            truename,
            file,
            flow,
            client,
            accepted,
            rounds: 0,
            _lab: lab,
            scratch,
        };
        place.talk()?;
        Ok(place)
    }

    /// Both live flows go on.
    fn talk(&mut self) -> Result<()> {
        let spec = Spec::mixed(&Names::flink("jobmanager", "jm"), self.rounds, 2);
        let spec = match self.rounds {
            0 => spec,
            round => spec.continued(round),
        };
        self.flow.exchange(&spec.script(), Pace::default())?;
        self.rounds += 1;
        let mut got = [0; 5];
        self.client.write_all(b"hello").context("send")?;
        self.accepted.read_exact(&mut got).context("receive")?;
        self.accepted.write_all(&got).context("answer")?;
        self.client.read_exact(&mut got).context("be answered")?;
        ensure!(&got == b"hello", "{got:?} arrived");
        Ok(())
    }

    /// Another configuration.
    fn change(&mut self, random: &mut Random) -> Result<()> {
        let targets = 1 + random.below(4);
        let text = configuration(random, targets);
        self.scratch.write("truename.toml", &text).map(drop)
    }

    /// Kills a process that changes the tables some time after it began.
    fn kill_writer(&self, after: Duration) -> Result<()> {
        let told = format!(
            "{} {}",
            self.truename.bpffs().display(),
            self.file.display()
        );
        let mut writer = Command::new(std::env::current_exe()?)
            .args(["--exact", "writer", "--nocapture"])
            .env(WRITER, told)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = writer.stdout.take().context("its output")?;
        let mut lines = BufReader::new(output).lines();
        let begun = lines
            .by_ref()
            .any(|line| line.is_ok_and(|line| line.contains("writing")));
        ensure!(begun, "the writer did not begin");
        // The point of the test is where in its work it is hit.
        std::thread::sleep(after);
        writer.kill()?;
        writer.wait()?;
        Ok(())
    }

    /// Kills an agent some time after it was started.
    fn kill_agent(&mut self, after: Duration) -> Result<()> {
        self.truename.spawn_agent()?;
        std::thread::sleep(after);
        self.truename.kill_agent();
        Ok(())
    }

    /// Brings the tables to the configuration without being killed, and looks at them.
    fn settle(&self) -> Result<Duration> {
        let begin = Instant::now();
        let (present, wanted) = write_tables(self.truename.bpffs(), &self.file)?;
        let took = begin.elapsed();
        check(&present, &wanted)?;
        Ok(took)
    }
}

/// Some part of a time.
fn part(random: &mut Random, whole: Duration) -> Duration {
    whole * u32::try_from(random.below(1000)).unwrap_or(0) / 1000
}

#[test]
fn tables_are_as_wanted_and_flows_go_on_after_any_kill() -> Result<()> {
    let begin = Instant::now();
    let mut random = Random::new(0x6b11);
    let mut place = Place::new(&mut random)?;
    place.change(&mut random)?;
    let mut usual = place.settle()?;
    let (mut writers, mut agents) = (0, 0);
    while writers + agents < KILLS.0 + KILLS.1 && begin.elapsed() < TIME {
        place.change(&mut random)?;
        // Spread among the others.
        if agents * KILLS.0 < writers * KILLS.1 {
            place.kill_agent(part(&mut random, Duration::from_millis(800)))?;
            agents += 1;
        } else {
            place.kill_writer(part(&mut random, usual))?;
            writers += 1;
        }
        let what = format!("after {writers} writers and {agents} agents were killed");
        place.talk().with_context(|| what.clone())?;
        // Several changes are cut off before one is finished.
        if random.below(8) == 0 {
            usual = place.settle().context(what)?;
        }
    }
    place.settle()?;
    place.talk()?;
    let took = begin.elapsed();
    println!(
        "{writers} writers and {agents} agents killed in {took:?}; a whole change takes {usual:?}"
    );
    // An agent finds everything in order.
    let begin = Instant::now();
    place.truename.start_agent()?;
    println!("start to ready: {:?}", begin.elapsed());
    place.talk()?;
    ensure!(
        writers + agents >= 100,
        "only {writers} and {agents} in {took:?}"
    );
    Ok(())
}
