//! `truename config check` and `truename config show`

use std::path::PathBuf;

use serde::Serialize;

use super::{
    Exit,
    args::{Config as Verb, Global},
    effective,
    output::Output,
};
use crate::{
    config::{Config, DEFAULT_FILE, File, Flags, to_toml},
    doctor::{Refusal, refusals},
    sysctl,
};

pub fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Check { file } => check(global, file.or_else(|| global.config.clone())),
        Verb::Show => show(global),
    }
}

/// A file that is valid.
#[derive(Serialize)]
struct Valid {
    file: PathBuf,
    endpoints: usize,
    services: usize,
}

fn check(global: &Global, file: Option<PathBuf>) -> anyhow::Result<Exit> {
    let file = file.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let file_values = File::load(Some(&file), sysctl::timeouts())?;
    let config = Config::new(file_values, Flags::default())?;
    for refusal in refusals(&config) {
        match refusal {
            Refusal::Config(error) => return Err(error.into()),
            Refusal::Netlink(error) => return Err(error.into()),
            // Not the configuration's fault: an agent that runs, for example.
            Refusal::Unmet(_) | Refusal::Server(_) | Refusal::Datapath(_) => {}
        }
    }
    let valid = Valid {
        file,
        endpoints: config.endpoints.len(),
        services: config.services.len(),
    };
    Output::new(global).document(&valid, || {
        format!(
            "{} is valid: {} endpoint(s), {} service(s)\n",
            valid.file.display(),
            valid.endpoints,
            valid.services
        )
    })?;
    Ok(Exit::Success)
}

fn show(global: &Global) -> anyhow::Result<Exit> {
    let config = effective(global)?;
    let toml = to_toml(&config)?;
    Output::new(global).document(&config, || toml)?;
    Ok(Exit::Success)
}
