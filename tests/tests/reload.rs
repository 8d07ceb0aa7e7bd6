//! The configuration changes while the agent runs: by SIGHUP, and by another file.

use std::{
    fs,
    net::{TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    nat::{self, talk},
    place::{Place, SOON},
    scratch::Scratch,
    traffic::{Connection, Dial, Lab, Pace},
    truename::Truename,
    wait::wait_until,
    wire::{Names, Spec},
};

const ENDPOINT: &str = r#"
[[endpoint]]
name = "jm"
protocol = "pekko"
listen = "10.99.0.1:6123"
canonical = "jobmanager:6123"
"#;

fn datapath(lines: &str) -> String {
    format!("[datapath]\ninterfaces = [\"s0\"]\n{lines}\n")
}

fn service(name: &str, alias: &str, target: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"{alias}\"\ntarget = \"{target}\"\n"
    )
}

fn exchange(connection: &Connection, round: u64) -> Result<()> {
    let spec = Spec::mixed(&Names::flink("jobmanager", "jm"), round, 20);
    let spec = if round == 0 {
        spec
    } else {
        spec.continued(round)
    };
    connection
        .exchange(&spec.script(), Pace::default())
        .map(drop)
}

#[test]
fn flows_and_connections_go_on_under_another_configuration() -> Result<()> {
    let place = Place::new(&(datapath("") + ENDPOINT))?;
    let flow = place.lab.connect(Dial::default())?;
    exchange(&flow, 0)?;
    let server = place
        .lab
        .server()
        .run(|| TcpListener::bind("10.99.0.1:8080"))??;
    let one = service("one", "10.99.0.1:81", "10.99.0.1:8080");
    let two = service("two", "10.99.0.1:82", "10.99.0.1:8080");
    place.reload(
        &(datapath("") + ENDPOINT + &one),
        &["Reloaded", "1 endpoint(s) and 1 service(s)"],
    )?;
    exchange(&flow, 1)?;
    let (mut client, mut accepted, _) = place.connect(&server, "10.99.0.1:81")?;
    talk(&mut client, &mut accepted)?;
    place.reload(
        &(datapath("") + ENDPOINT + &one + &two),
        &["Reloaded", "2 service(s)"],
    )?;
    talk(&mut client, &mut accepted)?;
    let (mut second, mut accepted_too, _) = place.connect(&server, "10.99.0.1:82")?;
    talk(&mut second, &mut accepted_too)?;
    exchange(&flow, 2)?;
    // All that there was is in force.
    ensure!(place.problems()?.is_empty());
    let endpoints = place.truename.json("endpoints")?;
    ensure!(endpoints[0]["name"] == "jm", "{endpoints}");
    // Asked for, without another file.
    let agent = place.truename.agent()?;
    let mark = agent.mark();
    agent.hang_up()?;
    agent.wait_line(mark, &["The configuration is as it was"], SOON)?;
    // The endpoint goes: what is sent to the alias from now on is not translated.
    place.reload(&(datapath("") + &one), &["Reloaded", "0 endpoint(s)"])?;
    ensure!(exchange(&flow, 3).is_err());
    talk(&mut client, &mut accepted)
}

#[test]
fn a_bad_configuration_leaves_the_one_before_in_force_and_is_told() -> Result<()> {
    let good = datapath("") + ENDPOINT;
    let place = Place::new(&good)?;
    let flow = place.lab.connect(Dial::default())?;
    exchange(&flow, 0)?;
    let cases = [
        (format!("{good}\nbad"), "not TOML"),
        (good.replace("listen", "lisen"), "unknown key \"lisen\""),
        (datapath(""), "no endpoint, no service and no cluster"),
        (good.replace("\"s0\"", "\"s0\", \"s1\""), "s1"),
        (datapath("max_flows = 1024") + ENDPOINT, "restart"),
        (datapath("max_rpc_flows = 1024") + ENDPOINT, "restart"),
        (format!("[agent]\nbpffs = \"/sys/fs/bpf/x\"\n{good}"), ""),
    ];
    for (round, (text, why)) in (1..).zip(&cases) {
        if why.is_empty() {
            // The command line decides this one.
            place.reload(text, &["Reloaded"])?;
            ensure!(place.problems()?.is_empty());
            continue;
        }
        let line = place.reload(text, &["The new configuration is not used", why])?;
        let problems = place.problems()?;
        ensure!(
            problems.len() == 1 && problems[0].contains(why),
            "{line}: {problems:?}"
        );
        exchange(&flow, round)?;
    }
    place.reload(
        &datapath("xdp = \"maybe\""),
        &["The new configuration is not used"],
    )?;
    // As it was: in force, and nothing to complain of.
    place.reload(&good, &["Reloaded"])?;
    ensure!(place.problems()?.is_empty());
    exchange(&flow, 99)
}

#[test]
fn interfaces_and_the_log_level_follow() -> Result<()> {
    let place = Place::new(&(datapath("") + ENDPOINT))?;
    let attached = || -> Result<Vec<String>> {
        let (status, _) = place.truename.status()?;
        let rows = status["interfaces"].as_array().context("interfaces")?;
        let names = rows.iter().filter_map(|row| row["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    };
    ensure!(attached()? == ["s0"]);
    let both = datapath("").replace("\"s0\"", "\"s0\", \"lo\"") + ENDPOINT;
    place.reload(&format!("[agent]\nlog = \"debug\"\n{both}"), &["Reloaded"])?;
    ensure!(attached()? == ["lo", "s0"]);
    let agent = place.truename.agent()?;
    // Every ten seconds.
    agent.wait_line(0, &["DEBUG", "Looked at"], 2 * SOON)?;
    place.reload(&(datapath("") + ENDPOINT), &["Reloaded"])?;
    ensure!(attached()? == ["s0"]);
    Ok(())
}

#[test]
fn a_config_map_is_followed() -> Result<()> {
    let lab = Lab::direct()?;
    let scratch = Scratch::new("reload")?;
    let root = scratch.path();
    // What a kubelet makes of a ConfigMap.
    let version = |name: &str, text: &str| -> Result<()> {
        fs::create_dir(root.join(name))?;
        fs::write(root.join(name).join("truename.toml"), text)?;
        std::os::unix::fs::symlink(name, root.join("..data_tmp"))?;
        fs::rename(root.join("..data_tmp"), root.join("..data")).context("switch")
    };
    version("..1", &(datapath("") + ENDPOINT))?;
    let file = root.join("truename.toml");
    std::os::unix::fs::symlink("..data/truename.toml", &file)?;
    let truename = Truename::start_file(lab.server(), &scratch, &file)?;
    let agent = truename.agent()?;
    let mark = agent.mark();
    version(
        "..2",
        &(datapath("") + ENDPOINT + &service("s", "10.99.0.1:81", "10.99.0.1:8080")),
    )?;
    agent.wait_line(mark, &["Reloaded", "1 service(s)"], SOON)?;
    Ok(())
}

#[test]
fn other_source_ports_wait_for_the_connections_of_the_old_ones() -> Result<()> {
    /// Another host than the one that translates: where the client is, too.
    const TARGET: &str = "10.99.0.3:8080";
    let configuration = |ports: &str| {
        datapath(&format!(
            "snat_ports = \"{ports}\"\n[datapath.timeouts]\ntime_wait = \"1s\"\nclosed = \"1s\"\nhalf_closed = \"1s\""
        )) + &service("s", "10.99.0.1:81", TARGET)
    };
    let place = Place::new(&configuration("20000-20999"))?;
    let server = place.lab.client().run(|| TcpListener::bind(TARGET))??;
    place.lab.server().sysctl("net/ipv4/ip_forward", "1")?;
    let (mut old, mut accepted, peer) = place.connect(&server, "10.99.0.1:81")?;
    ensure!((20_000..21_000).contains(&peer.port()), "{peer}");
    talk(&mut old, &mut accepted)?;
    // Another range, a narrower and a wider one: each would have the old connection's port elsewhere.
    for ports in ["30000-30999", "20000-20009", "1024-65535", "30000-30999"] {
        place.reload(&configuration(ports), &["Reloaded"])?;
        talk(&mut old, &mut accepted).with_context(|| format!("after {ports}"))?;
        let problems = place.problems()?;
        let waits = format!("the source ports {ports} wait");
        ensure!(
            problems.iter().any(|problem| problem.contains(&waits)),
            "{problems:?}"
        );
        let (mut new, mut other, peer) = place.connect(&server, "10.99.0.1:81")?;
        ensure!((20_000..21_000).contains(&peer.port()), "{ports}: {peer}");
        talk(&mut new, &mut other)?;
    }
    drop((old, accepted));
    wait_until(4 * SOON, "the new range", || {
        let problems = place.problems()?;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    })?;
    let (mut new, mut accepted, peer) = place.connect(&server, "10.99.0.1:81")?;
    ensure!((30_000..31_000).contains(&peer.port()), "{peer}");
    talk(&mut new, &mut accepted)
}

#[test]
fn a_drained_target_keeps_its_connections_and_gets_no_new_ones() -> Result<()> {
    let addresses = ["10.99.0.1:8080", "10.99.0.1:8081"];
    let of = |name: &str, listen: &str, more: &str| {
        let targets = addresses.map(|address| format!("\"{address}\"")).join(", ");
        let service = service(name, listen, "").replace("\"\"", &format!("[{targets}]"));
        format!("{service}{more}\n")
    };
    let services =
        of("web", "10.99.0.1:81", "") + &of("strict", "10.99.0.1:82", "on_change = \"reset\"");
    let place = Place::new(&(datapath("") + &services))?;
    let bind = |address: &str| {
        place
            .lab
            .server()
            .run(|| TcpListener::bind(address))?
            .context("listen")
    };
    let servers = [bind(addresses[0])?, bind(addresses[1])?];
    for server in &servers {
        server.set_nonblocking(true)?;
    }
    // The server that a new connection reaches, and both ends of it.
    let connect = || -> Result<(usize, TcpStream, TcpStream)> {
        let client = nat::connect(
            place.lab.client(),
            "10.99.0.2:0".parse()?,
            "10.99.0.1:81".parse()?,
        )?;
        wait_until(SOON, "the connection at a target", || {
            let mut reached = servers.iter().enumerate();
            let found =
                reached.find_map(|(number, server)| Some((number, server.accept().ok()?.0)));
            let (number, accepted) = found.context("nobody has it")?;
            accepted.set_nonblocking(false)?;
            accepted.set_read_timeout(Some(SOON))?;
            Ok((number, client.try_clone()?, accepted))
        })
    };
    let reaching = |wanted: usize| -> Result<(TcpStream, TcpStream)> {
        for _ in 0..200 {
            let (number, client, accepted) = connect()?;
            if number == wanted {
                return Ok((client, accepted));
            }
        }
        anyhow::bail!("target {wanted} gets no connection")
    };
    let (mut client, mut accepted) = reaching(0)?;
    talk(&mut client, &mut accepted)?;

    let said = place
        .truename
        .words(&["services", "drain", "web", addresses[0]])?;
    ensure!(said.contains("gets no new connections"), "{said}");
    for _ in 0..40 {
        ensure!(connect()?.0 == 1, "a drained target got a connection");
    }
    talk(&mut client, &mut accepted)?;
    let web = &place.truename.rows("services", &[("name", "web")])?[0];
    ensure!(
        web["state"] == "ok" && web["targets"][0]["draining"] == true,
        "{web}"
    );
    ensure!(web["targets"][1]["draining"] == false, "{web}");
    ensure!(web["targets"][0]["connections"].as_u64() > Some(0), "{web}");
    let table = place.truename.text("services")?;
    ensure!(table.contains("draining"), "{table}");
    // How long its entry is kept, as the timeout of its state says.
    let port = client.local_addr()?.port();
    let flows = place
        .truename
        .rows("flows", &[("client", &*format!("10.99.0.2:{port}"))])?;
    let left = flows[0]["expires_in_s"].as_u64().context("no time")?;
    ensure!(
        flows[0]["connection"] == "established" && left > 60,
        "{flows:?}"
    );
    ensure!(place.truename.text("flows")?.contains("LEFT"));

    // What else happens meanwhile changes nothing; without another target nobody is served.
    place
        .truename
        .words(&["services", "drain", "web", addresses[0]])?;
    place
        .truename
        .words(&["services", "drain", "web", addresses[1]])?;
    let problems = place.problems()?;
    ensure!(
        problems
            .iter()
            .any(|problem| problem.contains("\"web\" returns \"port unreachable\"")),
        "{problems:?}"
    );
    talk(&mut client, &mut accepted)?;
    for address in addresses {
        place
            .truename
            .words(&["services", "resume", "web", address])?;
    }
    ensure!(place.problems()?.is_empty());
    drop(reaching(0)?);
    drop(reaching(1)?);

    for (arguments, why) in [
        (["nope", addresses[0]], "there is no service \"nope\""),
        (
            ["web", "10.99.0.1:9"],
            "it has 10.99.0.1:8080, 10.99.0.1:8081",
        ),
        (["strict", addresses[0]], "set on_change = \"drain\" first"),
    ] {
        let mut refused = place.truename.command(&["services", "drain"])?;
        let output = refused.args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(1) && said.contains(why),
            "{said}"
        );
    }
    Ok(())
}
