//! `truename run`

use std::time::Duration;

use anyhow::Context as _;

use super::{
    Exit,
    args::{Attach, Global, Run},
    output,
};
use crate::{
    config::{Flags, Sources},
    datapath::Mode,
    logging, sysctl,
};

/// How long what is under way may take when the agent has ended. A look-up that hangs is not waited for.
const GOODBYE: Duration = Duration::from_secs(1);

pub fn run(global: Global, verb: Run) -> anyhow::Result<Exit> {
    let flags = Flags {
        interfaces: verb.interfaces,
        endpoints: verb.endpoints,
        services: verb.services,
        control_socket: global.control_socket,
        bpffs: global.bpffs,
    };
    let sources = Sources {
        file: global.config,
        flags,
    };
    let config = sources.read(sysctl::timeouts())?;
    logging::follow(config.agent.log);
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
    let ended = runtime.block_on(crate::run::run(sources, config, mode, ready));
    runtime.shutdown_timeout(GOODBYE);
    ended?;
    Ok(Exit::Success)
}

/// Tells scripts that programs are attached and tables loaded.
fn ready() {
    if let Err(error) = output::print("ready\n") {
        log::debug!("Nobody reads the standard output: {error}");
    }
}
