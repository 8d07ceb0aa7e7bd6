//! A highly available cluster in containers of one host, whose names no name server knows, and a client that reaches one
//! address of the host and nothing else.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{cluster::JVM, config, fetch::Flink, ha, job, jvm, node::Node, rest::Rest};
use crate::{
    hub::Hub,
    namespace::{Namespace, link},
    process::Process,
    scratch::Scratch,
    zookeeper::{CLIENT_PORT, Ensemble},
};

/// The host, on the bridge of its containers.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 61, 50, 1);
/// The host, as the client reaches it.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 61, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 61, 2);

/// The host, its containers, and the client.
#[derive(Debug)]
pub struct Containers {
    // Fields are dropped in this order: processes before their namespaces.
    managers: Vec<Node>,
    tasks: Vec<Node>,
    ensemble: Ensemble,
    flink: Flink,
    client: Namespace,
    /// The configuration of Flink's command line at the client, which does not look for the leader itself.
    client_home: PathBuf,
    hub: Hub,
    scratch: PathBuf,
}

impl Containers {
    /// Makes the namespaces and starts ZooKeeper.
    ///
    /// # Errors
    /// Not root, or the machine lacks something.
    pub fn new(flink: &Flink, managers: usize, tasks: usize, scratch: &Scratch) -> Result<Self> {
        let hub = Hub::new(HOST)?;
        let host = hub.space();
        host.sysctl("net/ipv4/ip_forward", "1")?;
        let ensemble = Ensemble::start(host, &[HOST], scratch)?;
        let client = Namespace::new("client")?;
        link((host, "out0"), (&client, "eth0"))?;
        host.ip(&format!("address add {OUTSIDE}/24 dev out0"))?;
        client.ip(&format!("address add {CLIENT}/24 dev eth0"))?;
        let container = |name: String, address: Ipv4Addr| {
            let space = Namespace::new("pod")?;
            hub.connect(&space, "eth0", &[address])?;
            space.ip(&format!("route add default via {HOST}"))?;
            let home = configure(scratch, flink, &name)?;
            Ok(Node::new(
                name.clone(),
                space,
                home,
                files(scratch, &name, address)?,
            ))
        };
        let managers = (0..managers)
            .map(|number| container(Self::manager_name(number), Self::manager_address(number)))
            .collect::<Result<_>>()?;
        let tasks = (0..tasks)
            .map(|number| container(Self::task_name(number), Self::task_address(number)))
            .collect::<Result<_>>()?;
        Ok(Self {
            managers,
            tasks,
            ensemble,
            flink: flink.clone(),
            client,
            client_home: config::write(scratch, flink, "client", &OUTSIDE.to_string())?,
            hub,
            scratch: scratch.path().to_owned(),
        })
    }

    /// The name that a JobManager has for itself.
    pub fn manager_name(number: usize) -> String {
        format!("jm-node-{}", number + 1)
    }

    /// The address of its container.
    pub fn manager_address(number: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(HOST.to_bits() + 10 + number as u32)
    }

    /// The name that a TaskManager has for itself.
    pub fn task_name(number: usize) -> String {
        format!("tm-node-{}", number + 1)
    }

    /// The address of its container.
    pub fn task_address(number: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(HOST.to_bits() + 20 + number as u32)
    }

    /// Where the client finds the REST interface.
    pub fn outside() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(OUTSIDE), config::REST_PORT)
    }

    /// What names the cluster to truename. No name server listens where containers ask: truename answers their questions.
    pub fn configuration(&self) -> String {
        let urls: Vec<_> = (0..self.managers.len())
            .map(|number| {
                let address = Self::manager_address(number);
                format!("\"http://{address}:{}\"", config::REST_PORT)
            })
            .collect();
        format!(
            "[topology]\ncluster = [{}]\n\
             [frontend]\naddresses = [\"*\"]\n",
            urls.join(", ")
        )
    }

    /// The host of the containers.
    pub fn host(&self) -> &Namespace {
        self.hub.space()
    }

    /// Where the client is.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where a TaskManager runs.
    pub fn task_space(&self, number: usize) -> &Namespace {
        &self.tasks[number].space
    }

    /// ZooKeeper.
    pub fn ensemble(&self) -> &Ensemble {
        &self.ensemble
    }

    /// Starts a JobManager; it may not serve when this returns.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_manager(&mut self, number: usize) -> Result<()> {
        self.managers[number].start(&self.flink, jvm::JOB_MANAGER, &self.scratch)
    }

    /// Starts a TaskManager; it may not be registered when this returns.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_task(&mut self, number: usize) -> Result<()> {
        self.tasks[number].start(&self.flink, jvm::TASK_MANAGER, &self.scratch)
    }

    /// A JobManager that was started.
    ///
    /// # Errors
    /// It was not, or was killed.
    pub fn manager(&self, number: usize) -> Result<&Process> {
        self.managers[number].running()
    }

    /// A TaskManager that was started.
    ///
    /// # Errors
    /// It was not.
    pub fn task(&self, number: usize) -> Result<&Process> {
        self.tasks[number].running()
    }

    /// Kills a JobManager (SIGKILL).
    pub fn kill_manager(&mut self, number: usize) {
        self.managers[number].kill();
    }

    /// The TaskManagers that are registered, asked by the client.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn registered(&self) -> Result<Vec<Value>> {
        self.rest().task_managers()
    }

    /// Waits until so many TaskManagers are registered, asked by the client.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_registered(&self, count: usize) -> Result<Vec<Value>> {
        self.rest().wait_task_managers(count, JVM)
    }

    /// Waits until the JobManager has this metric of a TaskManager, which it asks by name.
    ///
    /// # Errors
    /// It has not in time.
    pub fn wait_metric(&self, id: &str) -> Result<String> {
        self.rest().wait_metric(id, "Status.JVM.Threads.Count", JVM)
    }

    /// `GET path` as the client does.
    ///
    /// # Errors
    /// It is not answered.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.rest().get(path)
    }

    /// Runs a job with Flink's own command line at the client.
    ///
    /// # Errors
    /// It does not end well.
    pub fn run_job(&self) -> Result<String> {
        let home = &self.client_home;
        let jar = job::build_in(&self.flink, home)?;
        let mut command = jvm::virtual_machine(&self.client, &[], &self.flink, home)?;
        command
            .args(["org.apache.flink.client.cli.CliFrontend", "run"])
            .args(["-m", &Self::outside().to_string(), "-c", job::CLASS])
            .arg(jar);
        let output = command.output().context("run Flink's command line")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "the job ended with {}: {text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    fn rest(&self) -> Rest<'_> {
        Rest::new(&self.client, Self::outside())
    }
}

/// Both roles have one configuration: it has no address in it but that of ZooKeeper.
fn configure(scratch: &Scratch, flink: &Flink, name: &str) -> Result<PathBuf> {
    let more = ha::settings(scratch, "/pair", &format!("{HOST}:{CLIENT_PORT}"));
    config::write_more(scratch, flink, name, name, &more)
}

/// What a container engine gives a container: its own name, and a name server that knows nothing of the cluster.
fn files(scratch: &Scratch, name: &str, address: Ipv4Addr) -> Result<Vec<(PathBuf, PathBuf)>> {
    let machine =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the machine's name")?;
    let hosts = format!("127.0.0.1 localhost {}\n{address} {name}\n", machine.trim());
    let resolver = format!("nameserver {HOST}\noptions timeout:2 attempts:2\n");
    let file = |label: &str, text: &str, public: &str| {
        let private = scratch.write(&format!("{label}-{name}"), text)?;
        anyhow::Ok((private, Path::new(public).to_owned()))
    };
    Ok(vec![
        file("hosts", &hosts, "/etc/hosts")?,
        file("resolv", &resolver, "/etc/resolv.conf")?,
    ])
}
