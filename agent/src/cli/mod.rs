//! The command line: one file per verb.

mod aliases;
mod args;
mod bundle;
mod completions;
mod config;
mod decode;
mod detach;
mod doctor;
#[cfg(test)]
mod documents;
mod endpoints;
mod explain;
mod flows;
mod hosts;
mod man;
mod monitor;
mod names;
mod output;
mod peers;
mod run;
mod services;
mod status;
mod top;
mod topology;
mod watch;

use std::{io, path::Path, process::ExitCode};

use clap::{
    Parser as _,
    error::{ContextKind, ContextValue},
};

use crate::{
    api::{Client, ClientError, Request, Response},
    config::{Config, ConfigError, File, Flags, Paths, without_password},
    daemon::RunError,
    datapath::Pins,
    sysctl,
};
use args::{Args, Global, Verb};

/// How a verb ended, as an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0.
    Success,
    /// 1.
    Failure,
    /// 2: a wrong command line or configuration.
    Usage,
    /// 3: it works, but not all of it.
    Degraded,
}

impl Exit {
    const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Degraded => 3,
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(mut error) => {
            hide_passwords(&mut error);
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Success
            };
            // Nothing can be done if the terminal is gone.
            let _ = error.print();
            return exit.code().into();
        }
    };
    match dispatch(args) {
        Ok(exit) => exit.code().into(),
        Err(error) => {
            if is_broken_pipe(&error) {
                return Exit::Success.code().into();
            }
            eprintln!("truename: {}", describe(&error));
            exit_of(&error).code().into()
        }
    }
}

/// The command line is shown with an error about it, and a URL there may have a password.
fn hide_passwords(error: &mut clap::Error) {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg] {
        if let Some(ContextValue::String(shown)) = error.get(kind) {
            let shown = without_password(shown);
            error.insert(kind, ContextValue::String(shown));
        }
    }
}

fn dispatch(args: Args) -> anyhow::Result<Exit> {
    let Args { global, verb } = args;
    match verb {
        Verb::Run(verb) => run::run(global, verb),
        Verb::Status(verb) => status::run(&global, &verb),
        Verb::Top => top::run(&global),
        Verb::Endpoints(watch) => endpoints::run(&global, &watch),
        Verb::Aliases(watch) => aliases::run(&global, &watch),
        Verb::Services(verb) => services::run(&global, verb),
        Verb::Flows(verb) => flows::run(&global, verb),
        Verb::Explain(verb) => explain::run(&global, verb),
        Verb::Peers(watch) => peers::run(&global, &watch),
        Verb::Topology(watch) => topology::run(&global, &watch),
        Verb::Names(verb) => names::run(&global, &verb),
        Verb::Monitor(verb) => monitor::run(&global, &verb),
        Verb::Decode(verb) => decode::run(&global, verb),
        Verb::Doctor => doctor::run(&global),
        Verb::Config(verb) => config::run(&global, verb),
        Verb::Detach => detach::run(&global),
        Verb::SupportBundle(verb) => bundle::run(&global, &verb),
        Verb::Completions(verb) => completions::run(&verb),
        Verb::Man(verb) => man::run(&verb),
    }
}

/// The error on one line. The errors of this crate tell their causes themselves; what a context
/// adds is put in front.
fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().lines().collect::<Vec<_>>().join(" ");
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) && !error.is::<RunError>() {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn exit_of(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<RunError>() {
        Some(RunError::Refused(refusal)) if refusal.is_mistake() => Exit::Usage,
        None if error.is::<ConfigError>() => Exit::Usage,
        _ => Exit::Failure,
    }
}

/// Whoever read our output has gone, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter(|cause| !cause.is::<ClientError>())
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The configuration of a verb that does not take the flags of `run`, from this file.
fn effective(global: &Global, file: Option<&Path>) -> Result<Config, ConfigError> {
    let flags = Flags {
        control_socket: global.control_socket.clone(),
        bpffs: global.bpffs.clone(),
        ..Flags::default()
    };
    Config::new(File::load(file, sysctl::timeouts())?, flags)
}

/// Where the agent of a verb is that asks it: a mistake in the file is the agent's matter.
fn paths(global: &Global) -> Paths {
    let mut paths = Paths::find(global.config.as_deref());
    if let Some(why) = &paths.unread
        && global.control_socket.is_none()
    {
        eprintln!("truename: {why}");
    }
    if let Some(path) = &global.control_socket {
        paths.control_socket.clone_from(path);
    }
    if let Some(path) = &global.bpffs {
        paths.bpffs.clone_from(path);
    }
    paths
}

fn connect(global: &Global) -> anyhow::Result<Client> {
    let paths = paths(global);
    match Client::connect(&paths.control_socket) {
        Err(error @ ClientError::NotRunning(_)) if Pins::new(&paths.bpffs).exist() => {
            let pins = paths.bpffs.display();
            Err(anyhow::anyhow!(
                "{error}; what it attached goes on without it (pins in {pins})"
            ))
        }
        other => Ok(other?),
    }
}

fn ask(global: &Global, request: Request) -> anyhow::Result<Response> {
    Ok(connect(global)?.ask(request)?)
}
