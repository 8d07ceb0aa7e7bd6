//! A real Prometheus: Debian's, taken out of its package, so that nothing is installed and no service starts.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{cache, http::Http, namespace::Namespace, process::Process, scratch::Scratch};

/// Where it listens.
const LISTEN: &str = "127.0.0.1:9090";
/// How long it may take to start and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that scrapes.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
    space: Namespace,
}

/// The directory with `prometheus` and `promtool`.
///
/// # Errors
/// The package cannot be fetched.
pub fn programs() -> Result<PathBuf> {
    let unpacked = cache::entry("prometheus", |directory| {
        cache::run(directory, "apt-get", &["-qq", "download", "prometheus"])?;
        let package = std::fs::read_dir(directory)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get brought no package")?;
        let package = package.to_string_lossy();
        cache::run(directory, "dpkg-deb", &["--extract", &package, "root"])?;
        Ok(directory.join("root"))
    })?;
    Ok(unpacked.join("usr/bin"))
}

impl Prometheus {
    /// Starts one in a namespace with a configuration, and waits until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(space: &Namespace, scratch: &Scratch, configuration: &Path) -> Result<Self> {
        let mut command = space.command(&programs()?.join("prometheus"), &[])?;
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--web.listen-address={LISTEN}"))
            .arg(format!(
                "--storage.tsdb.path={}",
                scratch.path().join("tsdb").display()
            ));
        let process = Process::spawn("prometheus", command, scratch.path())?;
        process.wait_line(0, &["Server is ready to receive web requests"], PATIENCE)?;
        Ok(Self {
            _process: process,
            space: space.clone(),
        })
    }

    /// What its API answers to a path below `/api/v1`.
    ///
    /// # Errors
    /// It answers with an error.
    pub fn get(&self, path: &str) -> Result<Value> {
        let at: SocketAddr = LISTEN.parse()?;
        let path = format!("/api/v1/{path}");
        let (code, body) = self
            .space
            .run(|| Http::connect(at, PATIENCE)?.get(&path))??;
        ensure!(code == 200, "{path}: {code} {body}");
        let answer: Value = serde_json::from_str(&body).context("read the answer")?;
        Ok(answer["data"].clone())
    }

    /// The result of a query: one element for each series.
    ///
    /// # Errors
    /// The query is wrong.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let escaped: String = query
            .bytes()
            .map(|byte| match plain(byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            })
            .collect();
        let answer = self.get(&format!("query?query={escaped}"))?;
        let result = answer["result"].as_array().context("no result")?;
        Ok(result.clone())
    }
}
