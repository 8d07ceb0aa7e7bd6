//! Running other programs.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// What has tests that run on this machine. One list of packages for all calls of cargo: with another one the
/// features of dependencies differ, and everything is compiled again.
pub(crate) const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "truename-ebpf"];
/// A command in the root of the repository.
pub(crate) fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    if let Some(path) = search_path() {
        command.env("PATH", path);
    }
    command
}

/// Where programs are looked for: the path, and where `cargo install` puts them.
fn search_path() -> Option<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cargo"),
    };
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let installed = cargo.join("bin");
    if !directories.contains(&installed) {
        directories.push(installed);
    }
    std::env::join_paths(directories).ok()
}

/// The cargo that started this program, or the one on the path.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = command(cargo, arguments);
    // They are about xtask. Build scripts that ask for them would run again whenever cargo is not called from here.
    for (name, _) in std::env::vars_os() {
        let is_ours = |prefix| name.to_string_lossy().starts_with(prefix);
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].into_iter().any(is_ours) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a program of the tests, optimised. It takes the options of the verb: they pass as they are, behind it.
pub(crate) fn test_program(name: &str) -> Command {
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--release",
        "--package",
        "truename-tests",
        "--bin",
        name,
        "--",
    ]);
    command.args(std::env::args_os().skip(2));
    command
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command whose output the user sees.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let text = describe(&command);
    let status = command.status().with_context(|| format!("run {text}"))?;
    if !status.success() {
        bail!("{text} ended with {status}");
    }
    Ok(())
}

/// Runs a command that talks too much: what it says is shown only when it fails, a sign of life now and then.
pub(crate) fn run_quietly(mut command: Command) -> Result<()> {
    const PROGRESS: Duration = Duration::from_secs(10);
    let text = describe(&command);
    let (done, waits) = channel::<()>();
    let start = Instant::now();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            while waits.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
                println!("  … {} s", start.elapsed().as_secs());
            }
        });
        let output = command.stdin(Stdio::null()).output();
        drop(done);
        output
    })
    .with_context(|| format!("run {text}"))?;
    if !output.status.success() {
        bail!(
            "{text} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Runs a command in silence; whatever goes wrong counts as a no.
pub(crate) fn succeeds(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command and gives back what it printed.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let text = describe(&command);
    let output = command.output().with_context(|| format!("run {text}"))?;
    if !output.status.success() {
        bail!(
            "{text} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds a program on the path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
