use std::collections::{BTreeMap, BTreeSet};

use truename_common::layout::{Policy, Settings, Slots, TCP, Target, bytes, target_flags};

use super::*;
use crate::plan::Held;

/// Tables in memory.
#[derive(Default)]
struct Fake {
    held: Held,
    ports: BTreeMap<u16, u8>,
    endpoints: BTreeMap<Socket, Endpoint>,
    tried: u32,
    forwards: bool,
}

impl nat::Tables for Fake {
    fn slot(&self, position: u32) -> Option<u32> {
        self.held.slot(position)
    }

    fn moved(&self, original: &FiveTuple) -> Option<u32> {
        nat::Tables::moved(&self.held, original)
    }

    fn target(&self, number: u32) -> Option<Target> {
        self.held.target(number)
    }
}

impl Source for Fake {
    fn port_flags(&self, port: u16) -> u8 {
        self.ports.get(&port).copied().unwrap_or_default()
    }
    fn service(&self, alias: &Socket) -> Option<Service> {
        self.held.services.get(alias).copied()
    }
    fn aliases(&self) -> Vec<Socket> {
        self.held.services.keys().copied().collect()
    }
    fn connection(&self, key: &FiveTuple) -> Option<Conntrack> {
        self.held.connections.get(key).copied()
    }
    fn tried(&self, _: u64) -> u32 {
        self.tried
    }
    fn settings(&self) -> Settings {
        self.held.settings
    }
    fn endpoint(&self, at: &Socket) -> Option<Endpoint> {
        self.endpoints.get(at).copied()
    }
    fn names(&self, _: &Socket) -> Option<Names> {
        None
    }
    fn listed(&self, _: u32) -> Vec<Authority> {
        vec![Authority::new(b"jm:6123").unwrap()]
    }
    fn service_name(&self, _: &Socket) -> Option<String> {
        Some("rest".to_owned())
    }
    fn endpoint_name(&self, _: &Socket) -> Option<String> {
        Some("jm".to_owned())
    }
    fn forwards(&self, _: bool, own: bool) -> bool {
        own || self.forwards
    }
    fn now_ns(&self) -> u64 {
        9_000_000_000
    }
}

fn at(text: &str) -> Socket {
    let at: SocketAddr = text.parse().unwrap();
    Socket {
        address: bytes(at.ip()),
        port: at.port(),
        protocol: TCP,
        pad: 0,
    }
}

/// `rest`: 10.0.0.10:80 to `target`.
fn tables(target: &str, flags: u16) -> Fake {
    let slots = Slots { first: 7, count: 1 };
    let service = Service {
        id: 3,
        slots,
        ..Service::default()
    };
    let socket = at(target);
    let target = Target {
        address: socket.address,
        source: at("10.0.0.10:1").address,
        port: socket.port,
        flags,
        ..Target::default()
    };
    Fake {
        held: Held {
            services: [(at("10.0.0.10:80"), service)].into(),
            slots: [(slots, vec![2])].into(),
            targets: [(2, target)].into(),
            settings: Settings {
                first_port: 61_000,
                last_port: 61_999,
                timeouts: [100; 8],
                ..Settings::default()
            },
            ..Held::default()
        },
        ports: [(80, 2), (socket.port, 4)].into(),
        forwards: true,
        ..Fake::default()
    }
}

fn ask(tables: &Fake, from: &str, to: &str) -> Explanation {
    let (from, from_port) = match from.parse::<SocketAddr>() {
        Ok(from) => (from.ip(), Some(from.port())),
        Err(_) => (from.parse().unwrap(), None),
    };
    let question = Question {
        protocol: "tcp".to_owned(),
        from,
        from_port,
        to: to.parse().unwrap(),
    };
    let own: BTreeSet<IpAddr> = ["10.0.0.10", "10.0.0.1"]
        .map(|ip| ip.parse().unwrap())
        .into();
    explain(tables, &question, |ip| own.contains(&ip))
}

fn headings(explanation: &Explanation) -> Vec<&'static str> {
    explanation.steps.iter().map(Step::heading).collect()
}

fn translated(explanation: &Explanation) -> (String, String, bool) {
    match &explanation.outcome {
        Outcome::Translated { from, to, begins } => (from.to_string(), to.to_string(), *begins),
        other => panic!("{other:?}"),
    }
}

/// Puts the connection that the explanation says would begin.
fn begin(tables: &mut Fake, explanation: &Explanation) -> FiveTuple {
    let (from, to, begins) = translated(explanation);
    assert!(begins);
    let (from, to) = (at(&from), at(&to));
    let key = FiveTuple {
        client: from.address,
        endpoint: to.address,
        client_port: from.port,
        endpoint_port: to.port,
        protocol: TCP,
        pad: [0; 3],
    };
    let (client, alias) = (
        at(&explanation.from.to_string()),
        at(&explanation.to.to_string()),
    );
    let tries = explanation
        .steps
        .iter()
        .filter(|s| s.heading() == "source port")
        .count()
        - 1;
    let entry = Conntrack {
        client: client.address,
        client_port: client.port,
        alias: alias.address,
        alias_port: alias.port,
        tries: tries as u8,
        seen_ns: 4_000_000_000,
        ..Conntrack::default()
    };
    tables.held.connections.insert(key, entry);
    tables.tried |= 1 << tries | nat::TRIED_DIRECT;
    key
}

#[test]
fn a_new_connection_and_its_packets_both_ways() {
    let mut tables = tables("10.0.0.2:8080", target_flags::SNAT);
    let first = ask(&tables, "10.0.0.5:61007", "10.0.0.10:80");
    assert_eq!(
        headings(&first),
        [
            "port",
            "service",
            "target",
            "connection",
            "source port",
            "way"
        ]
    );
    // The port is in the range and stays.
    let (from, to, _) = translated(&first);
    assert_eq!((&*from, &*to), ("10.0.0.10:61007", "10.0.0.2:8080"));
    begin(&mut tables, &first);
    // The next client with the same port gets another one.
    let second = ask(&tables, "10.0.0.6:61007", "10.0.0.10:80");
    assert!(matches!(
        &second.steps[4],
        Step::Candidate { index: 0, taken_by: Some((other, _)), .. } if other.to_string() == "10.0.0.5:61007"
    ));
    let key = begin(&mut tables, &second);
    let again = ask(&tables, "10.0.0.6:61007", "10.0.0.10:80");
    assert_eq!(
        headings(&again),
        ["port", "service", "target", "connection", "way"]
    );
    assert_eq!(translated(&again).0, translated(&second).0);
    assert!(
        again.steps[3].to_string().contains("silent for 5s"),
        "{}",
        again.steps[3]
    );
    // The answer.
    let answer = ask(
        &tables,
        "10.0.0.2:8080",
        &format!("10.0.0.10:{}", key.client_port),
    );
    let (from, to, begins) = translated(&answer);
    assert_eq!(
        (&*from, &*to, begins),
        ("10.0.0.10:80", "10.0.0.6:61007", false)
    );
}

#[test]
fn says_why_not() {
    let mut tables = tables("10.0.0.2:8080", target_flags::SNAT);
    tables.forwards = false;
    let dropped = ask(&tables, "10.0.0.5", "10.0.0.10:80");
    assert!(dropped.example_port);
    let refused = |counter: &str| Outcome::Refused {
        counter: counter.to_owned(),
    };
    assert_eq!(dropped.outcome, refused("nat_forwarding_off"));
    let miss = ask(&tables, "10.0.0.5", "10.0.0.11:80");
    assert_eq!(miss.outcome, Outcome::Unchanged);
    assert_eq!(
        miss.steps[1].to_string(),
        "the destination is no alias of a service; the nearest is tcp 10.0.0.10:80 of the service rest, another address"
    );
    for service in tables.held.services.values_mut() {
        service.slots.count = 0;
    }
    let none = ask(&tables, "10.0.0.5", "10.0.0.10:80");
    assert_eq!(none.outcome, refused("nat_no_target"));
    let answer = ask(&tables, "10.0.0.2:8080", "10.0.0.10:61007");
    assert_eq!(answer.outcome, Outcome::Unchanged);
}

#[test]
fn a_client_that_goes_around_the_alias_gets_another_port() {
    let mut tables = tables("10.0.0.1:8080", target_flags::LOCAL);
    let alone = ask(&tables, "10.0.0.5:5000", "10.0.0.1:8080");
    assert_eq!(alone.outcome, Outcome::Unchanged);
    let through = ask(&tables, "10.0.0.5:5000", "10.0.0.10:80");
    assert_eq!(translated(&through).0, "10.0.0.5:5000");
    begin(&mut tables, &through);
    let direct = ask(&tables, "10.0.0.5:5000", "10.0.0.1:8080");
    assert_eq!(
        headings(&direct),
        ["port", "service", "port", "source port"]
    );
    let (from, to, begins) = translated(&direct);
    assert!(from.starts_with("10.0.0.5:61") && begins, "{from}");
    assert_eq!(to, "10.0.0.1:8080");
    // What is over takes no port.
    tables.held.settings.timeouts = [1; 8];
    let direct = ask(&tables, "10.0.0.5:5000", "10.0.0.1:8080");
    assert_eq!(direct.outcome, Outcome::Unchanged);
    let other = ask(&tables, "10.0.0.5:5000", "10.0.0.10:80");
    assert_eq!(other.steps.last().unwrap().heading(), "way");
}

#[test]
fn goes_on_to_the_endpoint() {
    let mut tables = tables("10.0.0.1:6123", target_flags::LOCAL);
    tables.ports.insert(6123, 5);
    let endpoint = Endpoint {
        policy: Policy::Listed as u8,
        ..Endpoint::default()
    };
    tables.endpoints.insert(at("10.0.0.1:6123").any(), endpoint);
    let explanation = ask(&tables, "10.0.0.10:5000", "10.0.0.10:80");
    let last = explanation.steps.last().unwrap().to_string();
    assert_eq!(
        last,
        "the endpoint jm listens on *:6123: recipients become local, its own name is not known yet, for the aliases jm:6123"
    );
    assert!(explanation.steps.contains(&Step::Local { turned: true }));
    let json = serde_json::to_string(&explanation).unwrap();
    let back: Explanation = serde_json::from_str(&json).unwrap();
    assert_eq!(back, explanation);
}

#[test]
fn packets_that_cannot_be_are_told() {
    let why = |from: &str, from_port, to: &str| {
        let question = Question {
            protocol: "tcp".to_owned(),
            from: from.parse().unwrap(),
            from_port,
            to: to.parse().unwrap(),
        };
        question.impossible()
    };
    for (from, from_port, to, words) in [
        ("fe80::1", None, "10.0.0.1:80", "IPv4"),
        ("10.0.0.5", None, "[fd00::1]:80", "IPv4"),
        ("0.0.0.0", None, "10.0.0.1:80", "unspecified"),
        ("10.0.0.5", None, "0.0.0.0:80", "unspecified"),
        ("::", None, "[fd00::1]:80", "unspecified"),
        ("10.0.0.5", None, "10.0.0.1:0", "port 0"),
        ("10.0.0.5", Some(0), "10.0.0.1:80", "port 0"),
        ("224.0.0.1", None, "10.0.0.1:80", "many hosts"),
        ("10.0.0.5", None, "255.255.255.255:80", "many hosts"),
    ] {
        let told = why(from, from_port, to).unwrap_or_default();
        assert!(told.contains(words), "{from} to {to}: {told}");
    }
    assert_eq!(why("10.0.0.5", Some(1), "10.0.0.1:80"), None);
    assert_eq!(why("::ffff:10.0.0.5", None, "10.0.0.1:80"), None);
    assert_eq!(why("127.0.0.1", None, "10.0.0.1:80"), None);
}
