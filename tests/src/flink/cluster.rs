//! A JobManager and TaskManagers, each in a namespace and with a hosts file of its own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    config::{self, BLOB_PORT, DATA_PORT, REST_PORT, RPC_PORT, TASK_PORT},
    fetch::Flink,
    jvm,
    node::Node,
    rest::Rest,
};
use crate::{hub::Hub, namespace::Namespace, process::Process, scratch::Scratch, wait::wait_until};

/// The JobManager's address, by which the alias leads to it.
pub(crate) const JOB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 61, 23, 1);
/// A second address of the JobManager's host: TaskManagers reach nothing there but the blob server.
pub(crate) const BLOB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 61, 23, 2);
/// The first TaskManager's; the next ones follow.
const TASK_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 61, 23, 3);
/// The address of the host in the middle.
const HUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 61, 23, 254);
/// The interface of the JobManager's namespace.
pub(crate) const JOB_INTERFACE: &str = "job0";
const TASK_INTERFACE: &str = "task0";

/// The name the JobManager has for itself.
pub(crate) const CANONICAL: &str = "jobmanager";
/// The name by which TaskManagers know it.
pub(crate) const ALIAS: &str = "jm";

/// A JVM of either role may take this long to say something expected.
pub(crate) const JVM: Duration = Duration::from_secs(60);

/// What TaskManagers call the JobManager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// By a name the JobManager does not have for itself.
    Alias,
    /// By its own name, without anything in between: works without truename.
    Canonical,
    /// The JobManager has this name for itself. The first TaskManager knows it by the first one of these names, the next
    /// ones by the next, and none by the JobManager's own.
    Names(&'static str, &'static [&'static str]),
}

/// The namespaces, and the processes that run now.
#[derive(Debug)]
pub struct Cluster {
    job: Node,
    tasks: Vec<Node>,
    flink: Flink,
    addressing: Addressing,
    hub: Hub,
    logs: PathBuf,
}

impl Cluster {
    /// Makes the namespaces and the configuration for so many TaskManagers; starts nothing.
    ///
    /// # Errors
    /// Not root, or the machine lacks something.
    pub fn new(
        flink: &Flink,
        addressing: Addressing,
        task_managers: usize,
        scratch: &Scratch,
    ) -> Result<Self> {
        let hub = Hub::new(HUB_ADDRESS)?;
        let canonical = match addressing {
            Addressing::Names(canonical, _) => canonical,
            _ => CANONICAL,
        };
        // What a TaskManager calls the JobManager, and the names that it can look up.
        let known_as = |number: usize| match addressing {
            Addressing::Alias => (
                ALIAS,
                format!("{JOB_ADDRESS} {ALIAS}\n{BLOB_ADDRESS} {CANONICAL}\n"),
            ),
            Addressing::Canonical => (CANONICAL, format!("{JOB_ADDRESS} {ALIAS} {CANONICAL}\n")),
            Addressing::Names(_, names) => {
                let name = names[number % names.len()];
                (name, format!("{JOB_ADDRESS} {name}\n"))
            }
        };
        // Flink asks for the address of the machine's own name.
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("read the machine's name")?;
        let mut own = format!("127.0.0.1 localhost {}\n", machine.trim());
        for number in 0..task_managers {
            let (address, name) = (Self::task_address(number), Self::task_name(number));
            own += &format!("{address} {name}\n");
        }
        // No name server: what is not in the hosts file does not resolve.
        let resolver = scratch.write("resolv.conf", "nameserver 127.0.0.1\n")?;
        let node = |name: &str, space: Namespace, names: &str, jobmanager: &str| -> Result<Node> {
            let hosts = scratch.write(&format!("hosts-{name}"), &format!("{own}{names}"))?;
            let files = vec![
                (hosts, PathBuf::from("/etc/hosts")),
                (resolver.clone(), PathBuf::from("/etc/resolv.conf")),
            ];
            let home = config::write(scratch, flink, name, jobmanager)?;
            Ok(Node::new(name.to_owned(), space, home, files))
        };
        let space = Namespace::new("job")?;
        hub.connect(&space, JOB_INTERFACE, &[JOB_ADDRESS, BLOB_ADDRESS])?;
        let names = format!("{JOB_ADDRESS} {CANONICAL} {canonical}\n");
        let job = node("jobmanager", space, &names, canonical)?;
        let task = |number| {
            let space = Namespace::new("task")?;
            hub.connect(&space, TASK_INTERFACE, &[Self::task_address(number)])?;
            // The blob server's host reaches a TaskManager as a bare name, which has no room for an alias:
            // it has to resolve. It gets an address where only the blob port answers, so that the canonical
            // name is of no use for RPC.
            space.ip(&format!(
                "rule add pref 10 to {BLOB_ADDRESS} ipproto tcp dport {BLOB_PORT} lookup main"
            ))?;
            space.ip(&format!("rule add pref 11 to {BLOB_ADDRESS} unreachable"))?;
            let (name, names) = known_as(number);
            node(&Self::task_name(number), space, &names, name)
        };
        let tasks = (0..task_managers).map(task).collect::<Result<_>>()?;
        Ok(Self {
            job,
            tasks,
            flink: flink.clone(),
            addressing,
            hub,
            logs: scratch.path().to_owned(),
        })
    }

    /// Makes sure that the canonical name is of no use for RPC at TaskManagers.
    ///
    /// # Errors
    /// It is.
    pub fn check_separation(&self) -> Result<()> {
        let reach = |address: Ipv4Addr, port| {
            let address = SocketAddr::new(IpAddr::V4(address), port);
            self.tasks[0]
                .space
                .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
        };
        ensure!(
            self.addressing != Addressing::Alias || !reach(BLOB_ADDRESS, RPC_PORT)?,
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
        self.job.start(&self.flink, jvm::JOB_MANAGER, &self.logs)?;
        self.job_manager()?
            .wait_line(0, &["Rest endpoint listening"], JVM)?;
        wait_until(JVM, "REST of the new JobManager", || {
            self.rest().get("/overview")
        })
        .map(drop)
    }

    /// Starts a TaskManager; it has not registered yet when this returns.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_task_manager(&mut self, number: usize) -> Result<()> {
        self.tasks[number].start(&self.flink, jvm::TASK_MANAGER, &self.logs)
    }

    /// The running JobManager.
    ///
    /// # Errors
    /// There is none.
    pub fn job_manager(&self) -> Result<&Process> {
        self.job.running()
    }

    /// A running TaskManager.
    ///
    /// # Errors
    /// It does not run.
    pub fn task_manager(&self, number: usize) -> Result<&Process> {
        self.tasks[number].running()
    }

    /// Kills the JobManager (SIGKILL).
    pub fn kill_job_manager(&mut self) {
        self.job.kill();
    }

    /// Kills a TaskManager (SIGKILL).
    pub fn kill_task_manager(&mut self, number: usize) {
        self.tasks[number].kill();
    }

    /// The JobManager's namespace.
    pub fn job_space(&self) -> &Namespace {
        &self.job.space
    }

    /// A TaskManager's namespace.
    pub fn task_space(&self, number: usize) -> &Namespace {
        &self.tasks[number].space
    }

    /// The host that all reach.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// What stands in the place of other files for the JobManager, so that it knows the names:
    /// `(private file, path it stands for)`.
    pub fn files(&self) -> &[(PathBuf, PathBuf)] {
        &self.job.files
    }

    /// The name a TaskManager has for itself.
    pub fn task_name(number: usize) -> String {
        match number {
            0 => "taskmanager".to_owned(),
            _ => format!("taskmanager-{}", number + 1),
        }
    }

    /// The address of a TaskManager.
    pub fn task_address(number: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(TASK_ADDRESS.to_bits() + number as u32)
    }

    /// Where a TaskManager gives its results to others: it keeps silent connections there.
    pub fn data_address(number: usize) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Self::task_address(number)), DATA_PORT)
    }

    /// Where the JobManager listens for RPC.
    pub fn rpc_address() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(JOB_ADDRESS), RPC_PORT)
    }

    /// Where the JobManager listens for REST.
    pub fn rest_address() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(JOB_ADDRESS), REST_PORT)
    }

    /// The same at the second address of its host.
    pub fn second_rest_address() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(BLOB_ADDRESS), REST_PORT)
    }

    /// Takes the first address from the JobManager's host.
    ///
    /// # Errors
    /// It does not have it any more.
    pub fn remove_first_address(&self) -> Result<()> {
        let space = &self.job.space;
        // Without this the second address, which is in the same network, goes with the first.
        space.sysctl("net/ipv4/conf/all/promote_secondaries", "1")?;
        space
            .ip(&format!(
                "address delete {JOB_ADDRESS}/24 dev {JOB_INTERFACE}"
            ))
            .map(drop)
    }

    /// How many TaskManagers the JobManager knows.
    ///
    /// # Errors
    /// It does not answer.
    pub fn registered(&self) -> Result<usize> {
        Ok(self.rest().task_managers()?.len())
    }

    pub(crate) fn rest(&self) -> Rest<'_> {
        Rest::new(&self.job.space, Self::rest_address())
    }

    /// The established connections that carry RPC between the two, as `ss` shows them.
    pub(crate) fn rpc_connections(&self) -> Result<Vec<String>> {
        let mut command = self.job.space.command(Path::new("ss"), &[])?;
        command.args(["-Htn", "state", "established"]);
        let output = command.output().context("run ss")?;
        ensure!(output.status.success(), "ss ended with {}", output.status);
        let ports = [RPC_PORT, TASK_PORT].map(|port| format!(":{port}"));
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| {
                let is_rpc = line
                    .split_whitespace()
                    .any(|field| ports.iter().any(|port| field.ends_with(port.as_str())));
                // From the relay to the JobManager there is another one.
                is_rpc && line.matches(&JOB_ADDRESS.to_string()).count() < 2
            })
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect())
    }
}
