//! Leader records in ConfigMaps: recordings of real JobManagers, told by a mock of the API.
//!
//! `cargo test -p truename-tests --features kubernetes --test topology_kubernetes`
#![cfg(feature = "kubernetes")]

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use truename::{
    clock::Moment,
    config::File,
    discovery::{Claim, Follower, Report, Snapshot, SourceId, State},
};
use truename_tests::{
    kubernetes_mock::{Answers, End, KubernetesMock},
    scratch::Scratch,
};

/// The longest wait for anything.
const LONG: Duration = Duration::from_secs(30);
const SHARED: &str = "flink-one-cluster-config-map";
const SESSION: &str = "158812b7-2660-42c4-9340-67f792684dfb";

/// A source at work on a mock, as a configuration names it.
struct Observer {
    mock: KubernetesMock,
    seen: watch::Receiver<Snapshot>,
    _follower: Follower,
    _scratch: Scratch,
}

impl Observer {
    /// With what JobManagers of this release wrote.
    fn new(version: &str) -> Self {
        let mock = KubernetesMock::new().unwrap();
        for object in recorded(version) {
            mock.put(&object);
        }
        let scratch = Scratch::new("kubernetes").unwrap();
        let file = scratch.write("kubeconfig", &mock.kubeconfig()).unwrap();
        let text = format!(
            "[topology]\nha = \"kubernetes\"\n\
             [topology.kubernetes]\ncluster_id = \"flink-one\"\nkubeconfig = \"{}\"\n",
            file.display()
        );
        let configuration = File::parse(Path::new("truename.toml"), &text).unwrap();
        let follower = Follower::configured(&configuration.topology);
        let seen = follower.subscribe();
        let names: Vec<_> = seen
            .borrow()
            .reports
            .keys()
            .map(SourceId::to_string)
            .collect();
        assert_eq!(names, ["kubernetes flink-one"]);
        Self {
            mock,
            seen,
            _follower: follower,
            _scratch: scratch,
        }
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        let report = |snapshot: &Snapshot| snapshot.reports.values().next().cloned();
        let condition = |snapshot: &Snapshot| report(snapshot).is_some_and(|it| condition(&it));
        let waited = timeout(LONG, self.seen.wait_for(condition))
            .await
            .map(|waited| waited.map(|snapshot| report(&snapshot)));
        match waited {
            Ok(Ok(Some(report))) => report,
            _ => panic!("{what}: not within {LONG:?}: {:#?}", self.seen.borrow()),
        }
    }

    async fn leaders(&mut self, hosts: [&str; 3]) -> Report {
        self.until(&format!("{hosts:?}"), |report| {
            good(report) && leaders(report) == hosts
        })
        .await
    }

    /// Waits until the source watches, from then on when the first `skip` requests were made.
    fn watching(&self, skip: usize) -> usize {
        self.mock.wait_request(skip, &["watch=true"])
    }
}

fn recorded(version: &str) -> Vec<Value> {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/kubernetes/flink-{version}"));
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap())
        .collect()
}

/// The one ConfigMap of later releases, with this host in place of the recorded one.
fn shared(host: &str) -> Value {
    let text = recorded("1.20.5")[0].to_string();
    serde_json::from_str(&text.replace("localhost", host)).unwrap()
}

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

fn good(report: &Report) -> bool {
    report.health.state(Moment::now()) == State::Good
}

const LOCALHOST: [&str; 3] = ["localhost:6123", "localhost:6123", "localhost:8081"];
const JM_2: [&str; 3] = ["jm-2:6123", "jm-2:6123", "jm-2:8081"];
const JM_3: [&str; 3] = ["jm-3:6123", "jm-3:6123", "jm-3:8081"];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn follows_the_leader_in_both_layouts() {
    let mut observer = Observer::new("1.13.6");
    observer.leaders(LOCALHOST).await;
    let request = ["labelSelector=app%3Dflink-one%2Cconfigmap-type%3Dhigh-availability"];
    observer.mock.wait_request(0, &request);
    // A cluster that is upgraded; what is not a leader's is not looked at.
    observer.mock.put(&json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "flink-one-0123-config-map" }, "data": { "address": "http://jm-9:8081" },
    }));
    observer.mock.put(&shared("jm-2"));
    observer.leaders(JM_2).await;
    observer.mock.put(&shared("jm-3"));
    observer.leaders(JM_3).await;
    observer.mock.delete(SHARED);
    observer.leaders(LOCALHOST).await;
    assert_eq!(observer.mock.count("watch=true"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn goes_on_where_a_watch_ended() {
    let mut observer = Observer::new("1.20.5");
    let first = observer.leaders(LOCALHOST).await;
    let requests = observer.watching(0);
    observer.mock.end(End::Over);
    let confirmed = observer
        .until("a confirmation", |report| {
            report.health.success > first.health.success
        })
        .await;
    assert_eq!(leaders(&confirmed), LOCALHOST);
    observer.watching(requests);
    observer.mock.put(&shared("jm-2"));
    observer.leaders(JM_2).await;
    assert_eq!(observer.mock.count("watch=true"), 2);
    assert_eq!(observer.mock.count("configmaps?"), 3, "listed again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lists_again_when_its_version_is_gone() {
    let mut observer = Observer::new("1.20.5");
    observer.leaders(LOCALHOST).await;
    // Said in the stream.
    let requests = observer.watching(0);
    observer.mock.end(End::Gone);
    let requests = observer.watching(requests);
    assert!(observer.mock.count("configmaps?") >= 4);
    // Said as the answer to the next watch.
    observer.mock.put(&shared("jm-2"));
    observer.leaders(JM_2).await;
    observer.mock.compact();
    observer.mock.end(End::Over);
    observer.mock.put(&shared("jm-3"));
    observer.leaders(JM_3).await;
    observer.watching(requests + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keeps_the_last_good_facts_while_the_server_fails() {
    let mut observer = Observer::new("1.20.5");
    observer.leaders(LOCALHOST).await;
    for (answers, word) in [
        (Answers::Status(403), "403"),
        (Answers::Status(503), "503"),
        (Answers::Garbage, "ConfigMaps"),
    ] {
        observer.mock.answer(answers);
        // The cut watch is one failure, the answer to the next request another.
        let lost = observer
            .until(word, |report| {
                let why = report.health.failure.as_ref();
                why.is_some_and(|(_, why)| why.contains("cannot list") && why.contains(word))
            })
            .await;
        assert_eq!(leaders(&lost), LOCALHOST);
        let (at, why) = lost.health.failure.clone().unwrap();
        assert!(!why.contains(['\u{1b}', '\n']), "{why}");
        assert_eq!(lost.health.state(at), State::Failing);
        let later = at.after(lost.health.patience + Duration::from_secs(1));
        assert_eq!(lost.health.state(later), State::Degraded);
        let requests = observer.mock.count("GET");
        observer.mock.answer(Answers::Good);
        observer.leaders(LOCALHOST).await;
        observer.watching(requests);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn goes_on_when_the_connection_breaks() {
    let mut observer = Observer::new("1.20.5");
    observer.leaders(LOCALHOST).await;
    let requests = observer.watching(0);
    observer.mock.end(End::Cut);
    // While nobody watches.
    observer.mock.put(&shared("jm-2"));
    observer.leaders(JM_2).await;
    observer.watching(requests);
    assert_eq!(observer.mock.count("configmaps?"), 3, "listed again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn refuses_hostile_records() {
    let mut observer = Observer::new("1.20.5");
    observer.leaders(LOCALHOST).await;
    let mut hostile = shared("jm-2");
    hostile["data"]["org.apache.flink.k8s.leader.dispatcher"] = json!(format!(
        "{SESSION},pekko.tcp://flink@jm\u{1b}[2J:6123/user/rpc/dispatcher_1"
    ));
    observer.mock.put(&hostile);
    let report = observer
        .until("a refusal", |report| report.facts.refused_count() == 1)
        .await;
    assert_eq!(leaders(&report), ["jm-2:6123", "jm-2:8081"]);
    assert!(
        report.facts.refused()[0]
            .to_string()
            .starts_with("leader of the dispatcher")
    );
}
