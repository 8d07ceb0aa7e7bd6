//! Real TCP through truename: every byte checked in both directions, in every arrangement and size.

use truename_tests::{
    traffic::{Dial, Lab, Pace},
    wire::{Authority, Names, Spec},
};

/// The canonical name of the server.
const CANONICAL: &str = "jobmanager";
/// The same with the port, as truename takes it.
const CANONICAL_AUTHORITY: &str = "jobmanager:6123";
/// The largest message of a frame that Flink accepts, less what is around it.
const LARGEST: usize = 10_485_756 - 400;

fn short_alias() -> Names {
    Names::flink(CANONICAL, "jm")
}

#[test]
fn streams_are_translated_in_every_lab() {
    for (name, lab) in [
        ("direct", Lab::direct as fn() -> anyhow::Result<Lab>),
        ("direct, IPv6", Lab::direct_v6),
        ("routed, the program on both sides", Lab::routed),
        ("loopback", Lab::loopback),
    ] {
        let lab = lab().unwrap();
        let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
        for seed in 0..4 {
            let connection = lab.connect(Dial::default()).unwrap();
            let script = Spec::mixed(&short_alias(), seed, 60).script();
            if let Err(error) = connection.exchange(&script, Pace::default()) {
                panic!("{name}, seed {seed}: {error:#}");
            }
        }
    }
}

#[test]
fn the_canonical_name_is_learned_from_the_handshake() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(None).unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    let script = Spec::mixed(&short_alias(), 11, 60).script();
    connection.exchange(&script, Pace::default()).unwrap();
}

#[test]
fn aliases_may_be_shorter_equal_and_longer() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let other_port = Names {
        alias: Authority::new("jm", 31_234),
        ..short_alias()
    };
    let akka = Names {
        scheme: "akka",
        ..short_alias()
    };
    let address = Names {
        alias: Authority::new("[fd00::1]", 6123),
        ..short_alias()
    };
    for (number, names) in [
        short_alias(),
        Names::flink(CANONICAL, "taskmaster"),
        // Longer: the connection is left alone.
        Names::flink(CANONICAL, "jobmanager.alias.example.internal"),
        Names::flink(CANONICAL, "10.99.0.1"),
        // No alias at all.
        Names::flink(CANONICAL, CANONICAL),
        other_port,
        akka,
        address,
    ]
    .iter()
    .enumerate()
    {
        // An address of its own for each: what one client calls the server must not reach another.
        let dial = Dial {
            from: number as u8,
            ..Dial::default()
        };
        for seed in 0..3 {
            let connection = lab.connect(dial).unwrap();
            let script = Spec::mixed(names, seed, 60).script();
            if let Err(error) = connection.exchange(&script, Pace::default()) {
                panic!("alias {}, seed {seed}: {error:#}", names.alias);
            }
        }
    }
}

#[test]
fn segments_may_have_every_size() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    for offload in [true, false] {
        lab.segmentation_offload(offload).unwrap();
        for segment in [88, 89, 96, 128, 177, 256, 536, 1000, 1220, 1448, 1460] {
            let dial = Dial {
                segment: Some(segment),
                ..Dial::default()
            };
            let connection = lab.connect(dial).unwrap();
            let script = Spec::mixed(&short_alias(), segment.into(), 40).script();
            if let Err(error) = connection.exchange(&script, Pace::default()) {
                panic!("MSS {segment}, segmentation offload {offload}: {error:#}");
            }
        }
    }
}

#[test]
fn writes_may_be_cut_anywhere() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    for write in [1, 2, 3, 7, 20, 61, 150, 1000] {
        let connection = lab.connect(Dial::default()).unwrap();
        let sizes = [1, 30, 200, 64, 700, 5, 100, 300];
        let script = Spec::sizes(&short_alias(), write as u64, &sizes).script();
        let pace = Pace {
            write,
            ..Pace::default()
        };
        if let Err(error) = connection.exchange(&script, pace) {
            panic!("writes of at most {write} bytes: {error:#}");
        }
    }
}

#[test]
fn checksums_may_be_left_to_the_device_or_not() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    for checksum in [false, true] {
        lab.checksum_offload(checksum).unwrap();
        let connection = lab.connect(Dial::default()).unwrap();
        let script = Spec::mixed(&short_alias(), 21, 100).script();
        if let Err(error) = connection.exchange(&script, Pace::default()) {
            panic!("checksum offload {checksum}: {error:#}");
        }
    }
}

#[test]
fn messages_may_have_every_size() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let sizes = [
        1, 2, 17, 127, 128, 129, 1_000, 16_383, 16_384, 16_385, 65_535, 65_536, 1_000_000, LARGEST,
        1, 100,
    ];
    for offload in [true, false] {
        lab.segmentation_offload(offload).unwrap();
        let connection = lab.connect(Dial::default()).unwrap();
        let script = Spec::sizes(&short_alias(), 31, &sizes).script();
        if let Err(error) = connection.exchange(&script, Pace::default()) {
            panic!("segmentation offload {offload}: {error:#}");
        }
    }
}

#[test]
fn sixty_four_connections_do_not_disturb_each_other() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let connections: Vec<_> = (0..64)
        .map(|number| {
            let dial = Dial {
                from: number % 8,
                ..Dial::default()
            };
            lab.connect(dial).unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for (number, connection) in connections.iter().enumerate() {
            scope.spawn(move || {
                let script = Spec::mixed(&short_alias(), number as u64, 30).script();
                if let Err(error) = connection.exchange(&script, Pace::default()) {
                    panic!("connection {number}: {error:#}");
                }
            });
        }
    });
}

#[test]
fn several_aliases_are_used_at_once() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let aliases = [
        "jm",
        "taskmaster",
        "10.99.0.1",
        "a",
        "flink-jm",
        "localhost",
    ];
    // Two connections for each alias: from an address of its own, and from one that all share.
    let connections: Vec<_> = aliases
        .iter()
        .enumerate()
        .flat_map(|(number, alias)| [(alias, number as u8), (alias, 7)])
        .map(|(alias, from)| {
            let dial = Dial {
                from,
                ..Dial::default()
            };
            (*alias, lab.connect(dial).unwrap())
        })
        .collect();
    std::thread::scope(|scope| {
        for (number, (alias, connection)) in connections.iter().enumerate() {
            scope.spawn(move || {
                let script =
                    Spec::mixed(&Names::flink(CANONICAL, alias), number as u64, 40).script();
                if let Err(error) = connection.exchange(&script, Pace::default()) {
                    panic!("alias {alias}, connection {number}: {error:#}");
                }
            });
        }
    });
}

#[test]
fn replies_may_travel_on_another_connection_of_the_client() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let (older, newer) = (
        lab.connect(Dial::default()).unwrap(),
        lab.connect(Dial::default()).unwrap(),
    );
    let names = short_alias();
    // Both are greeted; then the client speaks on the newer one only, the server on the older one only.
    for (connection, seed) in [(&older, 41), (&newer, 42)] {
        let greeting = Spec {
            names: names.clone(),
            seed,
            greet: true,
            near_misses: true,
            client: Vec::new(),
            server: Vec::new(),
        };
        connection
            .exchange(&greeting.script(), Pace::default())
            .unwrap();
    }
    let script = Spec::mixed(&names, 43, 60).continued(43).script();
    newer
        .exchange_over(&older, &script, Pace::default())
        .unwrap();
}
