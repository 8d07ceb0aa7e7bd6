//! What `deploy/monitoring` has is good for a real Prometheus that scrapes a real agent.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename_tests::{
    place::{Place, SOON},
    prometheus::{Prometheus, programs},
    wait::wait_until,
};

const CONFIGURATION: &str = r#"
[datapath]
interfaces = ["s0"]
[[service]]
name = "web"
listen = "10.99.0.77:81"
protocol = "tcp"
target = "10.99.0.1:8080"
"#;

fn repository(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name)
}

/// The alerts: name and expression.
fn alerts() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(repository("deploy/monitoring/alerts.yaml"))?;
    let rules: Value = serde_saphyr::from_str(&text).context("read the rules")?;
    let rules = rules["groups"][0]["rules"].as_array().context("rules")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
    rules
        .iter()
        .map(|rule| Ok((text(&rule["alert"])?, text(&rule["expr"])?)))
        .collect()
}

/// The queries of the dashboard, with values for what Grafana fills in.
fn queries() -> Result<Vec<String>> {
    let text = fs::read_to_string(repository("deploy/monitoring/dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let queries: Vec<String> = targets
        .filter_map(|target| target["expr"].as_str())
        .map(|query| {
            query
                .replace("$instance", ".*")
                .replace("$__rate_interval", "1m")
        })
        .collect();
    ensure!(queries.len() > 10);
    Ok(queries)
}

/// The metrics that a query names.
fn metrics(query: &str) -> BTreeSet<String> {
    let words = query.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let metrics = words.filter(|word| word.starts_with("truename_"));
    metrics.map(str::to_owned).collect()
}

#[test]
fn a_real_prometheus_scrapes_and_alerts() -> Result<()> {
    let place = Place::new(CONFIGURATION)?;
    let (server, scratch) = (place.lab.server(), &place.scratch);
    let rules = repository("deploy/monitoring/alerts.yaml");
    let configuration = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n- job_name: truename\n  static_configs: [{{targets: ['127.0.0.1:9464']}}]\n",
        rules.display()
    );
    let configuration = scratch.write("prometheus.yml", &configuration)?;
    let prometheus = Prometheus::start(server, scratch, &configuration)?;
    wait_until(SOON, "a scrape", || {
        let up = prometheus.query("up{job=\"truename\"}")?;
        ensure!(up.iter().any(|series| series["value"][1] == "1"), "{up:?}");
        ensure!(!prometheus.query("truename_build_info")?.is_empty());
        Ok(())
    })?;
    // Every query is understood, and every metric in it exists.
    let known = prometheus.get("label/__name__/values")?;
    let known: BTreeSet<String> = serde_json::from_value(known)?;
    let expressions = alerts()?.into_iter().map(|(_, expression)| expression);
    for query in expressions.chain(queries()?) {
        prometheus.query(&query).with_context(|| query.clone())?;
        for metric in metrics(&query) {
            ensure!(known.contains(&metric), "there is no {metric}: {query}");
        }
    }
    ensure!(prometheus.get("alerts")?["alerts"] == serde_json::json!([]));
    // Something happens.
    server.ip("link del s0")?;
    wait_until(SOON, "the alert", || {
        let alerts = prometheus.get("alerts")?["alerts"].to_string();
        ensure!(alerts.contains("TruenameNothingAttached"), "{alerts}");
        Ok(())
    })
}

#[test]
fn promtool_is_content() -> Result<()> {
    let promtool = programs()?.join("promtool");
    let checked = Command::new(&promtool)
        .args(["check", "rules"])
        .arg(repository("deploy/monitoring/alerts.yaml"))
        .output()?;
    let said = String::from_utf8_lossy(&checked.stderr);
    ensure!(checked.status.success(), "{said}");
    let place = Place::new(CONFIGURATION)?;
    let at = "127.0.0.1:9464".parse()?;
    let (_, text) = place
        .lab
        .server()
        .run(|| truename_tests::http::Http::connect(at, SOON)?.get("/metrics"))??;
    let mut linting = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    linting
        .stdin
        .take()
        .context("its input")?
        .write_all(text.as_bytes())?;
    let checked = linting.wait_with_output()?;
    let said = [checked.stdout, checked.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(checked.status.success() && said.is_empty(), "{said}");
    Ok(())
}

#[test]
fn every_alert_has_a_section_in_the_runbook() -> Result<()> {
    let runbook = fs::read_to_string(repository("docs/runbook.md"))?;
    for (name, _) in alerts()? {
        ensure!(runbook.contains(&format!("\n## {name}\n")), "{name}");
    }
    Ok(())
}
