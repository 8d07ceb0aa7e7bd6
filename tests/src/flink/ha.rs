//! A highly available cluster: two JobManagers that elect their leader on ZooKeeper.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    cluster::JVM,
    config::{self, BLOB_PORT, REST_PORT, RPC_PORT},
    fetch::Flink,
    jvm,
    node::Node,
};
use crate::{
    hub::Hub,
    namespace::Namespace,
    process::Process,
    scratch::Scratch,
    zookeeper::{CLIENT_PORT, Ensemble},
};

const ZOOKEEPER: Ipv4Addr = Ipv4Addr::new(10, 61, 24, 1);
const MANAGERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 61, 24, 11), Ipv4Addr::new(10, 61, 24, 12)];
/// The parts that are elected, as they say in the log that they lead, from Flink 1.13 on.
const LEADS: [&str; 3] = [
    "ResourceManager",
    "DispatcherRunner",
    "DispatcherRestEndpoint",
];

/// Two JobManagers, each in a namespace, and ZooKeeper in a third that both reach.
#[derive(Debug)]
pub struct Pair {
    // Fields are dropped in this order: processes before their namespaces.
    managers: [Node; 2],
    ensemble: Ensemble,
    flink: Flink,
    hub: Hub,
    logs: PathBuf,
}

impl Pair {
    /// The root in ZooKeeper.
    pub const ROOT: &str = "/flink";
    /// The cluster below it.
    pub const CLUSTER: &str = "/pair";
    /// A leader that is silent for this long has lost its office.
    pub const SESSION: Duration = Duration::from_secs(3);

    /// Makes the namespaces and starts ZooKeeper.
    ///
    /// # Errors
    /// Not root, or the machine lacks something.
    pub fn new(flink: &Flink, scratch: &Scratch) -> Result<Self> {
        let hub = Hub::new(ZOOKEEPER)?;
        let ensemble = Ensemble::start(hub.space(), &[ZOOKEEPER], scratch)?;
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("read the machine's name")?;
        // Flink up to 1.14 has a ZooKeeper client that looks addresses up in the form in which Java up to
        // 13 printed them. What later ones print is given an address here.
        let hosts = format!(
            "127.0.0.1 localhost {}\n{ZOOKEEPER} zookeeper zookeeper/<unresolved>\n{} {}\n{} {}\n",
            machine.trim(),
            Self::address(0),
            Self::name(0),
            Self::address(1),
            Self::name(1),
        );
        let files = vec![
            (scratch.write("hosts", &hosts)?, PathBuf::from("/etc/hosts")),
            (
                scratch.write("resolv.conf", "nameserver 127.0.0.1\n")?,
                PathBuf::from("/etc/resolv.conf"),
            ),
        ];
        let manager = |number: usize| -> Result<Node> {
            let space = Namespace::new("jm")?;
            hub.connect(&space, "jm", &[Self::address(number)])?;
            let home = configure(scratch, flink, number)?;
            Ok(Node::new(Self::name(number), space, home, files.clone()))
        };
        Ok(Self {
            managers: [manager(0)?, manager(1)?],
            ensemble,
            flink: flink.clone(),
            hub,
            logs: scratch.path().to_owned(),
        })
    }

    /// The name that a JobManager has for itself.
    pub fn name(number: usize) -> String {
        format!("jobmanager-{}", number + 1)
    }

    /// The `host:port` of its RPC.
    pub fn rpc(number: usize) -> String {
        format!("{}:{RPC_PORT}", Self::name(number))
    }

    /// The `host:port` of its REST server.
    pub fn rest(number: usize) -> String {
        format!("{}:{REST_PORT}", Self::name(number))
    }

    /// The address of a JobManager.
    pub fn address(number: usize) -> Ipv4Addr {
        MANAGERS[number]
    }

    /// Where its REST server listens.
    pub fn rest_address(number: usize) -> SocketAddr {
        SocketAddr::new(Self::address(number).into(), REST_PORT)
    }

    /// Where its actor system listens.
    pub fn rpc_address(number: usize) -> SocketAddr {
        SocketAddr::new(Self::address(number).into(), RPC_PORT)
    }

    /// The host that ZooKeeper runs on, from which all is reached.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// What stands in the place of others for all processes, so that they know the names:
    /// `(private file, path it stands for)`.
    pub fn files(&self) -> &[(PathBuf, PathBuf)] {
        &self.managers[0].files
    }

    /// ZooKeeper.
    pub fn ensemble(&self) -> &Ensemble {
        &self.ensemble
    }

    /// Starts a JobManager; it may not lead when this returns.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&mut self, number: usize) -> Result<()> {
        self.spawn(number)?;
        self.manager(number)?
            .wait_line(0, &["Rest endpoint listening"], JVM)
            .map(drop)
    }

    /// The same without waiting for anything.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&mut self, number: usize) -> Result<()> {
        self.managers[number].start(&self.flink, jvm::JOB_MANAGER, &self.logs)
    }

    /// A JobManager that was started.
    ///
    /// # Errors
    /// It was not, or was killed.
    pub fn manager(&self, number: usize) -> Result<&Process> {
        self.managers[number].running()
    }

    /// Where a JobManager runs.
    pub fn space(&self, number: usize) -> &Namespace {
        &self.managers[number].space
    }

    /// Waits until a JobManager says that every part of it leads.
    ///
    /// # Errors
    /// It does not get to.
    pub fn wait_leads(&self, number: usize) -> Result<()> {
        let process = self.manager(number)?;
        LEADS.iter().try_for_each(|part| {
            process
                .wait_line(0, &[part, "granted leadership"], JVM)
                .map(drop)
        })
    }

    /// Kills a JobManager (SIGKILL).
    pub fn kill(&mut self, number: usize) {
        self.managers[number].kill();
    }
}

fn configure(scratch: &Scratch, flink: &Flink, number: usize) -> Result<PathBuf> {
    let name = Pair::name(number);
    let home = scratch.path().join(&name);
    let mut settings = vec![
        ("jobmanager.rpc.address", name.clone()),
        ("jobmanager.rpc.port", RPC_PORT.to_string()),
        ("jobmanager.bind-host", "0.0.0.0".to_owned()),
        ("rest.address", name.clone()),
        ("rest.port", REST_PORT.to_string()),
        ("rest.bind-address", "0.0.0.0".to_owned()),
        ("blob.server.port", BLOB_PORT.to_string()),
        ("io.tmp.dirs", format!("{}/tmp", home.display())),
        ("web.upload.dir", format!("{}/tmp/upload", home.display())),
    ];
    let quorum = format!("zookeeper:{CLIENT_PORT}");
    settings.extend(self::settings(scratch, Pair::CLUSTER, &quorum));
    config::write_home(scratch, flink, &name, &settings)?;
    Ok(home)
}

/// What makes a cluster highly available, with leader records in ZooKeeper.
pub(crate) fn settings(
    scratch: &Scratch,
    cluster: &str,
    quorum: &str,
) -> Vec<(&'static str, String)> {
    let session = Pair::SESSION.as_millis();
    vec![
        // Both spellings: the key was renamed in 1.17.
        ("high-availability", "zookeeper".to_owned()),
        ("high-availability.type", "zookeeper".to_owned()),
        ("high-availability.jobmanager.port", RPC_PORT.to_string()),
        ("high-availability.cluster-id", cluster.to_owned()),
        (
            "high-availability.storageDir",
            format!("file://{}/ha", scratch.path().display()),
        ),
        ("high-availability.zookeeper.quorum", quorum.to_owned()),
        (
            "high-availability.zookeeper.path.root",
            Pair::ROOT.to_owned(),
        ),
        (
            "high-availability.zookeeper.client.session-timeout",
            session.to_string(),
        ),
        (
            "high-availability.zookeeper.client.connection-timeout",
            session.to_string(),
        ),
        // Without it, the client of 1.13 wants to know the server's name once more.
        ("zookeeper.sasl.disable", "true".to_owned()),
    ]
}
