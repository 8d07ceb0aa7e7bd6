//! The program under test, driven through its command line.

mod ask;

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{cleanup, namespace::Namespace, process::Process, scratch::Scratch, sys};

/// How long an agent may take to load and attach.
const START: Duration = Duration::from_secs(30);

/// The `truename` binary: `TRUENAME_BIN`, or the one built beside the test.
///
/// # Errors
/// There is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRUENAME_BIN") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("find the running program")?;
    own.ancestors()
        .flat_map(|directory| {
            ["release/truename", "debug/truename"].map(|name| directory.join(name))
        })
        .find(|path| path.is_file())
        .context("no truename binary is built: run `cargo xtask build`")
}

/// Makes sure that BPF objects can be pinned.
///
/// # Errors
/// The file system cannot be mounted.
pub fn ensure_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let mounted = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(cleanup::BPFFS) && fields.next() == Some("bpf")
    });
    if mounted {
        return Ok(());
    }
    sys::mount_bpffs(Path::new(cleanup::BPFFS))
        .with_context(|| format!("mount the BPF file system at {}", cleanup::BPFFS))
}

/// One endpoint of an agent's command line.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its canonical authority, if it is not to be learned.
    pub canonical: Option<String>,
}

impl Endpoint {
    /// As it stands on the command line.
    pub fn argument(&self) -> String {
        match &self.canonical {
            Some(canonical) => format!("pekko={}={canonical}", self.listen),
            None => format!("pekko={}", self.listen),
        }
    }
}

/// An installation of truename in a namespace: its pins and its socket, and the agent while one runs.
/// Detached on drop.
#[derive(Debug)]
pub struct Truename {
    namespace: Namespace,
    binary: PathBuf,
    bpffs: PathBuf,
    socket: PathBuf,
    arguments: Vec<String>,
    log_directory: PathBuf,
    /// What starts the agent, with its arguments; nothing if it is started directly.
    launcher: Vec<String>,
    environment: Vec<(String, OsString)>,
    /// What stands in the place of files of this host.
    files: Vec<(PathBuf, PathBuf)>,
    agent: Option<Process>,
}

impl Truename {
    /// Starts an agent and waits until its programs are attached.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn start(
        namespace: &Namespace,
        scratch: &Scratch,
        interfaces: &[&str],
        endpoints: &[Endpoint],
    ) -> Result<Self> {
        Self::start_binary(binary()?, namespace, scratch, interfaces, endpoints)
    }

    /// The same with services for TCP: `(alias, target)`.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn start_services(
        namespace: &Namespace,
        scratch: &Scratch,
        interfaces: &[&str],
        endpoints: &[Endpoint],
        services: &[(SocketAddr, SocketAddr)],
    ) -> Result<Self> {
        let mut arguments = flags(interfaces, endpoints);
        for (alias, target) in services {
            arguments.extend(["--service".to_owned(), format!("tcp={alias}={target}")]);
        }
        Self::start_arguments(binary()?, namespace, scratch, arguments)
    }

    /// The same with a given binary.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn start_binary(
        binary: PathBuf,
        namespace: &Namespace,
        scratch: &Scratch,
        interfaces: &[&str],
        endpoints: &[Endpoint],
    ) -> Result<Self> {
        let arguments = flags(interfaces, endpoints);
        Self::start_arguments(binary, namespace, scratch, arguments)
    }

    /// The same with the relay, which has the endpoints when this returns.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn start_relay(
        binary: PathBuf,
        namespace: &Namespace,
        scratch: &Scratch,
        interfaces: &[&str],
        endpoints: &[Endpoint],
    ) -> Result<Self> {
        let mut arguments = flags(interfaces, endpoints);
        arguments.push("--relay".to_owned());
        let truename = Self::start_arguments(binary, namespace, scratch, arguments)?;
        truename.wait_relay(endpoints.len())?;
        Ok(truename)
    }

    /// Starts an agent with a configuration file, which is read again by every later agent.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn start_file(namespace: &Namespace, scratch: &Scratch, file: &Path) -> Result<Self> {
        let arguments = vec!["--config".to_owned(), file.display().to_string()];
        Self::start_arguments(binary()?, namespace, scratch, arguments)
    }

    fn start_arguments(
        binary: PathBuf,
        namespace: &Namespace,
        scratch: &Scratch,
        arguments: Vec<String>,
    ) -> Result<Self> {
        let mut truename = Self::prepared(binary, namespace, scratch, arguments)?;
        truename.start_agent()?;
        Ok(truename)
    }

    /// An installation whose agent is not started yet.
    ///
    /// # Errors
    /// The BPF file system cannot be mounted.
    pub fn prepared(
        binary: PathBuf,
        namespace: &Namespace,
        scratch: &Scratch,
        arguments: Vec<String>,
    ) -> Result<Self> {
        ensure_bpffs()?;
        let name = cleanup::unique_name("agent");
        Ok(Self {
            namespace: namespace.clone(),
            binary,
            bpffs: Path::new(cleanup::BPFFS).join(&name),
            socket: scratch.path().join(format!("{name}.sock")),
            arguments,
            log_directory: scratch.path().to_owned(),
            launcher: Vec::new(),
            environment: Vec::new(),
            files: Vec::new(),
            agent: None,
        })
    }

    /// Has agents started by another program, whose arguments theirs follow.
    pub fn launch_by(&mut self, launcher: &[&str]) {
        self.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Gives agents more arguments.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        let arguments = arguments.iter().map(|word| (*word).to_owned());
        self.arguments.extend(arguments);
    }

    /// Has agents pin in another directory. Whoever makes directories above it removes them.
    pub fn move_pins(&mut self, bpffs: &Path) {
        self.bpffs = bpffs.to_owned();
    }

    /// Gives agents a variable of the environment.
    pub fn set_variable(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Puts a file in the place of one of this host, for agents.
    pub fn put_file(&mut self, private: impl Into<PathBuf>, public: impl Into<PathBuf>) {
        self.files.push((private.into(), public.into()));
    }

    /// Starts an agent on the same pins and the same socket.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn start_agent(&mut self) -> Result<()> {
        self.spawn_agent()?
            .wait_whole_line(0, "ready", START)
            .map(drop)
    }

    /// The same without waiting for anything.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_agent(&mut self) -> Result<&Process> {
        let mut command = self.launched()?;
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(["run", "--control-socket"])
            .arg(&self.socket)
            .arg("--bpffs")
            .arg(&self.bpffs)
            .args(&self.arguments);
        let agent = Process::spawn("truename", command, &self.log_directory)?;
        Ok(self.agent.insert(agent))
    }

    /// The agent.
    ///
    /// # Errors
    /// None runs.
    pub fn agent(&self) -> Result<&Process> {
        self.agent.as_ref().context("no agent runs")
    }

    /// Asks the agent to end, and waits for it.
    ///
    /// # Errors
    /// None runs, or it does not end.
    pub fn stop_agent(&mut self) -> Result<ExitStatus> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.terminate(START)
    }

    /// Kills the agent (SIGKILL); what it attached stays.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// Removes every trace from the kernel.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn detach(&mut self) -> Result<()> {
        self.kill_agent();
        let mut command = self.launched()?;
        command.arg("detach").arg("--bpffs").arg(&self.bpffs);
        ask::run(command).map(drop)
    }

    /// Where its programs and maps are pinned.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Where its agent can be asked.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The program, started in the way of agents.
    fn launched(&self) -> Result<Command> {
        let mut words = self.launcher.iter().map(Path::new).chain([&*self.binary]);
        let program = words.next().context("a program")?;
        let mut command = self.namespace.command(program, &self.files)?;
        command.args(words);
        Ok(command)
    }
}

impl Drop for Truename {
    fn drop(&mut self) {
        // Pins that cannot be removed here are swept by the next run.
        let _ = self.detach();
        let _ = fs::remove_dir_all(&self.bpffs);
    }
}

fn flags(interfaces: &[&str], endpoints: &[Endpoint]) -> Vec<String> {
    let mut flags = Vec::new();
    for interface in interfaces {
        flags.extend(["--interface".to_owned(), (*interface).to_owned()]);
    }
    for endpoint in endpoints {
        flags.extend(["--endpoint".to_owned(), endpoint.argument()]);
    }
    flags
}
