//! Services whose target is the node itself.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use truename_tests::nat::{
    Alias, By, Client, Family, Lab, Protocol, Rules, Seen, Translator, Web, alone, beside, visit,
};

/// The port that the web server listens on.
const PORT: u16 = 8080;

#[test]
fn a_local_target_has_aliases_of_every_kind() {
    beside(|by| {
        let lab = Lab::new()?;
        let targets = Family::BOTH.map(|family| SocketAddr::new(lab.node(family), PORT));
        let web = Web::start(&lab.node, &lab.scratch, &targets)?;
        let mut aliases = Vec::new();
        for family in Family::BOTH {
            let target = SocketAddr::new(lab.node(family), PORT);
            for (what, address, port) in [
                ("another port", lab.node(family), 80),
                ("another address", lab.foreign(family, 1), PORT),
                ("another address and port", lab.foreign(family, 1), 80),
                ("one more alias", lab.foreign(family, 2), 80),
                ("another address of the node", lab.near(family), 81),
            ] {
                aliases.push(Alias {
                    what,
                    family,
                    listen: SocketAddr::new(address, port),
                    target,
                });
            }
        }
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
            // The node speaks to its own addresses from the same one, to others as the way there begins.
            let own: IpAddr = if listen.ip() == lab.node(family) {
                listen.ip()
            } else {
                lab.near(family)
            };
            for (who, namespace, source) in [
                ("client", &lab.client, lab.client(family)),
                ("second client", &lab.second, lab.second(family)),
                ("the node itself", &lab.node, own),
            ] {
                visit(
                    &mut seen,
                    &format!("{what} ({listen}), {who}"),
                    Client::new(namespace, &lab.scratch),
                    &web,
                    (listen, target, source),
                )?;
            }
        }
        Ok(seen)
    });
}

/// Who is seen by a server on a loopback address is a matter of taste (nftables: the client, truename: the loopback
/// address), so it is not compared.
fn loopback(by: By, family: Family, address: IpAddr) -> Result<Seen> {
    let lab = Lab::new()?;
    if by == By::Nftables {
        // What truename does not need.
        lab.node.sysctl("net/ipv4/conf/all/route_localnet", "1")?;
    }
    let alias = Alias {
        what: "a loopback address",
        family,
        listen: SocketAddr::new(lab.foreign(family, 1), 80),
        target: SocketAddr::new(address, PORT),
    };
    let web = Web::start(&lab.node, &lab.scratch, &[alias.target])?;
    let rules = Rules::aliases(Protocol::Tcp, &[alias]);
    let _translator = Translator::start(by, &lab, &rules)?;
    let mut seen = Seen::new();
    for (who, namespace) in [
        ("client", &lab.client),
        ("second client", &lab.second),
        ("the node itself", &lab.node),
        ("the target's host", &lab.target),
    ] {
        let client = Client::new(namespace, &lab.scratch);
        let got = client.fetch(alias.listen, "/big", Some(web.big()))?;
        let good = format!(
            "exit 0, 200 from {}: the bytes that are served",
            alias.listen
        );
        ensure!(got == good, "{who}, {family}: {got}");
        seen.note(who, got);
        seen.note(who, client.upload(alias.listen, "/up/file", web.big())?);
        ensure!(web.received("/up/file")? == web.big(), "{who}: other bytes");
    }
    Ok(seen)
}

#[test]
fn a_server_that_listens_on_loopback_alone_has_an_alias() {
    beside(|by| loopback(by, Family::V4, [127, 0, 0, 1].into()));
    // netfilter cannot: packets to ::1 are not accepted from elsewhere.
    alone(|| {
        loopback(
            By::Truename,
            Family::V6,
            std::net::Ipv6Addr::LOCALHOST.into(),
        )
        .map(drop)
    });
}
