//! Clients behind an 802.1Q tag: the hooks see it, the stack does not.

use std::net::SocketAddr;

use truename_tests::nat::{
    Client, Family, Lab, Protocol, Rules, Seen, Service, Shape, Translator, Web, beside, visit,
};

/// The port that the web servers listen on.
const PORT: u16 = 8080;

#[test]
fn tagged_packets_are_translated() {
    beside(|by| {
        let lab = Lab::shaped(Shape {
            vlan: Some(10),
            ..Shape::default()
        })?;
        let local = Family::BOTH.map(|family| SocketAddr::new(lab.node(family), PORT));
        let remote = Family::BOTH.map(|family| SocketAddr::new(lab.target(family, 0), PORT));
        let webs = [
            Web::start(&lab.node, &lab.scratch, &local)?,
            Web::start(&lab.target, &lab.scratch, &remote)?,
        ];
        let mut cases = Vec::new();
        for (family, (local, remote)) in Family::BOTH.into_iter().zip(local.into_iter().zip(remote))
        {
            let alias = |number| SocketAddr::new(lab.foreign(family, number), 80);
            cases.push(("local", &webs[0], (alias(1), local, lab.client(family))));
            cases.push(("remote", &webs[1], (alias(2), remote, lab.near(family))));
        }
        let services = cases
            .iter()
            .map(|&(.., (alias, target, _))| Service::new(Protocol::Tcp, alias, target));
        let rules = Rules::new(services.collect());
        let _translator = Translator::start(by, &lab, &rules)?;
        let mut seen = Seen::new();
        for (what, web, ways) in cases {
            let client = Client::new(&lab.client, &lab.scratch);
            visit(&mut seen, what, client, web, ways)?;
        }
        Ok(seen)
    });
}
