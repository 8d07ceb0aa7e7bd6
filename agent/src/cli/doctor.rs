//! `truename doctor`

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Exit,
    args::Global,
    effective,
    output::{Output, Row},
    paths,
};
use crate::{
    config::{Agent, Config, ConfigError, File, Flags, Paths},
    doctor::{self, Check, Verdict},
    netlink::{Requests, Unanswered},
    plan::Facts,
};

impl Row for Check {
    const HEADINGS: &'static [&'static str] = &["check", "verdict", "found", "what to do"];

    fn cells(&self) -> Vec<String> {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failure => "failure",
        };
        vec![
            self.check.to_owned(),
            verdict.to_owned(),
            self.found.clone(),
            self.remedy.clone().unwrap_or_default(),
        ]
    }
}

fn own_addresses() -> anyhow::Result<Facts> {
    let mut requests = Requests::open()?;
    let inventory = requests.inventory()?;
    Ok(requests.facts(&inventory, &BTreeSet::new(), Arc::default())?)
}

/// The configuration that is left without the file: its paths.
fn without_file(global: &Global) -> Result<Config, ConfigError> {
    let Paths {
        control_socket,
        bpffs,
        ..
    } = paths(global);
    let agent = Agent {
        control_socket,
        bpffs,
        ..Agent::default()
    };
    let file = File {
        agent,
        ..File::default()
    };
    Config::new(file, Flags::default())
}

/// The aliases that neighbours look for, and that nobody has.
fn unanswered(config: &Config) -> anyhow::Result<Vec<Unanswered>> {
    Ok(Requests::open()?.unanswered(config.aliases())?)
}

/// What `doctor` finds.
pub fn checks(global: &Global) -> anyhow::Result<Vec<Check>> {
    // A mistake in the file is one of the things that are told.
    let (config, mistake) = match effective(global, global.config.as_deref()) {
        Ok(config) => (config, None),
        Err(error) => (without_file(global)?, Some(doctor::mistake(&error))),
    };
    // Without the host's addresses, every target counts as one on another host.
    let facts = own_addresses().unwrap_or_else(|error| {
        log::debug!("{error:#}");
        Facts::default()
    });
    let unanswered = unanswered(&config).unwrap_or_else(|error| {
        log::debug!("{error:#}");
        Vec::new()
    });
    let mut checks = doctor::examine(&config, &facts, &unanswered);
    checks.extend(mistake);
    Ok(checks)
}

pub fn run(global: &Global) -> anyhow::Result<Exit> {
    let checks = checks(global)?;
    Output::new(global).rows(&checks, "nothing was checked")?;
    Ok(match checks.iter().map(|check| check.verdict).max() {
        Some(Verdict::Failure) => Exit::Failure,
        Some(Verdict::Warning) => Exit::Degraded,
        _ => Exit::Success,
    })
}
