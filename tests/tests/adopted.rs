//! Connections that are older than the agent, at an endpoint whose name nobody has configured.

use std::io::{Read as _, Write as _};

use truename_tests::{
    traffic::{DEADLINE, Dial, Lab},
    wire::{Envelope, Names, associate},
};

/// A client tries again and again; so many tries are enough for it to be understood.
const TRIES: usize = 8;

#[test]
fn a_connection_without_a_known_name_is_translated_both_ways_by_what_it_carries() {
    let names = Names::flink("jobmanager", "jm");
    let lab = Lab::direct().unwrap();
    let connection = lab.connect(Dial::default()).unwrap();
    let pass = |from_client: bool, bytes: &[u8]| {
        let (mut from, mut to) = if from_client {
            (connection.client(), connection.server())
        } else {
            (connection.server(), connection.client())
        };
        from.write_all(bytes).unwrap();
        let mut arrived = vec![0; bytes.len()];
        to.set_read_timeout(Some(DEADLINE)).unwrap();
        to.read_exact(&mut arrived).unwrap();
        arrived
    };
    pass(true, &associate("flink", &names.client, 7));
    pass(false, &associate("flink", &names.canonical, 8));

    let _truename = lab.truename(None).unwrap();
    let frame = |recipient: String, sender: String| {
        Envelope {
            recipient,
            sender: Some(sender),
            body: b"are you there?".to_vec(),
            serializer: 1,
            ..Envelope::default()
        }
        .frame()
    };
    let client = |path: &str| names.path(&names.client, path);
    let slashes = "/".repeat(".tcp@/".len() + names.alias.to_string().len());
    let local = format!("pekko://flink{slashes}user/rm");
    let request = frame(names.path(&names.alias, "/user/rm"), client("/temp/a"));
    let translated_request = frame(local, client("/temp/a"));
    let padded = names
        .alias
        .padded(names.canonical.to_string().len())
        .unwrap();
    let answer = frame(client("/temp/a"), names.path(&names.canonical, "/user/rm"));
    let translated_answer = frame(client("/temp/a"), names.path(&padded, "/user/rm"));

    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let right = [
            pass(true, &request) == translated_request,
            pass(false, &answer) == translated_answer,
        ];
        seen.push(right);
    }
    assert_eq!(
        seen.last(),
        Some(&[true, true]),
        "translated inbound and outbound, by try: {seen:?}"
    );
    // What was understood once stays so.
    for way in 0..2 {
        let first = seen.iter().position(|right| right[way]).unwrap();
        assert!(seen[first..].iter().all(|right| right[way]), "{seen:?}");
    }
}
