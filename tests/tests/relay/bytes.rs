//! What passes a relayed connection: bytes at any pace, ends and resets.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    path::Path,
    time::Duration,
};

use truename_tests::{
    traffic::{DEADLINE, Lab},
    truename::Truename,
    wait::wait_until,
    wire::{associate, control},
};

use crate::hosts::{Hosts, assert_broken, assert_reset, fill, read_frame, reset};

#[test]
fn the_kernel_asks_silent_clients_and_nodes_whether_they_are_there() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (client, server) = hosts.relayed();
    let mine = [&client, &server].map(|stream| stream.local_addr().unwrap().to_string());
    wait_until(DEADLINE, "two timers of the relay", || {
        let mut command = hosts.lab.server().command(Path::new("ss"), &[])?;
        command.args(["-Htno", "state", "established"]);
        let shown = String::from_utf8(command.output()?.stdout)?;
        // One to the client, and one to the node.
        let asked = shown.lines().filter(|line| {
            let peer = line.split_whitespace().nth(3).unwrap_or_default();
            mine.iter().any(|mine| mine == peer) && line.contains("timer:(keepalive,")
        });
        anyhow::ensure!(asked.count() == 2, "{shown}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn resets_pass_the_relay() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (client, mut server) = hosts.relayed();
    reset(client);
    assert_reset(&mut server);
    let (mut client, server) = hosts.connect();
    reset(server);
    assert_reset(&mut client);
}

#[test]
fn a_reset_passes_a_relay_that_waits_to_write_or_has_seen_an_end() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let heartbeats = control(3).repeat(1000);
    // The node does not read.
    let (mut client, server) = hosts.relayed();
    fill(&mut client, &heartbeats);
    reset(client);
    hosts.wait_for_connections(0);
    drop(server);
    // The client does not read, and the node goes.
    let (client, mut server) = hosts.connect();
    fill(&mut server, &heartbeats);
    reset(server);
    hosts.wait_for_connections(0);
    drop(client);
    // The client has ended its side before.
    let (client, mut server) = hosts.connect();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    reset(client);
    hosts.wait_for_connections(0);
    assert_broken(&mut server);
    // And the node.
    let (mut client, server) = hosts.connect();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    reset(server);
    hosts.wait_for_connections(0);
    assert_broken(&mut client);
}

#[test]
fn a_slow_reader_slows_the_sender_down_and_loses_nothing() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    let frame = hosts.request(&hosts.names.alias.to_string(), 100_000);
    let expected = hosts.request("jm:6123", 100_000);
    let sent = fill(&mut client, &frame);
    // It slows nobody else down.
    let (mut other, mut its) = hosts.connect();
    hosts.exchange(&mut other, &mut its, "jm:6123", 20_000);
    let rest = frame.len() - sent % frame.len();
    let frames = sent / frame.len() + 1;
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(&frame[frame.len() - rest..]).unwrap());
        for number in 0..frames {
            let mut arrived = vec![0; expected.len()];
            server.read_exact(&mut arrived).unwrap();
            assert!(arrived == expected, "frame {number} of {frames}");
        }
    });
}

#[test]
fn bytes_that_come_one_by_one_arrive() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    client.set_nodelay(true).unwrap();
    let frame = hosts.request(&hosts.names.alias.to_string(), 10);
    for byte in &frame {
        client.write_all(std::slice::from_ref(byte)).unwrap();
    }
    let expected = hosts.request("jm:6123", 10);
    assert_eq!(read_frame(&mut server), expected[4..]);
}

#[test]
fn a_frame_that_ends_early_passes_as_far_as_it_came() {
    let hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    let ends = |from: &mut TcpStream, to: &mut TcpStream, sent: &[u8], expected: &[u8]| {
        from.write_all(sent).unwrap();
        from.shutdown(Shutdown::Write).unwrap();
        let mut arrived = Vec::new();
        to.read_to_end(&mut arrived).unwrap();
        assert!(arrived == expected, "{} bytes", arrived.len());
    };
    // A frame of the node is translated when it is complete.
    let answer = &hosts.answer("jm:6123", 100_000)[..50_000];
    ends(&mut server, &mut client, answer, answer);
    // Of a long frame of the client the recipient is.
    let sent = hosts.request(&hosts.names.alias.to_string(), 100_000);
    let arrives = hosts.request("jm:6123", 100_000);
    let shorter = sent.len() - arrives.len();
    let (sent, arrives) = (&sent[..50_000], &arrives[..50_000 - shorter]);
    ends(&mut client, &mut server, sent, arrives);
    hosts.wait_for_connections(0);
}

#[test]
fn connections_that_send_nothing_cost_little_and_those_beyond_the_limit_are_reset() {
    let lab = Lab::direct().unwrap();
    let hosts = Hosts::with(lab, "handshake_timeout = \"15s\"");
    let (mut client, mut server) = hosts.relayed();
    // One sends a byte a second.
    let mut slow = (hosts.dial().unwrap(), hosts.accept());
    let memory = resident(&hosts.truename);
    let idle: Vec<_> = (0..1000)
        .map(|_| (hosts.dial().unwrap(), hosts.accept()))
        .collect();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    let more = resident(&hosts.truename) - memory;
    assert!(more < 64 << 10, "{more} KiB for {} connections", idle.len());
    // 1024 is the limit.
    let mut beyond: Vec<_> = (0..23).map(|_| hosts.dial().unwrap()).collect();
    let last = beyond.last_mut().unwrap();
    assert_reset(last);
    let (status, code) = hosts.truename.status().unwrap();
    assert_eq!(status["relay"]["refused"], 1);
    assert_eq!(code, 3, "{status}");
    // They do not stay for ever.
    let associate = associate("flink", &hosts.names.client, 7);
    let mut bytes = associate.iter();
    while let Some(byte) = bytes.next()
        && slow.0.write_all(&[*byte]).is_ok()
    {
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(bytes.next().is_some(), "it could say all");
    assert_reset(&mut slow.1);
    for (mut client, mut server) in idle {
        assert_reset(&mut client);
        assert_reset(&mut server);
    }
    hosts.wait_for_connections(1);
    let (status, _) = hosts.truename.status().unwrap();
    assert_eq!(status["relay"]["silent"], 1023, "{status}");
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
}

/// KiB of an agent's memory.
fn resident(truename: &Truename) -> u64 {
    let path = format!("/proc/{}/status", truename.agent().unwrap().pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
