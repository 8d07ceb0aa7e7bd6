//! Services whose packets are forwarded in XDP: by the stack (`generic`), by the veths' driver (`native`),
//! or not at all (`auto` leaves veths out).

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename_tests::{
    nat::{
        Alias, By, Client, Dns, Download, Echo, Family, Lab, Probe, Protocol, Rules, Seen, Service,
        Translator, Web, alone, beside, connect, visit,
    },
    traffic::DEADLINE,
    wait::wait_until,
};

/// The port that the web server listens on.
const WEB: u16 = 8080;
/// The port that the name server listens on.
const DNS: u16 = 5353;
/// Interfaces with a client or a target behind them.
const SIDES: [&str; 3] = ["c0", "d0", "t0"];

/// An alias of the remote target for each IP version.
fn aliases(lab: &Lab, port: u16) -> [Alias; 2] {
    Family::BOTH.map(|family| Alias {
        what: "another address",
        family,
        listen: SocketAddr::new(lab.foreign(family, 1), 80),
        target: SocketAddr::new(lab.target(family, 0), port),
    })
}

fn rules(lab: &Lab, xdp: &'static str) -> Rules {
    let services = |protocol, port| {
        aliases(lab, port).map(|alias| Service::new(protocol, alias.listen, alias.target))
    };
    let tcp = services(Protocol::Tcp, WEB);
    let mut rules = Rules::new(
        tcp.into_iter()
            .chain(services(Protocol::Udp, DNS))
            .collect(),
    );
    rules.xdp = Some(xdp);
    rules
}

/// Its servers beside a lab.
struct Servers {
    web: Web,
    _dns: Dns,
}

impl Servers {
    fn start(lab: &Lab) -> Result<Self> {
        let sockets = |port| aliases(lab, port).map(|alias| alias.target);
        Ok(Self {
            web: Web::start(&lab.target, &lab.scratch, &sockets(WEB))?,
            _dns: Dns::start(&lab.target, &lab.scratch, &sockets(DNS))?,
        })
    }
}

/// The mode of XDP on every interface of the node, as the agent says and as the kernel says.
fn modes(lab: &Lab, translator: &mut Translator) -> Result<BTreeMap<String, [Option<String>; 2]>> {
    let truename = translator.truename().context("truename is at work")?;
    let status = truename.json("status")?;
    let rows = status["interfaces"].as_array().context("no interfaces")?;
    let word = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let mut modes = BTreeMap::new();
    for row in rows {
        let name = word(&row["name"]).context("no name")?;
        let in_kernel = attached(lab, &name)?;
        modes.insert(name, [word(&row["xdp"]), in_kernel]);
    }
    Ok(modes)
}

/// The mode in which the kernel runs an XDP program on an interface of the node.
fn attached(lab: &Lab, interface: &str) -> Result<Option<String>> {
    /// `XDP_ATTACHED_DRV` and `XDP_ATTACHED_SKB`, of linux/if_link.h.
    const MODES: [(u64, &str); 2] = [(1, "native"), (2, "generic")];
    let text = lab.node.ip(&format!("-json link show dev {interface}"))?;
    let links: Value = serde_json::from_str(&text).context("read what ip says")?;
    let Some(mode) = links[0]["xdp"]["mode"].as_u64() else {
        return Ok(None);
    };
    let known = MODES.iter().find(|(number, _)| *number == mode);
    Ok(Some(known.map_or("another", |(_, name)| *name).to_owned()))
}

fn expect_modes(lab: &Lab, translator: &mut Translator, mode: Option<&str>) -> Result<()> {
    let modes = modes(lab, translator)?;
    for name in SIDES {
        let both = modes.get(name).with_context(|| format!("no {name}"))?;
        ensure!(
            both.iter().all(|is| is.as_deref() == mode),
            "{name}: status and kernel say {both:?} instead of {mode:?}"
        );
    }
    ensure!(modes["lo"] == [None, None], "lo: {:?}", modes["lo"]);
    Ok(())
}

/// Everything that clients do with the services.
fn use_all(lab: &Lab, servers: &Servers) -> Result<Seen> {
    let mut seen = Seen::new();
    for (who, namespace) in [("client", &lab.client), ("second client", &lab.second)] {
        let client = Client::new(namespace, &lab.scratch);
        for alias in aliases(lab, WEB) {
            let place = format!("{who}, {}", alias.family);
            let way = (alias.listen, alias.target, lab.near(alias.family));
            visit(&mut seen, &place, client, &servers.web, way)?;
        }
        for alias in aliases(lab, DNS) {
            for (name, kind, record) in [
                ("node.test", "AAAA", "2001:db8::7"),
                ("long.test", "TXT", "tttttttt"),
            ] {
                let got = client.resolve(alias.listen, name, kind)?;
                ensure!(
                    got.starts_with("exit 0") && got.contains(record),
                    "{who}, {}, {name}: {got}",
                    alias.family
                );
                seen.note(format!("{who}, {}", alias.family), got);
            }
        }
    }
    Ok(seen)
}

/// What clients see with this mode configured, and how many packets XDP forwarded.
fn under(configured: &'static str, attached: Option<&str>) -> Result<(Seen, u64)> {
    let lab = Lab::new()?;
    let servers = Servers::start(&lab)?;
    let mut translator = Translator::start(By::Truename, &lab, &rules(&lab, configured))?;
    expect_modes(&lab, &mut translator, attached)?;
    let seen = use_all(&lab, &servers).with_context(|| format!("xdp = {configured:?}"))?;
    let truename = translator.truename().context("truename is at work")?;
    Ok((seen, truename.counter("xdp_forwarded")?))
}

#[test]
fn clients_see_the_same_whoever_forwards() {
    beside(|by| {
        if by == By::Nftables {
            let lab = Lab::new()?;
            let servers = Servers::start(&lab)?;
            let _translator = Translator::start(by, &lab, &rules(&lab, "off"))?;
            return use_all(&lab, &servers);
        }
        let (expected, forwarded) = under("off", None)?;
        ensure!(forwarded == 0, "off: {forwarded} forwarded in XDP");
        for (configured, attached) in [
            ("generic", Some("generic")),
            ("native", Some("native")),
            ("auto", None),
        ] {
            let (seen, forwarded) = under(configured, attached)?;
            if let Some((was, is)) = expected.difference(&seen) {
                anyhow::bail!("a difference\n  off: {was}\n  {configured}: {is}");
            }
            // Natively a veth takes no frames of another device: they go up to tc.
            let is_used = configured == "generic";
            ensure!(
                if is_used {
                    forwarded > 100
                } else {
                    forwarded == 0
                },
                "{configured}: {forwarded} forwarded in XDP"
            );
        }
        Ok(expected)
    });
}

/// nftables needs no process, so nothing happens under it.
#[test]
fn a_killed_agent_and_the_next_one_do_not_disturb_transfers() {
    beside(|by| {
        let mut seen = Seen::new();
        for mode in ["generic", "native"] {
            let lab = Lab::new()?;
            let servers = Servers::start(&lab)?;
            let mut translator = Translator::start(by, &lab, &rules(&lab, mode))?;
            for alias in aliases(&lab, WEB) {
                let from = SocketAddr::new(lab.client(alias.family), 0);
                let begin = || Download::begin(connect(&lab.client, from, alias.listen)?, "/big");
                let finish = |download: Download| download.finish(servers.web.big()).map(drop);
                let [first, second] = [begin()?, begin()?];
                let mut counts = Vec::new();
                let mut count = |translator: &mut Translator| -> Result<()> {
                    if let Some(truename) = translator.truename() {
                        counts.push(truename.counter("xdp_forwarded")?);
                    }
                    Ok(())
                };
                count(&mut translator)?;
                if let Some(truename) = translator.truename() {
                    truename.kill_agent();
                }
                finish(first).context("without an agent")?;
                if let Some(truename) = translator.truename() {
                    truename.start_agent()?;
                }
                count(&mut translator)?;
                finish(second).context("with the next")?;
                count(&mut translator)?;
                if by == By::Truename {
                    let rises = counts.is_sorted_by(|before, after| before < after);
                    ensure!(rises || mode == "native", "{counts:?}");
                    expect_modes(&lab, &mut translator, Some(mode))?;
                }
                seen.note(mode, alias.family);
            }
        }
        Ok(seen)
    });
}

#[test]
fn nothing_is_left_on_the_interfaces() {
    alone(|| {
        let lab = Lab::new()?;
        let mut translator = Translator::start(By::Truename, &lab, &rules(&lab, "generic"))?;
        expect_modes(&lab, &mut translator, Some("generic"))?;
        // Another configuration.
        translator.change(&lab, &rules(&lab, "native"))?;
        expect_modes(&lab, &mut translator, Some("native"))?;
        translator.change(&lab, &rules(&lab, "off"))?;
        expect_modes(&lab, &mut translator, None)?;
        translator.change(&lab, &rules(&lab, "generic"))?;
        expect_modes(&lab, &mut translator, Some("generic"))?;
        let truename = translator.truename().context("truename is at work")?;
        truename.detach()?;
        for interface in SIDES {
            let left = attached(&lab, interface)?;
            ensure!(left.is_none(), "{interface}: {left:?} is left");
        }
        Ok(())
    });
}

/// Under nftables, or in tc, the kernel notices within some seconds.
#[test]
fn a_target_may_get_another_link_address() {
    beside(|by| {
        let lab = Lab::new()?;
        let family = Family::V4;
        let target = SocketAddr::new(lab.target(family, 0), DNS);
        let alias = SocketAddr::new(lab.foreign(family, 1), 80);
        // What is known of a neighbour grows old at once, instead of in half a minute.
        for (key, value) in [
            ("base_reachable_time_ms", "2000"),
            ("delay_first_probe_time", "1"),
            ("retrans_time_ms", "100"),
        ] {
            lab.node
                .sysctl(&format!("net/ipv4/neigh/t0/{key}"), value)?;
        }
        let _echo = Echo::start(&lab.target, target)?;
        let mut rules = Rules::new(vec![Service::new(Protocol::Udp, alias, target)]);
        rules.xdp = Some("generic");
        let mut translator = Translator::start(by, &lab, &rules)?;
        let probe = Probe::start(&lab.client, SocketAddr::new(lab.client(family), 0), alias)?;
        probe.set_patience(Duration::from_millis(50))?;
        let is_answered = |length: usize| -> Result<bool> {
            probe.send(length)?;
            Ok(probe.receive().is_ok())
        };
        // In XDP, the stack does not see that the neighbour is there.
        if let Some(truename) = translator.truename() {
            wait_until(DEADLINE, "XDP forwards", || {
                is_answered(10)?;
                let state = lab.node.ip(&format!("neigh show {}", target.ip()))?;
                let is_old = state.contains("STALE");
                ensure!(is_old && truename.counter("xdp_forwarded")? > 10, "not yet");
                Ok(())
            })?;
        } else {
            ensure!(is_answered(10)?, "no answer");
        }
        // The node must not hear of it by what the target asks.
        let near = lab.near(family);
        let link = lab.node.link_address("t0")?;
        lab.target.ip_batch(&format!(
            "link set s0 address 02:00:00:00:00:55\n\
             neigh replace {near} lladdr {link} dev s0 nud permanent\n"
        ))?;
        ensure!(!is_answered(11)?, "the change does not matter");
        wait_until(DEADLINE, "an answer", || {
            ensure!(is_answered(12)?, "none");
            Ok(())
        })?;
        Ok(Seen::new())
    });
}
