//! The agent lives on and tells the truth, whatever its host does.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{TcpListener, UdpSocket},
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use truename_common::layout::VERSION;
use truename_tests::{
    http::Http,
    place::{Place, SOON},
    process::Process,
    random::Random,
    truename::binary,
    wait::wait_until,
};

/// How soon an agent ends that is told to.
const END: Duration = Duration::from_secs(2);

/// A configuration with so many services whose targets are looked up in the routes.
fn services(count: usize) -> String {
    let mut text = "[datapath]\ninterfaces = [\"s0\"]\n".to_owned();
    for number in 1..=count {
        let _ = write!(
            text,
            "[[service]]\nname = \"s{number}\"\nlisten = \"10.99.200.{number}:9000\"\nprotocol = \"tcp\"\ntarget = \"10.99.0.{number}:9000\"\n"
        );
    }
    text
}

#[test]
fn a_storm_of_addresses_does_not_stop_the_agent() -> Result<()> {
    let mut place = Place::new(&services(200))?;
    let server = place.lab.server().clone();
    server.ip("link add x0 type veth peer name x1")?;
    server.ip("link set x0 up")?;
    let mut storm = String::new();
    for number in 0..1500 {
        let address = format!("10.8.{}.{}/32 dev x0", number / 250, number % 250);
        let _ = writeln!(storm, "addr add {address}\naddr del {address}");
    }
    let mut random = Random::new(3);
    for _ in 0..5 {
        thread::scope(|scope| -> Result<()> {
            let storming = scope.spawn(|| server.ip_batch(&storm));
            let agent = place.truename.agent()?;
            for _ in 0..6 {
                // Not a wait for anything: messages pile up while it is stopped, at any point of its work.
                thread::sleep(Duration::from_millis(random.below(90) as u64));
                agent.pause()?;
                thread::sleep(Duration::from_millis(200));
                agent.resume()?;
            }
            storming
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
    }
    // It follows, it answers, and it ends.
    let both = services(200).replace("\"s0\"", "\"s0\", \"x0\"");
    place.reload(&both, &["Reloaded"])?;
    let interfaces = place.truename.json("status")?["interfaces"].to_string();
    ensure!(interfaces.contains("x0"), "{interfaces}");
    let begin = Instant::now();
    let status = place.truename.stop_agent()?;
    ensure!(status.success() && begin.elapsed() < END, "{status}");
    Ok(())
}

#[test]
fn routes_are_read_again_only_when_one_that_matters_is_another() -> Result<()> {
    const LINKS: usize = 10;
    let configuration = services(1).replace("\"s0\"", "\"s0\", \"v*\"");
    let place = Place::new(&format!("[agent]\nlog = \"debug\"\n{configuration}"))?;
    let server = place.lab.server();
    let agent = place.truename.agent()?;
    let read = ["Read ", "route(s)"];
    let mark = agent.mark();
    for number in 0..LINKS {
        server.ip(&format!("link add v{number} type veth peer name w{number}"))?;
        agent.wait_line(mark, &[&format!("Attached to v{number} ")], SOON)?;
    }
    // They are read when the agent begins, and every 30 seconds.
    let count = agent.count_lines(mark, &read);
    ensure!(count < LINKS / 2, "{count} times for {LINKS} interfaces");
    for change in ["add", "del"] {
        let mark = agent.mark();
        server.ip(&format!("route {change} default via 10.99.0.2"))?;
        agent.wait_line(mark, &read, SOON)?;
    }
    Ok(())
}

/// How many threads a process has.
fn threads(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/task"))?.count())
}

#[test]
fn a_name_server_that_hangs_takes_no_threads_and_hangs_nothing_else() -> Result<()> {
    let configuration = "[datapath]\ninterfaces = [\"s0\"]\n\
        [[service]]\nname = \"w\"\nlisten = \"10.99.0.1:9000\"\nprotocol = \"tcp\"\ntarget = \"workers:9069\"\n";
    let mut place = Place::prepared(configuration)?;
    let mut workers = String::new();
    for number in 0..600 {
        let _ = write!(
            workers,
            "[[worker]]\nid = \"tm-{number}\"\nrpc = \"pekko.tcp://flink@tm-{number}.example.org:6122\"\n"
        );
    }
    let topology = place.scratch.write("topology.toml", &workers)?;
    place.replace(&format!(
        "{configuration}[topology]\nsource = \"file\"\npath = \"{}\"\n",
        topology.display()
    ))?;
    // It takes every question and answers none.
    let silent = place
        .lab
        .client()
        .run(|| UdpSocket::bind("10.99.0.2:53"))??;
    let servers = place.scratch.write(
        "resolv.conf",
        "nameserver 10.99.0.2\noptions timeout:30 attempts:5\n",
    )?;
    place.truename.put_file(servers, "/etc/resolv.conf");
    place.truename.start_agent()?;
    let pid = place.truename.agent()?.pid();
    silent.set_read_timeout(Some(SOON))?;
    let mut question = [0; 512];
    silent.recv_from(&mut question)?;
    // Longer than a question is waited for: others are asked then.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(7) {
        let asked = Instant::now();
        place.truename.status()?;
        let took = asked.elapsed();
        ensure!(took < Duration::from_secs(2), "status took {took:?}");
        thread::sleep(Duration::from_millis(200));
    }
    let threads = threads(pid)?;
    ensure!(threads <= 24, "{threads} threads");
    let begin = Instant::now();
    let status = place.truename.stop_agent()?;
    ensure!(status.success() && begin.elapsed() < END, "{status}");
    Ok(())
}

#[test]
fn a_hosts_file_that_hangs_hangs_nothing_else() -> Result<()> {
    let configuration = "[datapath]\ninterfaces = [\"s0\"]\n\
        [[service]]\nname = \"w\"\nlisten = \"10.99.0.1:9000\"\nprotocol = \"tcp\"\ntarget = \"workers:9069\"\n";
    let mut place = Place::prepared(configuration)?;
    let worker = "[[worker]]\nid = \"a\"\nrpc = \"pekko.tcp://flink@tm.example.org:6122\"\n";
    let topology = place.scratch.write("topology.toml", worker)?;
    place.replace(&format!(
        "{configuration}[topology]\nsource = \"file\"\npath = \"{}\"\n",
        topology.display()
    ))?;
    // Whoever opens it waits for ever, as on a file system that hangs.
    let hosts = place.scratch.path().join("hosts");
    let made = Command::new("mkfifo").arg(&hosts).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    place.truename.put_file(hosts, "/etc/hosts");
    place.truename.start_agent()?;
    wait_until(SOON, "the words", || {
        let names = place.truename.json("names")?.to_string();
        ensure!(names.contains("cannot be read within 2 s"), "{names}");
        Ok(())
    })?;
    let agent = place.truename.agent()?;
    ensure!(agent.count_lines(0, &["hangs"]) == 0);
    let threads = threads(agent.pid())?;
    ensure!(threads <= 24, "{threads} threads");
    let begin = Instant::now();
    let status = place.truename.stop_agent()?;
    ensure!(status.success() && begin.elapsed() < END, "{status}");
    Ok(())
}

#[test]
fn half_a_configuration_does_not_come_into_force() -> Result<()> {
    let place = Place::new(&services(100))?;
    let agent = place.truename.agent()?;
    let mark = agent.mark();
    let whole = services(101);
    let half = whole.find("[[service]]\nname = \"s4\"").context("a half")?;
    for round in 0..3 {
        let mut file = fs::File::create(&place.file)?;
        file.write_all(&whole.as_bytes()[..half])?;
        // Another file of the same roll-out, and somebody who does not wait for its end.
        fs::write(place.file.with_file_name("other.toml"), "x")?;
        if round == 1 {
            agent.hang_up()?;
        }
        thread::sleep(Duration::from_millis(100));
        file.write_all(&whole.as_bytes()[half..])?;
        drop(file);
        thread::sleep(Duration::from_millis(100));
    }
    agent.wait_line(mark, &["Reloaded", "101 service(s)"], SOON)?;
    ensure!(agent.count_lines(mark, &["Reloaded", "3 service(s)"]) == 0);
    ensure!(agent.count_lines(mark, &["not used"]) == 0);
    Ok(())
}

#[test]
fn a_configuration_is_followed_whichever_way_it_comes() -> Result<()> {
    let place = Place::new(&services(1))?;
    let agent = place.truename.agent()?;
    let etc = place.file.parent().context("a directory")?.to_owned();
    let waits = |mark: usize, count: usize| -> Result<()> {
        let words = format!("{count} service(s)");
        agent.wait_line(mark, &["Reloaded", &words], SOON).map(drop)
    };
    // Another directory in the place of the whole one.
    let mark = agent.mark();
    let new = etc.with_file_name("etc.new");
    fs::create_dir(&new)?;
    fs::write(new.join("truename.toml"), services(2))?;
    fs::rename(&etc, etc.with_file_name("etc.old"))?;
    fs::rename(&new, &etc)?;
    waits(mark, 2)?;
    // A link into another directory, whose file changes.
    let mark = agent.mark();
    let elsewhere = place.scratch.path().join("elsewhere");
    fs::create_dir(&elsewhere)?;
    let file = elsewhere.join("file.toml");
    fs::write(&file, services(3))?;
    symlink(&file, etc.join("link"))?;
    fs::rename(etc.join("link"), &place.file)?;
    waits(mark, 3)?;
    let mark = agent.mark();
    fs::write(&file, services(4))?;
    waits(mark, 4)?;
    // It names an interface that is not there yet.
    let mark = agent.mark();
    fs::write(&file, services(5).replace("\"s0\"", "\"s0\", \"late0\""))?;
    agent.wait_line(mark, &["not used", "late0"], SOON)?;
    place
        .lab
        .server()
        .ip("link add late0 type veth peer name late1")?;
    waits(mark, 5)?;
    ensure!(place.problems()?.iter().all(|p| p.contains("ip_forward")));
    // It goes and comes back.
    let mark = agent.mark();
    place.lab.server().ip("link del late0")?;
    agent.wait_line(mark, &["Left late0"], SOON)?;
    place
        .lab
        .server()
        .ip("link add late0 type veth peer name late1")?;
    agent.wait_line(mark, &["Attached to late0"], SOON)?;
    Ok(())
}

#[test]
fn a_task_that_hangs_is_told_and_does_not_keep_the_agent() -> Result<()> {
    let mut place = Place::new(&services(1))?;
    let agent = place.truename.agent()?;
    let mark = agent.mark();
    // A file whose reading takes for ever, as on a file system that hangs.
    let pipe = place.file.with_extension("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    fs::rename(&pipe, &place.file)?;
    let hangs = ["The task agent hangs", "the configuration file to be read"];
    agent.wait_line(mark, &hangs, 2 * SOON)?;
    let problems = place.problems()?;
    ensure!(
        problems
            .iter()
            .any(|problem| problem.contains("the task agent hangs")),
        "{problems:?}"
    );
    let begin = Instant::now();
    let status = place.truename.stop_agent()?;
    ensure!(
        status.success() && begin.elapsed() < END,
        "{status}, {:?}",
        begin.elapsed()
    );
    Ok(())
}

#[test]
fn a_source_of_the_topology_that_hangs_is_told_after_five_seconds() -> Result<()> {
    const SERVED: &str = "10.99.0.2:8081";
    let mut place = Place::prepared("")?;
    // It takes connections and says nothing.
    let silent = place.lab.client().run(|| TcpListener::bind(SERVED))??;
    let pipe = place.scratch.path().join("topology.toml");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    let flink = format!("source = \"flink\"\nurls = [\"http://{SERVED}\"]\n");
    let file = format!("source = \"file\"\npath = \"{}\"\n", pipe.display());
    let with = |source: &str| format!("{}[topology]\n{source}", services(1));
    place.replace(&with(&flink))?;
    place.truename.start_agent()?;
    for (source, words) in [
        (&flink, "for an answer"),
        (&file, "for the file to be read"),
    ] {
        let agent = place.truename.agent()?;
        let mark = agent.mark();
        place.replace(&with(source))?;
        // Sooner than after the 15 s that a source may fail.
        agent.wait_line(
            mark,
            &["Degraded: the topology source", "hangs", words],
            SOON,
        )?;
        let problems = place.problems()?.join("; ");
        ensure!(problems.contains("hangs: it has waited"), "{problems}");
        let health = |path| -> Result<(u16, String)> {
            let at = "127.0.0.1:9464".parse()?;
            let server = place.lab.server();
            Ok(server.run(|| Http::connect(at, SOON)?.get(path))??)
        };
        // To start another agent would help nobody.
        ensure!(health("/livez")? == (200, "ok\n".to_owned()));
        let (code, said) = health("/readyz")?;
        ensure!(code == 200 && said.contains(words), "{code} {said}");
        let (_, metrics) = health("/metrics")?;
        let failing = metrics
            .lines()
            .filter(|line| line.starts_with("truename_topology_failing{"));
        let failing: Vec<_> = failing.filter(|line| line.ends_with(" 1")).collect();
        ensure!(failing.len() == 1, "{failing:?}");
    }
    drop(silent);
    let begin = Instant::now();
    let status = place.truename.stop_agent()?;
    ensure!(status.success() && begin.elapsed() < END, "{status}");
    Ok(())
}

/// What a verb says and how it ends, given the configuration and the pins of a place.
fn verb(place: &Place, words: &[&str]) -> Result<(i32, String)> {
    verb_by(place, &[], words)
}

/// The same, started by another program.
fn verb_by(place: &Place, launcher: &[&str], words: &[&str]) -> Result<(i32, String)> {
    let mut command = place.truename.command(words)?;
    if let [program, arguments @ ..] = launcher {
        let mut launched = place.lab.server().command(Path::new(program), &[])?;
        launched.args(arguments).arg(command.get_program());
        launched.args(command.get_args());
        command = launched;
    }
    command
        .arg("--bpffs")
        .arg(place.truename.bpffs())
        .arg("--config")
        .arg(&place.file);
    let output = command.output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output.status.code().unwrap_or(-1), said))
}

#[test]
fn check_and_doctor_say_what_run_says() -> Result<()> {
    let mut place = Place::prepared(&services(1))?;
    let agree_by = |place: &Place, launcher: &[&str], expected: i32, words: &str| -> Result<()> {
        for asked in [&["config", "check"][..], &["run"]] {
            let (code, said) = verb_by(place, launcher, asked)?;
            ensure!(
                code == expected && said.contains(words),
                "{asked:?}: {code} {said}"
            );
        }
        let (code, said) = verb_by(place, launcher, &["doctor", "-o", "json"])?;
        ensure!(code == 1 && said.contains(words), "doctor: {said}");
        Ok(())
    };
    let agree = |place: &Place, expected: i32, words: &str| agree_by(place, &[], expected, words);
    fs::write(&place.file, "")?;
    agree(&place, 2, "no endpoint, no service and no cluster")?;
    fs::write(&place.file, services(1).replace("s0", "no0"))?;
    // What is not the file's fault: an interface may come.
    agree(&place, 1, "unknown interface")?;
    fs::write(&place.file, services(1))?;
    let bpffs = place.truename.bpffs().to_owned();
    place.truename.move_pins(&bpffs.with_extension("dot"));
    agree(&place, 1, "has a dot in its name")?;
    place.truename.move_pins(&bpffs);
    let socket = place.truename.socket().to_owned();
    fs::write(&socket, "not a socket")?;
    agree(&place, 1, "is not a socket")?;
    fs::remove_file(&socket)?;
    let without = ["setpriv", "--bounding-set=-net_admin"];
    agree_by(&place, &without, 1, "the process lacks CAP_NET_ADMIN")?;
    let (code, said) = verb(&place, &["config", "check", "--file-only"])?;
    ensure!(code == 0, "the file alone: {said}");

    fs::write(&place.file, services(1))?;
    let (code, said) = verb(&place, &["config", "check"])?;
    ensure!(code == 0, "{said}");
    place.truename.start_agent()?;
    // As a reload of the service asks.
    let (code, said) = verb(&place, &["config", "check"])?;
    ensure!(code == 0 && said.contains("an agent uses"), "{said}");
    let (_, said) = verb(&place, &["doctor"])?;
    ensure!(said.contains("another agent uses the pins"), "{said}");
    ensure!(!said.contains("takes them over"), "{said}");
    let (code, said) = verb(&place, &["run", "--control-socket", "/tmp/none"])?;
    ensure!(
        code == 1 && said.contains("another agent uses the pins"),
        "{said}"
    );
    place.truename.stop_agent()?;
    let (_, said) = verb(&place, &["doctor"])?;
    ensure!(said.contains("takes them over"), "{said}");
    Ok(())
}

#[test]
fn errors_tell_their_cause_and_advise_no_destruction() -> Result<()> {
    let mut place = Place::new(&services(1))?;
    place.truename.stop_agent()?;
    for (launcher, words) in [
        (&["prlimit", "--nofile=24:24"][..], "Too many open files"),
        (
            &[
                "unshare",
                "--mount",
                "sh",
                "-c",
                "mount -o remount,ro,bind /sys/fs/bpf 2>/dev/null || mount -o remount,bind,ro /sys/fs/bpf; exec \"$0\" \"$@\"",
            ],
            "Read-only file system",
        ),
    ] {
        place.truename.launch_by(launcher);
        let Err(error) = place.truename.start_agent() else {
            anyhow::bail!("it starts although {words}");
        };
        let error = format!("{error:#}");
        ensure!(error.contains(words), "{error}");
        ensure!(!error.contains("truename detach"), "{error}");
        ensure!(!error.contains("does not fit"), "{error}");
    }
    place.truename.launch_by(&[]);
    place.truename.start_agent()
}

#[test]
fn descriptors_that_run_out_flood_no_log_and_end_nothing() -> Result<()> {
    let place = Place::new(&services(1))?;
    let agent = place.truename.agent()?;
    let pid = agent.pid().to_string();
    let limit = |descriptors: &str| -> Result<()> {
        let limit = format!("--nofile={descriptors}");
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status()?;
        ensure!(set.success(), "prlimit: {set}");
        Ok(())
    };
    let mark = agent.mark();
    limit("3:")?;
    // Whoever asks waits until there are descriptors again.
    thread::scope(|scope| -> Result<()> {
        let asking = scope.spawn(|| place.truename.status());
        agent.wait_line(mark, &["Cannot accept a client"], SOON)?;
        thread::sleep(Duration::from_secs(2));
        let lines = agent.count_lines(mark, &[]);
        ensure!(lines <= 25, "{lines} lines in two seconds");
        limit("1024:")?;
        let (status, _) = asking
            .join()
            .unwrap_or_else(|p| std::panic::resume_unwind(p))?;
        ensure!(status["pid"].to_string() == pid);
        Ok(())
    })
}

#[test]
fn a_cluster_that_is_too_large_is_told_and_takes_bounded_memory() -> Result<()> {
    let configuration = services(1).replace("10.99.0.1:9000", "workers:9069");
    let mut place = Place::prepared(&configuration)?;
    let mut workers = String::new();
    for number in 0..60_000 {
        let _ = write!(
            workers,
            "[[worker]]\nid = \"tm-{number}\"\nrpc = \"pekko.tcp://flink@10.{}.{}.{}:6122\"\n",
            100 + number / 62_500,
            number / 250 % 250,
            number % 250 + 1
        );
    }
    let topology = place.scratch.write("topology.toml", &workers)?;
    place.replace(&format!(
        "{configuration}snat = \"never\"\n[topology]\nsource = \"file\"\npath = \"{}\"\n",
        topology.display()
    ))?;
    place.truename.start_agent()?;
    wait_until(6 * SOON, "the words", || {
        let problems = place.problems()?.join("; ");
        ensure!(problems.contains("the first 1021 only"), "{problems}");
        ensure!(problems.contains("more than 16384"), "{problems}");
        Ok(())
    })?;
    let pid = place.truename.agent()?.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().split(' ').next());
    let kilobytes: u64 = resident.context("a size")?.parse()?;
    ensure!(kilobytes < 200_000, "{kilobytes} kB");
    Ok(())
}

#[test]
fn a_full_disk_ends_nothing() -> Result<()> {
    let mut place = Place::prepared(&services(1))?;
    // Every line of the log fails.
    place
        .truename
        .launch_by(&["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"]);
    place.truename.start_agent()?;
    place.replace(&services(2))?;
    wait_until(SOON, "the second service", || {
        let (status, _) = place.truename.status()?;
        ensure!(status["services"] == 2, "{}", status["services"]);
        Ok(())
    })?;
    let begin = Instant::now();
    let status = place.truename.stop_agent()?;
    ensure!(status.success() && begin.elapsed() < END, "{status}");
    Ok(())
}

#[test]
fn an_agent_that_starts_ends_when_it_is_told_to() -> Result<()> {
    let mut place = Place::prepared(&services(1))?;
    let mut random = Random::new(7);
    for round in 0..8 {
        place.truename.spawn_agent()?;
        thread::sleep(Duration::from_millis(
            100 * round + random.below(100) as u64,
        ));
        let begin = Instant::now();
        place.truename.stop_agent()?;
        let took = begin.elapsed();
        ensure!(took < END, "round {round}: it took {took:?}");
    }
    place.truename.start_agent()
}

#[test]
fn a_shortage_is_not_taken_for_sabotage() -> Result<()> {
    let place = Place::new(&services(1))?;
    let agent = place.truename.agent()?;
    let pid = agent.pid().to_string();
    let links = place.truename.bpffs().join(format!("v{VERSION}/links"));
    // The pins are the same ones, not others of the same name.
    let pins = || -> Result<Vec<u64>> {
        let pins = fs::read_dir(&links)?.map(|pin| Ok(pin?.metadata()?.ino()));
        let mut pins = pins.collect::<Result<Vec<_>>>()?;
        pins.sort_unstable();
        Ok(pins)
    };
    let before = pins()?;
    let mark = agent.mark();
    let held = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    for free in 0..8 {
        let limit = format!("--nofile={}:", held + free);
        Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status()?;
        agent.hang_up()?;
        thread::sleep(Duration::from_millis(500));
    }
    Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=1024:"])
        .status()?;
    ensure!(agent.count_lines(mark, &["Somebody else"]) == 0);
    ensure!(pins()? == before, "the links are others");
    wait_until(4 * SOON, "to be well", || {
        let problems = place.problems()?.join("; ");
        ensure!(!problems.contains("tried again"), "{problems}");
        Ok(())
    })
}

#[test]
fn a_mistake_in_the_file_keeps_nobody_from_asking() -> Result<()> {
    let place = Place::prepared("")?;
    let paths = format!(
        "[agent]\ncontrol_socket = \"{}\"\nbpffs = \"{}\"\n",
        place.scratch.path().join("own.sock").display(),
        place.truename.bpffs().display()
    );
    let good = format!("{paths}{}", services(1));
    fs::write(&place.file, &good)?;
    // By the file alone, as on a host.
    let by_file = |words: &[&str]| -> Result<Command> {
        let mut command = place.lab.server().command(&binary()?, &[])?;
        command.args(words).arg("--config").arg(&place.file);
        Ok(command)
    };
    let agent = Process::spawn("truename", by_file(&["run"])?, place.scratch.path())?;
    agent.wait_whole_line(0, "ready", 3 * SOON)?;
    let mark = agent.mark();
    fs::write(&place.file, format!("{good}[datapth]\nnot = \"TOML\n"))?;
    agent.wait_line(mark, &["not used"], SOON)?;
    let ask = |words: &[&str]| -> Result<(Option<i32>, String)> {
        let output = by_file(words)?.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into()))
    };
    let (code, said) = ask(&["status"])?;
    ensure!(
        code == Some(3) && said.contains("a new configuration is not used"),
        "{said}"
    );
    for words in [&["flows"][..], &["services"], &["flows", "--service", "s1"]] {
        let (code, said) = ask(words)?;
        ensure!(code == Some(0), "{words:?}: {said}");
    }
    let (code, said) = ask(&["flows", "--service", "nope"])?;
    ensure!(
        code == Some(1) && said.contains("there is no service or endpoint \"nope\""),
        "{said}"
    );
    let (code, said) = ask(&["doctor"])?;
    ensure!(code == Some(1) && said.contains("configuration"), "{said}");
    let (code, said) = ask(&["config", "check"])?;
    ensure!(code == Some(2), "{said}");
    // Without an agent, but with what it attached.
    drop(agent);
    let (code, said) = ask(&["status"])?;
    ensure!(
        code == Some(1) && said.contains("what it attached goes on without it"),
        "{said}"
    );
    let (code, said) = ask(&["detach"])?;
    ensure!(
        code == Some(0) && said.contains("detached 2 program(s)"),
        "{said}"
    );
    Ok(())
}

#[test]
fn the_journal_gets_priorities_and_no_time() -> Result<()> {
    let mut place = Place::prepared(&services(1))?;
    let journal = place.scratch.write("journal", "")?;
    let journal = journal.display();
    let script = format!(
        "JOURNAL_STREAM=$(stat -c %d:%i {journal}); export JOURNAL_STREAM; exec \"$0\" \"$@\" 2>{journal}"
    );
    place.truename.launch_by(&["sh", "-c", &script]);
    place.truename.start_agent()?;
    fs::write(&place.file, "no TOML")?;
    let said = || fs::read_to_string(place.scratch.path().join("journal"));
    wait_until(SOON, "an error", || {
        let said = said()?;
        ensure!(
            said.contains("\n<3>truename::daemon::agent: The new configuration is not used"),
            "{said}"
        );
        Ok(())
    })?;
    place.truename.stop_agent()?;
    let said = said()?;
    ensure!(said.lines().all(|line| line.starts_with('<')), "{said}");
    ensure!(said.contains("<6>truename::daemon: Ending; "), "{said}");
    Ok(())
}

#[test]
fn problems_are_logged_when_they_come_and_when_they_go() -> Result<()> {
    // A target on another host.
    let place = Place::new(&services(2))?;
    let server = place.lab.server();
    let agent = place.truename.agent()?;
    server.sysctl("net/ipv4/ip_forward", "1")?;
    wait_until(SOON, "to be well", || {
        let problems = place.problems()?;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    })?;
    let mark = agent.mark();
    server.sysctl("net/ipv4/ip_forward", "0")?;
    agent.wait_line(
        mark,
        &["WARN", "Degraded: net.ipv4.ip_forward is off"],
        2 * SOON,
    )?;
    server.sysctl("net/ipv4/ip_forward", "1")?;
    agent.wait_line(mark, &["No longer: net.ipv4.ip_forward is off"], 2 * SOON)?;
    Ok(())
}
