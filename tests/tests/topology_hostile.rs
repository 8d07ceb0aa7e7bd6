//! Topology sources and servers that are slow, cut, wrong, hostile, or of two minds. The servers are
//! mocks on loopback.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use truename::{
    api::{self, Clock},
    discovery::{
        Claim, Facts, Follower, Kind, Snapshot, SourceId, Topology,
        http::Tls,
        merge,
        sources::{
            flink::{AtLeader, Flink},
            management::Management,
            poll::{Poll, Polled},
        },
    },
};
use truename_tests::topology::{Reply, Request, Server};

const ELECTION: &str = r#"{"errors":["Service temporarily unavailable due to an ongoing leader election. Please refresh."]}"#;

fn config(host: &str) -> Value {
    json!([{"key": "jobmanager.rpc.address", "value": host},
           {"key": "jobmanager.rpc.port", "value": "6123"}])
}

fn overview(workers: usize) -> Value {
    json!({"taskmanagers": workers, "slots-total": workers * 2, "slots-available": 0,
           "jobs-running": 1, "flink-version": "2.3.0", "flink-commit": "x"})
}

fn worker(number: usize) -> Value {
    json!({"id": format!("10.1.{}.{}:6122-{number:06x}", number / 256, number % 256),
           "path": format!("pekko.tcp://flink@tm-{number}.cluster.example:6122/user/rpc/taskmanager_0"),
           "dataPort": 41111, "jmxPort": -1, "timeSinceLastHeartbeat": 1_700_000_000_000_u64,
           "slotsNumber": 2, "freeSlots": 0,
           "totalResource": {"cpuCores": 2.0, "taskHeapMemory": 383, "managedMemory": 512},
           "hardware": {"cpuCores": 8, "physicalMemory": 33_000_000_000_u64}})
}

/// What a good server answers.
fn good(request: &Request, host: &str, workers: usize) -> Reply {
    let answer = match request.path.as_str() {
        "/jobmanager/config" => config(host),
        "/overview" => overview(workers),
        "/taskmanagers" => {
            json!({"taskmanagers": (0..workers).map(worker).collect::<Vec<_>>()})
        }
        _ => return Reply::Status(404, "no".to_owned()),
    };
    Reply::Json(answer.to_string())
}

fn good_server(host: &'static str, workers: usize) -> Server {
    Server::start(move |request| good(request, host, workers)).unwrap()
}

/// A server that answers one path in its own way and all others well.
fn server_with(path: &'static str, reply: Reply) -> Server {
    Server::start(move |request| match request.path == path {
        true => reply.clone(),
        false => good(request, "jm", 1),
    })
    .unwrap()
}

fn flink(servers: &[&Server]) -> Flink {
    let urls = servers.iter().map(|server| server.url().parse().unwrap());
    Flink::new(urls.collect(), &Tls::of_host())
}

fn topology(id: &SourceId, facts: &Facts) -> Topology {
    merge([(id, truename::clock::Moment::now(), facts)])
}

fn leader(facts: &Facts) -> Option<String> {
    facts.claims().find_map(|claim| match claim {
        Claim::LeaderRpc { address, .. } => Some(address.to_string()),
        _ => None,
    })
}

fn rest(facts: &Facts) -> Option<String> {
    facts.claims().find_map(|claim| match claim {
        Claim::LeaderRest { address, .. } => Some(address.to_string()),
        _ => None,
    })
}

/// The error of a poll: one line, and nothing in it that a terminal obeys.
async fn error(server: &Server) -> String {
    let error = flink(&[server]).ask().await.unwrap_err();
    assert!(!error.chars().any(char::is_control), "{error:?}");
    error
}

#[tokio::test]
async fn asks_little_and_only_gets() {
    let server = good_server("jm", 2);
    let mut source = flink(&[&server]);
    for _ in 0..25 {
        let facts = source.ask().await.unwrap();
        assert_eq!(leader(&facts).unwrap(), "pekko.tcp://flink@jm:6123");
        assert_eq!(rest(&facts).unwrap(), server.url());
        assert_eq!(topology(&source.id(), &facts).workers.len(), 2);
    }
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.method == "GET"));
    assert_eq!(server.count("/jobmanager/config"), 25);
    assert_eq!(server.count("/overview"), 25);
    // At the first poll, and every tenth.
    assert_eq!(server.count("/taskmanagers"), 3);
    assert_eq!(requests.len(), 53);
}

#[tokio::test]
async fn the_workers_are_read_when_their_number_changes() {
    let workers = Arc::new(AtomicUsize::new(1));
    let server = Server::start({
        let workers = Arc::clone(&workers);
        move |request| good(request, "jm", workers.load(Ordering::Relaxed))
    })
    .unwrap();
    let mut source = flink(&[&server]);
    for count in [1, 2, 2, 0, 3] {
        workers.store(count, Ordering::Relaxed);
        let facts = source.ask().await.unwrap();
        assert_eq!(topology(&source.id(), &facts).workers.len(), count);
    }
    assert_eq!(server.count("/taskmanagers"), 4);
}

#[tokio::test]
async fn ten_thousand_workers() {
    let server = good_server("jm", 10_000);
    let mut source = flink(&[&server]);
    let start = Instant::now();
    let facts = source.ask().await.unwrap();
    let asked = start.elapsed();
    let merged = topology(&source.id(), &facts);
    println!(
        "10,000 workers: read in {asked:?}, merged in {:?}",
        start.elapsed() - asked
    );
    assert_eq!(merged.workers.len(), 10_000);
    assert_eq!(facts.refused_count(), 0);
    for _ in 0..5 {
        assert_eq!(source.ask().await.unwrap(), facts);
    }
    assert_eq!(server.count("/taskmanagers"), 1);
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let server = Server::start(|request| match good(request, "jm", 1) {
        Reply::Json(body) => Reply::Tagged("\"v1\"".to_owned(), body),
        other => other,
    })
    .unwrap();
    let mut source = flink(&[&server]);
    let first = source.ask().await.unwrap();
    assert_eq!(source.ask().await.unwrap(), first);
    let conditional = |request: &Request| {
        request
            .headers
            .contains(&"if-none-match: \"v1\"".to_owned())
    };
    let requests = server.requests();
    assert!(!requests[..3].iter().any(conditional));
    assert!(requests[3..].iter().all(conditional) && requests.len() == 5);
}

#[tokio::test]
async fn a_connection_that_was_hung_up_is_no_failure() {
    let server = good_server("jm", 1);
    let mut source = flink(&[&server]);
    let first = source.ask().await.unwrap();
    server.hang_up();
    assert_eq!(source.ask().await.unwrap(), first);
}

#[tokio::test]
async fn wrong_answers_have_a_reason() {
    let json = |text: &str| Reply::Json(text.to_owned());
    let deep = "[".repeat(100_000);
    for (path, reply, reason) in [
        (
            "/overview",
            Reply::Status(503, ELECTION.to_owned()),
            "503 Service Unavailable: {\"errors\"",
        ),
        ("/overview", json("<html>\u{1b}[2J"), "not understood"),
        (
            "/overview",
            json(r#"{"taskmanagers":"many"}"#),
            "not understood",
        ),
        ("/overview", json(""), "not understood"),
        (
            "/overview",
            Reply::Status(500, "\u{1b}]0;owned\u{7}".to_owned()),
            "\\u{1b}]0;owned\\u{7}",
        ),
        ("/overview", Reply::Status(304, String::new()), "304"),
        ("/overview", Reply::Status(204, String::new()), "204"),
        (
            "/taskmanagers",
            json(r#"{"taskmanagers":{"a":1}}"#),
            "not understood",
        ),
        ("/taskmanagers", json(&deep), "recursion limit"),
        (
            "/jobmanager/config",
            json(r#"{"errors":["x"]}"#),
            "not understood",
        ),
        ("/jobmanager/config", json("[{]"), "not understood"),
        (
            "/jobmanager/config",
            Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
            "broke off",
        ),
        ("/jobmanager/config", Reply::Raw(Vec::new()), "broke off"),
        (
            "/jobmanager/config",
            Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{\"key\"".to_vec()),
            "broke off",
        ),
        (
            "/jobmanager/config",
            Reply::Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n".to_vec()),
            "broke off",
        ),
    ] {
        let server = server_with(path, reply.clone());
        let error = error(&server).await;
        assert!(
            error.starts_with(&format!("GET {}{path}: ", server.url())),
            "{error}"
        );
        assert!(error.contains(reason), "{reply:?}: {error}");
    }
}

#[tokio::test]
async fn nothing_is_learned_of_another_cluster() {
    let one = good_server("jm", 1);
    let away = Arc::new(AtomicUsize::new(0));
    let other = Server::start({
        let away = Arc::clone(&away);
        move |request| match away.load(Ordering::Relaxed) {
            0 => Reply::Status(503, ELECTION.to_owned()),
            _ => good(request, "stranger", 3),
        }
    })
    .unwrap();
    let mut source = flink(&[&other, &one]);
    source.ask().await.unwrap();
    away.store(1, Ordering::Relaxed);
    for _ in 0..3 {
        let facts = source.ask().await.unwrap();
        assert_eq!(leader(&facts).unwrap(), "pekko.tcp://flink@jm:6123");
        let known = topology(&source.id(), &facts);
        assert_eq!(known.workers.len(), 1);
        let names: Vec<_> = known.addresses.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["jm:6123"]);
        let [refused] = facts.refused() else {
            panic!("{:?}", facts.refused())
        };
        let (refused, url) = (refused.to_string(), other.url());
        assert!(
            refused.starts_with(&format!(
                "cluster \"{url}\": it is a server of another cluster"
            )),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn the_leader_that_records_name_is_asked() {
    let servers = [good_server("jm-1", 1), good_server("jm-2", 2)];
    let mut follower = Follower::new();
    let records = follower.reporter(SourceId {
        kind: Kind::Zookeeper,
        place: "zk:2181/flink".to_owned(),
    });
    let poll = Duration::from_millis(200);
    let place = "zookeeper://127.0.0.1:2181/flink".to_owned();
    follower.add(AtLeader::new(follower.subscribe(), place, poll));
    let mut seen = follower.subscribe();
    for (server, workers) in servers.iter().zip([1, 2]) {
        // Its name resolves nowhere; where it is was seen.
        let mut facts = Facts::new();
        let name = format!("nowhere.invalid:{}", server.address().port());
        facts.add(Claim::LeaderRest {
            address: format!("http://{name}").parse().unwrap(),
            session: None,
        });
        facts.add(Claim::Address {
            name: name.parse().unwrap(),
            address: server.address().ip(),
        });
        records.facts(facts, None);
        let known = seen.wait_for(|snapshot| snapshot.topology.workers.len() == workers);
        let known = tokio::time::timeout(Duration::from_secs(10), known).await;
        let rest = known
            .unwrap()
            .unwrap()
            .topology
            .leader_rest
            .clone()
            .unwrap();
        // Records come first.
        assert_eq!(rest.source.kind, Kind::Zookeeper);
    }
    records.facts(Facts::new(), None);
    let failing = seen.wait_for(|snapshot| {
        let mut reports = snapshot.reports.iter();
        let flink = reports.find(|(id, _)| id.kind == Kind::Flink);
        flink.is_some_and(|(_, report)| report.health.failure.is_some())
    });
    let failing = tokio::time::timeout(Duration::from_secs(10), failing).await;
    assert_eq!(failing.unwrap().unwrap().topology.workers.len(), 2);
}

#[tokio::test]
async fn endless_answers_end() {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    let line = [b"X-More: ".to_vec(), vec![b'x'; 1000], b"\r\n".to_vec()].concat();
    for (path, reply) in [
        (
            "/jobmanager/config",
            Reply::Endless(head.clone(), chunk.clone()),
        ),
        ("/overview", Reply::Endless(head.clone(), chunk)),
        (
            "/overview",
            Reply::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), line),
        ),
    ] {
        let server = server_with(path, reply);
        let start = Instant::now();
        let error = error(&server).await;
        assert!(
            error.contains("longer than") || error.contains("broke off"),
            "{error}"
        );
        assert!(
            start.elapsed() < Duration::from_secs(4),
            "{:?}",
            start.elapsed()
        );
    }
}

#[tokio::test]
async fn slow_answers_end_and_do_not_hold_up_the_others() {
    let drip = Reply::Drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n[[[[[[".repeat(100));
    let slow = server_with("/jobmanager/config", drip);
    let silent = server_with("/jobmanager/config", Reply::Silence);
    let quick = good_server("jm", 1);

    let start = Instant::now();
    let facts = flink(&[&silent, &slow, &quick]).ask().await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(leader(&facts).unwrap(), "pekko.tcp://flink@jm:6123");
    assert_eq!(facts.refused_count(), 2);

    let start = Instant::now();
    let (first, second) = tokio::join!(error(&slow), error(&silent));
    assert!(
        first.contains("within 5 s") && second.contains("within 5 s"),
        "{first} {second}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn redirects_are_followed_for_a_while() {
    let leader_server = good_server("leader", 3);
    let to = leader_server.url();
    let standby =
        Server::start(move |request| Reply::Redirect(format!("{to}{}", request.path))).unwrap();
    let mut source = flink(&[&standby]);
    let facts = source.ask().await.unwrap();
    assert_eq!(leader(&facts).unwrap(), "pekko.tcp://flink@leader:6123");
    assert_eq!(rest(&facts).unwrap(), leader_server.url());
    assert_eq!(topology(&source.id(), &facts).workers.len(), 3);

    let round = Server::start(|request| Reply::Redirect(request.path.clone())).unwrap();
    let message = error(&round).await;
    assert!(message.ends_with("more than 3 redirects"), "{message}");
    assert_eq!(round.requests().len(), 4);

    for location in [
        "ftp://jm/",
        "file:///etc/passwd",
        "//jm:1/x",
        "http://u:p@jm/",
        "",
        "http://j\tm/",
    ] {
        let server = server_with("/jobmanager/config", Reply::Redirect(location.to_owned()));
        let message = error(&server).await;
        assert!(message.contains("redirected to"), "{location}: {message}");
    }
}

#[tokio::test]
async fn names_that_a_terminal_would_obey_go_nowhere() {
    let hostile = "\u{1b}[2J\u{1b}]0;owned\u{7}";
    let server = Server::start(move |request| match request.path.as_str() {
        "/jobmanager/config" => Reply::Json(config(hostile).to_string()),
        "/taskmanagers" => {
            let path = |host: &str| format!("pekko.tcp://flink@{host}:6122/user");
            let list = json!({"taskmanagers": [
                {"id": hostile, "path": path("a")},
                {"id": "tm-1", "path": path(hostile)},
                {"id": "tm-2", "path": hostile},
                {"id": "x".repeat(100_000), "path": path("a")},
                {"id": "tm-3", "path": path(&"x".repeat(100_000))},
                {"id": "tm-4", "path": path("a..b")},
                {"id": "tm-5", "path": path("0.0.0.999")},
                {"id": ["tm-6"], "path": {}}, null, 7,
                {"id": "good", "path": path("good"), "dataPort": 99_999_999},
            ]});
            Reply::Json(list.to_string())
        }
        _ => good(request, "jm", 1),
    })
    .unwrap();
    let mut follower = Follower::new();
    let mut seen = follower.subscribe();
    follower.add(Polled::new(flink(&[&server]), Duration::from_secs(60)));
    let snapshot = wait(&mut seen, |s| s.generation > 0).await;
    assert_eq!(snapshot.topology.leader_rpc, None);
    let workers: Vec<_> = snapshot
        .topology
        .workers
        .keys()
        .map(|id| id.as_str())
        .collect();
    assert_eq!(workers, ["good"]);
    let rows = api::topology::rows(&snapshot, &Clock::read());
    assert_eq!(rows.iter().filter(|row| row.kind == "refused").count(), 11);
    for row in &rows {
        let text = [Some(&row.name), row.address.as_ref(), row.note.as_ref()];
        for text in text.into_iter().flatten() {
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(text.len() < 600, "{} bytes", text.len());
        }
    }
}

#[tokio::test]
async fn a_contradiction_does_not_move_the_leader() {
    let (a, b) = (good_server("jm-a", 1), good_server("jm-b", 1));
    // Nobody led before: nobody is believed.
    let why = flink(&[&a, &b]).ask().await.unwrap_err();
    assert!(why.contains("are servers of two clusters"), "{why}");

    // One of them is alone for a while.
    let away = Arc::new(AtomicUsize::new(1));
    let c = Server::start({
        let away = Arc::clone(&away);
        move |request| match away.load(Ordering::Relaxed) {
            0 => good(request, "jm-c", 1),
            _ => Reply::Status(503, ELECTION.to_owned()),
        }
    })
    .unwrap();
    let mut source = flink(&[&c, &b]);
    for back in [1, 0, 0] {
        away.store(back, Ordering::Relaxed);
        let facts = source.ask().await.unwrap();
        assert_eq!(leader(&facts).unwrap(), "pekko.tcp://flink@jm-b:6123");
    }
    drop(b);
    let facts = source.ask().await.unwrap();
    assert_eq!(leader(&facts).unwrap(), "pekko.tcp://flink@jm-c:6123");
}

#[tokio::test]
async fn an_election_keeps_what_was_known() {
    let electing = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let electing = Arc::clone(&electing);
        move |request| match electing.load(Ordering::Relaxed) {
            0 => good(request, "jm", 2),
            _ => Reply::Status(503, ELECTION.to_owned()),
        }
    })
    .unwrap();
    let mut follower = Follower::new();
    let mut seen = follower.subscribe();
    follower.add(Polled::new(flink(&[&server]), Duration::from_millis(100)));
    let failing = |s: &Snapshot| s.reports.values().any(|r| r.health.failure.is_some());
    let before = wait(&mut seen, |s| s.topology.workers.len() == 2).await;
    electing.store(1, Ordering::Relaxed);
    let during = wait(&mut seen, failing).await;
    assert_eq!(during.topology.workers.len(), 2);
    assert!(during.topology.leader_rpc.is_some());
    electing.store(0, Ordering::Relaxed);
    let after = wait(&mut seen, |s| !failing(s)).await;
    assert_eq!(after.generation, before.generation);
    let at = |s: &Snapshot| s.topology.leader_rpc.as_ref().unwrap().at;
    assert!(at(&after) > at(&before) && at(&during) < at(&after));
}

/// A mock with a recorded answer: the server itself is not to be had as a package.
#[tokio::test]
async fn pekko_management_answers() {
    let answer = json!({"selfNode": "pekko://s@10.0.0.1:25520", "leader": "pekko://s@10.0.0.1:25520",
        "oldest": "pekko://s@10.0.0.1:25520", "unreachable": [],
        "members": [{"node": "pekko://s@10.0.0.1:25520", "nodeUid": "1", "status": "Up", "roles": []},
                    {"node": "pekko://s@10.0.0.2:25520", "nodeUid": "2", "status": "Joining", "roles": []}]});
    let server = Server::start(move |request| match request.path.as_str() {
        "/cluster/members" => Reply::Json(answer.to_string()),
        _ => Reply::Status(404, String::new()),
    })
    .unwrap();
    let gone = Server::start(|_| Reply::Silence).unwrap().url();
    let urls = vec![gone.parse().unwrap(), server.url().parse().unwrap()];
    let mut source = Management::new(urls, &Tls::of_host());
    let facts = source.ask().await.unwrap();
    assert_eq!(leader(&facts).unwrap(), "pekko://s@10.0.0.1:25520");
    assert_eq!(topology(&source.id(), &facts).members.len(), 2);
}

async fn wait(
    seen: &mut tokio::sync::watch::Receiver<Snapshot>,
    what: impl FnMut(&Snapshot) -> bool,
) -> Snapshot {
    tokio::time::timeout(Duration::from_secs(15), seen.wait_for(what))
        .await
        .expect("in time")
        .expect("the follower lives")
        .clone()
}
