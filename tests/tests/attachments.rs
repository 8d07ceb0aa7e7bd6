//! What hangs on interfaces is looked at, not remembered; and what is removed is removed everywhere.

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData, ProgramArray};
use truename::{
    config::Datapath,
    datapath::{Mode, Object, Pins, Programs},
    netlink::Requests,
};
use truename_common::layout::{Link, VERSION, map};
use truename_tests::{
    namespace::Namespace,
    pinned::table,
    place::{Place, SOON},
    scratch::Scratch,
    traffic::Lab,
    truename::{Truename, binary},
    wait::wait_until,
};

/// What is translated, to see the truth by.
const SERVICE: &str = r#"
[[service]]
name = "w"
listen = "10.99.0.77:81"
protocol = "tcp"
target = "10.99.0.1:8080"
"#;

fn configuration(datapath: &str) -> String {
    format!("[datapath]\ninterfaces = [\"s0\"]\n{datapath}\n{SERVICE}")
}

/// A client, a service, and the server behind it.
struct Case {
    place: Place,
    target: TcpListener,
}

impl Case {
    fn new(datapath: &str, arguments: &[&str]) -> Result<Self> {
        let mut place = Place::prepared(&configuration(datapath))?;
        place.truename.add_arguments(arguments);
        place.truename.start_agent()?;
        // The alias is no address of any host.
        place
            .lab
            .client()
            .ip("route add 10.99.0.77/32 via 10.99.0.1 dev c0")?;
        let server = place.lab.server();
        let target = server.run(|| TcpListener::bind("10.99.0.1:8080"))??;
        target.set_nonblocking(true)?;
        Ok(Self { place, target })
    }

    fn version(&self) -> PathBuf {
        self.place.truename.bpffs().join(format!("v{VERSION}"))
    }

    /// Whether a new connection through the service reaches its target.
    fn works(&self) -> Result<bool> {
        let client = self.place.lab.client();
        let connected = client.run(|| {
            let to = "10.99.0.77:81".parse()?;
            std::net::TcpStream::connect_timeout(&to, Duration::from_millis(700))
                .map_err(anyhow::Error::from)
        })?;
        let Ok(mut stream) = connected else {
            return Ok(false);
        };
        stream.set_read_timeout(Some(SOON))?;
        let (accepted, _) = self.target.accept()?;
        drop(accepted);
        Ok(stream.read(&mut [0])? == 0)
    }

    /// `status` must tell, at once, what somebody did; then it is repaired, told and counted.
    fn told_and_repaired(&self, what: &str, sabotage: impl FnOnce() -> Result<()>) -> Result<()> {
        let (before, _) = self.place.truename.status()?;
        let agent = self.place.truename.agent()?;
        let mark = agent.mark();
        // While it does not look, so that what status says is status' own knowledge.
        sabotage()?;
        // Twice: the agent may repair it by itself between its look and its count.
        let told = (0..2).any(|_| match self.place.truename.status() {
            // A table without its pin cannot be read, and `status` says so.
            Err(_) => true,
            Ok((status, _)) => {
                status["problems"] != before["problems"]
                    || status["reattached"].as_u64() > before["reattached"].as_u64()
            }
        });
        ensure!(told, "{what}: status says that all is well");
        wait_until(SOON, what, || {
            let (status, code) = self.place.truename.status()?;
            let forwarding = status["problems"].to_string().contains("ip_forward");
            ensure!(code == 0 || forwarding, "{}", status["problems"]);
            ensure!(
                status["reattached"].as_u64() > before["reattached"].as_u64(),
                "it is not counted"
            );
            Ok(())
        })?;
        let words = ["Somebody else removed or replaced", "brought back"];
        agent
            .wait_line(mark, &words, SOON)
            .context(what.to_owned())?;
        ensure!(self.works()?, "{what}: the service does not answer");
        Ok(())
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn tc(namespace: &Namespace, arguments: &str) -> Result<String> {
    let mut command = namespace.command(Path::new("tc"), &[])?;
    let output = command.args(arguments.split(' ')).output()?;
    ensure!(
        output.status.success(),
        "tc {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn detach(case: &Case, namespace: &Namespace) -> Result<(i32, String)> {
    let mut command = namespace.command(&binary()?, &[])?;
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .arg("detach")
        .arg("--bpffs")
        .arg(case.place.truename.bpffs())
        .arg("--control-socket")
        .arg(case.place.scratch.path().join("none"))
        .output()?;
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    Ok((status.code().unwrap_or(-1), said))
}

#[test]
fn links_and_pins_that_somebody_removed_come_back() -> Result<()> {
    let case = Case::new("", &[])?;
    ensure!(case.works()?);
    let version = case.version();
    case.told_and_repaired("both links", || {
        for link in entries(&version.join("links"))? {
            fs::remove_file(link)?;
        }
        Ok(())
    })?;
    case.told_and_repaired("one link", || {
        let links = entries(&version.join("links"))?;
        fs::remove_file(links.first().context("a link")?)?;
        Ok(())
    })?;
    case.told_and_repaired("pins of a table, a program and a chain", || {
        fs::remove_file(version.join("maps").join(map::SERVICES))?;
        fs::remove_file(version.join("programs/tn_ether"))?;
        let chains = entries(&version.join("chains"))?;
        fs::remove_file(chains.first().context("a chain")?)?;
        Ok(())
    })?;
    case.told_and_repaired("the program that others go on with", || {
        let chains = entries(&version.join("chains"))?;
        let table = MapData::from_pin(chains.first().context("a chain")?)?;
        let mut table = ProgramArray::try_from(Map::ProgramArray(table))?;
        table.clear_index(&0).context("empty the chain")
    })?;
    case.told_and_repaired("the addresses of an interface", || {
        let mut links: HashMap<MapData, u32, Link> = table(&case.place.truename, map::LINKS)?;
        let indices = links.keys().collect::<Result<Vec<_>, _>>()?;
        ensure!(!indices.is_empty());
        Ok(links.remove(&indices[0])?)
    })?;
    case.told_and_repaired("an interface that XDP must not send to", || {
        let mut devices: HashMap<MapData, u32, u8> = table(&case.place.truename, map::XDP_DEVICES)?;
        Ok(devices.insert(7, 1, 0)?)
    })?;
    // All of it, by `rm -r`, and nobody asks: a signal is enough.
    let agent = case.place.truename.agent()?;
    let mark = agent.mark();
    fs::remove_dir_all(case.place.truename.bpffs())?;
    agent.hang_up()?;
    agent.wait_line(mark, &["Attached to s0"], SOON)?;
    ensure!(case.works()?, "it does not work after rm -r");
    Ok(())
}

#[test]
fn filters_that_somebody_removed_come_back() -> Result<()> {
    let case = Case::new("", &["--attach", "clsact"])?;
    ensure!(case.works()?);
    let server = case.place.lab.server();
    case.told_and_repaired("the qdisc", || {
        tc(server, "qdisc del dev s0 clsact").map(drop)
    })?;
    case.told_and_repaired("a filter", || {
        tc(server, "filter del dev s0 ingress").map(drop)
    })?;
    // Nobody asks, and nothing but the filter changes: the kernel tells.
    let agent = case.place.truename.agent()?;
    let mark = agent.mark();
    tc(server, "filter del dev s0 egress")?;
    agent.wait_line(mark, &["Attached to s0"], SOON)?;
    Ok(())
}

#[test]
fn xdp_that_somebody_removed_comes_back() -> Result<()> {
    let case = Case::new("xdp = \"generic\"", &[])?;
    let version = case.version();
    case.told_and_repaired("the link", || {
        for link in entries(&version.join("xdp"))? {
            fs::remove_file(link)?;
        }
        Ok(())
    })?;
    case.told_and_repaired("an interface that XDP may send to", || {
        let mut devices: HashMap<MapData, u32, u8> = table(&case.place.truename, map::XDP_DEVICES)?;
        let indices = devices.keys().collect::<Result<Vec<_>, _>>()?;
        ensure!(indices.len() == 1, "{indices:?}");
        Ok(devices.remove(&indices[0])?)
    })?;
    let shown = case.place.lab.server().ip("link show dev s0")?;
    ensure!(shown.contains("xdpgeneric"), "{shown}");
    Ok(())
}

#[test]
fn detach_works_where_the_filters_are_and_nowhere_else() -> Result<()> {
    for mode in ["clsact", "tcx"] {
        let mut case = Case::new("", &["--attach", mode])?;
        case.place.truename.stop_agent()?;
        let server = case.place.lab.server().clone();
        let client = case.place.lab.client().clone();
        ensure!(case.works()?, "{mode}");

        let (code, said) = detach(&case, &client)?;
        ensure!(
            code == 1 && said.contains("another network namespace"),
            "{mode}: {said}"
        );
        ensure!(
            case.works()?,
            "{mode}: what serves the other namespace is gone"
        );

        let (code, said) = detach(&case, &server)?;
        ensure!(
            code == 0 && said.contains("detached 2 program(s)"),
            "{mode}: {said}"
        );
        ensure!(!case.works()?, "{mode}: it still works");
        ensure!(!case.place.truename.bpffs().exists());
        let qdiscs = tc(&server, "qdisc show dev s0")?;
        ensure!(!qdiscs.contains("clsact"), "{mode}: {qdiscs}");
    }
    Ok(())
}

#[test]
fn detach_finds_filters_without_pins_and_restores_what_run_set() -> Result<()> {
    let mut case = Case::new("", &["--attach", "clsact"])?;
    let server = case.place.lab.server().clone();
    let switch = || {
        let path = "/proc/sys/net/ipv4/conf/lo/accept_local";
        server.run(|| fs::read_to_string(path))?.context("a switch")
    };
    ensure!(switch()?.trim() == "1");
    case.place.truename.kill_agent();
    let (code, said) = detach(&case, &server)?;
    ensure!(code == 0, "{said}");
    ensure!(
        said.contains("net.ipv4.conf.lo.accept_local is 0 again"),
        "{said}"
    );
    ensure!(switch()?.trim() == "0");

    // Somebody removed the pins; the filters work on.
    case.place.truename.start_agent()?;
    case.place.truename.kill_agent();
    fs::remove_dir_all(case.place.truename.bpffs())?;
    ensure!(tc(&server, "filter show dev s0 ingress")?.contains("tn_ether"));
    let (code, said) = detach(&case, &server)?;
    ensure!(
        code == 0 && said.contains("detached 2 program(s)"),
        "{said}"
    );
    let left = tc(&server, "filter show dev s0 ingress")?;
    ensure!(!left.contains("tn_ether"), "{left}");
    Ok(())
}

#[test]
fn a_takeover_that_fails_changes_nothing() -> Result<()> {
    for arguments in [&[][..], &["--attach", "clsact"]] {
        let mut case = Case::new("", arguments)?;
        case.place.truename.kill_agent();
        let _odd = case.place.lab.server().unreadable("odd")?;
        let other = configuration("").replace("10.99.0.1:8080", "10.99.0.1:8081");
        let other = other.replace("\"s0\"", "\"s0\", \"odd\"");
        case.place.replace(&other)?;
        let agent = case.place.truename.spawn_agent()?;
        agent.wait_line(0, &["cannot attach to odd"], SOON)?;
        case.place.truename.kill_agent();
        ensure!(case.works()?, "the new target is in force");
        let links = links_of(&case)?;
        ensure!(links == 1, "{links} interfaces are known");
        case.place.replace(&configuration(""))?;
        case.place.truename.start_agent()?;
        ensure!(case.works()?, "the next agent does not take over");
    }
    Ok(())
}

/// How many interfaces the kernel program knows.
fn links_of(case: &Case) -> Result<usize> {
    let links: HashMap<MapData, u32, Link> = table(&case.place.truename, map::LINKS)?;
    Ok(links.keys().count())
}

#[test]
fn many_interfaces_are_attached_while_everything_else_goes_on() -> Result<()> {
    const COUNT: usize = 120;
    let case = Case::new("", &[])?;
    let server = case.place.lab.server();
    let pairs: String = (0..COUNT)
        .map(|number| format!("link add v{number} type veth peer name w{number}\n"))
        .collect();
    server.ip_batch(&pairs)?;
    let agent = case.place.truename.agent()?;
    let mark = agent.mark();
    case.place
        .replace(&configuration("").replace("\"s0\"", "\"s0\", \"v*\""))?;
    agent.wait_line(mark, &["Attached to v"], SOON)?;
    let (mut longest, mut told) = (Duration::ZERO, false);
    loop {
        let begin = Instant::now();
        let (status, code) = case.place.truename.status()?;
        longest = longest.max(begin.elapsed());
        let attached = status["interfaces"].as_array().map_or(0, Vec::len);
        if attached > COUNT {
            break;
        }
        let problems = status["problems"].to_string();
        ensure!(code == 3, "{attached} are attached, and all is well");
        told |= problems.contains("not attached yet");
        ensure!(begin.elapsed() < 6 * SOON, "{attached} are attached");
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(told, "what is not attached yet was never told");
    ensure!(longest < Duration::from_secs(2), "status took {longest:?}");
    ensure!(agent.count_lines(mark, &["hangs"]) == 0);
    Ok(())
}

#[test]
fn interfaces_that_vanish_are_not_taken_for_sabotage() -> Result<()> {
    const COUNT: usize = 120;
    let case = Case::new("", &[])?;
    let server = case.place.lab.server();
    let agent = case.place.truename.agent()?;
    case.place
        .replace(&configuration("").replace("\"s0\"", "\"s0\", \"v*\""))?;
    let batch = |verb: &str, peer: &str| -> String {
        let line = |number: usize| {
            format!(
                "link {verb} v{number}{}\n",
                peer.replace('#', &number.to_string())
            )
        };
        (0..COUNT).map(line).collect()
    };
    server.ip_batch(&batch("add", " type veth peer name w#"))?;
    let links = || entries(&case.version().join("links"));
    wait_until(6 * SOON, "all", || {
        ensure!(links()?.len() == 2 * (COUNT + 1));
        Ok(())
    })?;
    let mark = agent.mark();
    server.ip_batch(&batch("del", ""))?;
    wait_until(SOON, "the pins of s0 alone", || {
        let left = links()?;
        ensure!(left.len() == 2, "{left:?}");
        Ok(())
    })?;
    ensure!(agent.count_lines(mark, &["Somebody else"]) == 0);
    let (status, _) = case.place.truename.status()?;
    ensure!(status["reattached"] == 0, "{}", status["reattached"]);
    Ok(())
}

#[test]
fn an_interface_is_meant_by_its_number() -> Result<()> {
    for mode in [Mode::Tcx, Mode::Clsact] {
        let lab = Lab::direct()?;
        let server = lab.server();
        server.ip("link add s1 type veth peer name s2")?;
        let scratch = Scratch::new("number")?;
        // Removes the pins at the end.
        let truename = Truename::prepared(binary()?, server, &scratch, Vec::new())?;
        let pins = Pins::new(truename.bpffs());
        server.run(|| -> Result<()> {
            let _lock = pins.prepare()?;
            let object = Object::open(&pins, &Datapath::default())?;
            let mut programs = Programs::load(object, &pins, mode)?;
            let inventory = Requests::open()?.inventory()?;
            // Since then it has another name, and its name is another's.
            for renaming in ["s0 name x0", "s1 name s0"] {
                server.ip(&format!("link set {renaming}"))?;
            }
            let mut all = inventory.interfaces.values();
            let meant = all.find(|interface| interface.name == "s0");
            programs.attach(meant.context("s0")?)?;
            server.ip("link del s0")?;
            ensure!(
                programs.drift(&inventory)?.is_empty(),
                "{mode:?}: it is not on x0"
            );
            Ok(())
        })??;
        if mode == Mode::Clsact {
            let filters = tc(server, "filter show dev x0 ingress")?;
            ensure!(filters.contains("tn_ether"), "{filters}");
        }
    }
    Ok(())
}
