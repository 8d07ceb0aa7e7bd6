//! The configuration changes while the agent runs: by SIGHUP, and by another file.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    nat,
    scratch::Scratch,
    traffic::{Connection, Dial, Lab, Pace},
    truename::Truename,
    wait::wait_until,
    wire::{Names, Spec},
};

/// How long a reload may take on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// An agent with a configuration file.
struct Place {
    truename: Truename,
    file: PathBuf,
    lab: Lab,
    scratch: Scratch,
}

impl Place {
    fn new(configuration: &str) -> Result<Self> {
        let lab = Lab::direct()?;
        let scratch = Scratch::new("reload")?;
        let directory = scratch.path().join("etc");
        fs::create_dir(&directory)?;
        let file = directory.join("truename.toml");
        fs::write(&file, configuration)?;
        let truename = Truename::start_file(lab.server(), &scratch, &file)?;
        Ok(Self {
            truename,
            file,
            lab,
            scratch,
        })
    }

    /// Puts another file in the place of the present one, as editors do.
    fn replace(&self, configuration: &str) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, configuration)?;
        fs::rename(new, &self.file).context("replace the configuration")
    }

    /// Writes the file, has the agent read it, and waits for what it says.
    fn reload(&self, configuration: &str, words: &[&str]) -> Result<String> {
        let agent = self.truename.agent()?;
        let mark = agent.mark();
        self.replace(configuration)?;
        agent.wait_line(mark, words, SOON)
    }

    fn connect(&self, alias: SocketAddr) -> Result<TcpStream> {
        nat::connect(self.lab.client(), "10.99.0.1:0".parse()?, alias)
    }
}

const ENDPOINT: &str = r#"
[[endpoint]]
name = "jm"
protocol = "pekko"
listen = "10.99.0.100:6123"
canonical = "jobmanager:6123"
"#;

fn datapath(lines: &str) -> String {
    format!("[datapath]\ninterfaces = [\"s0\"]\n{lines}\n")
}

fn service(name: &str, alias: &str, target: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"{alias}\"\ntarget = \"{target}\"\n")
}

fn exchange(connection: &Connection, round: u64) -> Result<()> {
    let spec = Spec::mixed(&Names::flink("jobmanager", "jm"), round, 20);
    let spec = if round == 0 { spec } else { spec.continued(round) };
    connection.exchange(&spec.script(), Pace::default())
}
