//! `truename run`

use anyhow::Context as _;
use log::LevelFilter;

use super::{
    Exit,
    args::{Attach, Global, Run},
    output,
};
use crate::{
    config::{Config, File, Flags},
    datapath::Mode,
    sysctl,
};

pub fn run(global: Global, verb: Run) -> anyhow::Result<Exit> {
    let file = File::load(global.config.as_deref(), sysctl::timeouts())?;
    let flags = Flags {
        interfaces: verb.interfaces,
        endpoints: verb.endpoints,
        services: verb.services,
        control_socket: global.control_socket,
        bpffs: global.bpffs,
    };
    let config = Config::new(file, flags)?;
    start_log(config.agent.log);
    let mode = match verb.attach {
        Attach::Auto => Mode::detect(),
        Attach::Tcx => Mode::Tcx,
        Attach::Clsact => Mode::Clsact,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(crate::run::run(config, mode, ready))?;
    Ok(Exit::Success)
}

/// Tells scripts and systemd that programs are attached and tables loaded.
fn ready() {
    if let Err(error) = output::print("ready\n") {
        log::debug!("Nobody reads the standard output: {error}");
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        log::warn!("Cannot notify the service manager: {error}");
    }
}

fn start_log(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(LevelFilter::Warn)
        .filter_module("truename", level);
    if let Ok(filter) = std::env::var("RUST_LOG") {
        builder.parse_filters(&filter);
    }
    builder.init();
}
