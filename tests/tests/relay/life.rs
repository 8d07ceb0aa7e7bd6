//! Agents and nodes that end, and start again.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use truename_common::layout::VERSION;
use truename_tests::{
    namespace::Namespace,
    pinned::detach_link,
    traffic::{DEADLINE, Lab},
    wait::wait_until,
    wire::Names,
};

use crate::hosts::{Hosts, LONG, assert_reset, take_all};

#[test]
fn a_long_alias_that_nobody_could_relay_is_reset_and_relayed_when_somebody_can() {
    let mut hosts = Hosts::with(Lab::direct().unwrap(), "hold = \"0s\"");
    hosts.truename.kill_agent();
    // Nothing is known of the client: its alias may fit.
    let (mut client, _server) = hosts.connect();
    let alias = hosts.names.alias.to_string();
    client.write_all(&hosts.request(&alias, 10)).unwrap();
    assert_reset(&mut client);
    let refused = hosts.dial().expect_err("somebody accepts");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    hosts.truename.start_agent().unwrap();
    hosts.truename.wait_relay(1).unwrap();
    hosts.relayed();
    // The first reset may be lost.
    assert!(hosts.counter("reset_relay") >= 1);
    assert!(hosts.counter("relay_refused") >= 1);
}

#[test]
fn where_nobody_listens_clients_are_refused_until_somebody_does() {
    let mut hosts = Hosts::new(Lab::direct().unwrap(), &["--relay"]);
    let _open = hosts.relayed();
    let to = hosts.listener.local_addr().unwrap();
    let server = hosts.lab.server().clone();
    let listen = || server.run(|| TcpListener::bind(to)).unwrap().unwrap();
    // The listener goes, and nothing tells of it but the first client that comes.
    let elsewhere = server.run(|| TcpListener::bind("127.0.0.1:0"));
    drop(std::mem::replace(
        &mut hosts.listener,
        elsewhere.unwrap().unwrap(),
    ));
    let dial = || {
        let client = hosts.lab.client().run(|| TcpStream::connect(to)).unwrap();
        client.inspect(|client| client.set_read_timeout(Some(DEADLINE)).unwrap())
    };
    assert_reset(&mut dial().unwrap());
    let refused = || {
        wait_until(DEADLINE, "a refusal", || {
            let error = dial().err();
            let error = error.map(|error| error.kind());
            anyhow::ensure!(error == Some(ErrorKind::ConnectionRefused), "{error:?}");
            Ok(())
        })
        .unwrap();
    };
    refused();
    // A node that is started again gets its port, although a relayed connection has it.
    hosts.listener = listen();
    let connected = || wait_until(DEADLINE, "a connection", || Ok(dial()?)).unwrap();
    let (mut client, mut server) = hosts.announce(connected());
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
}

#[test]
fn a_killed_agent_ends_connections_and_its_successor_relays_again() {
    let mut hosts = Hosts::with(Lab::routed().unwrap(), "hold = \"1s\"");
    let (mut client, mut server) = hosts.relayed();
    hosts.truename.kill_agent();
    for stream in [&mut client, &mut server] {
        match stream.read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
    }
    // Nobody translates: the client is held, and then refused.
    let refused = hosts.dial().expect_err("somebody accepts");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    hosts.truename.start_agent().unwrap();
    hosts.truename.wait_relay(1).unwrap();
    let (mut client, mut server) = hosts.connect();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    assert_eq!(hosts.counter("reset_relay"), 0);
    assert!(hosts.counter("relay_held") >= 1);
    // Everything goes with a detach.
    hosts.truename.detach().unwrap();
    let (mut client, mut server) = hosts.connect();
    let alias = hosts.names.alias.to_string();
    hosts.exchange(&mut client, &mut server, &alias, 10);
    let _ = (&hosts.scratch, Namespace::name(hosts.lab.host()));
}

#[test]
fn what_somebody_removed_steers_again() {
    let hosts = Hosts::with(Lab::routed().unwrap(), "");
    drop(hosts.relayed());
    let relays = hosts.truename.bpffs().join(format!("v{VERSION}/relays"));
    let link = || {
        let mut pins = std::fs::read_dir(&relays).unwrap();
        pins.next().unwrap().unwrap().path()
    };
    let remove = |path: &Path| std::fs::remove_dir_all(path).unwrap();
    let sabotages: [(&str, &dyn Fn()); 4] = [
        ("the link", &|| std::fs::remove_file(link()).unwrap()),
        ("what hangs by the link", &|| detach_link(&link()).unwrap()),
        ("the links", &|| remove(&relays)),
        ("everything", &|| remove(hosts.truename.bpffs())),
    ];
    let reattached = || match hosts.truename.status() {
        Ok((status, _)) => status["reattached"].as_u64().unwrap(),
        // A table without its pin.
        Err(_) => 0,
    };
    for (what, sabotage) in sabotages {
        let before = reattached();
        sabotage();
        wait_until(DEADLINE, what, || {
            anyhow::ensure!(reattached() > before && relays.exists(), "not yet");
            let pins = std::fs::read_dir(&relays)?;
            anyhow::ensure!(pins.count() == 1, "not attached yet");
            Ok(())
        })
        .unwrap();
        drop(hosts.relayed());
    }
}

/// Has clients connect one after the other while something happens. None may be refused.
fn under_load(listener: &TcpListener, client: &Namespace, work: impl FnOnce()) {
    let to = listener.local_addr().unwrap();
    let (is_over, count) = (&AtomicBool::new(false), &AtomicU32::new(0));
    let dial = &|| {
        while !is_over.load(Relaxed) {
            if let Err(error) = TcpStream::connect(to) {
                panic!("after {count:?} connections: {error}");
            }
            count.fetch_add(1, Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let ten_more = || {
        let before = count.load(Relaxed);
        wait_until(DEADLINE, "ten connections", || {
            anyhow::ensure!(count.load(Relaxed) >= before + 10, "{count:?}");
            Ok(())
        })
        .unwrap();
    };
    std::thread::scope(|scope| {
        let dialling: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| client.run(dial).unwrap()))
            .collect();
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                drop(listener.accept().unwrap());
            }
        });
        let worked = catch_unwind(AssertUnwindSafe(|| {
            ten_more();
            work();
            ten_more();
        }));
        is_over.store(true, Relaxed);
        let dialled: Vec<_> = dialling.into_iter().map(|it| it.join()).collect();
        // The one that accepts wakes up and sees that it is over.
        drop(client.run(|| TcpStream::connect(to)));
        worked.unwrap_or_else(|panic| resume_unwind(panic));
        dialled.into_iter().for_each(Result::unwrap);
    });
    take_all(listener);
}

#[test]
fn an_agent_that_is_started_again_refuses_nobody() {
    let mut hosts = Hosts::new(Lab::routed().unwrap(), &["--relay"]);
    let (mut client, mut server) = hosts.relayed();
    let truename = &mut hosts.truename;
    under_load(&hosts.listener, hosts.lab.client(), || {
        truename.stop_agent().unwrap();
        assert_reset(&mut client);
        assert_reset(&mut server);
        truename.start_agent().unwrap();
        truename.wait_relay(1).unwrap();
        truename.kill_agent();
        truename.start_agent().unwrap();
        truename.wait_relay(1).unwrap();
    });
    assert!(hosts.counter("relay_held") >= 1);
    assert_eq!(hosts.counter("relay_refused"), 0);
    assert_eq!(hosts.counter("reset_relay"), 0);
    hosts.wait_for_connections(0);
    // The relay may have connected since, for a client that had gone.
    take_all(&hosts.listener);
    hosts.relayed();
}

#[test]
fn a_relay_that_is_turned_off_refuses_nobody_and_resets_or_drains() {
    let names = Names::flink("jm", LONG);
    let hosts = Hosts::configured(Lab::direct().unwrap(), names, &[], "enabled = true");
    hosts.truename.wait_relay(1).unwrap();
    let (mut client, mut server) = hosts.relayed();
    under_load(&hosts.listener, hosts.lab.client(), || {
        hosts.reload("enabled = false");
        wait_until(DEADLINE, "no relay", || {
            let steered = hosts.counter("relay_steered");
            drop(hosts.dial()?);
            anyhow::ensure!(hosts.counter("relay_steered") == steered, "{steered}");
            Ok(())
        })
        .unwrap();
    });
    // What was there goes on.
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    hosts.reload("enabled = true\non_change = \"reset\"");
    hosts.truename.wait_relay(1).unwrap();
    hosts.exchange(&mut client, &mut server, "jm:6123", 10);
    hosts.reload("enabled = false\non_change = \"reset\"");
    assert_reset(&mut client);
    assert_reset(&mut server);
}
