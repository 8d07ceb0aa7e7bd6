//! `truename run`

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

pub fn run(global: Global, verb: Run) -> anyhow::Result<Exit> {
    let flags = Flags {
        interfaces: verb.interfaces,
        endpoints: verb.endpoints,
        services: verb.services,
        relay: verb.relay,
        clusters: verb.clusters,
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
    crate::daemon::run(sources, config, mode, ready)?;
    Ok(Exit::Success)
}

/// Tells scripts that programs are attached and tables loaded.
fn ready() {
    if let Err(error) = output::print("ready\n") {
        log::debug!("Nobody reads the standard output: {error}");
    }
}
