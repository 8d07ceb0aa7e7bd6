//! A running agent is killed, paused, starved, stormed and cut off, by seed, with traffic going on: no connection of a fixed
//! service breaks, `status` never says ok for what does not work, and the agent ends when it is told to.
//!
//! `cargo xtask chaos` runs it for ten minutes. In the suite it is short.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use truename_tests::{
    http::Http,
    namespace::Namespace,
    place::Place,
    random::Random,
    topology::{self, Reply, Server},
    wait::wait_until,
};

/// How long it lasts, and by which numbers.
const SECONDS: &str = "TRUENAME_CHAOS_SECONDS";
const SEED: &str = "TRUENAME_CHAOS_SEED";
/// In the suite.
const SHORT: u64 = 25;

/// How soon an agent ends that is told to.
const END: Duration = Duration::from_secs(2);
/// How long an agent may take to be well again.
const WELL: Duration = Duration::from_secs(60);
/// The longest silence of a connection: packets that are lost while programs are off come again.
const SILENCE: Duration = Duration::from_secs(50);
/// What an agent may hold: descriptors, and memory in kB.
const DESCRIPTORS: usize = 200;
const MEMORY: u64 = 160_000;
/// Where metrics and health are.
const METRICS: &str = "127.0.0.1:9464";
/// Connections that last all the time.
const CONNECTIONS: usize = 4;

/// What is done to the agent.
#[derive(Clone, Copy, Debug)]
enum Action {
    Kill,
    Stop,
    Pause,
    Descriptors,
    Memory,
    ReadOnly,
    Addresses,
    Links,
    Routes,
    Signals,
    Files,
    Rest,
    Names,
    Zookeeper,
    Clients,
    Scrapes,
    Nothing,
}

const ACTIONS: [Action; 17] = [
    Action::Kill,
    Action::Stop,
    Action::Pause,
    Action::Descriptors,
    Action::Memory,
    Action::ReadOnly,
    Action::Addresses,
    Action::Links,
    Action::Routes,
    Action::Signals,
    Action::Files,
    Action::Rest,
    Action::Names,
    Action::Zookeeper,
    Action::Clients,
    Action::Scrapes,
    Action::Nothing,
];

/// How the REST server behaves: 0 well, 1 silent, 2 wrong.
type Mood = Arc<AtomicUsize>;

struct Chaos {
    place: Place,
    random: Random,
    mood: Mood,
    rest: Server,
    hosts: PathBuf,
    with_zookeeper: bool,
    zookeeper: SocketAddr,
    /// Servers that answer nothing.
    _silent: (UdpSocket, TcpListener),
    counts: [u32; 3],
}

/// The connections that must not break.
struct Traffic {
    stop: AtomicBool,
    rounds: AtomicU64,
    broken: Mutex<Vec<String>>,
}

fn hosts(is_known: bool) -> String {
    let mut text = "127.0.0.1 localhost\n10.99.0.2 tm-1\n10.99.0.3 tm-2\n".to_owned();
    if is_known {
        text += "127.0.0.1 rest\n";
    }
    text
}

impl Chaos {
    fn new(seed: u64) -> Result<Self> {
        let mut place = Place::prepared("")?;
        let server = place.lab.server().clone();
        place
            .lab
            .client()
            .ip("route add 10.99.0.77/32 via 10.99.0.1 dev c0")?;
        server.sysctl("net/ipv4/ip_forward", "1")?;
        let mood = Mood::default();
        let at = Arc::clone(&mood);
        let rest = server.run(move || {
            Server::start(move |request| match at.load(Ordering::Relaxed) {
                0 => topology::flink("jobmanager", 2, &request.path),
                1 => Reply::Silence,
                _ => Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_vec()),
            })
        })??;
        let silent = place.lab.client().run(|| -> Result<_> {
            Ok((
                UdpSocket::bind("10.99.0.2:53")?,
                TcpListener::bind("10.99.0.2:2181")?,
            ))
        })??;
        let names = place.scratch.write("hosts", &hosts(true))?;
        place.truename.put_file(names.clone(), "/etc/hosts");
        let servers = place
            .scratch
            .write("resolv.conf", "nameserver 10.99.0.2\n")?;
        place.truename.put_file(servers, "/etc/resolv.conf");
        let zookeeper = silent.1.local_addr()?;
        let mut chaos = Self {
            place,
            random: Random::new(seed),
            mood,
            rest,
            hosts: names,
            with_zookeeper: false,
            zookeeper,
            _silent: silent,
            counts: [0; 3],
        };
        chaos.configure()?;
        chaos.place.truename.start_agent()?;
        Ok(chaos)
    }

    fn configuration(&self) -> String {
        let port = self.rest.address().port();
        let mut text = format!(
            "[datapath]\ninterfaces = [\"s0\", \"x*\"]\n\
             [[service]]\nname = \"fixed\"\nlisten = \"10.99.0.77:81\"\nprotocol = \"tcp\"\ntarget = \"10.99.0.1:8080\"\n\
             [[service]]\nname = \"w\"\nlisten = \"10.99.0.77:82\"\nprotocol = \"tcp\"\ntarget = \"workers:9069\"\n\
             [topology]\nsource = \"flink\"\nurls = [\"http://rest:{port}\"]\npoll = \"200ms\"\n"
        );
        if self.with_zookeeper {
            let _ = write!(
                text,
                "ha = \"zookeeper\"\n[topology.zookeeper]\nquorum = [\"{}\"]\n",
                self.zookeeper
            );
        }
        text
    }

    fn configure(&self) -> Result<()> {
        self.place.replace(&self.configuration())
    }

    fn server(&self) -> Namespace {
        self.place.lab.server().clone()
    }

    fn pid(&self) -> Result<String> {
        Ok(self.place.truename.agent()?.pid().to_string())
    }

    fn lasts(&mut self, milliseconds: usize) {
        let time = 50 + self.random.below(milliseconds);
        thread::sleep(Duration::from_millis(time as u64));
    }

    /// Sets a limit of the agent for a while. It may die of it.
    fn starve(&mut self, limit: &str, low: &str, usual: &str) -> Result<()> {
        let set = |pid: &str, value: &str| -> Result<()> {
            let limit = format!("--{limit}={value}:");
            let output = Command::new("prlimit")
                .args(["--pid", pid, &limit])
                .output()?;
            ensure!(
                output.status.success() || !PathBuf::from(format!("/proc/{pid}")).exists(),
                "prlimit: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(())
        };
        let pid = self.pid()?;
        set(&pid, low)?;
        self.place.truename.agent()?.hang_up()?;
        self.lasts(1500);
        set(&pid, usual)
    }

    fn remount(&self, how: &str) -> Result<()> {
        let pid = self.pid()?;
        let options = format!("remount,bind,{how}");
        let output = Command::new("nsenter")
            .args(["-t", &pid, "-m", "mount", "-o", &options, "/sys/fs/bpf"])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "remount {how}: {said}");
        Ok(())
    }

    /// Tells the agent to end, which it must do at once.
    fn stop(&mut self) -> Result<()> {
        self.check_size()?;
        let begin = Instant::now();
        let status = self.place.truename.stop_agent()?;
        let took = begin.elapsed();
        ensure!(took < END, "it took {took:?} to end");
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    fn check_size(&self) -> Result<()> {
        let pid = self.pid()?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        ensure!(descriptors < DESCRIPTORS, "{descriptors} descriptors");
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident: u64 = resident
            .and_then(|text| text.split_whitespace().next())
            .context("a size")?
            .parse()?;
        ensure!(resident < MEMORY, "{resident} kB");
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<()> {
        let server = self.server();
        match action {
            Action::Kill => {
                self.place.truename.kill_agent();
                self.lasts(500);
                self.place.truename.start_agent()?;
            }
            Action::Stop => {
                self.stop()?;
                self.lasts(500);
                self.place.truename.start_agent()?;
            }
            Action::Pause => {
                self.place.truename.agent()?.pause()?;
                self.lasts(3000);
                self.place.truename.agent()?.resume()?;
            }
            Action::Descriptors => self.starve("nofile", "12", "1024")?,
            Action::Memory => self.starve("as", "30000000", "unlimited")?,
            Action::ReadOnly => {
                self.remount("ro")?;
                self.place.truename.agent()?.hang_up()?;
                self.lasts(1500);
                self.remount("rw")?;
            }
            Action::Addresses => {
                let mut storm = String::new();
                for number in 0..400 {
                    let address = format!("10.7.{}.{}/32 dev lo", number / 200, number % 200);
                    let _ = writeln!(storm, "addr add {address}\naddr del {address}");
                }
                server.ip_batch(&storm)?;
            }
            Action::Links => {
                for number in 0..5 {
                    server.ip(&format!("link add x{number} type veth peer name y{number}"))?;
                }
                self.lasts(300);
                for number in 0..5 {
                    server.ip(&format!("link del x{number}"))?;
                }
            }
            Action::Routes => {
                let change = "route add default via 10.99.0.2\nroute del default via 10.99.0.2\n";
                server.ip_batch(&change.repeat(200))?;
            }
            Action::Signals => {
                for _ in 0..50 {
                    self.place.truename.agent()?.hang_up()?;
                }
            }
            Action::Files => {
                for number in 0..200 {
                    let beside = self.place.file.with_file_name(format!("f{}", number % 3));
                    fs::write(beside, "x")?;
                    if number % 20 == 0 {
                        self.configure()?;
                    }
                }
            }
            Action::Rest => {
                let mood = self.random.below(3);
                self.mood.store(mood, Ordering::Relaxed);
                self.rest.hang_up();
            }
            Action::Names => {
                let is_known = self.random.below(2) == 0;
                fs::write(&self.hosts, hosts(is_known))?;
                self.rest.hang_up();
            }
            Action::Zookeeper => {
                self.with_zookeeper = !self.with_zookeeper;
                self.configure()?;
            }
            Action::Clients => {
                let status = self.place.truename.status();
                let Ok((status, _)) = status else {
                    return Ok(());
                };
                let socket = status["control_socket"].as_str().context("a socket")?;
                let clients: Vec<_> = (0..80).map(|_| UnixStream::connect(socket)).collect();
                self.place.truename.status()?;
                drop(clients);
            }
            Action::Scrapes => server.run(|| {
                for number in 0..100 {
                    // Nobody listens while no agent runs. Half of them hang up before they have asked.
                    if let Ok(mut stream) = TcpStream::connect(METRICS)
                        && number % 2 == 0
                    {
                        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
                    }
                }
            })?,
            Action::Nothing => self.lasts(2000),
        }
        Ok(())
    }

    /// Starts it again if it died of hunger. Everything else must not end it.
    fn revive(&mut self, action: Action) -> Result<()> {
        if self.pid().is_ok_and(|pid| is_running(&pid)) {
            return Ok(());
        }
        ensure!(
            matches!(action, Action::Memory | Action::Descriptors),
            "it ended after {action:?}"
        );
        self.counts[2] += 1;
        self.place.truename.kill_agent();
        self.place.truename.start_agent()
    }

    /// If `status` says before and after that all is well, the fixed service works.
    fn check_truth(&mut self) -> Result<()> {
        let is_ok = |place: &Place| place.truename.status().is_ok_and(|(_, code)| code == 0);
        let before = is_ok(&self.place);
        let works = knock(self.place.lab.client());
        let after = is_ok(&self.place);
        self.counts[0] += 1;
        if before && after {
            self.counts[1] += 1;
            works.context("status says ok, but the service does not answer")?;
        }
        Ok(())
    }

    /// All that was cut off is there again, and the agent is well.
    fn recover(&mut self) -> Result<()> {
        self.mood.store(0, Ordering::Relaxed);
        fs::write(&self.hosts, hosts(true))?;
        self.with_zookeeper = false;
        self.configure()?;
        wait_until(WELL, "to be well", || {
            let (status, code) = self.place.truename.status()?;
            ensure!(code == 0, "{}", status["problems"]);
            let live = self.server().run(|| {
                let mut http = Http::connect(METRICS.parse()?, END)?;
                Ok::<_, anyhow::Error>(http.get("/livez")?)
            })??;
            ensure!(live.0 == 200, "{live:?}");
            knock(self.place.lab.client())
        })
    }
}

fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    state
        .flatten()
        .is_some_and(|state| !['Z', 'X'].contains(&state))
}

/// A new connection through the fixed service is answered.
fn knock(client: &Namespace) -> Result<()> {
    client.run(|| -> Result<()> {
        let to = "10.99.0.77:81".parse()?;
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(b"k")?;
        stream.read_exact(&mut [0])?;
        Ok(())
    })?
}

/// Sends back what comes, until nobody connects any more.
fn echo(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..length]).is_err() {
                    return;
                }
            }
        });
    }
}

impl Traffic {
    /// A connection that talks until it is told to stop.
    fn talk(&self, client: &Namespace) {
        let talked = client.run(|| -> Result<()> {
            let mut stream = TcpStream::connect("10.99.0.77:81")?;
            stream.set_read_timeout(Some(SILENCE))?;
            let mut number = 0_u64;
            while !self.stop.load(Ordering::Relaxed) {
                stream.write_all(&number.to_be_bytes())?;
                let mut back = [0; 8];
                stream.read_exact(&mut back)?;
                if u64::from_be_bytes(back) != number {
                    bail!("other bytes came back");
                }
                number += 1;
                self.rounds.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        if let Err(error) = talked.and_then(|talked| talked) {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            broken.push(format!("{error:#}"));
        }
    }

    fn check(&self) -> Result<()> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(broken.is_empty(), "connections broke: {broken:?}");
        Ok(())
    }
}

fn number(variable: &str, usual: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(usual),
    }
}

#[test]
fn nothing_that_is_done_to_the_agent_breaks_traffic_or_makes_it_lie() -> Result<()> {
    let seed = number(SEED, 1)?;
    let time = Duration::from_secs(number(SECONDS, SHORT)?);
    let mut chaos = Chaos::new(seed)?;
    let target = chaos
        .server()
        .run(|| TcpListener::bind("10.99.0.1:8080"))??;
    thread::spawn(move || echo(&target));
    let traffic = Traffic {
        stop: AtomicBool::new(false),
        rounds: AtomicU64::new(0),
        broken: Mutex::default(),
    };
    let client = chaos.place.lab.client().clone();
    let mut done = Vec::new();
    thread::scope(|scope| -> Result<()> {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| traffic.talk(&client));
        }
        let begin = Instant::now();
        let mut run = || -> Result<()> {
            while begin.elapsed() < time {
                let action = *chaos.random.pick(&ACTIONS);
                done.push(action);
                let last = done.len().saturating_sub(6);
                chaos
                    .act(action)
                    .and_then(|()| chaos.revive(action))
                    .and_then(|()| chaos.check_truth())
                    .and_then(|()| traffic.check())
                    .with_context(|| format!("seed {seed}, after {:?}", &done[last..]))?;
            }
            chaos.recover()?;
            chaos.check_size()?;
            // Traffic goes on after all of it.
            let rounds = traffic.rounds.load(Ordering::Relaxed);
            wait_until(SILENCE, "more traffic", || {
                traffic.check()?;
                let now = traffic.rounds.load(Ordering::Relaxed);
                ensure!(now > rounds + 20, "{now} rounds");
                Ok(())
            })?;
            chaos.stop()
        };
        let ran = run();
        traffic.stop.store(true, Ordering::Relaxed);
        ran
    })?;
    traffic.check()?;
    let [looks, well, revived] = chaos.counts;
    println!(
        "seed {seed}: {} actions, {} rounds; of {looks} looks {well} found all well; died of hunger {revived} times",
        done.len(),
        traffic.rounds.load(Ordering::Relaxed)
    );
    ensure!(well > 0, "it was never well");
    Ok(())
}
