//! A JobManager and a TaskManager, each in a namespace and with a hosts file of its own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    config::{self, BLOB_PORT, REST_PORT, RPC_PORT, Role, TASK_PORT},
    fetch::Flink,
    jvm,
    rest::Rest,
};
use crate::{
    namespace::{Namespace, link},
    process::Process,
    scratch::Scratch,
    wait::wait_until,
};

/// The JobManager's address, by which the alias leads to it.
pub(crate) const JOB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 61, 23, 1);
/// A second address of the JobManager's host: the TaskManager reaches nothing there but the blob server.
pub(crate) const BLOB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 61, 23, 2);
const TASK_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 61, 23, 3);
/// The interface of the JobManager's namespace.
pub(crate) const JOB_INTERFACE: &str = "job0";
const TASK_INTERFACE: &str = "task0";

/// The name the JobManager has for itself.
pub(crate) const CANONICAL: &str = "jobmanager";
/// The name by which the TaskManager knows it.
pub(crate) const ALIAS: &str = "jm";

/// A JVM of either role may take this long to say something expected.
pub(crate) const JVM: Duration = Duration::from_secs(60);

/// What the TaskManager calls the JobManager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// By a name the JobManager does not have for itself.
    Alias,
    /// By its own name, without anything in between: works without truename.
    Canonical,
}

/// The two namespaces, and the processes that run now.
#[derive(Debug)]
pub struct Cluster {
    // Fields are dropped in this order: processes before their namespaces.
    job: Option<Process>,
    task: Option<Process>,
    flink: Flink,
    addressing: Addressing,
    job_space: Namespace,
    task_space: Namespace,
    job_files: Vec<(PathBuf, PathBuf)>,
    task_files: Vec<(PathBuf, PathBuf)>,
    job_home: PathBuf,
    task_home: PathBuf,
    logs: PathBuf,
}

impl Cluster {
    /// Makes the namespaces and the configuration; starts nothing.
    ///
    /// # Errors
    /// Not root, or the machine lacks something.
    pub fn new(flink: &Flink, addressing: Addressing, scratch: &Scratch) -> Result<Self> {
        let (job_space, task_space) = (Namespace::new("job")?, Namespace::new("task")?);
        link((&job_space, JOB_INTERFACE), (&task_space, TASK_INTERFACE))?;
        for address in [JOB_ADDRESS, BLOB_ADDRESS] {
            job_space.ip(&format!("address add {address}/24 dev {JOB_INTERFACE}"))?;
        }
        task_space.ip(&format!(
            "address add {TASK_ADDRESS}/24 dev {TASK_INTERFACE}"
        ))?;
        // The blob server's host reaches a TaskManager as a bare name, which has no room for an alias: it
        // has to resolve. It gets an address where only the blob port answers, so that the canonical name
        // is of no use for RPC.
        task_space.ip(&format!(
            "rule add pref 10 to {BLOB_ADDRESS} ipproto tcp dport {BLOB_PORT} lookup main"
        ))?;
        task_space.ip(&format!("rule add pref 11 to {BLOB_ADDRESS} unreachable"))?;

        let (known_as, canonical_at) = match addressing {
            Addressing::Alias => (ALIAS, BLOB_ADDRESS),
            Addressing::Canonical => (CANONICAL, JOB_ADDRESS),
        };
        // Flink asks for the address of the machine's own name.
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("read the machine's name")?;
        let machine = machine.trim();
        let own = format!("127.0.0.1 localhost {machine}\n{TASK_ADDRESS} taskmanager\n");
        let job_hosts = format!("{own}{JOB_ADDRESS} {CANONICAL}\n");
        let task_hosts = format!("{own}{JOB_ADDRESS} {ALIAS}\n{canonical_at} {CANONICAL}\n");
        // No name server: what is not in the hosts file does not resolve.
        let resolver = scratch.write("resolv.conf", "nameserver 127.0.0.1\n")?;
        let files = |name: &str, hosts: &str| -> Result<Vec<(PathBuf, PathBuf)>> {
            Ok(vec![
                (scratch.write(name, hosts)?, PathBuf::from("/etc/hosts")),
                (resolver.clone(), PathBuf::from("/etc/resolv.conf")),
            ])
        };
        Ok(Self {
            job: None,
            task: None,
            flink: flink.clone(),
            addressing,
            job_files: files("hosts-jobmanager", &job_hosts)?,
            task_files: files("hosts-taskmanager", &task_hosts)?,
            job_home: config::write(scratch, flink, Role::Job, CANONICAL)?,
            task_home: config::write(scratch, flink, Role::Task, known_as)?,
            logs: scratch.path().to_owned(),
            job_space,
            task_space,
        })
    }

    /// Makes sure that the canonical name is of no use for RPC at the TaskManager.
    ///
    /// # Errors
    /// It is.
    pub fn check_separation(&self) -> Result<()> {
        let reach = |address: Ipv4Addr, port| {
            let address = SocketAddr::new(IpAddr::V4(address), port);
            self.task_space
                .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
        };
        ensure!(
            self.addressing == Addressing::Canonical || !reach(BLOB_ADDRESS, RPC_PORT)?,
            "the JobManager's RPC answers at the blob server's address"
        );
        ensure!(
            reach(JOB_ADDRESS, RPC_PORT)?,
            "the JobManager's RPC is not reachable"
        );
        ensure!(
            reach(BLOB_ADDRESS, BLOB_PORT)?,
            "the blob server is not reachable"
        );
        Ok(())
    }

    /// Starts a JobManager and waits until its REST interface answers.
    ///
    /// # Errors
    /// It did not come up.
    pub fn start_job_manager(&mut self) -> Result<()> {
        self.restart_job_manager()?;
        self.rest().wait_task_managers(0, JVM).map(drop)
    }

    /// Starts a JobManager that may find TaskManagers which wait for it.
    ///
    /// # Errors
    /// It did not come up.
    pub fn restart_job_manager(&mut self) -> Result<()> {
        self.job = None;
        let job = self.start(Role::Job)?;
        job.wait_line(0, &["Rest endpoint listening"], JVM)?;
        self.job = Some(job);
        wait_until(JVM, "REST of the new JobManager", || {
            self.rest().get("/overview")
        })
        .map(drop)
    }

    /// Starts a TaskManager; it has not registered yet when this returns.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_task_manager(&mut self) -> Result<()> {
        self.task = None;
        let task = self.start(Role::Task)?;
        self.task = Some(task);
        Ok(())
    }

    /// The running JobManager.
    ///
    /// # Errors
    /// There is none.
    pub fn job_manager(&self) -> Result<&Process> {
        self.job.as_ref().context("no JobManager runs")
    }

    /// The running TaskManager.
    ///
    /// # Errors
    /// There is none.
    pub fn task_manager(&self) -> Result<&Process> {
        self.task.as_ref().context("no TaskManager runs")
    }

    /// Kills the JobManager (SIGKILL).
    pub fn kill_job_manager(&mut self) {
        self.job = None;
    }

    /// Kills the TaskManager (SIGKILL).
    pub fn kill_task_manager(&mut self) {
        self.task = None;
    }

    /// The JobManager's namespace.
    pub fn job_space(&self) -> &Namespace {
        &self.job_space
    }

    /// Where the JobManager listens for RPC.
    pub fn rpc_address() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(JOB_ADDRESS), RPC_PORT)
    }

    /// Where the JobManager listens for REST.
    pub fn rest_address() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(JOB_ADDRESS), REST_PORT)
    }

    pub(crate) fn rest(&self) -> Rest<'_> {
        Rest::new(&self.job_space, Self::rest_address())
    }

    /// The established connections that carry RPC between the two, as `ss` shows them.
    pub(crate) fn rpc_connections(&self) -> Result<Vec<String>> {
        let mut command = self.job_space.command(Path::new("ss"), &[])?;
        command.args(["-Htn", "state", "established"]);
        let output = command.output().context("run ss")?;
        ensure!(output.status.success(), "ss ended with {}", output.status);
        let ports = [RPC_PORT, TASK_PORT].map(|port| format!(":{port}"));
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| {
                line.split_whitespace()
                    .any(|field| ports.iter().any(|port| field.ends_with(port.as_str())))
            })
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect())
    }

    fn start(&self, role: Role) -> Result<Process> {
        let (space, files, home, class) = match role {
            Role::Job => (
                &self.job_space,
                &self.job_files,
                &self.job_home,
                jvm::JOB_MANAGER,
            ),
            Role::Task => (
                &self.task_space,
                &self.task_files,
                &self.task_home,
                jvm::TASK_MANAGER,
            ),
        };
        let java = jvm::java(space, files, &self.flink, home, class)?;
        Process::spawn(role.name(), java, &self.logs)
    }
}
