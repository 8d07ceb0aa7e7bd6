//! Java processes of Flink.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::fetch::Flink;
use crate::namespace::Namespace;

/// The command that runs a JobManager.
pub(crate) const JOB_MANAGER: &str =
    "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint";
/// The command that runs a TaskManager.
pub(crate) const TASK_MANAGER: &str = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner";

/// What Flink reflects into: its start scripts pass the same on Java 17.
const OPENED: [&str; 12] = [
    "java.base/java.lang",
    "java.base/java.lang.invoke",
    "java.base/java.lang.reflect",
    "java.base/java.net",
    "java.base/java.io",
    "java.base/java.nio",
    "java.base/sun.nio.ch",
    "java.base/sun.net.util",
    "java.base/java.text",
    "java.base/java.time",
    "java.base/java.util",
    "java.base/java.util.concurrent",
];

/// Runs a class of a release in a namespace, with the configuration in `home` and `files` put in place of
/// others.
pub(crate) fn java(
    space: &Namespace,
    files: &[(PathBuf, PathBuf)],
    flink: &Flink,
    home: &Path,
    class: &str,
) -> Result<Command> {
    let mut java = virtual_machine(space, files, flink, home)?;
    java.args([class, "--configDir"]).arg(home);
    Ok(java)
}

/// A Java machine with the classes of a release; the class to run follows.
pub(crate) fn virtual_machine(
    space: &Namespace,
    files: &[(PathBuf, PathBuf)],
    flink: &Flink,
    home: &Path,
) -> Result<Command> {
    let mut java = space.command(Path::new("java"), files)?;
    java.current_dir(home)
        .args(options(&home.display().to_string(), &flink.class_path()))
        .env("FLINK_CONF_DIR", home);
    Ok(java)
}

/// What `java` is told before the class to run.
pub(crate) fn options(home: &str, class_path: &str) -> Vec<String> {
    // Small and quick to start rather than fast.
    let mut options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        .map(str::to_owned)
        .to_vec();
    options.extend(OPENED.map(|package| format!("--add-opens={package}=ALL-UNNAMED")));
    options.extend([
        format!("-Djava.io.tmpdir={home}/tmp"),
        format!("-Dlog4j.configuration=file:{home}/log4j.properties"),
        format!("-Dlog4j.configurationFile=file:{home}/log4j2.properties"),
        "-cp".to_owned(),
        class_path.to_owned(),
    ]);
    options
}
