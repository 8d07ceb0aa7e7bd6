//! Leader records in a real ZooKeeper, written by real JobManagers.

mod zookeeper;

use std::{
    net::Ipv4Addr,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::timeout,
};
use truename::{
    clock::Moment,
    discovery::{
        Claim, Follower, Report, Snapshot, Source as _, State,
        sources::ha::zookeeper::{Place, Zookeeper},
    },
};
use truename_tests::{
    flink::{Flink, Pair},
    namespace::Namespace,
    scratch::Scratch,
    timeline::Timeline,
    truename::Truename,
    wait::wait_until,
    zookeeper::Ensemble,
};
use zookeeper::Records;
use zookeeper_client::{Acls, Client, CreateMode};

/// Clusters have deadlines: they get the machine for themselves, one after the other.
static MACHINE: Mutex<()> = Mutex::new(());
/// The longest wait for anything.
const LONG: Duration = Duration::from_secs(60);
/// From the moment that a leader has written its record to the moment that it is known.
const DELAY: Duration = Duration::from_millis(200);
const NODES: [&str; 2] = [
    "/flink/pair/leader/dispatcher/connection_info",
    "/flink/pair/leader/dispatcher_lock",
];
const SHARED: &[u8] = include_bytes!("../fixtures/zookeeper/flink-1.20.5/dispatcher.bin");
const OTHER: &[u8] = include_bytes!("../fixtures/zookeeper/flink-2.3.0/dispatcher.bin");
const SINGLE: &[u8] = include_bytes!("../fixtures/zookeeper/flink-1.13.6/dispatcher.bin");

/// A source at work inside a namespace.
struct Observer {
    seen: watch::Receiver<Snapshot>,
    _follower: Follower,
    servers: String,
    runtime: Runtime,
}

impl Observer {
    fn new(space: &Namespace, ensemble: &Ensemble) -> Self {
        let quorum = ensemble.quorum();
        let servers = quorum.iter().map(|server| server.parse().unwrap());
        let place = Place::new(servers.collect(), Pair::ROOT, Pair::CLUSTER).unwrap();
        let source = Zookeeper::new(place);
        assert_eq!(
            source.id().to_string(),
            format!("zookeeper {}/flink/pair", quorum.join(","))
        );
        // The runtime's thread is started inside, and so are its sockets.
        let runtime = space
            .run(|| {
                Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
            })
            .unwrap()
            .unwrap();
        let mut follower = Follower::new();
        let context = runtime.enter();
        follower.add(source);
        drop(context);
        Self {
            seen: follower.subscribe(),
            _follower: follower,
            servers: quorum.join(","),
            runtime,
        }
    }

    /// Waits for a report of the source.
    fn until(&mut self, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        let report = |snapshot: &Snapshot| snapshot.reports.values().next().cloned();
        let waited = self.runtime.block_on(async {
            let condition = |snapshot: &Snapshot| report(snapshot).is_some_and(|it| condition(&it));
            timeout(LONG, self.seen.wait_for(condition))
                .await
                .map(|waited| waited.map(|snapshot| report(&snapshot)))
        });
        match waited {
            Ok(Ok(Some(report))) => report,
            _ => panic!("{what}: not within {LONG:?}: {:#?}", self.seen.borrow()),
        }
    }

    /// Another client.
    fn client(&self) -> Client {
        let servers = self.servers.clone();
        let connect = async move { Client::connect(&servers).await };
        self.wait(self.runtime.spawn(connect)).unwrap().unwrap()
    }

    fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

/// The authorities that a report names as leaders, one of each part.
fn leaders(report: &Report) -> Vec<String> {
    report
        .facts
        .claims()
        .map(|claim| match claim {
            Claim::LeaderRpc { address, .. } => address.authority().to_string(),
            Claim::LeaderRest { address, .. } => address.authority().to_string(),
            other => panic!("not from a leader record: {other:?}"),
        })
        .collect()
}

fn all_parts_of(number: usize) -> Vec<String> {
    vec![Pair::rpc(number), Pair::rpc(number), Pair::rest(number)]
}

/// Kills the leader of two JobManagers.
fn follows_the_leader(version: &str) {
    let _machine = MACHINE.lock().unwrap_or_else(|poison| poison.into_inner());
    let timeline = Timeline::new();
    let flink = Flink::fetch(version, &timeline).unwrap();
    let scratch = Scratch::new("zookeeper").unwrap();
    let mut pair = Pair::new(&flink, &scratch).unwrap();
    let mut observer = Observer::new(pair.hub().space(), pair.ensemble());
    let empty = observer.until("an empty ZooKeeper", |report| {
        report.health.success.is_some()
    });
    assert_eq!(leaders(&empty), [""; 0]);

    pair.start(0).unwrap();
    pair.wait_leads(0).unwrap();
    pair.start(1).unwrap();
    let first = observer.until("the first leader", |report| {
        leaders(report) == all_parts_of(0)
    });
    timeline.say(&format!("Flink {version}: {} leads", Pair::name(0)));

    let killed = SystemTime::now();
    pair.kill(0);
    let second = observer.until("the second leader", |report| {
        leaders(report) == all_parts_of(1)
    });
    let reported = SystemTime::now();
    assert_eq!(second.facts.refused(), []);
    assert!(first.facts.claims().ne(second.facts.claims()));
    assert_eq!(second.health.state(Moment::now()), State::Good);

    const PARTS: [&str; 3] = ["resource_manager", "dispatcher", "rest_server"];
    let records = Records::connect(pair.hub().space(), pair.ensemble()).unwrap();
    let written = PARTS.map(|part| records.written(part).unwrap());
    let written = written.into_iter().max().unwrap();
    let election = written.duration_since(killed).unwrap();
    // The record's time has milliseconds only.
    let delay = reported.duration_since(written).unwrap_or_default();
    timeline.measured(&format!(
        "Flink {version}: killed; {} had written its records after {:.3} s (Flink's own election, with a \
         session of {} s); the source reported them {:.3} s later",
        Pair::name(1),
        election.as_secs_f64(),
        Pair::SESSION.as_secs(),
        delay.as_secs_f64(),
    ));
    assert!(delay < DELAY, "reported after {delay:?}");
}

#[test]
fn follows_the_leader_of_flink_1_20() {
    follows_the_leader("1.20.5");
}

#[test]
fn follows_the_leader_of_flink_1_13() {
    follows_the_leader("1.13.6");
}

fn write(observer: &Observer, path: &str, data: &[u8]) {
    let client = observer.client();
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let (parent, _) = path.rsplit_once('/').unwrap();
    observer.wait(client.mkdir(parent, &options)).unwrap();
    observer.wait(client.create(path, data, &options)).unwrap();
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 61, 24, number)
}

fn hub(count: u8) -> (Namespace, Vec<Ipv4Addr>) {
    let space = Namespace::new("zk").unwrap();
    let addresses: Vec<Ipv4Addr> = (1..=count).map(address).collect();
    for address in &addresses {
        space
            .ip(&format!("address add {address}/32 dev lo"))
            .unwrap();
    }
    (space, addresses)
}

fn good(report: &Report) -> bool {
    report.health.state(Moment::now()) == State::Good
}

#[test]
fn keeps_the_last_good_facts_while_servers_come_and_go() {
    let _machine = MACHINE.lock().unwrap_or_else(|poison| poison.into_inner());
    let scratch = Scratch::new("zookeeper").unwrap();
    let (space, addresses) = hub(3);
    let mut ensemble = Ensemble::start(&space, &addresses, &scratch).unwrap();
    let mut observer = Observer::new(&space, &ensemble);
    write(&observer, NODES[0], SHARED);
    observer.until("a record", |report| leaders(report) == ["localhost:6123"]);

    // One of these is the server that the source is connected to.
    for (number, data) in [OTHER, SHARED, OTHER].into_iter().enumerate() {
        let before = observer.until("another server", good);
        assert_eq!(leaders(&before), ["localhost:6123"]);
        ensemble.kill(number);
        observer
            .wait(observer.client().set_data(NODES[0], data, None))
            .unwrap();
        observer.until("another term", |report| {
            good(report) && report.facts.claims().ne(before.facts.claims())
        });
        ensemble.restart(number).unwrap();
    }

    for number in 0..addresses.len() {
        ensemble.kill(number);
    }
    let lost = observer.until("a failure", |report| report.health.failure.is_some());
    assert_eq!(leaders(&lost), ["localhost:6123"]);
    let (failed, why) = lost.health.failure.clone().unwrap();
    assert!(
        why.contains("ZooKeeper") && why.contains("10.61.24.1:2181"),
        "{why}"
    );
    assert_eq!(lost.health.state(failed), State::Failing);
    let later = failed.after(lost.health.patience + Duration::from_secs(1));
    assert_eq!(lost.health.state(later), State::Degraded);

    ensemble.restart_all().unwrap();
    let back = observer.until("all servers", good);
    assert_eq!(leaders(&back), ["localhost:6123"]);
    // What it is told now is new.
    observer
        .wait(observer.client().delete(NODES[0], None))
        .unwrap();
    observer.until("no leader", |report| {
        leaders(report).is_empty() && good(report)
    });
}

#[test]
fn an_expired_session_is_replaced() {
    let _machine = MACHINE.lock().unwrap_or_else(|poison| poison.into_inner());
    let scratch = Scratch::new("zookeeper").unwrap();
    let (space, addresses) = hub(1);
    let mut ensemble = Ensemble::start(&space, &addresses, &scratch).unwrap();
    let mut observer = Observer::new(&space, &ensemble);
    write(&observer, NODES[1], SINGLE);
    observer.until("a record", |report| leaders(report) == ["localhost:6123"]);

    // A server that has forgotten a session says that it has expired.
    ensemble.kill(0);
    ensemble.forget(0).unwrap();
    ensemble.restart(0).unwrap();
    observer.until("a new session", |report| {
        leaders(report).is_empty() && good(report)
    });
    write(&observer, NODES[0], SHARED);
    observer.until("a record", |report| leaders(report) == ["localhost:6123"]);
}

/// The leader that a running agent shows, and by whose word.
fn shown(truename: &Truename) -> Result<Option<(String, String)>> {
    let rows = truename.json("topology")?;
    let rows = rows.as_array().context("no rows")?;
    let leader = rows.iter().find(|row| row["kind"] == "leader-rpc");
    let text = |row: &Value, field: &str| Some(row[field].as_str()?.to_owned());
    Ok(leader.and_then(|row| Some((text(row, "address")?, text(row, "source")?))))
}

#[test]
fn an_agent_shows_the_leader_of_the_records() {
    let _machine = MACHINE.lock().unwrap_or_else(|poison| poison.into_inner());
    let scratch = Scratch::new("zookeeper").unwrap();
    let (space, addresses) = hub(1);
    let ensemble = Ensemble::start(&space, &addresses, &scratch).unwrap();
    let observer = Observer::new(&space, &ensemble);
    let text = format!(
        "[datapath]\ninterfaces = [\"lo\"]\n[[endpoint]]\nname = \"jm\"\nprotocol = \"pekko\"\nlisten = \"*:6123\"\n\
         [topology]\nha = \"zookeeper\"\n[topology.zookeeper]\nquorum = {:?}\nroot = \"{}\"\ncluster_id = \"{}\"\n",
        ensemble.quorum(),
        Pair::ROOT,
        Pair::CLUSTER,
    );
    let file = scratch.write("truename.toml", &text).unwrap();
    let truename = Truename::start_file(&space, &scratch, &file).unwrap();
    let wait = |what: &str, wanted: Option<(&str, &str)>| {
        let wanted = wanted.map(|(address, source)| (address.to_owned(), source.to_owned()));
        wait_until(LONG, what, || {
            let shown = shown(&truename)?;
            ensure!(shown == wanted, "{shown:?}");
            Ok(())
        })
        .unwrap();
    };
    write(&observer, NODES[0], SHARED);
    let leader = Some(("pekko.tcp://flink@localhost:6123", "zookeeper"));
    wait("the leader", leader);
    observer
        .wait(observer.client().delete(NODES[0], None))
        .unwrap();
    wait("nobody", None);
    write(&observer, NODES[1], SINGLE);
    wait(
        "a leader of an older Flink",
        Some(("akka.tcp://flink@localhost:6123", "zookeeper")),
    );
}
