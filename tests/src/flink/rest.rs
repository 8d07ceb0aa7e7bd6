//! The REST interface of a JobManager.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use ureq::{Agent, RequestBuilder, typestate::WithBody};

use crate::{namespace::Namespace, wait::wait_until};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(15);

/// Asks a JobManager from inside its namespace.
#[derive(Debug)]
pub(crate) struct Rest<'n> {
    namespace: &'n Namespace,
    address: SocketAddr,
}

impl<'n> Rest<'n> {
    pub(crate) fn new(namespace: &'n Namespace, address: SocketAddr) -> Self {
        Self { namespace, address }
    }

    /// `GET path`.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let url = self.url(path);
        self.inside(|agent| {
            let mut answer = agent.get(&url).call()?;
            Ok((
                answer.status().is_success(),
                answer.body_mut().read_to_string()?,
            ))
        })
        .with_context(|| format!("GET {path}"))
    }

    fn post(
        &self,
        path: &str,
        send: impl FnOnce(RequestBuilder<WithBody>) -> Result<http_response::Response> + Send,
    ) -> Result<Value> {
        let url = self.url(path);
        self.inside(|agent| {
            let mut answer = send(agent.post(&url))?;
            Ok((
                answer.status().is_success(),
                answer.body_mut().read_to_string()?,
            ))
        })
        .with_context(|| format!("POST {path}"))
    }

    /// Registered TaskManagers.
    pub(crate) fn task_managers(&self) -> Result<Vec<Value>> {
        let answer = self.get("/taskmanagers")?;
        let list = answer["taskmanagers"].as_array();
        Ok(list.context("no list of TaskManagers")?.clone())
    }

    /// Waits until exactly `count` TaskManagers are registered.
    pub(crate) fn wait_task_managers(&self, count: usize, timeout: Duration) -> Result<Vec<Value>> {
        wait_until(timeout, &format!("{count} TaskManager(s) in REST"), || {
            let list = self.task_managers()?;
            ensure!(list.len() == count, "{} are registered", list.len());
            Ok(list)
        })
    }

    /// Waits until there is a value of a metric of a TaskManager.
    pub(crate) fn wait_metric(&self, id: &str, name: &str, timeout: Duration) -> Result<String> {
        let path = format!("/taskmanagers/{id}/metrics?get={name}");
        wait_until(timeout, &format!("metric {name} in REST"), || {
            let answer = self.get(&path)?;
            let value = answer[0]["value"].as_str();
            Ok(value
                .with_context(|| format!("the answer is {answer}"))?
                .to_owned())
        })
    }

    /// Uploads a jar, runs its main class and waits until the job is finished. Answers its duration.
    pub(crate) fn run_job(&self, jar: &Path, class: &str, timeout: Duration) -> Result<Duration> {
        let start = Instant::now();
        let (kind, body) = multipart(jar)?;
        let uploaded = self.post("/jars/upload", |request| {
            Ok(request.content_type(&kind).send(&body[..])?)
        })?;
        let id = uploaded["filename"]
            .as_str()
            .and_then(|path| path.rsplit('/').next())
            .with_context(|| format!("the upload was answered with {uploaded}"))?;
        let settings = json!({ "entryClass": class, "parallelism": 2 }).to_string();
        let started = self.post(&format!("/jars/{id}/run"), |request| {
            Ok(request.content_type("application/json").send(&settings)?)
        })?;
        let job = started["jobid"]
            .as_str()
            .with_context(|| format!("the start was answered with {started}"))?
            .to_owned();
        let state = wait_until(timeout, "end of the job", || {
            let answer = self.get(&format!("/jobs/{job}"))?;
            match answer["state"].as_str() {
                Some(state @ ("FINISHED" | "FAILED" | "CANCELED")) => Ok(state.to_owned()),
                state => bail!("its state is {state:?}"),
            }
        })?;
        if state != "FINISHED" {
            let why = self.get(&format!("/jobs/{job}/exceptions"))?;
            bail!("the job ended as {state}: {why}");
        }
        Ok(start.elapsed())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn inside(&self, ask: impl FnOnce(Agent) -> Result<(bool, String)> + Send) -> Result<Value> {
        let (good, text) = self.namespace.run(move || {
            ask(Agent::new_with_config(
                Agent::config_builder()
                    .timeout_global(Some(REQUEST))
                    .http_status_as_error(false)
                    .proxy(None)
                    .build(),
            ))
        })??;
        ensure!(good, "refused: {text}");
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }
}

/// The answer type of ureq, under a shorter name.
mod http_response {
    pub(super) type Response = ureq::http::Response<ureq::Body>;
}

/// A form with the jar as its only field, and its content type.
fn multipart(jar: &Path) -> Result<(String, Vec<u8>)> {
    const BOUNDARY: &str = "truename-7c1d2a9f";
    let content = fs::read(jar).with_context(|| format!("read {}", jar.display()))?;
    let mut body = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"jarfile\"; filename=\"job.jar\"\r\n\
         Content-Type: application/x-java-archive\r\n\r\n"
    )
    .into_bytes();
    body.extend(content);
    body.extend(format!("\r\n--{BOUNDARY}--\r\n").into_bytes());
    Ok((format!("multipart/form-data; boundary={BOUNDARY}"), body))
}
