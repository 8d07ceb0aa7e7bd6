//! Path MTU discovery through the translator: links that are smaller than both ends believe, before the node and
//! behind it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use truename_tests::nat::{
    By, Client, Echo, Family, Lab, Probe, Protocol, Rules, Seen, Service, Shape, Translator, Web,
    beside,
};

/// The port that servers listen on.
const PORT: u16 = 8080;
/// The port of the aliases.
const ALIAS: u16 = 80;
/// The MTU of the small link.
const SMALL: u32 = 1320;

/// The arrangements of a small link: `(with routers, segments are cut by the device)`. Without offload every packet
/// is seen as it is on the wire, with it the hooks see large ones.
const ARRANGEMENTS: [(bool, bool); 4] =
    [(false, true), (false, false), (true, true), (true, false)];

/// Aliases of a local and of a remote target, of both families.
struct Targets {
    local: Vec<SocketAddr>,
    remote: Vec<SocketAddr>,
    rules: Rules,
}

fn targets(lab: &Lab) -> Targets {
    let local: Vec<_> = Family::BOTH
        .map(|family| SocketAddr::new(lab.node(family), PORT))
        .into();
    let remote: Vec<_> = Family::BOTH
        .map(|family| SocketAddr::new(lab.target(family, 0), PORT))
        .into();
    let mut rules = Rules::default();
    for (family, (local, remote)) in Family::BOTH.into_iter().zip(local.iter().zip(&remote)) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (number, target) in [(1, local), (2, remote)] {
                let alias = SocketAddr::new(lab.foreign(family, number), ALIAS);
                rules.services.push(Service::new(protocol, alias, *target));
            }
        }
    }
    Targets {
        local,
        remote,
        rules,
    }
}

fn lab(shape: Shape, offload: bool) -> Result<Lab> {
    let lab = Lab::shaped(shape)?;
    if !offload {
        lab.segmentation_offload(false)?;
    }
    Ok(lab)
}

/// The large file, from every target or to it.
fn transfer(lab: &Lab, by: By, upload: bool) -> Result<Seen> {
    let targets = targets(lab);
    let local = Web::start(&lab.node, &lab.scratch, &targets.local)?;
    let remote = Web::start(&lab.target, &lab.scratch, &targets.remote)?;
    let _translator = Translator::start(by, lab, &targets.rules)?;
    let mut seen = Seen::new();
    for family in Family::BOTH {
        for (what, number, web) in [("local", 1, &local), ("remote", 2, &remote)] {
            let alias = SocketAddr::new(lab.foreign(family, number), ALIAS);
            let client = Client::new(&lab.client, &lab.scratch);
            let got = if upload {
                let got = client.upload(alias, "/up/file", web.big())?;
                ensure!(
                    web.received("/up/file")? == web.big(),
                    "{what}: other bytes"
                );
                got
            } else {
                client.fetch(alias, "/big", Some(web.big()))?
            };
            ensure!(
                got.starts_with("exit 0") && !got.contains("wrong"),
                "{what}, {family}: {got}"
            );
            seen.note(format!("{what}, {family}"), got);
            // Who sent the large packets has heard of the small link.
            let (sender, to) = match (upload, what) {
                (true, _) => (&lab.client, alias.ip()),
                (false, "local") => (&lab.node, lab.client(family)),
                (false, _) => (&lab.target, lab.near(family)),
            };
            let learned = lab.learned_mtu(sender, to)?;
            seen.note(format!("{what}, {family}, learned"), format!("{learned:?}"));
            if what == "remote" || (!upload && lab.has_routers()) {
                ensure!(
                    learned == Some(SMALL),
                    "{what}, {family}: learned {learned:?}"
                );
            }
        }
    }
    Ok(seen)
}

#[test]
fn a_small_link_behind_the_node_is_learned_by_the_client() {
    for (routers, offload) in ARRANGEMENTS {
        beside(|by| {
            let shape = Shape {
                routers,
                target_mtu: SMALL,
                ..Shape::default()
            };
            transfer(&lab(shape, offload)?, by, true)
        });
    }
}

#[test]
fn a_small_link_before_the_node_is_learned_by_the_target() {
    for (routers, offload) in ARRANGEMENTS {
        beside(|by| {
            let shape = Shape {
                routers,
                client_mtu: SMALL,
                ..Shape::default()
            };
            transfer(&lab(shape, offload)?, by, false)
        });
    }
}

#[test]
fn a_datagram_that_is_too_large_is_reported_with_the_mtu() {
    for routers in [false, true] {
        beside(|by| {
            let lab = lab(
                Shape {
                    routers,
                    target_mtu: SMALL,
                    ..Shape::default()
                },
                true,
            )?;
            let targets = targets(&lab);
            let _echoes = [
                Echo::start(&lab.target, targets.remote[0])?,
                Echo::start(&lab.target, targets.remote[1])?,
            ];
            let _translator = Translator::start(by, &lab, &targets.rules)?;
            let mut seen = Seen::new();
            for (family, headers, message) in [(Family::V4, 28, (3, 4)), (Family::V6, 48, (2, 0))] {
                let alias = SocketAddr::new(lab.foreign(family, 2), ALIAS);
                let from = SocketAddr::new(lab.client(family), 0);
                let probe = Probe::start(&lab.client, from, alias)?;
                probe.send(1400)?;
                let heard = probe.network_error()?;
                ensure!(
                    heard.errno == libc::EMSGSIZE
                        && (heard.kind, heard.code) == message
                        && heard.info == SMALL,
                    "{family}: {heard:?}"
                );
                ensure!(probe.mtu()? == SMALL.cast_signed(), "MTU {}", probe.mtu()?);
                seen.note(family, format!("{:?}", (heard.kind, heard.info)));
                let Err(error) = probe.send(1400) else {
                    anyhow::bail!("{family}: too large a datagram was sent");
                };
                ensure!(error.raw_os_error() == Some(libc::EMSGSIZE), "{error}");
                let largest = SMALL as usize - headers;
                probe.send(largest)?;
                let back = probe.receive()?;
                ensure!(back == largest, "{back} bytes came back of {largest}");
                seen.note(family, back);
            }
            Ok(seen)
        });
    }
}
