//! A real ZooKeeper, from the package of Debian: one server or several, in a namespace.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{namespace::Namespace, process::Process, scratch::Scratch};

/// Where clients connect.
pub const CLIENT_PORT: u16 = 2181;
/// How long a server may take to be ready.
const START: Duration = Duration::from_secs(60);
/// Logs to standard output: Log4j 1.
pub(crate) const LOG4J1: &str = "\
log4j.rootLogger = INFO, console
log4j.appender.console = org.apache.log4j.ConsoleAppender
log4j.appender.console.layout = org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern = %d{HH:mm:ss.SSS} %-5p %c{1} %m%n
";
/// The server and what it logs with; the rest is named in the first jar.
const JARS: [&str; 3] = [
    "/usr/share/java/zookeeper.jar",
    "/usr/share/java/slf4j-log4j12.jar",
    "/usr/share/java/log4j-1.2.jar",
];

/// Servers that form one ZooKeeper.
#[derive(Debug)]
pub struct Ensemble {
    servers: Vec<Server>,
    space: Namespace,
    logs: PathBuf,
}

#[derive(Debug)]
struct Server {
    address: Ipv4Addr,
    home: PathBuf,
    process: Option<Process>,
}

impl Ensemble {
    /// Starts a server on each of `addresses`, which the namespace must have, and waits until they serve.
    ///
    /// # Errors
    /// ZooKeeper is not installed or does not come up.
    pub fn start(space: &Namespace, addresses: &[Ipv4Addr], scratch: &Scratch) -> Result<Self> {
        let missing: Vec<&str> = JARS
            .into_iter()
            .filter(|jar| !Path::new(jar).is_file())
            .collect();
        ensure!(
            missing.is_empty(),
            "ZooKeeper is not installed ({} missing): run `cargo xtask setup`",
            missing.join(", ")
        );
        let mut peers = String::new();
        if addresses.len() > 1 {
            for (number, address) in addresses.iter().enumerate() {
                peers += &format!("server.{}={address}:2888:3888\n", number + 1);
            }
        }
        let servers = addresses
            .iter()
            .enumerate()
            .map(|(number, &address)| {
                let home = scratch.path().join(format!("zookeeper-{}", number + 1));
                fs::create_dir_all(home.join("data"))
                    .with_context(|| format!("create {}", home.display()))?;
                let settings = format!(
                    "tickTime=500\ninitLimit=20\nsyncLimit=10\nadmin.enableServer=false\n\
                     dataDir={}/data\nclientPort={CLIENT_PORT}\nclientPortAddress={address}\n{peers}",
                    home.display()
                );
                fs::write(home.join("zoo.cfg"), settings)?;
                fs::write(home.join("log4j.properties"), LOG4J1)?;
                Ok(Server {
                    address,
                    home,
                    process: None,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut ensemble = Self {
            servers,
            space: space.clone(),
            logs: scratch.path().to_owned(),
        };
        for number in 0..addresses.len() {
            ensemble.spawn(number)?;
        }
        for number in 0..addresses.len() {
            ensemble.wait(number)?;
        }
        Ok(ensemble)
    }

    /// The servers, as clients name them.
    pub fn quorum(&self) -> Vec<String> {
        self.servers
            .iter()
            .map(|server| format!("{}:{CLIENT_PORT}", server.address))
            .collect()
    }

    /// Kills a server (SIGKILL).
    pub fn kill(&mut self, number: usize) {
        self.servers[number].process = None;
    }

    /// Starts a killed server again and waits until it serves, which it does when most of them run.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.spawn(number)?;
        self.wait(number)
    }

    /// Starts killed servers at once, so that they can form a majority, and waits until they serve.
    ///
    /// # Errors
    /// They do not come up.
    pub fn restart_all(&mut self) -> Result<()> {
        let dead: Vec<usize> = (0..self.servers.len())
            .filter(|&number| self.servers[number].process.is_none())
            .collect();
        for &number in &dead {
            self.spawn(number)?;
        }
        dead.into_iter().try_for_each(|number| self.wait(number))
    }

    /// Lets a killed server forget everything, sessions too.
    ///
    /// # Errors
    /// Its files cannot be removed.
    pub fn forget(&self, number: usize) -> Result<()> {
        let data = self.servers[number].home.join("data");
        fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        fs::create_dir(&data).with_context(|| format!("create {}", data.display()))
    }

    fn spawn(&mut self, number: usize) -> Result<()> {
        let server = &mut self.servers[number];
        let id = (number + 1).to_string();
        fs::write(server.home.join("data/myid"), &id)?;
        let mut java = self.space.command(Path::new("java"), &[])?;
        java.current_dir(&server.home)
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-Dlog4j.configuration=file:log4j.properties")
            .args(["-cp", &JARS.join(":")])
            .args([
                "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                "zoo.cfg",
            ]);
        server.process = Some(Process::spawn(
            &format!("zookeeper-{id}"),
            java,
            &self.logs,
        )?);
        Ok(())
    }

    fn wait(&self, number: usize) -> Result<()> {
        let process = self.servers[number].process.as_ref();
        let ready: &[&str] = if self.servers.len() > 1 {
            &["Peer state changed", "broadcast"]
        } else {
            &["PrepRequestProcessor", "started"]
        };
        process
            .with_context(|| format!("server {number} is not started"))?
            .wait_line(0, ready, START)
            .map(drop)
    }
}
