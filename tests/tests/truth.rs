//! `status` is not ok where nothing works: it tells what the host and the packets show, with a code, for as long as it is so.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename_tests::{
    place::{Place, SOON},
    process::Process,
    scratch::Scratch,
    traffic::{Dial, Lab, Pace},
    wait::wait_until,
    wire::{Names, Spec},
};

/// The problem with this code, if `status` has it, and all that are over.
fn told(place: &Place, code: &str) -> Result<(Option<Value>, Vec<Value>)> {
    let (status, exit) = place.truename.status()?;
    let rows = |field: &str| -> Result<Vec<Value>> {
        let rows = status[field].as_array().context("rows")?;
        Ok(rows.clone())
    };
    let details = rows("problem_details")?;
    let sentences: Vec<_> = details.iter().map(|row| row["problem"].clone()).collect();
    ensure!(status["problems"] == Value::from(sentences), "{status}");
    ensure!((exit == 3) != details.is_empty(), "exit code {exit}");
    let found = details.into_iter().find(|row| row["code"] == code);
    Ok((found, rows("past_problems")?))
}

/// Waits until `status` has a problem: its sentence.
fn wait_told(place: &Place, code: &str) -> Result<String> {
    wait_until(3 * SOON, code, || {
        let (found, _) = told(place, code)?;
        let found = found.with_context(|| format!("no {code}"))?;
        ensure!(found["first_seen"].as_str() <= found["last_seen"].as_str());
        Ok(found["problem"].as_str().context("a sentence")?.to_owned())
    })
}

fn dial(place: &Place, to: &str) -> Result<std::io::Result<TcpStream>> {
    let to: SocketAddr = to.parse()?;
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5));
    place.lab.client().run(connect)
}

#[test]
fn targets_that_do_not_answer_are_told_with_the_reason() -> Result<()> {
    let mut place = Place::prepared(
        "[datapath]\ninterfaces = [\"s0\"]\n\
         [[service]]\nname = \"dead\"\nprotocol = \"tcp\"\nlisten = \"10.99.0.77:81\"\ntarget = \"10.99.0.200:8080\"\n\
         [[service]]\nname = \"closed\"\nprotocol = \"tcp\"\nlisten = \"10.99.0.77:82\"\ntarget = \"10.99.0.1:8082\"\n\
         [[service]]\nname = \"rpc\"\nprotocol = \"tcp\"\nlisten = \"10.99.0.77:83\"\ntarget = \"10.99.0.1:6123\"\n",
    )?;
    let server = place.lab.server().clone();
    server.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
    place
        .lab
        .client()
        .ip("route add 10.99.0.77/32 via 10.99.0.1 dev c0")?;
    place.truename.start_agent()?;
    ensure!(place.problems()?.is_empty(), "{:?}", place.problems()?);
    // What may be meant so is told, and is no problem: neighbours may have a route, as the client here.
    let notes = || -> Result<String> { Ok(place.truename.json("status")?["notes"].to_string()) };
    let said = notes()?;
    ensure!(
        said.contains("10.99.0.77 of the service closed is one of a network of this host"),
        "{said}"
    );
    ensure!(said.contains("rpc leads to 10.99.0.1:6123"), "{said}");

    ensure!(dial(&place, "10.99.0.77:82")?.is_err());
    let sentence = wait_told(&place, "target_refuses")?;
    ensure!(
        sentence.contains("10.99.0.1:8082 of the service closed has refused all 1 connection(s)"),
        "{sentence}"
    );
    ensure!(dial(&place, "10.99.0.77:81")?.is_err());
    let sentence = wait_told(&place, "target_silent")?;
    ensure!(
        sentence.contains("10.99.0.200:8080 of the service dead cannot be reached"),
        "{sentence}"
    );
    ensure!(sentence.contains("(ARP, NDP): is it up?"), "{sentence}");
    let services = place.truename.rows("services", &[("state", "no answer")])?;
    ensure!(services.len() == 1, "{services:?}");
    ensure!(services[0]["targets"][0]["reset"] == 1, "{services:?}");
    let text = place.truename.text("services")?;
    ensure!(
        text.contains("1 of 1 of the last minute not answered"),
        "{text}"
    );
    // Whoever asks about a packet hears of it.
    for (to, words) in [
        ("10.99.0.77:81", "no host of its network"),
        ("10.99.0.77:82", "does it listen at this port?"),
    ] {
        let said = place.truename.words(&["explain", "10.99.0.2", to])?;
        let (_, doubt) = said
            .split_once("begins a connection\n  but ")
            .context("a doubt")?;
        ensure!(doubt.contains(words), "{said}");
    }
    let said = notes()?;
    ensure!(!said.contains("service closed is one"), "{said}");
    // It is logged, too.
    let agent = place.truename.agent()?;
    agent.wait_line(0, &["Degraded: the target 10.99.0.200:8080"], 2 * SOON)?;

    // One that is answered is the end of it, and that is remembered.
    let listener = server.run(|| TcpListener::bind("10.99.0.1:8082"))??;
    drop(dial(&place, "10.99.0.77:82")?.context("connect")?);
    drop(listener.accept()?);
    let (found, past) = told(&place, "target_refuses")?;
    ensure!(found.is_none(), "{found:?}");
    ensure!(past[0]["code"] == "target_refuses", "{past:?}");
    // Nobody dials the other one any more: it is over a minute later.
    wait_until(9 * SOON, "the end of a minute", || {
        let (found, past) = told(&place, "target_silent")?;
        ensure!(found.is_none(), "{found:?}");
        ensure!(past[0]["code"] == "target_silent", "{past:?}");
        Ok(())
    })?;
    ensure!(place.problems()?.is_empty());
    Ok(())
}

/// Says both halves of a conversation, whatever becomes of them.
fn talk(place: &Place) -> Result<()> {
    let flow = place.lab.connect(Dial::default())?;
    let script = Spec::mixed(&Names::flink("jobmanager", "jm"), 1, 5).script();
    let said = |half: &truename_tests::wire::Half| [&*half.greeting, &half.rest].concat();
    let (client, server) = (said(&script.client), said(&script.server));
    for stream in [flow.client(), flow.server()] {
        stream.set_read_timeout(Some(SOON))?;
    }
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| flow.client().write_all(&client));
        scope.spawn(|| flow.server().write_all(&server));
        // No length ever changes.
        let reading = scope.spawn(|| flow.server().read_exact(&mut vec![0; client.len()]));
        flow.client().read_exact(&mut vec![0; server.len()])?;
        reading
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(())
    })?;
    // It lasts until it has been looked at.
    wait_until(2 * SOON, "the word", || {
        let (status, _) = place.truename.status()?;
        ensure!(!status["problems"].to_string().eq("[]"));
        Ok(())
    })
}

fn endpoint(keys: &str) -> String {
    format!(
        "[datapath]\ninterfaces = [\"s0\"]\n[[endpoint]]\nname = \"jm\"\nprotocol = \"pekko\"\nlisten = \"10.99.0.1:6123\"\n{keys}\n"
    )
}

#[test]
fn a_canonical_name_that_the_node_does_not_use_is_told() -> Result<()> {
    let place = Place::new(&endpoint("canonical = \"job-manager:6123\""))?;
    ensure!(place.problems()?.is_empty());
    talk(&place)?;
    let sentence = wait_told(&place, "wrong_canonical")?;
    ensure!(
        sentence.contains("jm calls itself jobmanager:6123")
            && sentence.contains("configured as job-manager:6123"),
        "{sentence}"
    );
    Ok(())
}

#[test]
fn names_that_the_list_does_not_have_are_told() -> Result<()> {
    let place = Place::new(&endpoint("aliases = [\"other:6123\"]"))?;
    ensure!(place.problems()?.is_empty());
    talk(&place)?;
    let sentence = wait_told(&place, "not_admitted")?;
    ensure!(sentence.contains("(endpoint jm)"), "{sentence}");
    Ok(())
}

/// A terminal in which a program runs.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn run(place: &Place, line: &str) -> Result<Self> {
        let socket = place.scratch.path().join("tmux");
        let terminal = Self { socket };
        let size = ["-x", "110", "-y", "24"];
        terminal.tmux(&[&["new-session", "-d"], &size[..], &[line]].concat())?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&self.socket)
            .args(["-f", "/dev/null"]);
        let output = command.args(arguments).output().context("run tmux")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(output.status.success(), "tmux {arguments:?}: {said}");
        Ok(said)
    }

    /// Waits until the screen shows this.
    fn wait(&self, words: &[&str]) -> Result<String> {
        wait_until(SOON, "the screen", || {
            let screen = self.tmux(&["capture-pane", "-p"])?;
            let missing = words.iter().find(|words| !screen.contains(**words));
            ensure!(missing.is_none(), "{missing:?} is not in\n{screen}");
            Ok(screen)
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_shows_what_happens_until_a_key_ends_it() -> Result<()> {
    let mut place = Place::new(
        "[datapath]\ninterfaces = [\"s0\"]\n\
         [[service]]\nname = \"watched\"\nprotocol = \"tcp\"\nlisten = \"10.99.0.77:81\"\ntarget = \"10.99.0.1:8080\"\n",
    )?;
    place
        .lab
        .client()
        .ip("route add 10.99.0.77/32 via 10.99.0.1 dev c0")?;
    let top = place.truename.command(&["top"])?;
    let words = top.get_args().map(|word| word.to_string_lossy());
    let words: Vec<_> = [top.get_program().to_string_lossy()]
        .into_iter()
        .chain(words)
        .collect();
    let line = format!("{}; echo it ended with $?; read forever", words.join(" "));
    let terminal = Terminal::run(&place, &line)?;
    terminal.wait(&["ok: truename", "SERVICE", "watched", "q ends it"])?;
    ensure!(dial(&place, "10.99.0.77:81")?.is_err());
    terminal.wait(&["degraded", "has refused all 1 connection(s)", "no answer"])?;
    // The agent is replaced, and the screen goes on.
    place.truename.stop_agent()?;
    terminal.wait(&["no agent is running"])?;
    place.truename.start_agent()?;
    wait_until(SOON, "the new agent", || {
        let screen = terminal.tmux(&["capture-pane", "-p"])?;
        ensure!(!screen.contains("no agent is running"), "{screen}");
        Ok(())
    })?;
    terminal.tmux(&["send-keys", "q"])?;
    let screen = terminal.wait(&["it ended with 0"])?;
    ensure!(!screen.contains("q ends it"), "{screen}");
    Ok(())
}

#[test]
fn what_is_in_force_is_what_the_agent_says() -> Result<()> {
    let service = |name: &str, port: u16| {
        format!(
            "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"10.99.0.77:{port}\"\ntarget = \"10.99.0.1:8080\"\n"
        )
    };
    let good = format!(
        "[datapath]\ninterfaces = [\"s0\"]\n{}",
        service("first", 81)
    );
    let place = Place::new(&good)?;
    let watch = place
        .truename
        .command(&["services", "--watch", "-o", "jsonl"])?;
    let watch = Process::spawn("watch", watch, place.scratch.path())?;
    watch.wait_line(0, &["\"first\""], SOON)?;
    let in_force = || -> Result<Value> {
        let words = ["config", "show", "--effective", "-o", "json"];
        Ok(serde_json::from_str(&place.truename.words(&words)?)?)
    };
    ensure!(in_force()?["service"][0]["name"] == "first");
    ensure!(in_force()?["datapath"]["max_flows"] == 65_536);

    let agent = place.truename.agent()?;
    let mark = agent.mark();
    place.replace(&format!("{good}[agnt]\n"))?;
    agent.wait_line(mark, &["not used"], SOON)?;
    ensure!(in_force()?["service"][0]["name"] == "first");
    let mark = watch.mark();
    place.reload(&format!("{good}{}", service("second", 82)), &["Reloaded"])?;
    ensure!(in_force()?["service"][1]["name"] == "second");
    watch.wait_line(mark, &["\"second\""], SOON)?;
    ensure!(watch.count_lines(mark, &["\"first\""]) == 1, "shown twice");
    Ok(())
}

#[test]
fn clients_behind_a_translated_address_are_named() -> Result<()> {
    let lab = Lab::routed()?;
    let alias = "10.98.0.1:16123".parse()?;
    let truename = lab.truename_services(Some("jobmanager:6123"), &[alias])?;
    let dial = Dial {
        to: Some(alias),
        ..Dial::default()
    };
    let flow = lab.connect(dial)?;
    let client = flow.client_address()?.ip().to_string();
    let script = Spec::mixed(&Names::flink("jobmanager", "jm"), 3, 5).script();
    flow.exchange(&script, Pace::default())?;
    for verb in ["aliases", "peers"] {
        let rows = truename.rows(verb, &[("alias", "jm:6123")])?;
        let [row] = &rows[..] else {
            anyhow::bail!("{verb}: {rows:?}");
        };
        ensure!(row["client"] != client.as_str(), "it is no other: {row}");
        ensure!(
            row["behind"] == serde_json::json!([client]),
            "{verb}: {row}"
        );
        let text = truename.text(verb)?;
        ensure!(text.contains(&format!("{client} by ")), "{text}");
    }

    // Flows are chosen by the agent, and events by their ends.
    let count = |words: &[&str]| -> Result<usize> {
        let words = [&["flows", "-o", "jsonl"], words].concat();
        Ok(truename.words(&words)?.lines().count())
    };
    let second = lab.connect(dial)?;
    second.exchange(
        &Spec::mixed(&Names::flink("jobmanager", "tm"), 4, 5).script(),
        Pace::default(),
    )?;
    let target = lab.address().ip().to_string();
    for (words, expected) in [
        (&["--target", &target][..], 2),
        (&["--target", "10.1.1.1"], 0),
        (&["--port", "16123"], 2),
        (&["--port", "1"], 0),
        (&["--alias", "tm:6123"], 1),
        (&["--limit", "1"], 1),
    ] {
        ensure!(count(words)? == expected, "{words:?}: {}", count(words)?);
    }
    let scratch = Scratch::new("truth")?;
    let monitor = |from: &str| -> Result<Process> {
        let command = truename.command(&["monitor", "--kind", "alias_seen", "--from", from])?;
        Process::spawn("monitor", command, scratch.path())
    };
    // What the endpoint sees is an address of truename's.
    let seen = truename.rows("aliases", &[("alias", "tm:6123")])?;
    let seen = seen[0]["client"].as_str().context("a client")?;
    let (its, other) = (monitor(seen)?, monitor("10.1.1.1")?);
    let mut seed = 5;
    wait_until(SOON, "an event", || {
        seed += 1;
        let names = Names::flink("jobmanager", &format!("n{seed}"));
        let script = Spec::mixed(&names, seed, 2).script();
        lab.connect(dial)?.exchange(&script, Pace::default())?;
        ensure!(its.count_lines(0, &["alias_seen"]) > 0);
        Ok(())
    })?;
    ensure!(other.count_lines(0, &[]) == 0, "an event of somebody else");
    let brief = truename.words(&["status", "--brief"])?;
    ensure!(
        !brief.contains("INTERFACE")
            && brief
                .lines()
                .all(|l| l.starts_with("ok") || l.starts_with("degraded") || l.starts_with("  ")),
        "{brief}"
    );
    Ok(())
}

#[test]
fn a_bundle_has_all_that_helps_and_no_names_if_asked() -> Result<()> {
    let place = Place::new(&endpoint("canonical = \"jobmanager:6123\""))?;
    let bundle = |words: &[&str]| -> Result<(bool, String)> {
        let mut command = place.truename.command(&["support-bundle"])?;
        command.arg("--bpffs").arg(place.truename.bpffs());
        let output = command
            .arg("--config")
            .arg(&place.file)
            .args(words)
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((output.status.success(), said))
    };
    let file = place.scratch.path().join("bundle.json");
    let name = file.display().to_string();
    let (done, said) = bundle(&[&name])?;
    ensure!(done && said.contains("--redact replaces them"), "{said}");
    let document: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    ensure!(document["endpoints"][0]["canonical"] == "jobmanager:6123");
    ensure!(
        document["status"]["state"] == "ok",
        "{}",
        document["status"]
    );
    ensure!(document["net.ipv4.ip_forward"].is_string(), "{document}");
    ensure!(
        document["file"]
            .as_str()
            .is_some_and(|file| file.contains("10.99.0.1"))
    );

    let (done, said) = bundle(&[&name, "--redact"])?;
    ensure!(done, "{said}");
    let text = fs::read_to_string(&file)?;
    ensure!(
        !text.contains("jobmanager") && !text.contains("10.99.0"),
        "{text}"
    );
    ensure!(text.contains("listen = \\\"address-"), "{text}");
    // Without room nothing is left behind, and without an agent it tells what it can.
    let disk = place.scratch.path().join("disk");
    fs::create_dir(&disk)?;
    let full =
        "mount -t tmpfs -o size=4k none \"$0\" && \"$@\" \"$0/x\"; code=$?; ls \"$0\"; exit $code";
    let asked = place.truename.command(&["support-bundle"])?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", full]).arg(&disk);
    let output = command
        .arg(asked.get_program())
        .args(asked.get_args())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let told = said.contains("cannot write") && said.contains("No space left");
    ensure!(
        !output.status.success() && told && said.lines().count() == 1,
        "{said}"
    );
    ensure!(output.stdout.is_empty(), "{output:?}");
    let mut place = place;
    place.truename.stop_agent()?;
    let mut command = place.truename.command(&["support-bundle"])?;
    let output = command.output()?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let error = document["status"]["error"].as_str().unwrap_or_default();
    ensure!(error.contains("no agent is running"), "{document}");
    ensure!(document["doctor"].is_array(), "{document}");
    Ok(())
}

#[test]
fn explain_takes_names() -> Result<()> {
    let place = Place::new(
        "[datapath]\ninterfaces = [\"s0\"]\n\
         [[endpoint]]\nname = \"jm\"\nprotocol = \"pekko\"\nlisten = \"10.99.0.1:6123\"\ncanonical = \"jobmanager:6123\"\n",
    )?;
    // The agent knows one name by its configuration, and the host knows the other.
    let said = place
        .truename
        .words(&["explain", "10.99.0.2", "jobmanager:6123"])?;
    for words in [
        "jobmanager is 10.99.0.1 by the operator's files",
        "tcp from 10.99.0.2:40000 to 10.99.0.1:6123",
        "the endpoint jm listens on 10.99.0.1:6123",
        "jobmanager:6123 is the endpoint's own name",
    ] {
        ensure!(said.contains(words), "{said}");
    }
    let said = place
        .truename
        .words(&["explain", "localhost", "localhost:6123"])?;
    ensure!(
        said.contains("localhost is 127.0.0.1 by this host's hosts file or DNS"),
        "{said}"
    );
    Ok(())
}
