//! What a running agent tells of its sources, to those who ask and to those who watch.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename_tests::{
    namespace::Namespace,
    nat,
    pinned::ServiceTables,
    process::Process,
    scratch::Scratch,
    topology::{Request, Server, flink},
    truename::Truename,
    wait::wait_until,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An agent that asks one server.
fn configuration(url: &str) -> String {
    format!(
        "[datapath]\ninterfaces = [\"lo\"]\n[[endpoint]]\nname = \"jm\"\nprotocol = \"pekko\"\nlisten = \"*:6123\"\n\
         [topology]\nsource = \"flink\"\nurls = [\"{url}\"]\npoll = \"200ms\"\n"
    )
}

/// Nothing is degraded.
fn good(truename: &Truename) -> Result<()> {
    let (status, code) = truename.status()?;
    ensure!(code == 0, "exit code {code} with {}", status["problems"]);
    Ok(())
}

#[test]
fn a_source_that_is_gone_for_long_makes_status_degraded_and_nothing_else() -> Result<()> {
    /// What a source may fail without a complaint.
    const GRANTED: Duration = Duration::from_secs(15);
    let (alias, target) = ("10.61.25.100:6123".parse()?, "10.61.25.1:6123".parse()?);
    let (space, scratch) = (Namespace::new("topology")?, Scratch::new("topology")?);
    for address in ["10.61.25.1", "10.61.25.100"] {
        space.ip(&format!("address add {address}/32 dev lo"))?;
    }
    let answer = |request: &Request| flink("10.61.25.1", 0, &request.path);
    let server = space.run(|| Server::start(answer))??;
    let at = server.address();
    let text = configuration(&server.url()).replace("*:6123", "*:9")
        + &format!(
            "[[service]]\nname = \"rpc\"\nprotocol = \"tcp\"\nlisten = \"{alias}\"\ntarget = \"leader:rpc\"\n"
        );
    let file = scratch.write("truename.toml", &text)?;
    let truename = Truename::start_file(&space, &scratch, &file)?;
    let tables = ServiceTables::open(&truename)?;
    wait_until(PATIENCE, "the leader in the tables", || {
        let now = tables.targets(alias)?;
        ensure!(now == [target].into(), "{now:?}");
        Ok(())
    })?;
    let leader = space.run(|| TcpListener::bind(target))??;
    let connect = || -> Result<(TcpStream, TcpStream)> {
        let client = nat::connect(&space, "10.61.25.1:0".parse()?, alias)?;
        let (accepted, _) = leader.accept()?;
        accepted.set_read_timeout(Some(PATIENCE))?;
        Ok((client, accepted))
    };
    let (mut client, mut accepted) = connect()?;
    nat::talk(&mut client, &mut accepted)?;
    wait_until(PATIENCE, "a good status", || good(&truename))?;

    drop(server);
    let gone = Instant::now();
    let failing = [("kind", "source"), ("source", "flink"), ("name", "failing")];
    wait_until(PATIENCE, "the failure", || {
        truename.rows("topology", &failing)
    })?;
    let (status, code) = truename.status()?;
    ensure!(code == 0 && gone.elapsed() < GRANTED, "too soon: {status}");
    let status = wait_until(2 * PATIENCE, "a degraded status", || {
        let (status, code) = truename.status()?;
        ensure!(code == 3, "exit code {code} with {}", status["problems"]);
        Ok(status)
    })?;
    ensure!(
        gone.elapsed() > GRANTED - Duration::from_secs(1),
        "too soon"
    );
    let problems = status["problems"].to_string();
    ensure!(
        problems.contains(&format!(
            "the topology source flink http://{at} has failed for"
        )),
        "{problems}"
    );
    let text = truename.text("status")?;
    ensure!(text.contains("the topology source flink"), "{text}");

    // Nothing is torn down.
    ensure!(tables.targets(alias)? == [target].into());
    nat::talk(&mut client, &mut accepted)?;
    let (mut another, mut accepted_too) = connect()?;
    nat::talk(&mut another, &mut accepted_too)?;

    let _server = space.run(|| Server::start_at(at, answer))??;
    wait_until(PATIENCE, "a good status", || good(&truename))?;
    nat::talk(&mut client, &mut accepted)
}

/// A cluster whose number of workers changes, and an agent that looks at it.
struct Growing {
    // Dropped in this order.
    truename: Truename,
    workers: Arc<AtomicUsize>,
    scratch: Scratch,
    _server: Server,
}

impl Growing {
    fn new() -> Result<Self> {
        let (space, scratch) = (Namespace::new("topology")?, Scratch::new("topology")?);
        let workers = Arc::new(AtomicUsize::new(1));
        let now = Arc::clone(&workers);
        let answer =
            move |request: &Request| flink("jm", now.load(Ordering::Relaxed), &request.path);
        let server = space.run(|| Server::start(answer))??;
        let file = scratch.write("truename.toml", &configuration(&server.url()))?;
        let truename = Truename::start_file(&space, &scratch, &file)?;
        let growing = Self {
            truename,
            workers,
            scratch,
            _server: server,
        };
        wait_until(PATIENCE, "the worker", || growing.knows("tm-1"))?;
        Ok(growing)
    }

    fn grow(&self, workers: usize) {
        self.workers.store(workers, Ordering::Relaxed);
    }

    fn knows(&self, worker: &str) -> Result<()> {
        let wanted = [("kind", "worker"), ("name", worker)];
        self.truename.rows("topology", &wanted).map(drop)
    }

    fn watch(&self) -> Result<Command> {
        self.truename
            .command(&["topology", "--watch", "-o", "jsonl"])
    }
}

#[test]
fn a_watch_shows_what_changes_until_it_is_interrupted() -> Result<()> {
    let growing = Growing::new()?;
    let mut watch = Process::spawn("watch", growing.watch()?, growing.scratch.path())?;
    let first = watch.wait_line(0, &["\"tm-1\""], PATIENCE)?;
    let row: Value = serde_json::from_str(&first)?;
    ensure!(row["kind"] == "worker" && row["source"] == "flink", "{row}");
    for (number, worker) in [(2, "\"tm-2\""), (3, "\"tm-3\"")] {
        let mark = watch.mark();
        growing.grow(number);
        watch.wait_line(mark, &[worker], PATIENCE)?;
        // All is shown again, and once.
        ensure!(watch.count_lines(mark, &["\"tm-1\""]) == 1);
    }
    let end = watch.interrupt(PATIENCE)?;
    ensure!(end.signal() == Some(libc::SIGINT), "{end}");
    ensure!(watch.count_lines(0, &["panicked"]) == 0);
    Ok(())
}

#[test]
fn a_watch_ends_when_nobody_reads_it() -> Result<()> {
    let growing = Growing::new()?;
    let mut command = growing.watch()?;
    let mut watch = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let mut output = BufReader::new(watch.stdout.take().context("no output")?);
    output.read_line(&mut line)?;
    ensure!(line.starts_with('{'), "{line}");
    // As `head` does.
    drop(output);
    growing.grow(2);
    let end = wait_until(PATIENCE, "the end", || {
        watch.try_wait()?.context("it runs still")
    });
    if end.is_err() {
        watch.kill()?;
    }
    let mut errors = String::new();
    watch
        .stderr
        .take()
        .context("no errors")?
        .read_to_string(&mut errors)?;
    ensure!(end?.success() && errors.is_empty(), "{errors}");
    Ok(())
}
