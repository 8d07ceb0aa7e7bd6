//! The traffic harness itself, with plain TCP and no translation. When this fails, the machine or the
//! harness is at fault, not truename.

use std::time::Duration;

use truename_tests::{
    traffic::{Connection, Dial, Frames, Impairment, Lab, Pace},
    wire::{Names, Spec},
};

/// Names that need no translation.
fn same() -> Names {
    Names::flink("jobmanager", "jobmanager")
}

fn exchange(connection: &Connection, spec: &Spec, pace: Pace) {
    connection.exchange(&spec.script(), pace).unwrap();
}

#[test]
fn plain_traffic_arrives_in_every_lab() {
    for lab in [Lab::direct, Lab::direct_v6, Lab::routed, Lab::loopback] {
        let lab = lab().unwrap();
        let connection = lab.connect(Dial::default()).unwrap();
        exchange(&connection, &Spec::mixed(&same(), 1, 50), Pace::default());
        connection.close_client_half().unwrap();
        connection.close_server_half().unwrap();
    }
}

#[test]
fn a_missing_translation_is_noticed() {
    let lab = Lab::direct().unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    let script = Spec::mixed(&Names::flink("jobmanager", "jm"), 1, 50).script();
    let error = connection.exchange(&script, Pace::default()).unwrap_err();
    assert!(
        format!("{error:#}").contains("wrong translation"),
        "{error:#}"
    );
}

#[test]
fn the_line_impairs_and_tcp_repairs() {
    for frames in [Frames::Segments, Frames::Gso] {
        let impairment = Impairment {
            delay: Duration::from_millis(2),
            loss: 0.02,
            duplication: 0.02,
            reordering: 0.05,
            frames,
            ..Impairment::default()
        };
        let lab = Lab::impaired(impairment, 7).unwrap();
        let dial = Dial {
            segment: Some(536),
            ..Dial::default()
        };
        let connection = lab.connect(dial).unwrap();
        exchange(
            &connection,
            &Spec::sizes(&same(), 2, &[200_000, 1, 50_000]),
            Pace::default(),
        );
        let counts = lab.line().unwrap().counts().counts();
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }
}

#[test]
fn acknowledgements_may_take_another_path() {
    let lab = Lab::asymmetric().unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    exchange(&connection, &Spec::mixed(&same(), 8, 50), Pace::default());
    let arrived = |name| lab.server().arrived(name).unwrap().0;
    let (by_first, by_second) = (arrived("s0"), arrived("s1"));
    assert!(
        by_first > 10_000 && by_second < 2_000,
        "{by_first} {by_second}"
    );
}

#[test]
fn offloads_can_be_switched() {
    let lab = Lab::direct().unwrap();
    for on in [false, true] {
        lab.segmentation_offload(on).unwrap();
        lab.checksum_offload(on).unwrap();
        let connection = lab.connect(Dial::default()).unwrap();
        exchange(
            &connection,
            &Spec::sizes(&same(), 3, &[1_000_000]),
            Pace::default(),
        );
    }
}

#[test]
fn sequence_numbers_can_be_chosen() {
    let lab = Lab::direct().unwrap();
    let dial = Dial {
        sequence: Some(u32::MAX - 1_000),
        ..Dial::default()
    };
    let connection = lab.connect(dial).unwrap();
    exchange(&connection, &Spec::mixed(&same(), 4, 50), Pace::default());
}

#[test]
fn a_connection_can_exist_without_a_handshake() {
    let lab = Lab::direct().unwrap();
    let dial = Dial {
        port: 40_123,
        ..Dial::default()
    };
    let sequences = (u32::MAX - 2_000, u32::MAX - 3_000);
    let connection = lab.established(dial, sequences).unwrap();
    exchange(&connection, &Spec::mixed(&same(), 5, 50), Pace::default());
}

#[test]
fn a_held_reader_closes_the_window() {
    let lab = Lab::direct().unwrap();
    let dial = Dial {
        buffer: Some(4_096),
        ..Dial::default()
    };
    let connection = lab.connect(dial).unwrap();
    let pace = Pace {
        read: 1_024,
        hold: true,
        ..Pace::default()
    };
    exchange(
        &connection,
        &Spec::sizes(&same(), 6, &[100, 8_000_000]),
        pace,
    );
}

#[test]
fn a_reset_is_seen() {
    let lab = Lab::direct().unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    connection.reset().unwrap();
}
