//! The agent lives on and tells the truth, whatever its host does.

use std::{
    fmt::Write as _,
    fs,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use truename_tests::{
    place::{Place, SOON},
    random::Random,
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
