//! What connections do besides carrying data: ends, resets, closed windows, sequence numbers.

use std::{io::Write as _, net::Shutdown};

use truename_tests::{
    traffic::{Dial, Lab, Pace},
    wire::{Envelope, Names, Piece, Spec, associate, outbound},
};

const CANONICAL_AUTHORITY: &str = "jobmanager:6123";

fn names() -> Names {
    Names::flink("jobmanager", "jm")
}

#[test]
fn a_half_closed_connection_goes_on_in_the_other_direction() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    connection
        .exchange(&Spec::mixed(&names(), 1, 30).script(), Pace::default())
        .unwrap();
    connection.close_client_half().unwrap();
    let later = Spec::mixed(&names(), 2, 30).continued(2).script().server;
    connection
        .server_sends(&later.rest, &later.expected)
        .unwrap();
    connection.close_server_half().unwrap();
}

#[test]
fn a_port_is_used_again_after_a_reset() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let dial = Dial {
        port: 40_001,
        ..Dial::default()
    };
    for (seed, alias) in ["jm", "taskmaster", "a"].into_iter().enumerate() {
        let names = Names::flink("jobmanager", alias);
        let connection = lab.connect(dial).unwrap();
        let script = Spec::mixed(&names, seed as u64, 30).script();
        connection.exchange(&script, Pace::default()).unwrap();
        // In the middle of a frame.
        connection.client().write_all(&[0, 0, 1, 0, 0x0a]).unwrap();
        connection.reset().unwrap();
    }
}

#[test]
fn connections_without_data_are_nothing_special() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let dial = Dial {
        port: 40_002,
        ..Dial::default()
    };
    // Flink finds its own address so: connect, close.
    let empty = lab.connect(dial).unwrap();
    empty.client().shutdown(Shutdown::Both).unwrap();
    drop(empty);
    let connection = lab.connect(Dial::default()).unwrap();
    connection
        .exchange(&Spec::mixed(&names(), 3, 30).script(), Pace::default())
        .unwrap();
}

#[test]
fn readers_may_be_slow() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
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
    let script = Spec::sizes(&names(), 4, &[100, 3_000_000, 50, 2_000_000, 1]).script();
    connection.exchange(&script, pace).unwrap();
}

#[test]
fn sequence_numbers_wrap_around() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    // The handshake is seen; the wrap is at every place of the first frames.
    for before in [1, 2, 40, 60, 61, 62, 70, 100, 130, 150, 1_000, 20_000] {
        let dial = Dial {
            sequence: Some(u32::MAX - before),
            ..Dial::default()
        };
        let connection = lab.connect(dial).unwrap();
        let script = Spec::mixed(&names(), before.into(), 40).script();
        if let Err(error) = connection.exchange(&script, Pace::default()) {
            panic!("{before} bytes before the wrap: {error:#}");
        }
    }
}

#[test]
fn a_connection_whose_beginning_was_not_seen_is_adopted() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    for (number, before) in [5_000, 100, 30].into_iter().enumerate() {
        let dial = Dial {
            port: 40_100 + number as u16,
            ..Dial::default()
        };
        // Both directions wrap around as well.
        let sequences = (u32::MAX - before, u32::MAX - 2 * before);
        let connection = lab.established(dial, sequences).unwrap();
        let script = Spec::mixed(&names(), before.into(), 40)
            .continued(before.into())
            .script();
        if let Err(error) = connection.exchange(&script, Pace::default()) {
            panic!("{before} bytes before the wrap: {error:#}");
        }
    }
}

/// A server that stops in the middle of its own name for longer than TCP waits before it repeats.
#[test]
fn a_name_may_stay_incomplete_for_long() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let envelope = Envelope {
        recipient: names().path(&names().client, "/user/a"),
        body: names().path(&names().canonical, "/user/b").into_bytes(),
        serializer: 20,
        ..Envelope::default()
    }
    .frame();
    let expected = [Piece::Exact(outbound(&envelope, &names()))];
    let name = names().canonical.to_string();
    let start = envelope
        .windows(name.len())
        .position(|window| window == name.as_bytes())
        .unwrap();
    for cut in [0, 1, 9, name.len()].map(|within| start + within) {
        let connection = lab.connect(Dial::default()).unwrap();
        let script = Spec::mixed(&names(), cut as u64, 10).script();
        connection.exchange(&script, Pace::default()).unwrap();
        let (front, back) = envelope.split_at(cut);
        connection.server().write_all(front).unwrap();
        connection.wait_server_repeats(4).unwrap();
        connection.server().write_all(back).unwrap();
        if let Err(error) = connection.server_sends(&[], &expected) {
            panic!("cut {} bytes into the name: {error:#}", cut - start);
        }
    }
}

#[test]
fn what_is_not_remoting_passes_untouched() {
    let lab = Lab::direct().unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let handshake = associate("flink", &names().client, 1);
    let canonical = "tcp://flink@jobmanager:6123/".repeat(20);
    let tls = [
        b"\x16\x03\x01\x02\x00\x01\x00".as_slice(),
        canonical.as_bytes(),
    ]
    .concat();
    let http = format!("GET / HTTP/1.1\r\nHost: jm:6123\r\nReferer: {canonical}\r\n\r\n");
    let too_long = [
        &[0x7f, 0xff, 0xff, 0xff][..],
        &handshake,
        canonical.as_bytes(),
    ]
    .concat();
    for (name, bytes) in [
        ("TLS", tls.as_slice()),
        ("HTTP", http.as_bytes()),
        ("a frame that is too long", &too_long),
        ("a single byte", b"x"),
    ] {
        let connection = lab.connect(Dial::default()).unwrap();
        let expected = [Piece::Exact(bytes.to_vec())];
        for outcome in [
            connection.client_sends(bytes, &expected),
            connection.server_sends(bytes, &expected),
        ] {
            if let Err(error) = outcome {
                panic!("{name}: {error:#}");
            }
        }
    }
}
