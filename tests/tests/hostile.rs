//! Packets that a third host sends in the names of client and server. TCP ignores them all, and so has
//! truename to: what both really send is translated as before.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::ensure;
use truename_tests::{
    prog_run::flag,
    random::Random,
    traffic::{Connection, DEADLINE, Dial, Forged, Impairment, Lab, Pace, Stranger},
    truename::Truename,
    wait::wait_until,
    wire::{Authority, Envelope, Names, Spec, associate, inbound},
};

const CANONICAL: &str = "jobmanager:6123";
/// How far outside the window a number is.
const FAR: u32 = 100_000_000;

fn names() -> Names {
    Names::flink("jobmanager", "jm")
}

/// A connection on which both have spoken, and somebody who knows its addresses.
struct Scene {
    connection: Connection,
    stranger: Stranger,
    client: SocketAddr,
    server: SocketAddr,
    /// Sequence numbers of client and server.
    sequences: (u32, u32),
    // Dropped before the lab that it is in.
    _truename: Truename,
    lab: Lab,
}

impl Scene {
    fn new(canonical: Option<&str>) -> Self {
        Self::over(Impairment::default(), canonical)
    }

    fn over(impairment: Impairment, canonical: Option<&str>) -> Self {
        let lab = Lab::impaired(impairment, 77).unwrap();
        let truename = lab.truename(canonical).unwrap();
        let connection = lab.connect(Dial::default()).unwrap();
        let script = Spec::mixed(&names(), 1, 10).script();
        connection.exchange(&script, Pace::default()).unwrap();
        Self {
            stranger: lab.stranger().unwrap(),
            client: connection.client_address().unwrap(),
            server: lab.address(),
            sequences: connection.sequences().unwrap(),
            connection,
            _truename: truename,
            lab,
        }
    }

    /// A segment that the client seems to have sent, its numbers so far beside the true ones.
    fn of_client(&self, flags: u8, beside: u32, payload: &[u8]) -> Forged {
        Forged {
            source: self.client,
            destination: self.server,
            sequence: self.sequences.0.wrapping_add(beside),
            acknowledges: self.sequences.1.wrapping_add(beside),
            flags,
            payload: payload.to_vec(),
        }
    }

    /// The same of the server.
    fn of_server(&self, flags: u8, beside: u32, payload: &[u8]) -> Forged {
        Forged {
            source: self.server,
            destination: self.client,
            sequence: self.sequences.1.wrapping_add(beside),
            acknowledges: self.sequences.0.wrapping_add(beside),
            flags,
            payload: payload.to_vec(),
        }
    }

    /// Sends forged packets, and waits until they have arrived.
    fn send(&self, forged: &[Forged]) {
        let arrived = || self.lab.server().arrived("s0").unwrap().1;
        let before = arrived();
        for forged in forged {
            self.stranger.send(forged).unwrap();
        }
        wait_until(DEADLINE, "forged packets", || {
            let missing = (before + forged.len() as u64).saturating_sub(arrived());
            ensure!(missing == 0, "{missing} are missing");
            Ok(())
        })
        .unwrap();
    }

    /// What both send is translated as before.
    fn goes_on(&self) {
        let script = Spec::mixed(&names(), 2, 40).continued(2).script();
        self.connection
            .exchange(&script, Pace::default())
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    fn new_connection_is_translated(&self) {
        let connection = self.lab.connect(Dial::default()).unwrap();
        let script = Spec::mixed(&names(), 3, 20).script();
        connection
            .exchange(&script, Pace::default())
            .unwrap_or_else(|error| panic!("{error:#}"));
    }
}

fn request(recipient: &Authority, len: usize) -> Vec<u8> {
    let names = names();
    Envelope {
        recipient: names.path(recipient, "/user/a"),
        body: vec![b'.'; len],
        serializer: 1,
        ..Envelope::default()
    }
    .frame()
}

#[test]
fn a_blind_reset_followed_by_a_blind_syn_changes_nothing() {
    let scene = Scene::new(Some(CANONICAL));
    let mut random = Random::new(5);
    let forged: Vec<Forged> = (0..50)
        .flat_map(|_| {
            let beside = FAR + random.below(1 << 30) as u32;
            [
                scene.of_client(flag::RST, beside, &[]),
                scene.of_client(flag::SYN, beside, &[]),
                scene.of_server(flag::RST, beside, &[]),
                scene.of_server(flag::SYN, beside, &[]),
            ]
        })
        .collect();
    scene.send(&forged);
    scene.goes_on();
}

#[test]
fn blind_syns_do_not_keep_a_new_connection_from_being_translated() {
    let scene = Scene::new(Some(CANONICAL));
    // More than there is room for, from hosts that the server's stack does not listen to: it has limits of its
    // own.
    let server = scene.lab.server();
    server.ip("route add blackhole 10.99.0.96/27").unwrap();
    let flood: Vec<Forged> = (100..116)
        .flat_map(|host| (1..=320).map(move |port| ([10, 99, 0, host], 20_000 + port)))
        .map(|(host, port)| Forged {
            source: SocketAddr::new(host.into(), port),
            ..scene.of_client(flag::SYN, FAR, &[])
        })
        .collect();
    scene.send(&flood);
    scene.new_connection_is_translated();
    scene.goes_on();
}

#[test]
fn a_forged_acknowledgement_far_ahead_changes_nothing() {
    // With loss, so that there is something to send again.
    let impairment = Impairment {
        delay: Duration::from_millis(2),
        loss: 0.03,
        ..Impairment::default()
    };
    let scene = Scene::over(impairment, Some(CANONICAL));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for beside in [FAR, 10 * FAR] {
                    for forged in [
                        scene.of_client(flag::ACK, beside, &[]),
                        scene.of_server(flag::ACK, beside, &[]),
                    ] {
                        scene.stranger.send(&forged).unwrap();
                    }
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let script = Spec::mixed(&names(), 4, 400).continued(4).script();
        let outcome = scene.connection.exchange(&script, Pace::default());
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|error| panic!("{error:#}"));
    });
}

#[test]
fn a_forged_syn_ack_does_not_end_translation() {
    let scene = Scene::new(Some(CANONICAL));
    for beside in [FAR, 10 * FAR, 0u32.wrapping_sub(FAR)] {
        scene.send(&[
            scene.of_server(flag::SYN | flag::ACK, beside, &[]),
            scene.of_client(flag::SYN | flag::ACK, beside, &[]),
        ]);
    }
    scene.goes_on();
}

#[test]
fn forged_data_far_ahead_is_in_nobody_s_way_when_the_stream_gets_there() {
    const AHEAD: usize = 40_000_000;
    const BODY: usize = 5_000_000;
    let scene = Scene::new(Some(CANONICAL));
    let names = names();
    let evil = request(&names.alias, 60).repeat(8);
    let forged: Vec<Forged> = (0..64)
        .map(|step| scene.of_client(flag::ACK, (AHEAD + step * 1000) as u32, &evil))
        .collect();
    scene.send(&forged);
    let mut stream = Vec::new();
    while stream.len() < AHEAD + BODY {
        stream.extend(request(&names.alias, BODY));
        stream.extend(request(&names.alias, 20));
    }
    let expected = inbound(&stream, &names);
    scene
        .connection
        .client_sends(&stream, &expected)
        .unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn a_forged_handshake_of_two_packets_does_not_replace_a_learned_name() {
    let scene = Scene::new(None);
    let names = names();
    let evil = associate(&names.system, &Authority::new("evil", 6123), 666);
    for port in 0..20 {
        // A connection that nobody made: its beginning, and what the endpoint would say first.
        let client = SocketAddr::new(scene.client.ip(), 50_000 + port);
        let hello = Forged {
            source: client,
            ..scene.of_client(flag::SYN, FAR, &[])
        };
        let answer = Forged {
            source: scene.server,
            destination: client,
            sequence: 7_000_001,
            acknowledges: hello.sequence.wrapping_add(1),
            flags: flag::ACK,
            payload: evil.clone(),
        };
        scene.send(&[hello, answer]);
    }
    scene.new_connection_is_translated();
    scene.goes_on();
}
