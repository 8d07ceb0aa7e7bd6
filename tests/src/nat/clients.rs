//! Real clients: curl, dig, iperf3. What they print is made independent of time and of chance.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{cleanup, namespace::Namespace, scratch::Scratch};

/// Seconds after which a client gives up.
const PATIENCE: &str = "20";

/// Somebody who runs programs in a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Client<'l> {
    namespace: &'l Namespace,
    scratch: &'l Scratch,
}

/// A measurement of iperf3.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Segments that the sender sent again.
    pub retransmits: u64,
    /// Bytes that the receiver got.
    pub bytes: u64,
    /// Bits per second that the receiver got.
    pub rate: f64,
}

impl<'l> Client<'l> {
    /// In a namespace.
    pub fn new(namespace: &'l Namespace, scratch: &'l Scratch) -> Self {
        Self { namespace, scratch }
    }

    /// Asks a web server with curl. Answers what curl saw: how it ended, what the status was, who answered,
    /// and the body if it is short and not `expected`.
    ///
    /// # Errors
    /// curl cannot be run.
    pub fn fetch(&self, to: SocketAddr, path: &str, expected: Option<&[u8]>) -> Result<String> {
        let file = self.scratch.path().join(cleanup::unique_name("body"));
        let output = self.curl(&["--output"], &file, to, path)?;
        let body = fs::read(&file).unwrap_or_default();
        // Some megabytes each.
        let _ = fs::remove_file(&file);
        let body = match expected {
            Some(expected) if expected == body => "the bytes that are served".to_owned(),
            _ if body.len() < 200 => format!("{:?}", String::from_utf8_lossy(&body).trim_end()),
            _ => format!("{} wrong bytes", body.len()),
        };
        Ok(format!("{}: {body}", outcome(&output)))
    }

    /// Sends a file to a web server with curl.
    ///
    /// # Errors
    /// curl cannot be run.
    pub fn upload(&self, to: SocketAddr, path: &str, bytes: &[u8]) -> Result<String> {
        let file = self.scratch.path().join(cleanup::unique_name("body"));
        fs::write(&file, bytes).context("write the file to send")?;
        let output = self.curl(&["--upload-file"], &file, to, path)?;
        let _ = fs::remove_file(&file);
        Ok(outcome(&output))
    }

    fn curl(&self, flags: &[&str], file: &Path, to: SocketAddr, path: &str) -> Result<Output> {
        self.command("curl")?
            .args(["--silent", "--show-error", "--globoff", "--noproxy", "*"])
            // A question whether to go on would cost a second.
            .args(["--header", "Expect:", "--max-time", PATIENCE])
            .args(["--write-out", "%{http_code} %{remote_ip} %{remote_port}"])
            .args(flags)
            .arg(file)
            .arg(format!("http://{to}{path}"))
            .output()
            .context("run curl")
    }

    /// Asks a name server with dig. Answers the records, and who gave them.
    ///
    /// # Errors
    /// dig cannot be run.
    pub fn resolve(&self, to: SocketAddr, name: &str, kind: &str) -> Result<String> {
        let output = self
            .command("dig")?
            .arg(format!("@{}", to.ip()))
            .args(["-p", &to.port().to_string(), name, kind])
            .args(["+tries=2", "+time=3", "+noall", "+answer", "+stats"])
            .output()
            .context("run dig")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<String> = text
            .lines()
            .filter(|line| !line.is_empty())
            .filter(|line| {
                !["Query time:", "WHEN:"]
                    .iter()
                    .any(|word| line.contains(word))
            })
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        Ok(format!("exit {}, {}", exit(&output), lines.join("; ")))
    }

    /// Measures with iperf3: one connection, either from the client or to it.
    ///
    /// # Errors
    /// iperf3 fails.
    pub fn measure(&self, to: SocketAddr, bytes: u64, reverse: bool) -> Result<Measured> {
        let output = self
            .command("iperf3")?
            .args(["--json", "--client", &to.ip().to_string()])
            .args([
                "--port",
                &to.port().to_string(),
                "--bytes",
                &bytes.to_string(),
            ])
            // Both ends on one CPU: a veth has a queue for each, and segments that overtake each other
            // are repeated too.
            .args(["--affinity", "0,0"])
            .args(reverse.then_some("--reverse"))
            .output()
            .context("run iperf3")?;
        let result: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("iperf3 printed {}", String::from_utf8_lossy(&output.stdout))
        })?;
        ensure!(
            output.status.success() && result["error"].is_null(),
            "iperf3 to {to}: {}",
            result["error"]
        );
        let end = &result["end"];
        Ok(Measured {
            retransmits: end["sum_sent"]["retransmits"]
                .as_u64()
                .context("iperf3 tells no retransmissions")?,
            bytes: end["sum_received"]["bytes"].as_u64().unwrap_or(0),
            rate: end["sum_received"]["bits_per_second"]
                .as_f64()
                .unwrap_or(0.0),
        })
    }

    fn command(&self, program: &str) -> Result<Command> {
        self.namespace.command(program.as_ref(), &[])
    }
}

/// How curl ended and whom it talked with.
fn outcome(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    let status = words.next().unwrap_or("000").to_owned();
    let peer = match (words.next().map(str::parse::<IpAddr>), words.next()) {
        (Some(Ok(address)), Some(port)) => {
            let port = port.parse().unwrap_or(0);
            format!("from {}", SocketAddr::new(address, port))
        }
        _ => "from nobody".to_owned(),
    };
    let error = without_time(String::from_utf8_lossy(&output.stderr).trim());
    format!("exit {}, {status} {peer} {error}", exit(output))
        .trim_end()
        .to_owned()
}

/// `… after 3 ms: …` without the time.
fn without_time(error: &str) -> String {
    match (error.find(" after "), error.find(" ms")) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{}", &error[..from], &error[to + " ms".len()..])
        }
        _ => error.to_owned(),
    }
}

fn exit(output: &Output) -> String {
    output
        .status
        .code()
        .map_or("by a signal".to_owned(), |code| code.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_curl_says_has_no_times() {
        assert_eq!(
            without_time("curl: (7) Failed to connect to a port 1 after 12 ms: Refused"),
            "curl: (7) Failed to connect to a port 1: Refused"
        );
        assert_eq!(without_time("curl: (52) Empty"), "curl: (52) Empty");
    }
}
