//! Services whose target is the node itself.

use std::net::{IpAddr, SocketAddr};

use truename_tests::nat::{
    Alias, Client, Family, Lab, Protocol, Rules, Seen, Translator, Web, beside, visit,
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
