//! Programs of others hang on the same hooks, and clear what packets carry there: the mark, `tc_index`. Or they remove
//! what is not theirs.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use truename_common::layout::VERSION;
use truename_tests::{
    nat::{
        AcceptAll, Echo, Family, Lab, Probe, Protocol, Rules, Seen, Servers, Service, Snat,
        Translator, Web, beside, connect, firewall, page, services,
    },
    traffic::DEADLINE,
    wait::wait_until,
};

const PORT: u16 = 7000;
const ALIAS: u16 = 80;

/// The target hangs on a port of a bridge, as containers do.
fn bridged() -> Result<Lab> {
    let lab = Lab::new()?;
    let node = |arguments: &str| lab.node.ip(arguments).map(drop);
    node("link add br0 type bridge")?;
    node("link set br0 up")?;
    for family in Family::BOTH {
        let (own, target) = (lab.near(family), lab.target(family, 0));
        let (length, flag) = match family {
            Family::V4 => (24, "-4"),
            Family::V6 => (64, "-6"),
        };
        node(&format!("address del {own}/{length} dev t0"))?;
        node(&format!("address add {own}/{length} dev br0"))?;
        node(&format!("{flag} route replace default via {target}"))?;
    }
    node("link set t0 master br0")?;
    Ok(lab)
}

#[test]
fn filters_that_accept_everything_change_nothing() {
    beside(|by| {
        let lab = bridged()?;
        let mut rules = Rules {
            interfaces: vec!["br0"],
            ..Rules::default()
        };
        let mut listen = Vec::new();
        let mut echoes = Vec::new();
        for family in Family::BOTH {
            let target = SocketAddr::new(lab.target(family, 0), PORT);
            listen.push(target);
            echoes.push(Echo::start(&lab.target, target)?);
            // An address of the node, so that the client's neighbour and the node itself can use it.
            let alias = SocketAddr::new(lab.node(family), ALIAS);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let mut service = Service::new(protocol, alias, target);
                service.snat = Snat::Never;
                rules.services.push(service);
            }
        }
        let _web = Web::start(&lab.target, &lab.scratch, &listen)?;
        let _translator = Translator::start(by, &lab, &rules)?;
        let mut seen = Seen::new();
        for interface in ["br0", "t0", "c0", "lo"] {
            for side in ["egress", "ingress"] {
                let _filter = AcceptAll::start(&lab.node, interface, side)?;
                for family in Family::BOTH {
                    ask(&lab, &mut seen, family)
                        .with_context(|| format!("{family}, a filter on {interface} {side}"))?;
                }
            }
        }
        Ok(seen)
    });
}

/// The client and the node itself use the alias and the target, from the same port.
fn ask(lab: &Lab, seen: &mut Seen, family: Family) -> Result<()> {
    let target = SocketAddr::new(lab.target(family, 0), PORT);
    let alias = SocketAddr::new(lab.node(family), ALIAS);
    for (who, namespace, from) in [
        ("client", &lab.client, lab.client(family)),
        ("node", &lab.node, lab.near(family)),
    ] {
        let expected = format!("{} {PORT} {from}", target.ip());
        let any = SocketAddr::new(from, 0);
        let one = connect(namespace, any, alias).with_context(|| format!("{who}: the alias"))?;
        let from = one.local_addr()?;
        let two = connect(namespace, from, target).with_context(|| format!("{who}: the target"))?;
        for stream in [&one, &two, &one] {
            let page = page(stream, "/who").with_context(|| who)?;
            ensure!(page == expected, "{who}: {page}");
            seen.note(who, page);
        }
        let probe = Probe::start(namespace, any, alias)?;
        for length in 1..4 {
            probe.send(length)?;
            let answer = probe.receive();
            let answer =
                answer.with_context(|| format!("{who}: the answer to datagram {length}"))?;
            ensure!(answer == length, "{who}: {answer} bytes");
            seen.note(who, length);
        }
    }
    Ok(())
}

/// The rules of nftables stay away until their administrator loads them again; truename notices.
#[test]
fn what_somebody_removed_comes_back() {
    beside(|by| {
        let lab = Lab::new()?;
        let family = Family::V4;
        let alias = SocketAddr::new(lab.foreign(family, 1), ALIAS);
        let target = lab.target(family, 0);
        let _servers = Servers::start(&lab, &lab.target, &[target])?;
        let rules = services(&[(alias, target)]);
        let mut translator = Translator::start(by, &lab, &rules)?;
        let is_answered = || -> Result<bool> {
            let from = SocketAddr::new(lab.client(family), 0);
            let probe = Probe::start(&lab.client, from, alias)?;
            probe.set_patience(Duration::from_millis(300))?;
            probe.send(3)?;
            Ok(probe.receive().is_ok())
        };
        let mut seen = Seen::new();
        let mut comes = |who: &str| {
            wait_until(DEADLINE, who, || {
                ensure!(is_answered()?, "not yet");
                Ok(())
            })?;
            seen.note(who, "answered");
            anyhow::Ok(())
        };
        comes("before")?;
        if let Some(truename) = translator.truename() {
            let version = format!("v{VERSION}");
            for link in fs::read_dir(truename.bpffs().join(version).join("links"))? {
                fs::remove_file(link?.path())?;
            }
            // Who asks need not wait until the agent looks by itself.
            truename.status()?;
        } else {
            firewall(&lab.node, &lab.scratch, "delete table inet beside\n")?;
            ensure!(!is_answered()?, "it is answered without rules");
            translator.reload(&lab, &rules)?;
        }
        comes("afterwards")?;
        Ok(seen)
    });
}
