//! Health and metrics over HTTP: they say what is so, whatever asks, and never cost the translation.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use truename_tests::{
    http::Http,
    place::{Place, SOON},
    wait::wait_until,
};

const METRICS: &str = "127.0.0.1:9464";

const CONFIGURATION: &str = r#"
[datapath]
interfaces = ["s0"]
[[service]]
name = "web"
listen = "10.99.0.77:81"
protocol = "tcp"
target = "10.99.0.1:8080"
"#;

/// Asks from the agent's host.
fn get(place: &Place, path: &str) -> Result<(u16, String)> {
    get_at(place, METRICS, path)
}

fn get_at(place: &Place, at: &str, path: &str) -> Result<(u16, String)> {
    let at: SocketAddr = at.parse()?;
    let got = place
        .lab
        .server()
        .run(|| Http::connect(at, SOON)?.get(path))?;
    got.with_context(|| format!("get {path}"))
}

/// The value of a metric with exactly this name and these labels.
fn value(text: &str, metric: &str) -> Result<f64> {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    let found = found.with_context(|| format!("no {metric} in\n{text}"))?;
    Ok(found.parse()?)
}

#[test]
fn health_and_metrics_say_what_is_so() -> Result<()> {
    let place = Place::new(CONFIGURATION)?;
    let (client, server) = (place.lab.client(), place.lab.server());
    client.ip("route add 10.99.0.77/32 via 10.99.0.1 dev c0")?;
    for path in ["/livez", "/startupz", "/readyz"] {
        ensure!(get(&place, path)? == (200, "ok\n".to_owned()), "{path}");
    }
    let (_, before) = get(&place, "/metrics")?;
    ensure!(value(&before, "truename_problems")? == 0.0);
    ensure!(value(&before, "truename_interfaces{state=\"attached\"}")? == 1.0);
    ensure!(value(&before, "truename_service_targets{service=\"web\"}")? == 1.0);
    ensure!(before.contains("truename_build_info{version="), "{before}");

    // What is counted is what happened. Runs of programs are counted while somebody wants it.
    let _stats = enable_stats(Stats::RunTime)?;
    let target = server.run(|| TcpListener::bind("10.99.0.1:8080"))??;
    let (mut stream, accepted, _) = place.connect(&target, "10.99.0.77:81")?;
    drop(accepted);
    stream.set_read_timeout(Some(SOON))?;
    ensure!(stream.read(&mut [0])? == 0);
    wait_until(SOON, "the connection", || {
        let (_, after) = get(&place, "/metrics")?;
        let connections = value(&after, "truename_service_connections{service=\"web\"}")?;
        ensure!(connections == 1.0, "{connections}");
        ensure!(value(&after, "truename_table_entries{table=\"connections\"}")? == 1.0);
        let state = "truename_service_connections_by_state{service=\"web\",state=\"half_closed\"}";
        ensure!(value(&after, state)? == 1.0);
        let of_program = |metric: &str| value(&after, &format!("{metric}{{program=\"tn_ether\"}}"));
        ensure!(of_program("truename_program_runs_total")? >= 1.0);
        ensure!(of_program("truename_program_run_seconds_total")? > 0.0);
        let sent = "truename_translations_total{kind=\"packet\",direction=\"inbound\"}";
        ensure!(value(&after, sent)? >= 3.0);
        ensure!(value(&after, "truename_port_tries_count")? >= 0.0);
        Ok(())
    })?;

    // Degraded: it translates, so it is ready, and says what is wrong.
    let agent = place.truename.agent()?;
    let mark = agent.mark();
    fs::write(&place.file, "[agent]\nmetric = \"\"\n")?;
    agent.wait_line(mark, &["not used"], SOON)?;
    wait_until(SOON, "the problem", || {
        let (code, said) = get(&place, "/readyz")?;
        ensure!(
            code == 200 && said.contains("a new configuration is not used"),
            "{said}"
        );
        ensure!(value(&get(&place, "/metrics")?.1, "truename_problems")? == 1.0);
        Ok(())
    })?;
    // Nothing is attached: not ready.
    server.ip("link del s0")?;
    wait_until(SOON, "the end of the interface", || {
        let (code, said) = get(&place, "/readyz")?;
        ensure!(
            code == 503 && said.contains("the interface s0 is gone"),
            "{said}"
        );
        Ok(())
    })?;
    ensure!(get(&place, "/livez")?.0 == 200);
    ensure!(get(&place, "/")?.0 == 404);
    Ok(())
}

#[test]
fn the_format_is_the_one_that_is_asked_for() -> Result<()> {
    let place = Place::new(CONFIGURATION)?;
    let ask = |request: &str| -> Result<String> {
        let answer = place.lab.server().run(|| -> Result<String> {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        answer.with_context(|| request.to_owned())
    };
    let plain = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    ensure!(
        plain.contains("content-type: text/plain; version=0.0.4"),
        "{plain}"
    );
    ensure!(
        plain.contains("# TYPE truename_drops_total counter\n"),
        "{plain}"
    );
    let open = ask(
        "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text; version=1.0.0,text/plain;q=0.5\r\n\r\n",
    )?;
    ensure!(
        open.contains("content-type: application/openmetrics-text"),
        "{open}"
    );
    ensure!(
        open.contains("# TYPE truename_drops counter\n") && open.ends_with("# EOF\n"),
        "{open}"
    );
    ensure!(
        ask("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")?
            .starts_with("HTTP/1.1 405")
    );
    ensure!(ask("nonsense\r\n\r\n")?.starts_with("HTTP/1.1 400"));
    Ok(())
}

#[test]
fn an_agent_that_hangs_is_not_alive() -> Result<()> {
    let place = Place::new(CONFIGURATION)?;
    // A file whose reading takes for ever, as on a file system that hangs.
    let pipe = place.file.with_extension("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    fs::rename(&pipe, &place.file)?;
    wait_until(2 * SOON, "the word", || {
        let (code, said) = get(&place, "/livez")?;
        ensure!(
            code == 503 && said.contains("the task agent hangs"),
            "{code} {said}"
        );
        Ok(())
    })?;
    ensure!(get(&place, "/startupz")?.0 == 200);
    let (code, said) = get(&place, "/readyz")?;
    ensure!(
        code == 503 && said.contains("the task agent hangs"),
        "{said}"
    );
    ensure!(value(&get(&place, "/metrics")?.1, "truename_hanging_tasks")? == 1.0);
    Ok(())
}

#[test]
fn clients_that_are_many_silent_or_slow_keep_nobody_out() -> Result<()> {
    let place = Place::new(CONFIGURATION)?;
    let server = place.lab.server();
    // They ask and never read; the others never ask.
    let odd = server.run(|| -> Result<Vec<TcpStream>> {
        let asks = |asks: bool| -> Result<TcpStream> {
            let mut stream = TcpStream::connect(METRICS)?;
            if asks {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
            }
            Ok(stream)
        };
        (0..200).map(|number| asks(number % 2 == 0)).collect()
    })??;
    let begin = Instant::now();
    ensure!(get(&place, "/livez")?.0 == 200);
    let took = begin.elapsed();
    ensure!(took < SOON, "{took:?}");
    drop(odd);
    // A thousand at once, all answered; the tables are read about once a second for them.
    let waiting = server.run(|| -> Result<Vec<TcpStream>> {
        let asks = |_| -> Result<TcpStream> {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.set_read_timeout(Some(3 * SOON))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
            Ok(stream)
        };
        (0..1000).map(asks).collect()
    })??;
    for (number, mut stream) in waiting.into_iter().enumerate() {
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{number}: {answer}");
    }
    let pid = place.truename.agent()?.pid();
    wait_until(SOON, "no descriptors to be left", || {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        ensure!(descriptors < 100, "{descriptors} descriptors");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn an_address_in_use_is_told_and_taken_when_it_is_free() -> Result<()> {
    let mut place = Place::prepared(CONFIGURATION)?;
    let other = place.lab.server().run(|| TcpListener::bind(METRICS))??;
    place.truename.start_agent()?;
    let told = place.problems()?.join("; ");
    ensure!(
        told.contains("metrics and health are not served: 127.0.0.1:9464: Address already in use"),
        "{told}"
    );
    drop(other);
    wait_until(SOON, "to be served", || {
        ensure!(place.problems()?.is_empty());
        ensure!(get(&place, "/livez")?.0 == 200);
        Ok(())
    })?;
    // Another address, and none.
    place.reload(
        &format!("[agent]\nmetrics = \"10.99.0.1:9999\"\n{CONFIGURATION}"),
        &["Reloaded"],
    )?;
    wait_until(SOON, "the other address", || {
        ensure!(get_at(&place, "10.99.0.1:9999", "/livez")?.0 == 200);
        ensure!(get(&place, "/livez").is_err(), "it still listens");
        Ok(())
    })?;
    place.reload(
        &format!("[agent]\nmetrics = \"\"\n{CONFIGURATION}"),
        &["Reloaded"],
    )?;
    wait_until(SOON, "no address", || {
        ensure!(get_at(&place, "10.99.0.1:9999", "/livez").is_err());
        Ok(())
    })?;
    let begin = Instant::now();
    let status = place.truename.stop_agent()?;
    ensure!(
        status.success() && begin.elapsed() < Duration::from_secs(2),
        "{status}"
    );
    Ok(())
}
