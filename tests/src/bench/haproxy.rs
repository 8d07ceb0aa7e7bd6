//! HAProxy in TCP mode: what people use instead. It translates nothing.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{process::Process, scratch::Scratch, traffic::Lab, wait::wait_until};

/// Where it listens, at the server's address.
const PORT: u16 = 7123;
/// How long it may take to listen.
const START: Duration = Duration::from_secs(10);

/// A running HAProxy; ended on drop.
#[derive(Debug)]
pub struct Haproxy {
    address: SocketAddr,
    _process: Process,
    _scratch: Scratch,
}

impl Haproxy {
    /// Starts it in the server's namespace, in front of the server.
    ///
    /// # Errors
    /// It is not installed, or does not listen.
    pub fn start(lab: &Lab) -> Result<Self> {
        let server = lab.address();
        let address = SocketAddr::new(server.ip(), PORT);
        let scratch = Scratch::new("haproxy")?;
        let configuration = scratch.write(
            "haproxy.cfg",
            &format!(
                "global\n nbthread 2\n\
                 defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
                 listen stream\n bind {address}\n server endpoint {server}\n"
            ),
        )?;
        let mut command = lab.server().command(Path::new("haproxy"), &[])?;
        command.arg("-db").arg("-f").arg(&configuration);
        let process = Process::spawn("haproxy", command, scratch.path())
            .context("HAProxy does not start: is it installed (cargo xtask setup)?")?;
        // A connection of ours would reach the server.
        wait_until(START, "HAProxy listens", || {
            let mut command = lab.server().command(Path::new("ss"), &[])?;
            let port = PORT.to_string();
            let output = command.args(["-Htln", "sport", "=", &port]).output()?;
            ensure!(!output.stdout.is_empty(), "not yet");
            Ok(())
        })?;
        Ok(Self {
            address,
            _process: process,
            _scratch: scratch,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
