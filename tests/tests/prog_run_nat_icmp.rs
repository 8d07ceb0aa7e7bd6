//! ICMP and ICMPv6 errors about translated packets: what they quote is translated, too.

use std::net::{IpAddr, SocketAddr};

use truename::datapath::OBJECT;
use truename_common::layout::{Counter, TCP, UDP};
use truename_tests::prog_run::{
    CASES, Datagram, Host, IcmpError, Kind, Link, Nat, OUTSIDE, Place, Shape, Sockets, Verdict,
    check_sums, flag, local, remote, shapes,
};

/// Types and codes of errors, with what stands behind them.
fn kinds(v6: bool) -> Vec<((u8, u8), u32)> {
    let mut kinds = Vec::new();
    if v6 {
        kinds.extend((0..7).map(|code| ((1, code), 0)));
        kinds.extend([((2, 0), 1280), ((3, 0), 0), ((3, 1), 0), ((4, 0), 40)]);
    } else {
        kinds.extend((0..16).map(|code| ((3, code), 0)));
        kinds.extend([((3, 4), 576), ((4, 0), 0), ((11, 0), 0), ((11, 1), 0)]);
        kinds.push(((12, 0), 20 << 24));
    }
    kinds
}

/// An error from somewhere about a packet, of which so many bytes behind the IP header are quoted.
#[derive(Clone, Copy)]
struct About {
    kind: (u8, u8),
    rest: u32,
    shape: Shape,
    bytes: usize,
}

impl About {
    fn error(&self, source: IpAddr, destination: IpAddr, packet: &Datagram) -> IcmpError {
        let mut quoted = packet.ip_bytes();
        let header = if packet.source.is_ipv4() { 20 } else { 40 };
        quoted.truncate(header + packet.shape.ipv4_options + self.bytes);
        IcmpError {
            shape: self.shape,
            source,
            destination,
            hop_limit: 64,
            kind: self.kind,
            rest: self.rest,
            quoted,
        }
    }
}

/// An error of which everything but its kind and what it quotes is plain.
fn plain(v6: bool) -> About {
    let (kind, rest) = if v6 { ((2, 0), 1400) } else { ((3, 4), 1400) };
    About {
        kind,
        rest,
        shape: Shape::default(),
        bytes: 8,
    }
}

/// The error goes on as another.
#[track_caller]
fn assert_becomes(nat: &Nat, sent: &IcmpError, expected: &IcmpError) {
    let (sent, expected) = (sent.bytes(), expected.bytes());
    assert_eq!(nat.run(OUTSIDE, &sent), Verdict::Next(expected));
}

#[track_caller]
fn assert_passes(nat: &Nat, error: &IcmpError) {
    assert_becomes(nat, error, error);
}

/// Everybody between whom a local connection is: as the client and as the target see it.
struct Open {
    nat: Nat,
    sockets: Sockets,
    /// The client as the target sees it.
    seen: SocketAddr,
    first: Datagram,
    reply: Datagram,
}

impl Open {
    /// A connection to a target of this host; with another source port, if the client's own is taken.
    fn local(v6: bool, protocol: u8, remapped: bool) -> Self {
        let mut nat = Nat::new(OBJECT, Link::Ethernet);
        let sockets = Sockets::of(v6);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        if remapped {
            let mut other = sockets;
            other.alias.set_port(81);
            nat.service(other.alias, protocol, &[local(sockets.local)]);
            nat.run(OUTSIDE, &other.first(protocol).bytes());
        }
        let [first, _, reply, _] = sockets.talk(protocol);
        nat.run(OUTSIDE, &first.bytes());
        let port = nat
            .connections()
            .iter()
            .find(|(_, entry)| entry.alias_port == sockets.alias.port())
            .map(|(key, _)| key.client_port)
            .unwrap();
        assert_eq!(port != sockets.client.port(), remapped);
        let seen = SocketAddr::new(sockets.client.ip(), port);
        Self {
            nat,
            sockets,
            seen,
            first,
            reply,
        }
    }

    /// Errors about a packet of the client: from the target, and from a router.
    #[track_caller]
    fn assert_to_client(&self, about: About, packet: &Datagram) {
        let Sockets {
            client,
            alias,
            local,
            router,
            ..
        } = self.sockets;
        let inner = packet.between(self.seen, local);
        for (from, expected) in [(local, alias), (router, router)] {
            let sent = about.error(from.ip(), client.ip(), &inner);
            let expected = about.error(expected.ip(), client.ip(), packet);
            assert_becomes(&self.nat, &sent, &expected);
        }
    }

    /// Errors about a packet of the target: from the client, and from a router.
    #[track_caller]
    fn assert_from_client(&self, about: About, packet: &Datagram) {
        let Sockets {
            client,
            alias,
            local,
            router,
            ..
        } = self.sockets;
        let inner = packet.between(local, self.seen);
        for from in [client, router] {
            let sent = about.error(from.ip(), alias.ip(), packet);
            let expected = about.error(from.ip(), local.ip(), &inner);
            assert_becomes(&self.nat, &sent, &expected);
        }
    }
}

#[test]
fn errors_of_every_kind_are_translated_both_ways() {
    for (v6, protocol) in CASES {
        let open = Open::local(v6, protocol, false);
        let mut count = 0;
        for (kind, rest) in kinds(v6) {
            let about = About {
                kind,
                rest,
                ..plain(v6)
            };
            open.assert_to_client(about, &open.first);
            open.assert_from_client(about, &open.reply);
            count += 4;
        }
        open.nat.assert_count(Counter::NatIcmp, count);
        open.nat.assert_count(Counter::NatIcmpUnknown, 0);
        // They are no packets of the connection.
        open.nat.assert_count(Counter::NatSent, 1);
        open.nat.assert_count(Counter::NatReceived, 0);
    }
}

#[test]
fn a_replaced_port_is_put_back_in_what_is_quoted() {
    for (v6, protocol) in CASES {
        let open = Open::local(v6, protocol, true);
        for bytes in [8, 1000] {
            let about = About { bytes, ..plain(v6) };
            open.assert_to_client(about, &open.first);
            open.assert_from_client(about, &open.reply);
        }
    }
}

#[test]
fn a_packet_may_be_quoted_in_part() {
    for (v6, protocol) in CASES {
        let open = Open::local(v6, protocol, false);
        let payload = [0x5a; 61];
        let (first, reply) = (
            open.first.with_payload(&payload),
            open.reply.with_payload(&payload),
        );
        // From the least that has to be quoted to all, across every field.
        for bytes in 8..=82 {
            let about = About { bytes, ..plain(v6) };
            if protocol == TCP && bytes == 17 {
                // Half a checksum stays, and the error's own is right.
                let Sockets { client, local, .. } = open.sockets;
                let inner = first.between(client, local);
                let sent = about.error(local.ip(), client.ip(), &inner).bytes();
                let Verdict::Next(out) = open.nat.run(OUTSIDE, &sent) else {
                    panic!("it does not go on");
                };
                assert_eq!(out.last(), sent.last());
                check_sums(Link::Ethernet, &out).unwrap();
                continue;
            }
            open.assert_to_client(about, &first);
            open.assert_from_client(about, &reply);
        }
        // Less than that cannot be told, and stays.
        for bytes in 0..8 {
            let about = About { bytes, ..plain(v6) };
            let Sockets { client, local, .. } = open.sockets;
            let inner = first.between(client, local);
            assert_passes(&open.nat, &about.error(local.ip(), client.ip(), &inner));
        }
    }
}

#[test]
fn the_quoted_packet_may_have_come_far() {
    for (v6, protocol) in CASES {
        let open = Open::local(v6, protocol, false);
        for hops in [0, 1, 63, 255] {
            open.assert_to_client(plain(v6), &open.first.with_hops(hops));
            open.assert_from_client(plain(v6), &open.reply.with_hops(hops));
        }
    }
}

#[test]
fn a_quoted_udp_checksum_of_zero_stays() {
    let open = Open::local(false, UDP, false);
    for bytes in [8, 1000] {
        let about = About {
            bytes,
            ..plain(false)
        };
        let unsummed = |packet: &Datagram| Datagram {
            kind: Kind::UdpUnsummed,
            ..packet.clone()
        };
        open.assert_to_client(about, &unsummed(&open.first));
        open.assert_from_client(about, &unsummed(&open.reply));
    }
}

#[test]
fn the_checksum_of_the_error_is_right() {
    // The oracle computes it; that it is what a receiver computes is checked here.
    for (v6, protocol) in CASES {
        let open = Open::local(v6, protocol, true);
        let Sockets { client, local, .. } = open.sockets;
        let inner = open.first.between(open.seen, local);
        let sent = plain(v6).error(local.ip(), client.ip(), &inner);
        let Verdict::Next(out) = open.nat.run(OUTSIDE, &sent.bytes()) else {
            panic!("it does not go on");
        };
        assert_ne!(out, sent.bytes());
        check_sums(Link::Ethernet, &out).unwrap();
    }
}

#[test]
fn headers_of_every_kind_may_be_around_and_inside() {
    for (v6, protocol) in CASES {
        let open = Open::local(v6, protocol, false);
        for (shape, _) in shapes().into_iter().filter(|(_, other)| *other == v6) {
            let about = About { shape, ..plain(v6) };
            open.assert_to_client(about, &open.first);
            open.assert_from_client(about, &open.reply);
            if v6 {
                continue;
            }
            let inner = Shape {
                link: Link::Ethernet,
                ..shape
            };
            open.assert_to_client(about, &open.first.shaped(inner));
            open.assert_from_client(about, &open.reply.shaped(inner));
        }
    }
}

#[test]
fn errors_without_a_link_header_are_translated() {
    for (v6, protocol) in CASES {
        let mut nat = Nat::new(OBJECT, Link::Raw);
        let sockets = Sockets::of(v6);
        nat.service(sockets.alias, protocol, &[local(sockets.local)]);
        let link = Link::Raw;
        let shape = Shape {
            link,
            ..Shape::default()
        };
        let first = sockets.first(protocol);
        nat.run(OUTSIDE, &first.ip_bytes());
        let about = About { shape, ..plain(v6) };
        let Sockets {
            client,
            alias,
            local,
            ..
        } = sockets;
        let inner = first.between(client, local);
        let sent = about.error(local.ip(), client.ip(), &inner);
        assert_becomes(&nat, &sent, &about.error(alias.ip(), client.ip(), &first));
    }
}

#[test]
fn what_is_no_error_stays() {
    for (v6, protocol) in CASES {
        let open = Open::local(v6, protocol, false);
        let Sockets { client, local, .. } = open.sockets;
        let inner = open.first.between(client, local);
        let kinds: &[(u8, u8)] = if v6 {
            // Echo, neighbour discovery, errors that do not exist.
            &[
                (128, 0),
                (129, 0),
                (133, 0),
                (135, 0),
                (136, 0),
                (137, 0),
                (0, 0),
                (5, 0),
                (127, 0),
            ]
        } else {
            // Echo, redirect, timestamps.
            &[(0, 0), (8, 0), (5, 1), (13, 0), (14, 0), (17, 0), (40, 0)]
        };
        for kind in kinds {
            let about = About {
                kind: *kind,
                bytes: 100,
                ..plain(v6)
            };
            assert_passes(&open.nat, &about.error(local.ip(), client.ip(), &inner));
            assert_passes(
                &open.nat,
                &about.error(client.ip(), local.ip(), &open.reply),
            );
        }
        open.nat.assert_count(Counter::NatIcmp, 0);
        open.nat.assert_count(Counter::NatIcmpUnknown, 0);
    }
}

#[test]
fn errors_about_unknown_connections_pass_and_are_counted() {
    for (v6, protocol) in CASES {
        let open = Open::local(v6, protocol, false);
        let Sockets {
            client,
            alias,
            local,
            ..
        } = open.sockets;
        let stranger = SocketAddr::new(client.ip(), 7);
        let about = plain(v6);
        let inner = open.first.between(stranger, local);
        assert_passes(&open.nat, &about.error(local.ip(), client.ip(), &inner));
        open.nat.assert_count(Counter::NatIcmpUnknown, 1);
        let inner = open.reply.between(alias, stranger);
        assert_passes(&open.nat, &about.error(client.ip(), alias.ip(), &inner));
        open.nat.assert_count(Counter::NatIcmpUnknown, 2);
        // About packets of others they are not counted.
        let other = SocketAddr::new(local.ip(), 7);
        let inner = open.first.between(stranger, other);
        assert_passes(&open.nat, &about.error(local.ip(), client.ip(), &inner));
        open.nat.assert_count(Counter::NatIcmpUnknown, 2);
        open.nat.assert_count(Counter::NatIcmp, 0);
        assert_eq!(open.nat.connections().len(), 1);
    }
}

#[test]
fn the_next_hook_leaves_a_translated_error_alone() {
    let open = Open::local(false, TCP, false);
    let Sockets {
        client,
        alias,
        local,
        ..
    } = open.sockets;
    let about = plain(false);
    let inner = open.first.between(client, local);
    let sent = about.error(local.ip(), client.ip(), &inner);
    let twice = Place {
        passes: 2,
        ..OUTSIDE
    };
    let expected = about.error(alias.ip(), client.ip(), &open.first).bytes();
    let verdict = open.nat.run(twice, &sent.bytes());
    assert_eq!(verdict, Verdict::Next(expected));
    open.nat.assert_count(Counter::NatIcmp, 1);
    open.nat.assert_count(Counter::NatIcmpUnknown, 0);
}

#[test]
fn a_connection_that_gave_up_its_port_gets_its_errors() {
    for v6 in [false, true] {
        // The client talks to the target through the alias, and with the same port directly.
        let open = Open::local(v6, TCP, false);
        let Sockets { client, local, .. } = open.sockets;
        let syn = Datagram::tcp(client, local, flag::SYN);
        open.nat.run(OUTSIDE, &syn.bytes());
        let all = open.nat.connections();
        let (key, _) = all
            .iter()
            .find(|(key, _)| key.client_port != client.port())
            .unwrap();
        let seen = SocketAddr::new(client.ip(), key.client_port);
        let about = plain(v6);
        let sent = about.error(local.ip(), client.ip(), &syn.between(seen, local));
        let expected = about.error(local.ip(), client.ip(), &syn);
        assert_becomes(&open.nat, &sent, &expected);
        // The other one's, too.
        open.assert_to_client(about, &open.first);
    }
}

#[test]
fn errors_are_sent_on_between_other_hosts() {
    let host = Host::new(1500);
    host.run(|| {
        for (v6, protocol) in CASES {
            let mut nat = Nat::new(OBJECT, Link::Ethernet);
            let sockets = Sockets::of(v6).from_port(50_000);
            let Sockets {
                client,
                alias,
                remote: target,
                source,
                router,
                ..
            } = sockets;
            nat.service(alias, protocol, &[remote(target, source.ip())]);
            let [first, _, reply, _] = sockets.talk(protocol);
            let (clients, targets) = (Place::arriving(host.client), Place::arriving(host.target));
            nat.forwards(
                clients,
                &first,
                &first.between(source, target).with_hops(63),
            );
            // From here on nothing but errors is routed.
            let family = if v6 { "-6" } else { "-4" };
            let name = if protocol == UDP { "udp" } else { "tcp" };
            let rule = format!("{family} rule add pref 9 ipproto {name} prohibit");
            host.ip(&rule);
            let about = plain(v6);
            let forwards = |place, sent: IcmpError, expected: IcmpError| {
                let expected = IcmpError {
                    hop_limit: 63,
                    ..expected
                };
                let verdict = nat.run(place, &sent.bytes());
                assert_eq!(verdict, Verdict::Redirect(expected.bytes()));
            };
            let inner = first.between(source, target);
            for (from, to) in [(target, alias), (router, router)] {
                forwards(
                    targets,
                    about.error(from.ip(), source.ip(), &inner),
                    about.error(to.ip(), client.ip(), &first),
                );
            }
            let inner = reply.between(target, source);
            for (from, to) in [(client, source), (router, router)] {
                forwards(
                    clients,
                    about.error(from.ip(), alias.ip(), &reply),
                    about.error(to.ip(), target.ip(), &inner),
                );
            }
            nat.assert_count(Counter::NatIcmp, 4);
            // No error about an error.
            let last = IcmpError {
                hop_limit: 1,
                ..about.error(router.ip(), alias.ip(), &reply)
            };
            assert_eq!(nat.run(clients, &last.bytes()), Verdict::Drop);
            nat.assert_count(Counter::NatErrorUnsent, 1);
            host.ip(&rule.replace("add", "del"));
        }
    });
}

#[test]
fn an_error_to_the_host_itself_turns_round() {
    let host = Host::new(1500);
    host.run(|| {
        for v6 in [false, true] {
            let mut nat = Nat::new(OBJECT, Link::Ethernet);
            let sockets = Sockets::of(v6);
            nat.service(sockets.alias, UDP, &[local(sockets.local)]);
            let [first, _, reply, _] = sockets.talk(UDP);
            let place = Place::leaving(host.client);
            nat.run(place, &first.bytes());
            let about = plain(v6);
            let Sockets {
                client,
                alias,
                local,
                ..
            } = sockets;
            let sent = about.error(client.ip(), alias.ip(), &reply);
            let inner = reply.between(local, client);
            let mut expected = about.error(client.ip(), local.ip(), &inner).bytes();
            expected[..6].fill(0);
            let verdict = nat.run(place, &sent.bytes());
            assert_eq!(verdict, Verdict::Redirect(expected));
        }
    });
}
