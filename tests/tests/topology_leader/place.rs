//! The cluster, the agent and the clients.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpStream},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    flink::{Flink, Load, Pair},
    http::Http,
    namespace::Namespace,
    pinned::ServiceTables,
    scratch::Scratch,
    timeline::Timeline,
    truename::{self, Truename},
    wait::wait_until,
};

use super::{
    KEEPING, LONG, SOON,
    services::{ALIAS, REST, RPC, SERVICES, configuration},
    visits,
    zookeeper::Records,
};

/// From the moment that a leader has written its record to the moment that the kernel's tables name it.
const DELAY: Duration = Duration::from_millis(200);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 61, 24, 50);

/// Two JobManagers, an agent on the host between them, and clients there and on another one.
pub struct Place {
    // Dropped in this order.
    /// Clients at work, in each place.
    pub loads: Vec<Load>,
    tables: ServiceTables,
    /// On the hub.
    pub truename: Truename,
    /// What leaders have written.
    pub records: Records,
    /// The JobManagers.
    pub pair: Pair,
    client: Namespace,
    /// Logs and configurations.
    pub scratch: Scratch,
    timeline: Timeline,
    version: String,
}

/// When the tables began to name another leader.
pub struct Changed {
    /// What was done to the leader before.
    pub since: Instant,
    /// Both of the services.
    pub at: Instant,
}

impl Place {
    /// The first JobManager leads, the second one is ready.
    pub fn new(version: &str) -> Result<Self> {
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
        for (private, public) in pair.files() {
            truename.put_file(private, public);
        }
        truename.start_agent()?;
        let tables = ServiceTables::open(&truename)?;
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
            version: version.to_owned(),
        };
        wait_until(SOON, "the first leader", || place.check_targets(0))?;
        place.wait_status(0)?;
        place.say(&format!("{} leads", Pair::name(0)));
        Ok(place)
    }

    /// Prints a line with the time.
    pub fn say(&self, what: &str) {
        self.timeline.say(what);
    }

    fn spaces(&self) -> [&Namespace; 2] {
        [&self.client, self.pair.hub().space()]
    }

    /// Clients come, and are served by a JobManager.
    pub fn load(&mut self, leader: usize) -> Result<()> {
        let since = Instant::now();
        let loads = self
            .spaces()
            .map(|space| Load::start(space, REST.alias, KEEPING));
        self.loads = loads.into_iter().collect::<Result<_, _>>()?;
        self.served_by(leader, since)
    }

    fn served_by(&self, leader: usize, since: Instant) -> Result<()> {
        wait_until(SOON, "clients at the leader", || {
            let mut loads = self.loads.iter();
            loads.try_for_each(|load| load.check_served_by(&Pair::name(leader), since))
        })
    }

    /// The kernel's tables name this JobManager.
    pub fn check_targets(&self, leader: usize) -> Result<()> {
        for service in SERVICES {
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
        for service in SERVICES {
            let row = &self.truename.rows("services", &[("name", service.part)])?[0];
            let target = &row["targets"][0]["address"];
            ensure!(*target == (service.address)(leader).to_string(), "{row}");
        }
        Ok(())
    }

    /// Waits until nothing is degraded and all that the agent tells names this JobManager.
    pub fn wait_status(&self, leader: usize) -> Result<()> {
        wait_until(SOON, "a good status", || self.check_status(leader))
    }

    /// Does something to a leader and waits until the tables name another one. Until then they name the one
    /// before: nothing is torn down.
    pub fn changes(
        &mut self,
        (old, new): (usize, usize),
        what: &str,
        act: impl FnOnce(&mut Pair) -> Result<()>,
    ) -> Result<Changed> {
        let (acted, since) = (SystemTime::now(), Instant::now());
        act(&mut self.pair)?;
        let mut times = [None; 2];
        // How long the agent has waited for a processor until when: this machine may have others to serve.
        let mut waited = vec![(acted, self.truename.agent()?.waited()?)];
        while times.contains(&None) {
            ensure!(since.elapsed() < LONG, "the tables name {old} still");
            for (service, time) in SERVICES.iter().zip(&mut times) {
                let now = self.tables.targets(service.alias)?;
                if now == BTreeSet::from([(service.address)(new)]) {
                    time.get_or_insert_with(SystemTime::now);
                } else {
                    let before = BTreeSet::from([(service.address)(old)]);
                    ensure!(now == before && time.is_none(), "{}: {now:?}", service.name);
                }
            }
            waited.push((SystemTime::now(), self.truename.agent()?.waited()?));
            // A table tells nobody that it is written.
            sleep(Duration::from_millis(1));
        }
        let at = Instant::now();
        for (service, time) in SERVICES.iter().zip(times) {
            let written = self.records.written(service.part)?;
            let election = written.duration_since(acted).unwrap_or_default();
            // A record's time has milliseconds only.
            let delay = time.context("no time")?.duration_since(written);
            let delay = delay.unwrap_or_default();
            let (_, before) = waited
                .iter()
                .rfind(|(at, _)| *at <= written)
                .unwrap_or(&waited[0]);
            let (_, after) = waited[waited.len() - 1];
            let waited = after.saturating_sub(*before);
            self.timeline.measured(&format!(
                "Flink {}, {what}: {} had written its record after {:.3} s (Flink's own election, with a session of \
                 {} s); {} in the kernel's tables {:.3} s later (the agent waited for a processor for {:.3} s)",
                self.version,
                Pair::name(new),
                election.as_secs_f64(),
                Pair::SESSION.as_secs(),
                service.name,
                delay.as_secs_f64(),
                waited.as_secs_f64(),
            ));
            ensure!(
                delay < DELAY + waited,
                "{}: after {delay:?}, of which at most {waited:?} for want of a processor",
                service.name
            );
        }
        Ok(Changed { since, at })
    }

    /// Clients of a leader that is no more, and that says so (`tells`) or is silent, go to the new one.
    pub fn moves(
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
            ensure!(visits::is_end(error.kind()), "a kept connection: {error}");
        }
        self.served_by(new, changed.since)?;
        for (space, load) in self.spaces().into_iter().zip(&self.loads) {
            let visits = load.visits();
            visits::check(&visits, (old, new), tells, &changed)
                .with_context(|| format!("clients in {}", space.name()))?;
            self.timeline
                .measured(&visits::gap(&visits, (old, new), &changed));
        }
        self.reaches_rpc(new)?;
        self.wait_status(new)
    }

    /// New connections to the alias of the leader's actor system reach it.
    fn reaches_rpc(&self, leader: usize) -> Result<()> {
        for space in self.spaces() {
            let to = RPC.alias;
            let stream = space.run(|| TcpStream::connect_timeout(&to, SOON))??;
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
