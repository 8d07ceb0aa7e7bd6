//! Hop limits: the node is a router for what it forwards, and none for what it delivers.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use truename_tests::nat::{
    Echo, Family, Lab, Probe, Protocol, Rules, Seen, Service, Shape, Translator, beside,
};

const PORT: u16 = 7000;

/// Counts the hops as traceroute does: who answers with "time exceeded", and when does the target?
#[test]
fn hops_are_counted() {
    for routers in [false, true] {
        beside(|by| {
            let lab = Lab::shaped(Shape {
                routers,
                ..Shape::default()
            })?;
            let mut rules = Rules::default();
            let mut echoes = Vec::new();
            for family in Family::BOTH {
                let local = SocketAddr::new(lab.node(family), PORT);
                let remote = SocketAddr::new(lab.target(family, 0), PORT);
                for (number, target) in [(1, local), (2, remote)] {
                    let alias = SocketAddr::new(lab.foreign(family, number), 33_434);
                    rules
                        .services
                        .push(Service::new(Protocol::Udp, alias, target));
                }
                echoes.push(Echo::start(&lab.node, local)?);
                echoes.push(Echo::start(&lab.target, remote)?);
            }
            let _translator = Translator::start(by, &lab, &rules)?;
            let mut seen = Seen::new();
            for (family, exceeded) in [(Family::V4, (11, 0)), (Family::V6, (3, 0))] {
                // Routers on the way, the node among them if it forwards.
                for (what, number, hops) in [
                    ("local", 1, u8::from(routers)),
                    ("remote", 2, 1 + 2 * u8::from(routers)),
                ] {
                    let alias = SocketAddr::new(lab.foreign(family, number), 33_434);
                    let from = SocketAddr::new(lab.client(family), 0);
                    let probe = Probe::start(&lab.client, from, alias)?;
                    for limit in 1..=hops + 1 {
                        let place = format!("{what}, {family}, hop {limit} of {hops}");
                        probe.set_hops(limit)?;
                        probe.send(limit.into())?;
                        if limit > hops {
                            let length = probe.receive().context(place.clone())?;
                            ensure!(length == usize::from(limit), "{place}: {length} bytes");
                            seen.note(place, "answer");
                        } else {
                            let heard = probe.network_error().context(place.clone())?;
                            ensure!((heard.kind, heard.code) == exceeded, "{place}: {heard:?}");
                            ensure!(heard.errno == libc::EHOSTUNREACH, "{place}: {heard:?}");
                            // Not compared: nftables lets every error about a translated packet
                            // seem to come from the alias.
                            ensure!(heard.offender.is_some(), "{place}: {heard:?}");
                            seen.note(place, "time exceeded");
                        }
                    }
                }
            }
            Ok(seen)
        });
    }
}
