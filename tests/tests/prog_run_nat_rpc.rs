//! A service whose target is a remoting endpoint: addresses and names are translated, in one pass.

use std::{fs, net::SocketAddr};

use truename::datapath::OBJECT;
use truename_common::layout::{Counter, TCP};
use truename_tests::prog_run::{
    Datagram, Form, Host, Kind, Link, Nat, OUTSIDE, Place, Scene, Sockets, Verdict, flag, local,
    remote,
};

/// Both sides of a connection to the alias of a service.
struct Talk<'a> {
    nat: &'a Nat,
    client: SocketAddr,
    alias: SocketAddr,
    /// The client and the target as the latter sees them.
    seen: SocketAddr,
    target: SocketAddr,
    /// Where packets of the client and of the target are, and whether they are sent on.
    places: [Place; 2],
    forwarded: bool,
    /// What the next byte of client and target is, by TCP's counting.
    next: [u32; 2],
}

const CLIENT: usize = 0;
const TARGET: usize = 1;

impl<'a> Talk<'a> {
    fn open(nat: &'a Nat, sockets: &Sockets, seen: SocketAddr, target: SocketAddr) -> Self {
        Self {
            nat,
            client: sockets.client,
            alias: sockets.alias,
            seen,
            target,
            places: [OUTSIDE; 2],
            forwarded: false,
            next: [u32::MAX - 7, 2_000_000],
        }
    }

    fn handshake(&mut self) {
        self.sends(CLIENT, flag::SYN, b"", b"");
        self.next[CLIENT] = self.next[CLIENT].wrapping_add(1);
        self.sends(TARGET, flag::SYN | flag::ACK, b"", b"");
        self.next[TARGET] += 1;
        self.sends(CLIENT, flag::ACK, b"", b"");
    }

    /// A side sends a payload, and the other side receives `expected`, with its own addresses.
    #[track_caller]
    fn sends(&mut self, side: usize, flags: u8, payload: &[u8], expected: &[u8]) {
        let kind = Kind::Tcp {
            seq: self.next[side],
            ack: if flags & flag::ACK == 0 {
                0
            } else {
                self.next[1 - side]
            },
            flags,
        };
        let (sent, received) = if side == CLIENT {
            ((self.client, self.alias), (self.seen, self.target))
        } else {
            ((self.target, self.seen), (self.alias, self.client))
        };
        let packet = Datagram {
            kind,
            ..Datagram::tcp(sent.0, sent.1, flags)
        };
        let out = packet
            .between(received.0, received.1)
            .with_payload(expected);
        let packet = packet.with_payload(payload);
        if self.forwarded {
            let out = out.with_hops(63);
            self.nat.forwards(self.places[side], &packet, &out);
        } else {
            self.nat.becomes(self.places[side], &packet, &out);
        }
        self.next[side] = self.next[side].wrapping_add(payload.len() as u32);
    }

    #[track_caller]
    fn says(&mut self, side: usize, payload: &[u8], expected: &[u8]) {
        self.sends(side, flag::ACK, payload, expected);
        // It is acknowledged at once.
        self.sends(1 - side, flag::ACK, b"", b"");
    }
}

/// A request by the alias and an answer, as the scene says they have to be received.
fn assert_translated(talk: &mut Talk<'_>, scene: &Scene) {
    talk.handshake();
    let hello = scene.client_associate();
    talk.says(CLIENT, &hello, &hello);
    let hello = scene.endpoint_associate();
    talk.says(TARGET, &hello, &hello);
    for _ in 0..3 {
        let (sent, received) = (
            scene.request(Form::Alias, 20),
            scene.request(Form::Local, 20),
        );
        talk.says(CLIENT, &sent, &received);
        talk.says(TARGET, &scene.reply(), &scene.translated_reply());
    }
}

#[test]
fn names_and_addresses_are_translated_in_one_pass() {
    let scene = Scene::configured(OBJECT, "jm");
    for v6 in [false, true] {
        let mut nat = Nat::with_rpc(OBJECT);
        let sockets = Sockets::of(v6);
        nat.program.endpoint(sockets.local, None, None).unwrap();
        nat.service(sockets.alias, TCP, &[local(sockets.local)]);
        let mut talk = Talk::open(&nat, &sockets, sockets.client, sockets.local);
        assert_translated(&mut talk, &scene);
        nat.assert_count(Counter::RewrittenInbound, 3);
        nat.assert_count(Counter::RewrittenOutbound, 6);
        // The flow has the connection's key.
        let flow = nat.program.flow(sockets.client, sockets.local).unwrap();
        assert!(flow.is_some());
        assert_eq!(nat.program.flows().unwrap(), 1);
        nat.connection(sockets.client, sockets.local, TCP);
        // The same client, directly and by another port: it is translated as before.
        let direct = Sockets {
            alias: sockets.local,
            ..sockets.from_port(41_000)
        };
        let mut talk = Talk::open(&nat, &direct, direct.client, direct.local);
        assert_translated(&mut talk, &scene);
        assert_eq!(nat.connections().len(), 1);
        assert_eq!(nat.program.flows().unwrap(), 2);
    }
}

#[test]
fn a_replaced_port_is_the_flows() {
    let scene = Scene::configured(OBJECT, "jm");
    let mut nat = Nat::with_rpc(OBJECT);
    let sockets = Sockets::of(false);
    let mut other = sockets;
    other.alias.set_port(81);
    nat.program.endpoint(sockets.local, None, None).unwrap();
    for sockets in [other, sockets] {
        nat.service(sockets.alias, TCP, &[local(sockets.local)]);
        nat.run(OUTSIDE, &sockets.first(TCP).bytes());
    }
    let key = nat
        .connections()
        .into_iter()
        .find(|(_, entry)| entry.alias_port == sockets.alias.port())
        .unwrap()
        .0;
    let seen = SocketAddr::new(sockets.client.ip(), key.client_port);
    assert_ne!(seen, sockets.client);
    let mut talk = Talk::open(&nat, &sockets, seen, sockets.local);
    assert_translated(&mut talk, &scene);
    assert!(nat.program.flow(seen, sockets.local).unwrap().is_some());
}

#[test]
fn an_endpoint_on_another_host_is_translated_too() {
    let host = Host::new(1500);
    host.run(|| {
        let scene = Scene::configured(OBJECT, "jm");
        for v6 in [false, true] {
            let mut nat = Nat::with_rpc(OBJECT);
            let sockets = Sockets::of(v6).from_port(50_000);
            let (target, source) = (sockets.remote, sockets.source);
            nat.program.endpoint(target, None, None).unwrap();
            nat.service(sockets.alias, TCP, &[remote(target, source.ip())]);
            let mut talk = Talk::open(&nat, &sockets, source, target);
            talk.places = [Place::arriving(host.client), Place::arriving(host.target)];
            talk.forwarded = true;
            assert_translated(&mut talk, &scene);
            assert!(nat.program.flow(source, target).unwrap().is_some());
        }
    });
}

#[test]
fn the_recorded_pair_comes_out_as_it_has_to() {
    let fixture = |name: &str| {
        let root = env!("CARGO_MANIFEST_DIR");
        let path = format!("{root}/fixtures/flink-2.3.0-alias-padded/{name}");
        fs::read(path).unwrap()
    };
    let client = (fixture("c2s.before.bin"), fixture("c2s.after.bin"));
    let target = (fixture("s2c.before.bin"), fixture("s2c.after.bin"));
    // The first frame: the Associate.
    let first = |stream: &[u8]| 4 + u32::from_be_bytes(stream[..4].try_into().unwrap()) as usize;
    let mut nat = Nat::with_rpc(OBJECT);
    let sockets = Sockets::of(false);
    nat.program.endpoint(sockets.local, None, None).unwrap();
    nat.service(sockets.alias, TCP, &[local(sockets.local)]);
    let mut talk = Talk::open(&nat, &sockets, sockets.client, sockets.local);
    talk.handshake();
    let mut at = [0; 2];
    let mut send = |side: usize, len: usize| {
        let (before, after) = [&client, &target][side];
        let end = before.len().min(at[side] + len);
        let range = at[side]..end;
        at[side] = end;
        talk.says(side, &before[range.clone()], &after[range]);
        end < before.len()
    };
    send(CLIENT, first(&client.0));
    send(TARGET, first(&target.0));
    while send(CLIENT, 1448) {}
    while send(TARGET, 1448) {}
    assert!(nat.program.count(Counter::RewrittenInbound).unwrap() > 0);
    assert!(nat.program.count(Counter::RewrittenOutbound).unwrap() > 0);
    nat.assert_count(Counter::DroppedHole, 0);
}

#[test]
fn without_a_service_on_the_port_names_are_translated_as_ever() {
    let scene = Scene::configured(OBJECT, "jm");
    let mut nat = Nat::with_rpc(OBJECT);
    let sockets = Sockets::of(false);
    nat.program.endpoint(sockets.local, None, None).unwrap();
    let direct = Sockets {
        alias: sockets.local,
        ..sockets
    };
    let mut talk = Talk::open(&nat, &direct, direct.client, direct.local);
    assert_translated(&mut talk, &scene);
    let refused = nat.run(OUTSIDE, &sockets.first(TCP).bytes());
    assert_eq!(refused, Verdict::Next(sockets.first(TCP).bytes()));
}

#[test]
fn packets_that_pass_without_the_translator_are_counted() {
    for v6 in [false, true] {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(v6);
        nat.program.endpoint(sockets.local, None, None).unwrap();
        let first = sockets.first(TCP);
        let mut other = sockets.local;
        other.set_port(other.port() ^ 1);
        for (from, to, count) in [
            (sockets.client, sockets.local, 1),
            (sockets.local, sockets.client, 2),
            (sockets.client, other, 2),
        ] {
            nat.passes(OUTSIDE, &first.between(from, to));
            nat.assert_count(Counter::RpcUnavailable, count);
        }
    }
}
