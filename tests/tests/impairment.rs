//! Packets lost, doubled and out of order between client and server.

use truename_tests::{
    traffic::{Dial, Impairment, Lab, Pace},
    wire::{Names, Spec},
};

const CANONICAL_AUTHORITY: &str = "jobmanager:6123";

/// Runs some connections at a time, the segments of each of another size.
fn run(impairment: Impairment, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let lab = Lab::impaired(impairment, seed).unwrap();
        let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
        let connections: Vec<_> = [88, 200, 536, 1460]
            .into_iter()
            .map(|segment| {
                let dial = Dial {
                    segment: Some(segment),
                    ..Dial::default()
                };
                (segment, lab.connect(dial).unwrap())
            })
            .collect();
        std::thread::scope(|scope| {
            for (segment, connection) in &connections {
                scope.spawn(move || {
                    let names = Names::flink("jobmanager", "jm");
                    let script = Spec::mixed(&names, seed ^ u64::from(*segment), 60).script();
                    if let Err(error) = connection.exchange(&script, Pace::default()) {
                        panic!("seed {seed}, MSS {segment}: {error:#}");
                    }
                });
            }
        });
        let [forwarded, ..] = lab.line().unwrap().counts().counts();
        assert!(
            forwarded > 100,
            "the line forwarded {forwarded} packets only"
        );
    }
}

#[test]
fn lost_packets() {
    let impairment = Impairment {
        loss: 0.01,
        ..Impairment::default()
    };
    run(impairment, 100..104);
}

#[test]
fn doubled_packets() {
    let impairment = Impairment {
        duplication: 0.1,
        ..Impairment::default()
    };
    run(impairment, 200..204);
}

#[test]
fn packets_out_of_order() {
    let impairment = Impairment {
        reordering: 0.1,
        ..Impairment::default()
    };
    run(impairment, 300..304);
}

#[test]
fn all_of_it() {
    let impairment = Impairment {
        loss: 0.02,
        duplication: 0.02,
        reordering: 0.05,
        ..Impairment::default()
    };
    run(impairment, 400..408);
}

/// A large message over a bad line: holes inside a body must neither stall nor corrupt.
#[test]
fn large_messages_over_a_bad_line() {
    let impairment = Impairment {
        loss: 0.005,
        duplication: 0.005,
        reordering: 0.02,
        ..Impairment::default()
    };
    let lab = Lab::impaired(impairment, 500).unwrap();
    let _truename = lab.truename(Some(CANONICAL_AUTHORITY)).unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    let names = Names::flink("jobmanager", "jm");
    let script = Spec::sizes(&names, 501, &[100, 1_000_000, 1, 50, 300_000, 20]).script();
    connection.exchange(&script, Pace::default()).unwrap();
}
