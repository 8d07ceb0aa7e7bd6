//! Services whose target is another host, and clients that are where the target is.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::ensure;
use truename_tests::nat::{
    Alias, By, Client, Family, Lab, Listener, Protocol, Rules, Seen, Service, Shape, Snat,
    Translator, Web, alone, beside, connect, syn_repeats, visit,
};

/// The port that the web server listens on.
const PORT: u16 = 8080;

/// Aliases of the target, and where they lead.
fn aliases(lab: &Lab) -> Vec<Alias> {
    let mut aliases = Vec::new();
    for family in Family::BOTH {
        let target = SocketAddr::new(lab.target(family, 0), PORT);
        for (what, address, port) in [
            ("an address of the node", lab.node(family), 80),
            (
                "the node's address that the target knows",
                lab.near(family),
                81,
            ),
            ("another port of the target", lab.target(family, 0), 82),
            ("another address", lab.foreign(family, 1), PORT),
            ("another address and port", lab.foreign(family, 2), 80),
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
fn a_remote_target_has_aliases_of_every_kind() {
    for routers in [false, true] {
        beside(|by| {
            let lab = Lab::shaped(Shape {
                routers,
                ..Shape::default()
            })?;
            let aliases = aliases(&lab);
            let targets: Vec<SocketAddr> = Family::BOTH
                .map(|family| SocketAddr::new(lab.target(family, 0), PORT))
                .into();
            let web = Web::start(&lab.target, &lab.scratch, &targets)?;
            let rules = Rules::aliases(Protocol::Tcp, &aliases);
            let _translator = Translator::start(by, &lab, &rules)?;
            let mut seen = Seen::new();
            for Alias {
                what,
                family,
                listen,
                target,
            } in aliases
            {
                for (who, namespace) in [
                    ("client", &lab.client),
                    ("second client", &lab.second),
                    ("the node itself", &lab.node),
                    ("the target itself", &lab.target),
                ] {
                    // Whoever sits beside the target needs no translation to reach the target's own address.
                    if who == "the target itself" && listen.ip() == target.ip() {
                        continue;
                    }
                    visit(
                        &mut seen,
                        &format!("{what} ({listen}), {who}, routers: {routers}"),
                        Client::new(namespace, &lab.scratch),
                        &web,
                        (listen, target, lab.near(family)),
                    )?;
                }
            }
            Ok(seen)
        });
    }
}

#[test]
fn clients_are_not_hidden_when_nobody_wants_it() {
    beside(|by| {
        let lab = Lab::new()?;
        let targets = Family::BOTH.map(|family| SocketAddr::new(lab.target(family, 0), PORT));
        let web = Web::start(&lab.target, &lab.scratch, &targets)?;
        let aliases = Family::BOTH.map(|family| SocketAddr::new(lab.foreign(family, 1), 80));
        let services = aliases.iter().zip(targets).map(|(alias, target)| Service {
            snat: Snat::Never,
            ..Service::new(Protocol::Tcp, *alias, target)
        });
        let rules = Rules::new(services.collect());
        let _translator = Translator::start(by, &lab, &rules)?;
        let mut seen = Seen::new();
        for (family, (alias, target)) in Family::BOTH
            .into_iter()
            .zip(aliases.into_iter().zip(targets))
        {
            for (who, namespace, source) in [
                ("client", &lab.client, lab.client(family)),
                ("second client", &lab.second, lab.second(family)),
                ("the node itself", &lab.node, lab.near(family)),
            ] {
                visit(
                    &mut seen,
                    &format!("{family}, {who}"),
                    Client::new(namespace, &lab.scratch),
                    &web,
                    (alias, target, source),
                )?;
            }
        }
        Ok(seen)
    });
}

#[test]
fn a_node_need_not_know_its_target_as_a_neighbour() {
    alone(|| {
        let lab = Lab::new()?;
        let aliases = aliases(&lab);
        let rules = Rules::aliases(Protocol::Tcp, &aliases);
        let _translator = Translator::start(By::Truename, &lab, &rules)?;
        let listen = |family| {
            let target = SocketAddr::new(lab.target(family, 0), PORT);
            Listener::start(&lab.target, target)
        };
        let _listeners = (listen(Family::V4)?, listen(Family::V6)?);
        for Alias {
            what,
            family,
            listen,
            ..
        } in aliases
        {
            for (who, namespace) in [("the node itself", &lab.node), ("client", &lab.client)] {
                lab.node.ip("neighbour flush dev t0")?;
                let any = match family {
                    Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    Family::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let stream = connect(namespace, any, listen)?;
                let repeats = syn_repeats(&stream)?;
                ensure!(
                    repeats == 0,
                    "{what} ({listen}), {who}: {repeats} SYN(s) were lost"
                );
            }
        }
        Ok(())
    });
}
