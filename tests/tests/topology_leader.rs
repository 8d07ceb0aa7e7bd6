//! Services follow the leader of a real Flink, under load: two JobManagers elect it on a real ZooKeeper.

mod zookeeper;

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    sync::Mutex,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    flink::{Flink, Load, Pair, Visit},
    http::{Http, KEEP_ALIVE},
    hub::Hub,
    namespace::Namespace,
    scratch::Scratch,
    tables::ServiceTables,
    timeline::Timeline,
    truename::{self, Truename},
    wait::wait_until,
};
use zookeeper::Records;

/// Clusters have deadlines: they get the machine for themselves, one after the other.
static MACHINE: Mutex<()> = Mutex::new(());
/// The longest wait for anything.
const LONG: Duration = Duration::from_secs(60);
/// What takes no more than some round trips is done by then, on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// From the moment that a leader has written its record to the moment that the kernel's tables name it.
const DELAY: Duration = Duration::from_millis(200);
/// The hub's second address, which is the alias of the leader.
const ALIAS: Ipv4Addr = Ipv4Addr::new(10, 61, 24, 100);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 61, 24, 50);
/// Clients that keep their connections, in each of two places.
const KEEPING: usize = 4;

/// A service that follows the leader.
struct Service {
    name: &'static str,
    alias: SocketAddr,
    /// The part of the leader whose record decides.
    part: &'static str,
    address: fn(usize) -> SocketAddr,
}

const REST: Service = Service {
    name: "leader:rest",
    alias: SocketAddr::new(std::net::IpAddr::V4(ALIAS), 8081),
    part: "rest_server",
    address: Pair::rest_address,
};
const RPC: Service = Service {
    name: "leader:rpc",
    alias: SocketAddr::new(std::net::IpAddr::V4(ALIAS), 6123),
    part: "resource_manager",
    address: Pair::rpc_address,
};

/// Two JobManagers, an agent on the host between them, and clients there and on another one.
struct Place {
    // Dropped in this order.
    loads: Vec<Load>,
    tables: ServiceTables,
    truename: Truename,
    records: Records,
    pair: Pair,
    client: Namespace,
    scratch: Scratch,
    timeline: Timeline,
}

/// When the tables began to name another leader.
struct Changed {
    /// What was done to the leader before.
    since: Instant,
    at: Instant,
}

impl Place {
    /// The first JobManager leads, the second one is ready.
    fn new(version: &str) -> Result<Self> {
        let timeline = Timeline::new();
        timeline.heading(&format!("Flink {version}"));
        let flink = Flink::fetch(version, &timeline)?;
        let scratch = Scratch::new("leader")?;
        let mut pair = Pair::new(&flink, &scratch)?;
        let hub = pair.hub();
        hub.add_address(ALIAS)?;
        hub.space().sysctl("net/ipv4/ip_forward", "1")?;
        let client = Namespace::new("client")?;
        hub.connect(&client, "c0", &[CLIENT])?;
        let records = Records::connect(hub.space(), pair.ensemble())?;

        let file = scratch.write("truename.toml", &configuration(&pair))?;
        let arguments = vec!["--config".to_owned(), file.display().to_string()];
        let mut truename =
            Truename::prepared(truename::binary()?, hub.space(), &scratch, arguments)?;
        truename.put_files(pair.files());
        truename.start_agent()?;
        let tables = ServiceTables::open(truename.bpffs())?;
        ensure!(
            tables.targets(REST.alias)?.is_empty(),
            "nobody leads, and there is a target"
        );

        pair.start(0)?;
        pair.wait_leads(0)?;
        pair.start(1)?;
        let place = Self {
            loads: Vec::new(),
            tables,
            truename,
            records,
            pair,
            client,
            scratch,
            timeline,
        };
        wait_until(SOON, "the first leader", || place.check_targets(0))?;
        place.wait_status(0)?;
        place.say(&format!("{} leads", Pair::name(0)));
        Ok(place)
    }

    fn say(&self, what: &str) {
        self.timeline.say(what);
    }

    fn spaces(&self) -> [&Namespace; 2] {
        [&self.client, self.pair.hub().space()]
    }

    /// Clients come, and are served by a JobManager.
    fn load(&mut self, leader: usize) -> Result<()> {
        let loads = self
            .spaces()
            .map(|space| Load::start(space, REST.alias, KEEPING));
        self.loads = loads.into_iter().collect::<Result<_, _>>()?;
        self.served_by(leader, Instant::now() - SOON)
    }

    fn served_by(&self, leader: usize, since: Instant) -> Result<()> {
        wait_until(SOON, "clients at the leader", || {
            let mut loads = self.loads.iter();
            loads.try_for_each(|load| load.check_served_by(&Pair::name(leader), since))
        })
    }

    /// The kernel's tables name this JobManager.
    fn check_targets(&self, leader: usize) -> Result<()> {
        for service in [REST, RPC] {
            let targets = self.tables.targets(service.alias)?;
            ensure!(
                targets == [(service.address)(leader)].into(),
                "{} goes to {targets:?}",
                service.name
            );
        }
        Ok(())
    }

    /// Nothing is degraded, and all that the agent tells names this JobManager.
    fn check_status(&self, leader: usize) -> Result<()> {
        let (status, code) = self.truename.status()?;
        ensure!(code == 0, "{}", status["problems"]);
        let topology = &status["topology"];
        ensure!(topology["applied"] == topology["generation"], "{topology}");
        for (field, name) in [
            ("leader_rpc", Pair::rpc(leader)),
            ("leader_rest", Pair::rest(leader)),
        ] {
            let row = &topology[field];
            let address = row["address"].as_str().unwrap_or_default();
            ensure!(address.ends_with(&name), "{field} is {row}");
            ensure!(
                row["source"] == "zookeeper" && row["last_seen"].is_string(),
                "{row}"
            );
        }
        for service in [REST, RPC] {
            let row = &self.truename.rows("services", &[("name", service.part)])?[0];
            let target = &row["targets"][0]["address"];
            ensure!(*target == (service.address)(leader).to_string(), "{row}");
        }
        Ok(())
    }

    fn wait_status(&self, leader: usize) -> Result<()> {
        wait_until(SOON, "a good status", || self.check_status(leader))
    }

    /// Does something to a leader and waits until the tables name another one. Until then they name the one
    /// before: nothing is torn down.
    fn changes(
        &mut self,
        (old, new): (usize, usize),
        what: &str,
        act: impl FnOnce(&mut Pair) -> Result<()>,
    ) -> Result<Changed> {
        let (acted, since) = (SystemTime::now(), Instant::now());
        act(&mut self.pair)?;
        let mut times = [None; 2];
        while times.contains(&None) {
            ensure!(since.elapsed() < LONG, "the tables name {old} still");
            for (service, time) in [REST, RPC].iter().zip(&mut times) {
                let now = self.tables.targets(service.alias)?;
                if now == BTreeSet::from([(service.address)(new)]) {
                    time.get_or_insert_with(SystemTime::now);
                } else {
                    let before = BTreeSet::from([(service.address)(old)]);
                    ensure!(now == before && time.is_none(), "{}: {now:?}", service.name);
                }
            }
            // A table tells nobody that it is written.
            sleep(Duration::from_millis(1));
        }
        let at = Instant::now();
        for (service, time) in [REST, RPC].iter().zip(times) {
            let written = self.records.written(service.part)?;
            let election = written.duration_since(acted).unwrap_or_default();
            // A record's time has milliseconds only.
            let delay = time.context("no time")?.duration_since(written);
            let delay = delay.unwrap_or_default();
            self.say(&format!(
                "{what}: {} had written its record after {:.3} s (Flink's own election, with a session of \
                 {} s); {} in the kernel's tables {:.3} s later",
                Pair::name(new),
                election.as_secs_f64(),
                Pair::SESSION.as_secs(),
                service.name,
                delay.as_secs_f64(),
            ));
            ensure!(delay < DELAY, "{}: after {delay:?}", service.name);
        }
        Ok(Changed { since, at })
    }

    /// Clients of a leader that is no more, and that says so (`tells`) or is silent, go to the new one.
    fn moves(
        &mut self,
        (old, new): (usize, usize),
        what: &str,
        tells: bool,
        act: impl FnOnce(&mut Pair) -> Result<()>,
    ) -> Result<()> {
        let parked = self.spaces().map(|space| parked(space, old));
        let mut parked: Vec<Http> = parked.into_iter().collect::<Result<_>>()?;
        let changed = self.changes((old, new), what, act)?;
        for connection in &mut parked {
            let error = ask(connection).err().context("it is answered still")?;
            ensure!(is_end(error.kind()), "a kept connection: {error}");
        }
        self.served_by(new, changed.since)?;
        for (space, load) in self.spaces().into_iter().zip(&self.loads) {
            let visits = load.visits();
            check_visits(&visits, (old, new), tells, &changed)
                .with_context(|| format!("clients in {}", space.name()))?;
            self.say(&gap(&visits, (old, new), &changed));
        }
        self.reaches_rpc(new)?;
        self.wait_status(new)
    }

    /// New connections to the alias of the leader's actor system reach it.
    fn reaches_rpc(&self, leader: usize) -> Result<()> {
        for space in self.spaces() {
            let to = RPC.alias;
            let stream = space.run(|| std::net::TcpStream::connect_timeout(&to, SOON))??;
            let port = stream.local_addr()?.port();
            wait_until(SOON, "the connection at the leader", || {
                let peers = self.pair.space(leader).peers(to.port())?;
                ensure!(peers.iter().any(|peer| peer.port() == port), "{peers:?}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn configuration(pair: &Pair) -> String {
    let quorum: Vec<String> = pair.ensemble().quorum();
    let mut text = format!(
        "[datapath]\ninterfaces = [\"{}\", \"lo\"]\n[topology]\nha = \"zookeeper\"\n\
         [topology.zookeeper]\nquorum = {quorum:?}\nroot = \"{}\"\ncluster_id = \"{}\"\n",
        Hub::INTERFACE,
        Pair::ROOT,
        Pair::CLUSTER,
    );
    for service in [REST, RPC] {
        text += &format!(
            "[[service]]\nname = \"{}\"\nprotocol = \"tcp\"\nlisten = \"{}\"\ntarget = \"{}\"\n",
            service.part, service.alias, service.name,
        );
    }
    text
}

/// A connection that has been used, and lies idle now.
fn parked(space: &Namespace, leader: usize) -> Result<Http> {
    let mut http = space.run(|| Http::connect(REST.alias, SOON))??;
    let (status, body) = ask(&mut http)?;
    ensure!(
        status == 200 && body.contains(&Pair::name(leader)),
        "{status} {body}"
    );
    Ok(http)
}

fn ask(http: &mut Http) -> std::io::Result<(u16, String)> {
    http.get("/jobmanager/config")
}

/// Whether the peer, or its kernel, has ended the connection.
fn is_end(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Connections to the former leader have ended soon: those of a leader that was killed at once, those of a
/// silent one by a reset when the tables had changed. Since then all go to the new one, and none fails.
fn check_visits(
    visits: &[Visit],
    (old, new): (usize, usize),
    tells: bool,
    changed: &Changed,
) -> Result<()> {
    let (old, new) = (Pair::name(old), Pair::name(new));
    let former = visits.iter().filter(|visit| {
        visit.server.as_ref() == Some(&old) && visit.ended.is_none_or(|(at, _)| at > changed.since)
    });
    let mut ended = 0;
    for visit in former {
        let (at, why) = visit.ended.with_context(|| format!("goes on: {visit:?}"))?;
        let latest = if tells {
            changed.since + SOON
        } else {
            changed.at + KEEP_ALIVE + SOON
        };
        ensure!(at < latest, "ended late: {visit:?}");
        // One that was content may have ended between.
        ensure!(why.is_none_or(is_end), "{visit:?}");
        ensure!(tells || why != Some(ErrorKind::UnexpectedEof), "{visit:?}");
        ended += usize::from(why.is_some());
    }
    ensure!(
        ended >= KEEPING,
        "only {ended} connections were kept until then"
    );
    for visit in visits.iter().filter(|visit| visit.begun > changed.at) {
        let server = visit.server.as_ref();
        ensure!(server.is_none_or(|server| *server == new), "{visit:?}");
        ensure!(
            visit.ended.is_none_or(|(_, why)| why.is_none()),
            "{visit:?}"
        );
    }
    Ok(())
}

/// For how long clients were not served.
fn gap(visits: &[Visit], (old, new): (usize, usize), changed: &Changed) -> String {
    let of = |number| {
        let name = Pair::name(number);
        let is_its = move |visit: &&Visit| visit.server.as_ref() == Some(&name);
        visits.iter().filter(is_its)
    };
    let seconds = |time: Option<Instant>, since: Option<Instant>| {
        let time = time
            .zip(since)
            .map(|(time, since)| time.saturating_duration_since(since));
        time.map_or(f64::NAN, |time| time.as_secs_f64())
    };
    let last = of(old).filter_map(|visit| visit.last).max();
    let is_new = |visit: &&Visit| visit.begun >= changed.since;
    let first = of(new).filter(is_new).filter_map(|visit| visit.first).min();
    let refused = visits
        .iter()
        .filter(|visit| matches!(visit.ended, Some((_, Some(ErrorKind::ConnectionRefused)))));
    format!(
        "clients: nobody answered for {:.3} s, of which {:.3} s after the tables had changed; {} connections \
         refused meanwhile",
        seconds(first, last),
        seconds(first, Some(changed.at)),
        refused.count(),
    )
}

/// The leader is killed, then the next one paused for longer than its session.
fn follow(place: &mut Place) -> Result<()> {
    place.load(0)?;
    place.moves((0, 1), "killed", true, |pair| {
        pair.kill(0);
        Ok(())
    })?;
    place.pair.start(0)?;
    place.say(&format!(
        "{} is back, as the other's substitute",
        Pair::name(0)
    ));
    place.check_targets(1)?;
    place.moves((1, 0), "paused", false, |pair| pair.manager(1)?.pause())?;

    let paused = place.pair.manager(1)?;
    let mark = paused.mark();
    paused.resume()?;
    paused.wait_line(mark, &["revoked leadership"], LONG)?;
    place.check_targets(0)?;
    place.say("the paused leader goes on, and leads no more");
    Ok(())
}

/// Nobody leads: the last leader stays, and it is told.
fn endure(place: &mut Place) -> Result<()> {
    place.loads.clear();
    place.pair.kill(1);
    place.pair.kill(0);
    wait_until(LONG, "the end of the records", || {
        for service in [REST, RPC] {
            place.check_targets(0)?;
            ensure!(
                place.records.find(service.part)?.is_none(),
                "{} is there",
                service.part
            );
        }
        Ok(())
    })?;
    let told = wait_until(LONG, "that nobody leads", || {
        place.check_targets(0)?;
        let (status, code) = place.truename.status()?;
        let problems = status["problems"].to_string();
        let leader = &status["topology"]["leader_rpc"];
        ensure!(code == 3 && leader.is_null(), "{problems}, {leader}");
        for service in [REST, RPC] {
            ensure!(problems.contains(service.name), "{problems}");
        }
        ensure!(
            problems.contains("the last one known is kept"),
            "{problems}"
        );
        Ok(problems)
    })?;
    place.say(&format!("nobody leads, the targets stay; degraded: {told}"));
    place.changes((0, 1), "nobody led", |pair| pair.start(1))?;
    place.wait_status(1)
}

fn check(version: &str, steps: &[fn(&mut Place) -> Result<()>]) {
    let _machine = MACHINE.lock().unwrap_or_else(|poison| poison.into_inner());
    let outcome = Place::new(version).and_then(|mut place| {
        let outcome = steps.iter().try_for_each(|step| step(&mut place));
        if outcome.is_err() {
            place.scratch.keep();
        }
        outcome
    });
    if let Err(error) = outcome {
        panic!("Flink {version}: {error:#}");
    }
}

#[test]
fn connections_follow_the_leader_of_flink_1_20() {
    check("1.20.5", &[follow, endure]);
}

#[test]
fn connections_follow_the_leader_of_flink_1_13() {
    check("1.13.6", &[follow]);
}
