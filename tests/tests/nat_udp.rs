//! Datagrams: questions to a name server, two clients with one port, refusals.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use truename_tests::nat::{
    Alias, By, Client, Dns, Echo, Family, Lab, Probe, Protocol, Rules, Seen, Service, Translator,
    beside, connect,
};

/// The port that the name servers listen on, which is not the one they are known by.
const PORT: u16 = 5353;

/// `(what, alias, target)`, local and remote.
fn aliases(lab: &Lab) -> Vec<Alias> {
    let mut aliases = Vec::new();
    for family in Family::BOTH {
        let local = SocketAddr::new(lab.node(family), PORT);
        let remote = SocketAddr::new(lab.target(family, 0), PORT);
        for (what, address, port, target) in [
            ("local, another port", lab.node(family), 53, local),
            ("local, another address", lab.foreign(family, 1), 53, local),
            ("remote, the node's address", lab.near(family), 53, remote),
            (
                "remote, another address",
                lab.foreign(family, 2),
                53,
                remote,
            ),
        ] {
            aliases.push(Alias {
                what,
                family,
                listen: SocketAddr::new(address, port),
                target,
            });
        }
    }
    aliases
}

#[test]
fn names_are_resolved_through_an_alias() {
    beside(|by| {
        let lab = Lab::new()?;
        let aliases = aliases(&lab);
        let _local = Dns::start(
            &lab.node,
            &lab.scratch,
            &Family::BOTH.map(|family| SocketAddr::new(lab.node(family), PORT)),
        )?;
        let _remote = Dns::start(
            &lab.target,
            &lab.scratch,
            &Family::BOTH.map(|family| SocketAddr::new(lab.target(family, 0), PORT)),
        )?;
        let _translator = Translator::start(by, &lab, &Rules::aliases(Protocol::Udp, &aliases))?;
        let mut seen = Seen::new();
        for Alias {
            what,
            listen: alias,
            target,
            ..
        } in aliases
        {
            for (who, namespace) in [
                ("client", &lab.client),
                ("second client", &lab.second),
                ("the node itself", &lab.node),
                ("the target itself", &lab.target),
            ] {
                let client = Client::new(namespace, &lab.scratch);
                for (name, kind, record) in [
                    ("node.test", "A", "192.0.2.7"),
                    ("node.test", "AAAA", "2001:db8::7"),
                    ("long.test", "TXT", "tttttttt"),
                ] {
                    let place = format!("{what} ({alias} to {target}), {who}, {name} {kind}");
                    let got = client.resolve(alias, name, kind)?;
                    let server = format!(";; SERVER: {}#{}", alias.ip(), alias.port());
                    ensure!(
                        got.starts_with("exit 0") && got.contains(record) && got.contains(&server),
                        "{place}: {got}"
                    );
                    seen.note(place, got);
                }
            }
        }
        Ok(seen)
    });
}

#[test]
fn two_clients_may_have_the_same_port() {
    beside(|by| {
        let lab = Lab::new()?;
        let aliases = aliases(&lab);
        let mut echoes = Vec::new();
        for family in Family::BOTH {
            let local = SocketAddr::new(lab.node(family), PORT);
            let remote = SocketAddr::new(lab.target(family, 0), PORT);
            echoes.push(Echo::start(&lab.node, local)?);
            echoes.push(Echo::start(&lab.target, remote)?);
        }
        let _translator = Translator::start(by, &lab, &Rules::aliases(Protocol::Udp, &aliases))?;
        let mut seen = Seen::new();
        for (port, alias) in (40_000..).zip(aliases) {
            let Alias {
                what,
                family,
                listen: alias,
                ..
            } = alias;
            let from = |address| SocketAddr::new(address, port);
            let one = Probe::start(&lab.client, from(lab.client(family)), alias)?;
            let two = Probe::start(&lab.second, from(lab.second(family)), alias)?;
            // Not in the order in which they were sent.
            for (first, second, size) in [(&one, &two, 100), (&two, &one, 200)] {
                first.send(size)?;
                second.send(size + 1)?;
                ensure!(second.receive()? == size + 1, "{what}: another's datagram");
                ensure!(first.receive()? == size, "{what}: another's datagram");
                seen.note(format!("{what} ({alias})"), size);
            }
        }
        Ok(seen)
    });
}

#[test]
fn datagrams_larger_than_the_path_pass_in_fragments() {
    beside(|by| {
        let lab = Lab::new()?;
        let aliases = aliases(&lab);
        let mut echoes = Vec::new();
        for family in Family::BOTH {
            for (namespace, address) in [
                (&lab.node, lab.node(family)),
                (&lab.target, lab.target(family, 0)),
            ] {
                echoes.push(Echo::start(namespace, SocketAddr::new(address, PORT))?);
            }
        }
        let _translator = Translator::start(by, &lab, &Rules::aliases(Protocol::Udp, &aliases))?;
        let mut seen = Seen::new();
        for Alias {
            what,
            family,
            listen: alias,
            ..
        } in aliases
        {
            for (who, namespace, address) in [
                ("client", &lab.client, lab.client(family)),
                ("second client", &lab.second, lab.second(family)),
                ("the node itself", &lab.node, lab.node(family)),
            ] {
                // Its datagrams are not cut on their way to the loopback interface, and too large for what follows.
                if who == "the node itself" && what == "remote, the node's address" {
                    continue;
                }
                let place = format!("{what} ({alias}), {who}");
                let probe = Probe::start(namespace, SocketAddr::new(address, 0), alias)?;
                probe.fragment()?;
                // The target's link address is known then.
                probe.send(10).context("send a small one")?;
                let small = probe.receive().with_context(|| place.clone())?;
                ensure!(small == 10, "{place}: {small} bytes");
                for size in [1600, 4000, 8000, 20_000, 60_000] {
                    probe.send(size).with_context(|| place.clone())?;
                    let got = probe.receive();
                    let got = got.with_context(|| format!("{place}, {size} bytes"))?;
                    ensure!(got == size, "{place}: {got} of {size} bytes");
                    seen.note(format!("{place}, {size} bytes"), got);
                }
            }
        }
        Ok(seen)
    });
}

#[test]
fn refusals_are_seen_as_if_the_alias_refused() {
    beside(|by| {
        let lab = Lab::new()?;
        // Nobody listens at the targets.
        let aliases = aliases(&lab);
        let mut rules = Rules::aliases(Protocol::Udp, &aliases);
        rules
            .services
            .extend(Rules::aliases(Protocol::Tcp, &aliases).services);
        let _translator = Translator::start(by, &lab, &rules)?;
        let mut seen = Seen::new();
        for Alias {
            what,
            family,
            listen: alias,
            ..
        } in aliases
        {
            for (who, namespace, address) in [
                ("client", &lab.client, lab.client(family)),
                ("the node itself", &lab.node, lab.near(family)),
            ] {
                let from = SocketAddr::new(address, 0);
                let place = format!("{what} ({alias}), {who}");
                let probe = Probe::start(namespace, from, alias)?;
                probe.send(10)?;
                let heard = probe.network_error()?;
                ensure!(
                    heard.errno == libc::ECONNREFUSED && heard.offender == Some(alias.ip()),
                    "{place}: {heard:?}"
                );
                seen.note(&place, format!("{heard:?}"));

                let Err(error) = connect(namespace, from, alias) else {
                    anyhow::bail!("{place}: connected");
                };
                ensure!(
                    error
                        .downcast_ref::<std::io::Error>()
                        .and_then(std::io::Error::raw_os_error)
                        == Some(libc::ECONNREFUSED),
                    "{place}: {error:#}"
                );
                seen.note(&place, format!("{error:#}"));
                let client = Client::new(namespace, &lab.scratch);
                seen.note(&place, client.fetch(alias, "/", None)?);
            }
        }
        Ok(seen)
    });
}

/// Nothing of the client says that it would rather begin anew, and there is no connection to be lost. nftables keeps the
/// former target for as long as the client sends: an administrator deletes such entries by hand.
#[test]
fn a_stream_of_datagrams_goes_to_the_present_target() {
    beside(|by| {
        let lab = Lab::new()?;
        for family in Family::BOTH {
            let [former, present] =
                [0, 1].map(|number| SocketAddr::new(lab.target(family, number), PORT));
            let alias = SocketAddr::new(lab.foreign(family, 1), 53);
            let rules = |target| Rules::new(vec![Service::new(Protocol::Udp, alias, target)]);
            let translator = Translator::start(by, &lab, &rules(former))?;
            let echo = Echo::start(&lab.target, former)?;
            let probe = Probe::start(&lab.client, SocketAddr::new(lab.client(family), 0), alias)?;
            let ask = |length: usize| -> Result<()> {
                probe.send(length)?;
                let answer = probe
                    .receive()
                    .with_context(|| format!("{family}, {length}"))?;
                ensure!(answer == length, "{family}: {answer} bytes");
                Ok(())
            };
            ask(1)?;
            drop(echo);
            let _echo = Echo::start(&lab.target, present)?;
            translator.reload(&lab, &rules(present))?;
            if by == By::Nftables {
                ensure!(ask(2).is_err(), "{family}: the present target answers");
                translator.forget(&lab)?;
            }
            for length in 2..5 {
                ask(length)?;
            }
        }
        Ok(Seen::new())
    });
}
