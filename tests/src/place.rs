//! An agent with a configuration file that a test changes.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    nat,
    scratch::Scratch,
    traffic::Lab,
    truename::{Truename, binary},
};

/// How long a reload may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// An agent with a configuration file, in a lab.
#[derive(Debug)]
pub struct Place {
    /// The agent.
    pub truename: Truename,
    /// Its configuration.
    pub file: PathBuf,
    /// Where it works.
    pub lab: Lab,
    /// Where its files are. Dropped last.
    pub scratch: Scratch,
}

impl Place {
    /// Starts an agent on the server of [`Lab::direct`].
    ///
    /// # Errors
    /// It did not become ready.
    pub fn new(configuration: &str) -> Result<Self> {
        let mut place = Self::prepared(configuration)?;
        place.truename.start_agent()?;
        Ok(place)
    }

    /// The same without an agent.
    ///
    /// # Errors
    /// Not root.
    pub fn prepared(configuration: &str) -> Result<Self> {
        let lab = Lab::direct()?;
        let scratch = Scratch::new("place")?;
        let directory = scratch.path().join("etc");
        fs::create_dir(&directory)?;
        let file = directory.join("truename.toml");
        fs::write(&file, configuration)?;
        let arguments = vec!["--config".to_owned(), file.display().to_string()];
        let truename = Truename::prepared(binary()?, lab.server(), &scratch, arguments)?;
        Ok(Self {
            truename,
            file,
            lab,
            scratch,
        })
    }

    /// Puts another file in the place of the present one, as editors do.
    ///
    /// # Errors
    /// The disk is full.
    pub fn replace(&self, configuration: &str) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, configuration)?;
        fs::rename(new, &self.file).context("replace the configuration")
    }

    /// Writes the file, has the agent read it, and waits for what it says.
    ///
    /// # Errors
    /// It does not say it.
    pub fn reload(&self, configuration: &str, words: &[&str]) -> Result<String> {
        let agent = self.truename.agent()?;
        let mark = agent.mark();
        self.replace(configuration)?;
        agent.wait_line(mark, words, SOON)
    }

    /// A connection from the client to an address, and its other end and peer there.
    ///
    /// # Errors
    /// It is not made.
    pub fn connect(
        &self,
        server: &TcpListener,
        to: &str,
    ) -> Result<(TcpStream, TcpStream, SocketAddr)> {
        let client = nat::connect(self.lab.client(), "10.99.0.2:0".parse()?, to.parse()?)?;
        let (accepted, peer) = server.accept()?;
        accepted.set_read_timeout(Some(SOON))?;
        Ok((client, accepted, peer))
    }

    /// The problems that `status` tells; its exit code must go with them.
    ///
    /// # Errors
    /// The agent does not answer, or its exit code is another one.
    pub fn problems(&self) -> Result<Vec<String>> {
        let (status, code) = self.truename.status()?;
        let problems: Vec<String> = serde_json::from_value(status["problems"].clone())?;
        let expected = if problems.is_empty() { 0 } else { 3 };
        ensure!(code == expected, "exit code {code} with {problems:?}");
        Ok(problems)
    }
}
