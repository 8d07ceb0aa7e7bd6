//! Which connections are relayed, and what is told of them.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
};

use truename_tests::{
    traffic::Lab,
    wire::{Names, control},
};

use crate::hosts::{Hosts, LONG, fill, pass, read_frame, reset};

#[test]
fn without_a_relay_a_connection_is_left_alone_from_its_first_frame() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &[]);
    let (mut client, mut server) = hosts.connect();
    for _ in 0..2 {
        hosts.exchange(&mut client, &mut server, &hosts.names.alias.to_string(), 10);
    }
    assert_eq!(hosts.counter("no_fit"), 1);
    for counter in ["rewritten_inbound", "rewritten_outbound", "reset_relay"] {
        assert_eq!(hosts.counter(counter), 0, "{counter}");
    }
    let alias = format!("{LONG}:6123");
    let rows = hosts
        .truename
        .rows("aliases", &[("alias", &alias)])
        .unwrap();
    assert_eq!(
        (&rows[0]["no_fit"], &rows[0]["relayed"]),
        (&true.into(), &false.into())
    );
    hosts
        .truename
        .rows("flows", &[("alias", &alias), ("state", "left_alone")])
        .unwrap();
    let from = client.local_addr().unwrap().ip().to_string();
    let to = hosts.listener.local_addr().unwrap().to_string();
    let explained = hosts.truename.words(&["explain", &from, &to]).unwrap();
    assert!(
        explained.contains("enabled = true in [relay]"),
        "{explained}"
    );
    let text = hosts.truename.text("status").unwrap();
    assert!(text.contains("enabled = true in [relay]"), "{text}");
}

#[test]
fn a_client_whose_alias_fits_is_relayed_once_and_then_translated_in_place() {
    let names = Names::flink("jobmanager", "jm");
    let hosts = Hosts::named(Lab::direct().unwrap(), names, &["--relay"]);
    let (client, server) = hosts.relayed();
    assert_eq!(hosts.counter("relay_steered"), 1);
    drop((client, server));
    let (mut client, mut server) = hosts.connect();
    client.write_all(&hosts.request("jm:6123", 10)).unwrap();
    let arrived = read_frame(&mut server);
    assert_ne!(arrived[..], hosts.request("jm:6123", 10)[4..]);
    assert_eq!(hosts.counter("rewritten_inbound"), 1);
    assert_eq!(hosts.counter("relay_steered"), 1);
    // The relay and the kernel program mean the same client.
    let rows = hosts
        .truename
        .rows("peers", &[("alias", "jm:6123")])
        .unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
}

#[test]
fn a_connection_is_relayed_where_the_node_is_on_this_host() {
    for lab in [Lab::direct().unwrap(), Lab::direct_v6().unwrap()] {
        is_relayed(lab);
    }
}

#[test]
fn a_connection_is_relayed_where_the_node_is_in_a_container() {
    is_relayed(Lab::routed().unwrap());
}

fn is_relayed(lab: Lab) {
    let hosts = Hosts::new(lab, &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    // The node sees an address of its own.
    let seen = server.peer_addr().unwrap().ip();
    assert_eq!(seen, hosts.listener.local_addr().unwrap().ip());
    for size in [0, 100, 200, 20_000, (10 << 20) - 1000] {
        hosts.exchange(&mut client, &mut server, "jm:6123", size);
    }
    let alias = format!("{LONG}:6123");
    let relayed = [("alias", alias.as_str()), ("state", "relayed")];
    let rows = hosts.truename.rows("flows", &relayed).unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    let rows = hosts
        .truename
        .rows("aliases", &[("alias", &alias)])
        .unwrap();
    assert_eq!(rows[0]["relayed"], true);
    let from = client.local_addr().unwrap().ip().to_string();
    let to = hosts.listener.local_addr().unwrap().to_string();
    let explained = hosts.truename.words(&["explain", &from, &to]).unwrap();
    let expected =
        format!("the alias {alias} is longer than the canonical name: its connections are relayed");
    assert!(explained.contains(&expected), "{explained}");
    let announced = hosts.names.client.to_string();
    let peer = [("announced", announced.as_str()), ("alias", alias.as_str())];
    let rows = hosts.truename.rows("peers", &peer).unwrap();
    assert_eq!((rows.len(), &rows[0]["client"]), (1, &from.into()));
    assert_eq!(rows[0]["system"], "flink");
    assert_eq!(hosts.counter("reset_relay"), 0);
    assert_eq!(hosts.counter("rewritten_inbound"), 0);
    // Each side ends by itself.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    let last = hosts.answer("jm:6123", 10);
    pass(&mut server, &mut client, &last, &hosts.answer(&alias, 10));
    drop(server);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    drop(client);
    // Another one is relayed at once.
    let (mut client, mut server) = hosts.connect();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    assert_eq!(hosts.counter("reset_relay"), 0);
}

#[test]
fn a_port_that_is_used_again_belongs_to_its_new_connection() {
    const PORT: u16 = 40123;
    let names = Names::flink("jobmanager", "jm");
    let mut hosts = Hosts::named(Lab::direct().unwrap(), names, &["--relay"]);
    // The first connection hangs until the second one is there.
    let (mut client, first) = hosts.announce(hosts.dial_from(PORT));
    fill(&mut client, &control(3).repeat(1000));
    reset(client);
    let (mut client, mut server) = hosts.announce(hosts.dial_from(PORT));
    drop(first);
    hosts.wait_for_connections(1);
    hosts.exchange(&mut client, &mut server, "jobmanager:6123", 10);
    assert_eq!(hosts.counter("rewritten_inbound"), 0);
    // A relayed connection that a killed agent had is not one for ever. Now the alias is known to fit.
    hosts.truename.kill_agent();
    reset(client);
    hosts.truename.start_agent().unwrap();
    hosts.truename.wait_relay(1).unwrap();
    let (mut client, mut server) = hosts.announce(hosts.dial_from(PORT));
    client.write_all(&hosts.request("jm:6123", 10)).unwrap();
    let arrived = read_frame(&mut server);
    assert_ne!(arrived[..], hosts.request("jm:6123", 10)[4..]);
    assert_eq!(hosts.counter("rewritten_inbound"), 1);
}

#[test]
fn a_client_of_an_endpoint_with_another_protocol_is_relayed_once() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let hello = [0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5];
    for _ in 0..2 {
        let (mut client, mut server) = (hosts.dial().unwrap(), hosts.accept());
        // The node speaks first, and waits for the answer.
        pass(&mut server, &mut client, b"hi\n", b"hi\n");
        pass(&mut client, &mut server, &hello, &hello);
        pass(&mut server, &mut client, &hello, &hello);
        assert_eq!(hosts.counter("relay_steered"), 1);
    }
}
