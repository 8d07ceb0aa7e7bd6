//! The configuration of a cluster's processes. One text serves both roles and every release: unknown keys are ignored.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use super::fetch::Flink;
use crate::{scratch::Scratch, zookeeper::LOG4J1};

/// The RPC port of the JobManager.
pub(crate) const RPC_PORT: u16 = 6123;
/// The blob server of the JobManager, from which a TaskManager fetches user jars.
pub(crate) const BLOB_PORT: u16 = 6124;
/// The REST port of the JobManager.
pub(crate) const REST_PORT: u16 = 8081;
/// The RPC port of the TaskManager.
pub(crate) const TASK_PORT: u16 = 6122;
/// Where a TaskManager gives its results to others.
pub(crate) const DATA_PORT: u16 = 6121;
/// Where the JobManager asks the TaskManager for metrics.
pub(crate) const METRICS_PORT: u16 = 6150;

/// After this silence a peer counts as lost (10 times less than Flink's own setting, to be short).
pub(crate) const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Writes the configuration directory of the process `name`, which knows the JobManager as `jobmanager`.
pub(crate) fn write(
    scratch: &Scratch,
    flink: &Flink,
    name: &str,
    jobmanager: &str,
) -> Result<PathBuf> {
    write_more(scratch, flink, name, jobmanager, &[])
}

/// The same with more settings.
pub(crate) fn write_more(
    scratch: &Scratch,
    flink: &Flink,
    name: &str,
    jobmanager: &str,
    more: &[(&'static str, String)],
) -> Result<PathBuf> {
    let home = scratch.path().join(name);
    let mut settings = vec![
        // Addresses.
        ("jobmanager.rpc.address", jobmanager.to_owned()),
        ("jobmanager.rpc.port", RPC_PORT.to_string()),
        ("jobmanager.bind-host", "0.0.0.0".to_owned()),
        ("blob.server.port", BLOB_PORT.to_string()),
        ("rest.address", jobmanager.to_owned()),
        ("rest.port", REST_PORT.to_string()),
        ("rest.bind-address", "0.0.0.0".to_owned()),
        ("taskmanager.host", name.to_owned()),
        ("taskmanager.bind-host", "0.0.0.0".to_owned()),
        ("taskmanager.rpc.port", TASK_PORT.to_string()),
        ("taskmanager.data.port", DATA_PORT.to_string()),
        (
            "metrics.internal.query-service.port",
            METRICS_PORT.to_string(),
        ),
    ];
    settings.extend(small(&home.join("tmp")));
    settings.extend_from_slice(more);
    write_home(scratch, flink, name, &settings)?;
    Ok(home)
}

/// What makes a process small and impatient: for tests, and the same for both roles.
pub(crate) fn small(temporary: &Path) -> Vec<(&'static str, String)> {
    vec![
        // Times: short, so that a failure is noticed soon.
        (
            "heartbeat.interval",
            HEARTBEAT_INTERVAL.as_millis().to_string(),
        ),
        (
            "heartbeat.timeout",
            HEARTBEAT_TIMEOUT.as_millis().to_string(),
        ),
        ("cluster.registration.error-delay", "1000".to_owned()),
        ("cluster.registration.max-timeout", "2000".to_owned()),
        ("metrics.fetcher.update-interval", "1000".to_owned()),
        // Memory: small. From 1.10 on the start scripts, which are not used here, would work these out.
        ("taskmanager.numberOfTaskSlots", "2".to_owned()),
        ("taskmanager.cpu.cores", "2".to_owned()),
        ("taskmanager.memory.task.heap.size", "64m".to_owned()),
        ("taskmanager.memory.task.off-heap.size", "0m".to_owned()),
        ("taskmanager.memory.framework.heap.size", "64m".to_owned()),
        (
            "taskmanager.memory.framework.off-heap.size",
            "32m".to_owned(),
        ),
        ("taskmanager.memory.jvm-metaspace.size", "96m".to_owned()),
        ("taskmanager.memory.jvm-overhead.min", "64m".to_owned()),
        ("taskmanager.memory.jvm-overhead.max", "64m".to_owned()),
        ("taskmanager.memory.network.min", "16m".to_owned()),
        ("taskmanager.memory.network.max", "16m".to_owned()),
        ("taskmanager.memory.managed.size", "16m".to_owned()),
        ("taskmanager.memory.size", "16m".to_owned()),
        ("taskmanager.network.memory.min", "16m".to_owned()),
        ("taskmanager.network.memory.max", "16m".to_owned()),
        ("taskmanager.heap.size", "256m".to_owned()),
        // Files: below the scratch directory.
        ("io.tmp.dirs", temporary.display().to_string()),
        ("web.upload.dir", format!("{}/upload", temporary.display())),
    ]
}

/// The lines of a configuration file.
pub(crate) fn lines(settings: &[(&str, String)]) -> String {
    settings
        .iter()
        .map(|(key, value)| format!("{key}: {value}\n"))
        .collect()
}

/// Writes settings, and where to log, into the directory `name` of `scratch`.
pub(crate) fn write_home(
    scratch: &Scratch,
    flink: &Flink,
    name: &str,
    settings: &[(&str, String)],
) -> Result<()> {
    std::fs::create_dir_all(scratch.path().join(name).join("tmp"))?;
    let file = if flink.major() >= 2 {
        "config.yaml"
    } else {
        "flink-conf.yaml"
    };
    scratch.write(&format!("{name}/{file}"), &lines(settings))?;
    scratch.write(&format!("{name}/log4j2.properties"), LOG4J2)?;
    scratch.write(&format!("{name}/log4j.properties"), LOG4J1)?;
    Ok(())
}

/// Logs to standard output: Log4j 2, from Flink 1.11 on. [`LOG4J1`] is for those before.
pub(crate) const LOG4J2: &str = "\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1} %m%n
";
