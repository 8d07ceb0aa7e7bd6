//! `truename config check` and `truename config show`

use std::path::PathBuf;

use serde::Serialize;

use super::{
    Exit,
    args::{Config as Verb, Global},
    ask, effective,
    output::Output,
};
use crate::{
    api::{ClientError, Request, Response},
    config::{DEFAULT_FILE, to_toml},
    daemon::RunError,
    doctor::refusals,
};

pub fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Check { file, file_only } => {
            check(global, file.or_else(|| global.config.clone()), file_only)
        }
        Verb::Show { effective: false } => show(global),
        Verb::Show { effective: true } => in_force(global),
    }
}

/// A file that is valid.
#[derive(Serialize)]
struct Valid {
    file: PathBuf,
    endpoints: usize,
    services: usize,
    /// Whether an agent runs with its socket or pins, which is no fault: it may be the one that shall read it.
    running: bool,
}

fn check(global: &Global, file: Option<PathBuf>, file_only: bool) -> anyhow::Result<Exit> {
    let file = file.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let config = effective(global, Some(&file))?;
    let mut running = false;
    if file_only {
        config.check_runnable()?;
    } else {
        for refusal in refusals(&config) {
            if !refusal.is_running_agent() {
                return Err(RunError::from(refusal).into());
            }
            running = true;
        }
    }
    let valid = Valid {
        file,
        endpoints: config.endpoints.len(),
        services: config.services.len(),
        running,
    };
    Output::new(global).document(&valid, || {
        format!(
            "{} is valid: {} endpoint(s), {} service(s){}\n",
            valid.file.display(),
            valid.endpoints,
            valid.services,
            if valid.running {
                "; an agent uses its control socket or pins"
            } else {
                ""
            }
        )
    })?;
    Ok(Exit::Success)
}

fn show(global: &Global) -> anyhow::Result<Exit> {
    let config = effective(global, global.config.as_deref())?;
    let toml = to_toml(&config)?;
    Output::new(global).document(&config, || toml)?;
    Ok(Exit::Success)
}

/// The configuration that the agent works with, whatever the file says by now.
fn in_force(global: &Global) -> anyhow::Result<Exit> {
    let Response::Configuration(toml) = ask(global, Request::Configuration)? else {
        return Err(ClientError::Unexpected.into());
    };
    let document: toml::Table = toml.parse()?;
    Output::new(global).document(&document, || toml)?;
    Ok(Exit::Success)
}
