//! An endpoint at any address is one of this host, not of the hosts around it. nftables translates no names; a service
//! at any address is compared with its rules in `nat_strangers.rs`.

use std::io::{Read as _, Write as _};

use truename_tests::{
    namespace::Namespace,
    scratch::Scratch,
    traffic::{DEADLINE, Dial, Lab},
    truename::Truename,
    wire::{Envelope, Names},
};

/// Runs truename for any address of a host, at its interface.
fn truename(host: &Namespace, interface: &str, scratch: &Scratch) -> Truename {
    let file = scratch.path().join("truename.toml");
    let text = format!(
        "[datapath]\ninterfaces = [\"{interface}\"]\n[[endpoint]]\nname = \"jm\"\nprotocol = \"pekko\"\nlisten = \"*:6123\"\n\
         canonical = \"jobmanager:6123\"\n"
    );
    std::fs::write(&file, text).unwrap();
    Truename::start_file(host, scratch, &file).unwrap()
}

/// Whether what the client sends to the server is translated.
fn is_translated(lab: &Lab) -> bool {
    let names = Names::flink("jobmanager", "jm");
    let connection = lab.connect(Dial::default()).unwrap();
    let frame = Envelope {
        recipient: names.path(&names.alias, "/user/rm"),
        body: b"are you there?".to_vec(),
        serializer: 1,
        ..Envelope::default()
    }
    .frame();
    (&mut connection.client()).write_all(&frame).unwrap();
    let mut arrived = vec![0; frame.len()];
    let mut server = connection.server();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    server.read_exact(&mut arrived).unwrap();
    arrived != frame
}

#[test]
fn connections_to_this_host_are_translated() {
    for lab in [Lab::direct().unwrap(), Lab::direct_v6().unwrap()] {
        let scratch = Scratch::new("star").unwrap();
        let _truename = truename(lab.server(), "s0", &scratch);
        assert!(is_translated(&lab));
    }
}

#[test]
fn connections_of_this_host_to_another_one_are_not() {
    for lab in [Lab::direct().unwrap(), Lab::direct_v6().unwrap()] {
        let scratch = Scratch::new("star").unwrap();
        let _truename = truename(lab.client(), "c0", &scratch);
        assert!(!is_translated(&lab));
    }
}
